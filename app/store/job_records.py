"""Records of the job queue: claimed jobs, statuses and outcomes, heartbeat replies, the depth of the queue."""

from __future__ import annotations

from typing import NamedTuple


class Job(NamedTuple):
    """A job as a worker claims it. `attempt` counts from 1; times are Unix seconds.

    `deferred_call`: the call's encoded `DeferredCall`, with its reservation. `last_recorded_attempt`: the last attempt
    that was put off; its charges and those of earlier ones are in `deferred_call`. Any attempt after it ended with its
    worker, or was taken from it: nobody knows whether a vendor was asked. `refused`: the caller was told that the job
    could not be queued, and nothing is reserved for it.
    """

    id: str
    attempt: int
    cancelled: bool
    owner: str
    key_hash: str
    endpoint: str
    request: bytes
    deferred_call: bytes
    submitted: float
    keep_s: int = 0
    last_recorded_attempt: int = 0
    refused: bool = False

    @property
    def unrecorded_attempts(self) -> int:
        """Attempts before this one of which only the beginning is known."""
        return max(self.attempt - 1 - self.last_recorded_attempt, 0)


class JobStatus(NamedTuple):
    """A job as its owner may see it. Times are Unix seconds; `about` is JSON, as `response` and `error` are.

    `jobs_ahead`: how many will run before it, -1 unless it waits; `slots`: how many jobs run at once.
    `not_modified`: the owner knows this `etag` already, and gets nothing but it, the state and the estimates.
    """

    id: str
    jobs_ahead: int
    slots: int
    mean_duration_s: float | None
    etag: str
    state: str
    submitted: float = 0.0
    started: float | None = None
    finished: float | None = None
    attempts: int = 0
    http_status: int | None = None
    response: bytes | None = None
    error: bytes | None = None
    about: bytes | None = None
    callback_url: bytes | None = None
    not_modified: bool = False


class JobOutcome(NamedTuple):
    """A job's result so far; `response` and `error` are JSON."""

    state: str
    http_status: int | None
    response: bytes | None
    error: bytes | None


class HeartbeatReply(NamedTuple):
    """The queue's reply to a worker's heartbeat.

    `attempts_to_end`: attempts of this worker, each a job id, its number and why (`cancelled`, or `lost` to a later
    attempt). `jobs_to_settle`: cancelled jobs that it is to settle, each an id and its encoded `DeferredCall`.
    """

    attempts_to_end: list[tuple[str, int, str]]
    jobs_to_settle: list[tuple[str, bytes]]


class QueueDepth(NamedTuple):
    """Jobs that wait and run, the age of the oldest waiting one, and the workers with their slots."""

    waiting: int
    running: int
    oldest_s: float
    workers: int
    slots: int
