"""`boxmed jobs`: what runs on a cluster, how it is, what it says, and its end."""

from __future__ import annotations

import sys
import time
from typing import Any

from boxmed_ray.submit import STOP_WAIT_S, connect, dashboard_url, follow, known_job

_POLL_S = 1.0


def show(address: str) -> None:
    """A line a job, the newest first."""
    jobs = [job for job in connect(dashboard_url(address)).list_jobs() if job.submission_id]
    for job in sorted(jobs, key=lambda each: -(each.start_time or 0)):
        print(f"{job.submission_id}  {job.status.lower():<9}  {_times(job)}  {(job.metadata or {}).get('command', '')}")


def status(address: str, job_id: str) -> int:
    """1 if the job failed or was stopped."""
    client, job_id = known_job(address, job_id)
    info: Any = client.get_job_info(job_id)
    print(f"{job_id}  {info.status.lower()}  {_times(info)}  {info.message}")
    return int(info.status in ("FAILED", "STOPPED"))


def logs(address: str, job_id: str, go_on: bool) -> int:
    """The exit code of the job's command if it is followed, 130 after Ctrl-C, which leaves the job running; else 0."""
    client, job_id = known_job(address, job_id)
    if go_on:
        try:
            return follow(client, job_id)
        except KeyboardInterrupt:
            print(f"\njob {job_id} goes on without this terminal", file=sys.stderr)
            return 130
    sys.stdout.write(client.get_job_logs(job_id))
    return 0


def stop(address: str, job_id: str) -> int:
    """Ask the job to end and wait for it; 1 if it has not."""
    client, job_id = known_job(address, job_id)
    client.stop_job(job_id)
    deadline = time.monotonic() + STOP_WAIT_S + 30
    while not client.get_job_status(job_id).is_terminal():
        if time.monotonic() > deadline:
            print(f"job {job_id} has not ended after {STOP_WAIT_S + 30} s", file=sys.stderr)
            return 1
        time.sleep(_POLL_S)
    print(f"job {job_id} {client.get_job_status(job_id).lower()}")
    return 0


def _times(job: Any) -> str:
    if not job.start_time:
        return "not started"
    began = time.strftime("%Y-%m-%d %H:%M", time.localtime(job.start_time / 1000))
    seconds = (job.end_time / 1000 if job.end_time else time.time()) - job.start_time / 1000
    return f"{began}, {seconds / 60:.1f} min"
