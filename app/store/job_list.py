"""The operator's list of all keys' jobs: waiting, running and ended. Reads only.

Waiting and running jobs are in the queue's sorted sets. Ended ones are in no index, and are found by a scan of all of
Redis in steps (SCAN), so that no other client waits for it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from app.store.redis import keys
from app.store.redis.client import Redis

STATES = ("queued", "processing", "completed", "failed", "cancelled")
ENDED = frozenset({"completed", "failed", "cancelled"})
_FIELDS = (
    "state",
    "owner",
    "model",
    "endpoint",
    "submitted",
    "started",
    "finished",
    "attempts",
    "http_status",
    "error",
    "worker",
    "callback_url",
    "size",
)
_SCANNED_KEYS = 1000  # of one step: well below a millisecond of Redis's time
_JOBS_A_ROUND_TRIP = 200
_MAX_TURNS = 200  # as in lua/jobs/status


class ListedJob(NamedTuple):
    """A job without its request and response. `position` counts from 1; None unless it waits for its turn."""

    id: str
    state: str
    key_id: str
    model: str
    endpoint: str
    submitted: float
    started: float | None
    finished: float | None
    attempts: int
    http_status: int | None
    error: bytes
    worker: str
    callback_url: str
    size: int
    position: int | None


class JobList:
    """Reads jobs for operators. Methods raise `StoreUnavailable`."""

    def __init__(self, *, redis: Redis) -> None:
        self._redis = redis

    def find(self, job_id: str) -> ListedJob | None:
        return next(self._read([job_id]), None)

    def all(self, states: Collection[str] = STATES) -> Iterator[ListedJob]:
        """Yields every job in one of `states` once, in no order; one that changes meanwhile as it was found."""
        found = self._queued_and_running() if ENDED.isdisjoint(states) else self._scan()
        seen: set[str] = set()
        for ids in found:
            fresh = [job_id for job_id in dict.fromkeys(ids) if job_id not in seen]
            seen.update(fresh)
            for start in range(0, len(fresh), _JOBS_A_ROUND_TRIP):
                yield from (job for job in self._read(fresh[start : start + _JOBS_A_ROUND_TRIP]) if job.state in states)

    def _queued_and_running(self) -> Iterator[list[str]]:
        for ids in self._redis.pipeline(
            [("ZRANGE", name, 0, -1) for name in (keys.QUEUE_WAITING, keys.QUEUE_LATER, keys.QUEUE_RUNNING)]
        ):
            yield [job_id.decode() for job_id in ids]

    def _scan(self) -> Iterator[list[str]]:
        cursor = b"0"
        while True:
            cursor, found = self._redis.execute("SCAN", cursor, "MATCH", f"{keys.JOB}*", "COUNT", _SCANNED_KEYS)
            yield [key.decode().removeprefix(keys.JOB) for key in found]
            if cursor == b"0":
                return

    def _read(self, ids: Sequence[str]) -> Iterator[ListedJob]:
        if not ids:
            return
        rows = self._redis.pipeline([("HMGET", keys.JOB + job_id, *_FIELDS) for job_id in ids])
        found = [(job_id, row) for job_id, row in zip(ids, rows, strict=True) if row[0] is not None]
        waiting = [(job_id, row[1].decode()) for job_id, row in found if row[0] == b"queued"]
        positions = self._positions(waiting) if waiting else {}
        for job_id, row in found:
            yield _listed(job_id, row, positions.get(job_id))

    def _positions(self, waiting: Sequence[tuple[str, str]]) -> dict[str, int]:
        """Returns positions by the rule of lua/jobs/status: as many jobs of each other key come first as of the own."""
        owners: list[str] = [
            owner.decode() for owner in self._redis.execute("ZRANGE", keys.QUEUE_TURNS, 0, _MAX_TURNS - 1)
        ]
        replies = self._redis.pipeline(
            [("ZCARD", keys.QUEUE_OF_KEY + owner) for owner in owners]
            + [("ZRANK", keys.QUEUE_OF_KEY + owner, job_id) for job_id, owner in waiting]
        )
        depth = dict(zip(owners, replies, strict=False))
        positions = {}
        for (job_id, owner), rank in zip(waiting, replies[len(owners) :], strict=True):
            if rank is not None:
                others = sum(min(jobs, rank + 1) for other, jobs in depth.items() if other != owner)
                positions[job_id] = rank + others + 1
        return positions


def _listed(job_id: str, row: Sequence[bytes | None], position: int | None) -> ListedJob:
    state, owner, model, endpoint, submitted, started, finished, attempts, http_status, error, worker, url, size = (
        (value or b"").decode("utf-8", "replace") for value in row
    )
    return ListedJob(
        job_id,
        state,
        owner,
        model,
        endpoint,
        int(submitted or 0) / 1000,
        _seconds(started),
        _seconds(finished),
        int(attempts or 0),
        int(http_status) if http_status else None,
        error.encode(),
        worker,
        url,
        int(size or 0),
        position,
    )


def _seconds(milliseconds: str) -> float | None:
    return int(milliseconds) / 1000 if milliseconds else None
