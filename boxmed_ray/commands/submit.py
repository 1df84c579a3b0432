"""`boxmed submit`: send a command to a cluster, or attach to a job, and say how to come back to it."""

from __future__ import annotations

import sys

from boxmed_ray.config import ConfigError
from boxmed_ray.submit import Submission, follow, known_job
from boxmed_ray.submit import submit as send


def submit(submission: Submission, *, attach: str | None, wait: bool) -> int:
    """Returns the exit code of the job's command; 0 if not asked to wait; 130 after Ctrl-C, while the job goes on.

    Raises:
        ConfigError: see boxmed_ray.submit.submit; or a job to attach to that does not exist.
    """
    if attach is not None and submission.command:
        raise ConfigError(f"--attach {attach} follows a job that exists; leave out the command after --")
    if attach is not None:
        client, job_id = known_job(submission.address, attach)
    else:
        client, job_id = send(submission)
    back = (
        f"follow it: boxmed submit --address {submission.address} --attach {job_id}\n"
        f"stop it:   boxmed jobs stop {job_id} --address {submission.address}"
    )
    try:
        print(f"job {job_id}\n{back}", file=sys.stderr, flush=True)
        return follow(client, job_id) if wait else 0
    except KeyboardInterrupt:
        print(f"\njob {job_id} goes on without this terminal\n{back}", file=sys.stderr)
        return 130
