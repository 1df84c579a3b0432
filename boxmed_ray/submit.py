"""Run a `boxmed` command on a Ray cluster through Ray Jobs, and follow it to its end.

What lives here: what is sent (working folder, environment, entry point), reading the job's log, and
turning its end into an exit code. What does not: the command line (cli.py).
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import re
import secrets
import shlex
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from boxmed_ray.cluster_check import problems, read_checks, wanted
from boxmed_ray.config import ConfigError, RunConfig, load_config
from boxmed_ray.doctor import Check
from boxmed_ray.provenance import COMMIT, commit
from boxmed_ray.ray_local import QUIET_ENVIRONMENT

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

#: Never sent to the cluster. Ray also leaves out what .gitignore names.
EXCLUDES = (
    ".git",
    ".venv",
    "runs",
    "/build",
    "/dist",
    "*.egg-info",
    "__pycache__",
    ".*_cache",
    ".hypothesis",
    ".env",
    "wandb",
    "mlruns",
    "mlflow.db",
    "evaluations",
    "ablations",
)

#: Commands that make sense without a terminal or a browser beside them.
COMMANDS = ("train", "doctor")

#: Ray's own 3 s are too short to write a checkpoint after SIGTERM.
STOP_WAIT_S = 120

_PROJECT = Path(__file__).resolve().parent.parent
_DASHBOARD_PORT = 8265
_POLL_S = 0.5
_CHECK_S = 300
_SECRET = re.compile(r"KEY|TOKEN(?!IZER)|SECRET|PASSW", re.IGNORECASE)
_PASSWORD_IN_URL = re.compile(r"://[^/@\s]*:[^/@\s]+@")


@dataclass(frozen=True, slots=True)
class Submission:
    """What is asked of the cluster. See `boxmed submit --help` for the meaning of each."""

    command: Sequence[str]
    address: str
    working_dir: Path | None = None
    runs_dir: str | None = None
    python: str | None = None
    variables: Sequence[str] = ()
    secrets: Sequence[str] = ()
    check: bool = True


def submit(submission: Submission) -> tuple[JobSubmissionClient, str]:
    """Send the command and return the client and the id of the job.

    Raises:
        ConfigError: nothing or nonsense to run, a folder that is missing, or a cluster that does not
            answer or refuses the token.
    """
    _check_command(submission.command)
    config = _config(submission.command)
    variables(submission.variables)
    url = dashboard_url(submission.address)
    client = connect(url)
    if submission.check:
        _refuse(examine_cluster(client, url, submission, config), url)
    job_id = f"boxmed-{submission.command[0]}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    _send(client, job_id, entrypoint(submission, url), submission, shlex.join(submission.command))
    return client, job_id


def _send(client: JobSubmissionClient, job_id: str, line: str, submission: Submission, command: str) -> None:
    """Package the folder, upload it where the cluster has not got it, and submit; ``command`` is what lists show."""
    try:
        client.submit_job(
            entrypoint=line,
            submission_id=job_id,
            runtime_env=runtime_env(submission),
            metadata={"command": command},
        )
    except OSError as error:
        raise ConfigError(
            f"--address {submission.address}: the connection broke while the job was sent ({error}); try again"
        ) from error


def examine_cluster(
    client: JobSubmissionClient, url: str, submission: Submission, config: RunConfig | None
) -> list[Check]:
    """What the cluster has and lacks for the run, found out by a job of its own (cluster_check.py).

    Raises:
        ConfigError: the job itself cannot run there, which says what is missing too.
    """
    asked = wanted(config, submission.secrets, _runs_dir(submission, url))
    job_id = f"boxmed-check-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    line = _entrypoint(submission, url, ["-m", "boxmed_ray.cluster_check", asked.as_json()])
    _send(client, job_id, line, submission, "look at every node")
    deadline = time.monotonic() + _CHECK_S
    while not (status := client.get_job_status(job_id)).is_terminal():
        if time.monotonic() > deadline:
            client.stop_job(job_id)
            raise ConfigError(f"--address {url}: no answer to what the cluster has within {_CHECK_S} s; --no-check")
        time.sleep(_POLL_S)
    log = client.get_job_logs(job_id)
    if status != "SUCCEEDED":
        last = (log.strip().splitlines() or ["it said nothing"])[-1]
        raise ConfigError(
            f"--address {url}: this project does not run there: {last}; the cluster needs its dependencies (docker/), "
            "and --python names the interpreter that has them"
        )
    return read_checks(log)


def _refuse(checks: Sequence[Check], url: str) -> None:
    lacking = list(problems(checks))
    if lacking:
        told = "".join(f"\n  {each}" for each in lacking)
        raise ConfigError(f"--address {url}: the cluster lacks what the run needs, and nothing was submitted:{told}")


def _config(command: Sequence[str]) -> RunConfig | None:
    """The configuration of a `train` command, where it can be read here.

    Raises:
        ConfigError: it can, and is wrong: the cluster need not be asked.
    """
    recipes = _given(command, "--recipe")
    if command[0] != "train" or not recipes:
        return None
    file = Path(recipes[-1])
    if file.suffix in {".yaml", ".yml"} and not file.is_file():
        return None
    return load_config(recipes[-1], _given(command, "--set"))


def _given(command: Sequence[str], option: str) -> list[str]:
    """What stands behind an option, as ``--option VALUE`` or ``--option=VALUE``."""
    pairs = pairwise([*command, ""])
    return [
        after if word == option else word.removeprefix(f"{option}=")
        for word, after in pairs
        if word == option or word.startswith(f"{option}=")
    ]


def variables(pairs: Sequence[str]) -> dict[str, str]:
    """``NAME=VALUE``, or ``NAME`` for its value of here.

    Raises:
        ConfigError: a name without a value, or a name or value that looks like a secret: a job's variables are shown
            to all who see the dashboard.
    """
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals and name not in os.environ:
            raise ConfigError(f"--env {name}: not set here; write {name}=VALUE")
        if _SECRET.search(name):
            raise ConfigError(
                f"--env {name}: a job's variables can be read in the dashboard; set it where the nodes start (a secret "
                f"of Kubernetes, for instance), and name it with --secret {name}"
            )
        found[name] = value if equals else os.environ[name]
        if _PASSWORD_IN_URL.search(found[name]):
            raise ConfigError(
                f"--env {name}: its value has a password, and a job's variables can be read in the dashboard; set it "
                f"where the nodes start, and name it with --secret {name}"
            )
    return found


def _check_command(command: Sequence[str]) -> None:
    if not command or command[0] not in COMMANDS:
        found = repr(command[0]) if command else "nothing"
        raise ConfigError(
            f"boxmed submit: {found} cannot run as a job; write one of {', '.join(COMMANDS)} after --, "
            "for example: boxmed submit --address HOST:8265 -- train --recipe phantom-cpu"
        )
    for word in _given(command, "--set"):
        key, _, value = word.partition("=")
        if key == "data.root" and value and "://" not in value and not Path(value).is_absolute():
            raise ConfigError(
                f"{word}: a job runs in a copy of the working folder on the cluster, where a relative path leads "
                "nowhere; give the absolute path that the cluster sees"
            )


def dashboard_url(address: str) -> str:
    """``HOST``, ``HOST:PORT`` or a URL, as the URL of the cluster's job server."""
    url = address if "://" in address else f"http://{address}"
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = 0
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ConfigError(
            f"--address {address!r}: must be HOST[:PORT] or http(s)://HOST[:PORT] of the cluster's dashboard, "
            f"whose port is {_DASHBOARD_PORT} unless it was told otherwise"
        )
    if port is None and parts.scheme == "http":
        url = f"http://{parts.netloc}:{_DASHBOARD_PORT}"
    return url.rstrip("/")


