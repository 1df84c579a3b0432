"""Annotating and scoring reports: RadGraph of this project beside the published package, on one archive.

The package runs in an environment of its own, as it needs an older transformers. Both sides have one core and one
thread and take turns. Weights are random, at the size of the published models: what they find does not change what it
costs, and both sides must find the same.

    python benchmarks/radgraph.py --peer-python PYTHON [--reports NLMCXR_reports.tgz] [--quick] [--count 40]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _common import ONE_THREAD, last_core, median, pin_tree, print_result, say, versions

if TYPE_CHECKING:
    from _radgraph_peer import Peer

    from rewards.radgraph import RadGraph

ROLLOUTS, EPOCHS = 8, 2
LEVELS = ("simple", "partial", "complete")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tiny model, under a minute; the figures mean nothing")
    parser.add_argument("--peer-python", type=Path, default=os.environ.get("BOXMED_RADGRAPH_PEER"), help="its Python")
    parser.add_argument("--reports", type=Path, help="NLMCXR_reports.tgz of Open-i (made-up reports)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds, each on reports of its own (3)")
    parser.add_argument("--count", type=int, default=40, help="distinct reports a round (40)")
    parser.add_argument("--groups", type=int, default=3, help="references a round of the GRPO workload (3)")
    parser.add_argument("--core", type=int, default=last_core(), help="the core that everything is pinned to")
    args = parser.parse_args()
    os.environ.update(ONE_THREAD)
    import torch
    from _radgraph_archive import PUBLISHED, TINY, build_archive
    from _radgraph_peer import Peer
    from _radgraph_reports import made_up, open_i

    from rewards.radgraph import RadGraph

    torch.set_num_threads(1)
    if args.quick:
        args.repeats, args.count, args.groups = 2, 10, 1
    wanted = args.repeats * (args.count + args.groups) + 50
    texts = open_i(args.reports, wanted) if args.reports else made_up(wanted)
    with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as stack:
        folder = Path(place) / "radgraph"
        say(f"{len(texts)} reports; building an archive")
        build_archive(folder, TINY if args.quick else PUBLISHED, texts)
        peer = stack.enter_context(Peer(args.peer_python, folder, args.core)) if args.peer_python else None
        ours = RadGraph(folder, device="cpu")
        pin_tree(args.core)
        rounds = _rounds(ours, peer, texts, args)
    print_result(
        {
            "name": "radgraph",
            "versions": versions("torch", "transformers", "boxmed-rl"),
            "threads": 1,
            "repeats": args.repeats,
            "peer": peer and {"name": "radgraph.F1RadGraph", "settings": {"versions": peer.versions}},
            "quick": args.quick,
            "texts": "Open-i" if args.reports else "made up",
            "words_per_report": round(sum(len(text.split()) for text in texts) / len(texts), 1),
            **rounds,
        }
    )


def _rounds(ours: RadGraph, peer: Peer | None, texts: list[str], args: argparse.Namespace) -> dict[str, Any]:
    """Both workloads, each round on reports of its own, so that none has been annotated before."""
    warm, texts = texts[:5], texts[50:]
    clock = _EncoderClock(ours)
    ours.annotate(warm)
    if peer:
        peer.annotate(warm)
    rounds = []
    for index in range(args.repeats):
        at = index * (args.count + args.groups)
        reports, references = texts[at : at + args.count], texts[at + args.count : at + args.count + args.groups]
        result = _distinct(ours, peer, reports, clock) | _grpo(ours, peer, references, texts, random.Random(index))
        say(", ".join(f"{name} {value:.4g}" for name, value in result.items()))
        rounds.append(result)
    merged: dict[str, Any] = {name: median([each[name] for each in rounds]) for name in rounds[0]}
    nothing = dict.fromkeys(("peer_reports_per_s", "ratio_peer", "ratio_peer_group", "f1_max_abs_diff"))
    if peer:
        merged["f1_max_abs_diff"] = max(each["f1_max_abs_diff"] for each in rounds)
    return nothing | merged


def _distinct(ours: RadGraph, peer: Peer | None, reports: list[str], clock: _EncoderClock) -> dict[str, float]:
    from _radgraph_peer import Stopwatch

    clock.seconds = 0.0
    with Stopwatch() as watch:
        found = ours.annotate(reports)
    seconds, cpu = watch.took
    result = {
        "reports_per_s": len(reports) / seconds,
        "encoder_share": clock.seconds / seconds,
        "cpu_ms_per_report": 1000 * cpu / len(reports),
        "entities_per_report": sum(len(each.entities) for each in found) / len(reports),
        "relations_per_report": sum(len(one.relations) for each in found for one in each.entities) / len(reports),
    }
    if peer:
        theirs, took = peer.annotate(reports)
        result |= {
            "peer_reports_per_s": len(reports) / took.seconds,
            "ratio_peer": took.seconds / seconds,
            "cpu_ratio_peer": took.cpu / cpu,
            "reports_that_differ": sum(a != b for a, b in zip(found, theirs, strict=True)),
        }
    return result


def _grpo(
    ours: RadGraph, peer: Peer | None, references: list[str], texts: list[str], draw: random.Random
) -> dict[str, float]:
    """Groups as a trainer scores them: each reference beside its rollouts, which are new in every epoch."""
    from _radgraph_peer import Stopwatch, Took
    from _radgraph_reports import rollouts

    from rewards.radgraph import RadGraphMetric

    metrics = [RadGraphMetric(ours, level) for level in LEVELS]
    own, other, difference = Took(0, 0), Took(0, 0), 0.0
    for reference in references * EPOCHS:
        group, hypotheses = [reference] * ROLLOUTS, rollouts(reference, texts, ROLLOUTS, draw)
        with Stopwatch() as watch:
            scores = [metric.score_pairs(group, hypotheses) for metric in metrics]
        own += watch.took
        if peer:
            theirs, took = peer.score(group, hypotheses)
            other += took
            for level, found in zip(LEVELS, scores, strict=True):
                difference = max([difference, *(abs(a - b) for a, b in zip(found, theirs[level], strict=True))])
    result = {"pairs_per_s": len(references) * EPOCHS * ROLLOUTS / own.seconds}
    if peer:
        result |= {
            "ratio_peer_group": other.seconds / own.seconds,
            "cpu_ratio_peer_group": other.cpu / own.cpu,
            "f1_max_abs_diff": difference,
        }
    return result


class _EncoderClock:
    """Seconds spent inside the text encoder, everything that surrounds it left out."""

    def __init__(self, radgraph: RadGraph) -> None:
        self.seconds = self._start = 0.0
        encoder = radgraph.model.encoder.transformer
        encoder.register_forward_pre_hook(self._enter)
        encoder.register_forward_hook(self._leave)

    def _enter(self, *_: Any) -> None:
        self._start = time.perf_counter()

    def _leave(self, *_: Any) -> None:
        self.seconds += time.perf_counter() - self._start


if __name__ == "__main__":
    main()
