"""`flask jobs`: lists, shows, cancels and watches jobs of all keys. It shows no prompts and no answers."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import click
import msgspec

from app.cli.command import Group, services
from app.cli.progress import ProgressBar, StatusLine, depth_text, has_ended
from app.cli.rendering import format_option, one_line, render_rows, utc_text
from app.domain.csv_export import Cell
from app.domain.identity import Caller
from app.errors import NotFound, StoreUnavailable
from app.stop_signal import StopSignal
from app.store.job_list import ENDED, STATES, JobList, ListedJob

jobs = Group("jobs", help="The queue, of all keys.")
_WATCH_EVERY_S = 1.0
_INTERRUPTED_EXIT_CODE = 130  # as shells have it: 128 + SIGINT
_UNKNOWN = "There is no job {!r}, or it has expired."


@jobs.command("list")
@click.option("--state", "states", type=click.Choice(STATES), multiple=True, help="May be repeated; all when left out.")
@format_option
def list_jobs(states: tuple[str, ...], style: str) -> None:
    """List jobs, the oldest first. Ages are in seconds; what has ended is listed until its result expires."""
    header = ("id", "state", "key_id", "model", "age_s", "attempts", "position")
    now = time.time()
    found = sorted(JobList(redis=services().redis).all(states or STATES), key=lambda job: (job.submitted, job.id))
    rows = [_row(job, now) for job in found]
    click.echo(render_rows(header, rows, style, right=("age_s", "attempts", "position")))


@jobs.command("show")
@click.argument("job_id")
@click.option("--format", "style", type=click.Choice(["table", "json"]), default="table", show_default=True)
def show_job(job_id: str, style: str) -> None:
    """Show a job: its state, and its error."""
    facts = _details(_job(job_id), time.time())
    if style == "json":
        click.echo(json.dumps(facts, indent=2))
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        click.echo(f"{name.ljust(width)}  {one_line('' if value is None else str(value))}".rstrip())


@jobs.command("cancel")
@click.argument("job_id")
def cancel_job(job_id: str) -> None:
    """Cancel a job in the place of its owner: at once when it waits, within a second when it runs."""
    owner = Caller(_job(job_id).key_id, "")
    status = services().queue.cancel(owner, job_id)
    if status.state == "cancelled":
        click.echo(f"Cancelled {job_id} of {owner.key_id}.")
    else:
        click.echo(f"{job_id} of {owner.key_id} is running; its worker has been told to end it.")


@jobs.command("watch")
@click.argument("batch_id", required=False)
def watch_jobs(batch_id: str | None) -> None:
    """Show how full the queue is, each second, until Ctrl-C; or how far BATCH_ID is, until it ends.

    The exit code is 1 for a batch that ended otherwise than completed, and 130 when Ctrl-C came first.
    """
    stop = StopSignal.by_signal()
    if batch_id is None:
        queue = services().queue
        _watch(lambda: depth_text(queue.depth()), stop)
        return
    ended = _watch_batch(batch_id, stop)
    if ended != "completed":
        sys.exit(_INTERRUPTED_EXIT_CODE if ended is None else 1)


def _watch_batch(batch_id: str, stop: StopSignal) -> str | None:
    """Returns the status with which the batch ended; None when Ctrl-C came first."""
    batches = services().batches
    bar, ended = ProgressBar(), None

    def text() -> str:
        nonlocal ended
        batch = batches.find(batch_id) if batch_id.isascii() else None
        if batch is None:
            raise NotFound(f"There is no batch {batch_id!r}, or it has expired.")
        if has_ended(batch):
            ended = batch.status
            stop.set()
        return bar.text(batch)

    _watch(text, stop)
    return ended


def _watch(text: Callable[[], str], stop: StopSignal) -> None:
    with StatusLine() as line:
        while True:
            try:
                line.show(text())
            except StoreUnavailable as exc:  # it may come back, and the reader wants to see when
                line.show(exc.message)
            if stop.wait(_WATCH_EVERY_S):
                return


def _job(job_id: str) -> ListedJob:
    job = JobList(redis=services().redis).find(job_id) if job_id.isascii() else None
    if job is None:
        raise NotFound(_UNKNOWN.format(job_id))
    return job


def _row(job: ListedJob, now: float) -> list[Cell]:
    return [job.id, job.state, job.key_id, job.model, _age_s(job, now), job.attempts, job.position]


def _details(job: ListedJob, now: float) -> dict[str, Cell]:
    error = msgspec.json.decode(job.error, type=dict[str, str | None]) if job.error else {}
    finished = utc_text(job.finished) if job.state in ENDED else None  # else: the end of an attempt before this one
    return {
        "id": job.id,
        "state": job.state,
        "key_id": job.key_id,
        "model": job.model,
        "endpoint": job.endpoint,
        "age_s": _age_s(job, now),
        "submitted": utc_text(job.submitted),
        "started": utc_text(job.started) or None,
        "finished": finished,
        "position": job.position,
        "attempts": job.attempts,
        "worker": job.worker or None,
        "http_status": job.http_status,
        "error_code": error.get("code"),
        "error": error.get("message"),
        "request_bytes": job.size,
        "callback_url": job.callback_url or None,
    }


def _age_s(job: ListedJob, now: float) -> int:
    return max(0, round(now - job.submitted))