def is_local(url: str) -> bool:
    """Whether the cluster is on this machine, so that its paths and interpreter are ours."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def connect(url: str) -> JobSubmissionClient:
    """A client of the job server at ``url``, with the token if the server asks for one."""
    _use_token_if_asked(url)
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    logging.getLogger("ray.dashboard").setLevel(logging.WARNING)  # else every step of packaging is told
    try:
        return JobSubmissionClient(url)
    except (AuthenticationError, ConnectionError, RuntimeError) as error:
        raise ConfigError(f"--address {url}: {str(error).splitlines()[0]}") from error


def known_job(address: str, job_id: str) -> tuple[JobSubmissionClient, str]:
    """A client of the cluster, and the id of a job that is there.

    Raises:
        ConfigError: it is not, with those that are; or as ``connect``.
    """
    client = connect(dashboard_url(address))
    try:
        client.get_job_info(job_id)
    except RuntimeError:
        jobs = [job.submission_id for job in client.list_jobs() if job.submission_id]
        raise ConfigError(f"{job_id}: no such job; jobs there: {', '.join(jobs) or 'none'}") from None
    return client, job_id


def _use_token_if_asked(url: str) -> None:
    """Find out before Ray is imported, because Ray reads the mode once."""
    try:
        with urllib.request.urlopen(f"{url}/api/jobs/", timeout=60):
            return
    except urllib.error.HTTPError as error:
        if error.code not in (401, 403):
            raise ConfigError(f"--address {url}: it answers {error.code}: is it a Ray dashboard?") from None
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise ConfigError(
            f"--address {url}: no Ray cluster answers ({reason}); is it up (ray start --head), "
            "and its dashboard port reachable from here?"
        ) from None
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
    default = Path.home() / ".ray" / "auth_token"
    if not (os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH") or default.is_file()):
        raise ConfigError(
            f"--address {url}: the cluster asks for a token and there is none here; set RAY_AUTH_TOKEN, or "
            f"RAY_AUTH_TOKEN_PATH to a file that holds it, or put it in {default}"
        )


def entrypoint(submission: Submission, url: str) -> str:
    """The shell line that the cluster runs.

    The run folder must outlive the job's copy of the working folder: ``runs_dir`` where given; else ./runs
    of here on a local cluster; else what BOXMED_RUNS_DIR says there, or ~/boxmed-runs.
    """
    return _entrypoint(submission, url, ["-m", "boxmed_ray.cli", *submission.command])


def _entrypoint(submission: Submission, url: str, arguments: Sequence[str]) -> str:
    python = submission.python or (sys.executable if is_local(url) else "python")
    runs_dir = _runs_dir(submission, url)
    folder = shlex.quote(runs_dir) if runs_dir else '"${BOXMED_RUNS_DIR:-$HOME/boxmed-runs}"'
    return f"BOXMED_RUNS_DIR={folder} exec {shlex.join([python, *arguments])}"


def _runs_dir(submission: Submission, url: str) -> str | None:
    return submission.runs_dir or (str(Path("runs").absolute()) if is_local(url) else None)


def runtime_env(submission: Submission) -> dict[str, Any]:
    """Ray's runtime environment of the job: the working folder, and variables for every process of it."""
    env = {**QUIET_ENVIRONMENT, "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S), "PYTHONUNBUFFERED": "1"}
    env |= variables(submission.variables)
    folder = submission.working_dir or (_PROJECT if (_PROJECT / "pyproject.toml").is_file() else None)
    if folder is not None and (known := commit(folder)) is not None:
        env[COMMIT] = known
    if folder is None:  # installed as a package: the cluster's own installation runs
        return {"env_vars": env}
    if not folder.is_dir():
        raise ConfigError(f"--working-dir {folder}: no such folder")
    return {"env_vars": env, "working_dir": str(folder.resolve()), "excludes": list(EXCLUDES)}


def follow(client: JobSubmissionClient, job_id: str, write: Callable[[str], object] = sys.stdout.write) -> int:
    """Copy the job's log until the job ends; returns the exit code of its command, or 1 if it has none.

    A connection that breaks is made anew, and what was written is not written again.
    """
    written = 0
    while True:
        written = asyncio.run(_tail(client, job_id, written, write))
        info = client.get_job_info(job_id)
        if info.status.is_terminal():
            break
        time.sleep(_POLL_S)
    if info.status == "SUCCEEDED":
        return 0
    print(f"job {job_id} {info.status.lower()}: {info.message}", file=sys.stderr)
    return info.driver_exit_code or 1


async def _tail(client: JobSubmissionClient, job_id: str, skip: int, write: Callable[[str], object]) -> int:
    """Write the log from character ``skip`` on; returns how much of it has been written."""
    position = 0
    try:
        async for chunk in client.tail_job_logs(job_id):
            if position + len(chunk) > skip:
                write(chunk[max(0, skip - position) :])
                sys.stdout.flush()
            position += len(chunk)
    except (RuntimeError, OSError):
        pass  # the connection broke; the caller asks for the status, which says whether that matters
    return max(position, skip)
