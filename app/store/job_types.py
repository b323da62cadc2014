"""A job in the shapes in which the queue gives it, and what else the queue tells of itself."""

from __future__ import annotations

from typing import NamedTuple


class Job(NamedTuple):
    """A job as a worker gets it. `attempt` counts from 1; times are Unix seconds.

    `recorded`: the last attempt that was put off; what it and those before it came to is in `held`. Any after it ended
    with their worker, or were taken from it: nobody knows whether a vendor was asked. `refused`: its caller was told
    that it could not be queued, and nothing is reserved for it.
    """

    id: str
    attempt: int
    cancelled: bool
    owner: str
    key_hash: str
    endpoint: str
    request: bytes
    held: bytes
    submitted: float
    keep_s: int = 0
    recorded: int = 0
    refused: bool = False

    @property
    def unrecorded(self) -> int:
        """How many attempts before this one are only known to have begun."""
        return max(self.attempt - 1 - self.recorded, 0)


class JobStatus(NamedTuple):
    """What the owner of a job may see. `before` is how many will run first; `slots` how many run at once.

    `tag` names what is shown, as an ETag does. Whoever has seen that is shown no more than the state.
    """

    id: str
    before: int
    slots: int
    mean_s: float | None
    tag: str
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
    seen: bool = False


class JobOutcome(NamedTuple):
    """What a job has come to so far."""

    state: str
    http_status: int | None
    response: bytes | None
    error: bytes | None


class BeatReply(NamedTuple):
    """What a worker is told at its beat: attempts of its own that are to end, each a job, its number and why
    (`cancelled`, or `lost` to a later attempt); and cancelled jobs that it is to settle, each with what it `held`.
    """

    ending: list[tuple[str, int, str]]
    unsettled: list[tuple[str, bytes]]


class QueueDepth(NamedTuple):
    """The queue as a whole."""

    waiting: int
    running: int
    oldest_s: float
    workers: int
    slots: int
