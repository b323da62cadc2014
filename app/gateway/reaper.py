"""Reaper: settles the calls of dead workers as `lost`, with one row each, and gives back their reservations.

The ledger process runs it every second. A call is lost when its worker has sent no heartbeat for a while, or when its
own deadline has passed. It is charged what it had likely used, since nobody can know better.

All times are Redis's: the machines' clocks may differ. Should Redis's own clock be set, no call is lost for it: after a
step forwards workers get the time to send a heartbeat, after one back they are judged from then on.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from app.errors import StoreUnavailable
from app.store.redis.client import Redis
from app.store.redis.keys import QUEUE, WORKERS, reservation_key, reservations_key
from app.store.reservations import UnreadableRecord, lose_call, recorded

log = structlog.get_logger()
# How long a dead worker is still watched: one that was only stalled may admit calls before its next heartbeat.
_FORGET_S = 3600.0
# By so much, Redis's time may go ahead of ours between two looks without its clock having been set.
_STEP_S = 1.0
_MAX_UNREADABLE = 1000  # calls whose unreadable record is logged once only


class Reaper:
    """`timeout_s` is how long a worker may send no heartbeat."""

    def __init__(
        self,
        *,
        redis: Redis,
        timeout_s: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._redis = redis
        self._settle = redis.script("settle")
        self._timeout_s = timeout_s
        self._monotonic = monotonic
        self._judge_after = 0.0
        self._unreadable: set[str] = set()  # calls whose record was logged as unreadable
        self._ahead_s: float | None = None  # of our own time, Redis's at the last look

    def run_once(self) -> int:
        """Settles every call that is lost by now, and returns how many. Raises `StoreUnavailable`."""
        try:
            return self._run_once()
        except StoreUnavailable:
            # While Redis was away no worker could send a heartbeat: they get the time to do so.
            self._judge_after = self._monotonic() + self._timeout_s
            raise

    def _run_once(self) -> int:
        self._redis.ping()  # one that takes no writes takes no heartbeats either
        clock, beats = self._redis.pipeline([("TIME",), ("ZRANGE", WORKERS, 0, -1, "WITHSCORES")])
        now = int(clock[0]) + int(clock[1]) / 1e6
        may_judge = self._may_judge(now)
        lost = 0
        for worker, beat in zip(beats[::2], beats[1::2], strict=True):
            silent_s = now - float(beat)
            if silent_s < 0:  # the clock has gone back
                self._redis.execute("ZADD", WORKERS, "XX", now, worker)
            dead = may_judge and silent_s > self._timeout_s
            ids = self._open_calls(worker.decode(), "+inf" if dead else int(now * 1000))
            for call_id in ids:
                lost += self._lose(call_id, worker.decode())
            if dead and ids:
                log.warning("worker_lost", worker=worker.decode(), calls=len(ids))
            if dead and silent_s > self._timeout_s + _FORGET_S:
                self._redis.execute("ZREM", WORKERS, worker)
        # Queued calls belong to no worker: only their deadline ends them.
        for call_id in self._open_calls(QUEUE, int(now * 1000)):
            lost += self._lose(call_id, QUEUE)
        return lost

    def _open_calls(self, owner: str, until_ms: int | str) -> list[str]:
        """Returns the owner's open calls whose deadline is at `until_ms` or before."""
        ids = self._redis.execute("ZRANGEBYSCORE", reservations_key(owner), "-inf", until_ms)
        return [call_id.decode() for call_id in ids]

    def _may_judge(self, now: float) -> bool:
        """Says whether silence by Redis's time `now` counts: not just after Redis was away or its clock was set."""
        monotonic = self._monotonic()
        before, self._ahead_s = self._ahead_s, now - monotonic
        if before is not None and self._ahead_s - before > _STEP_S:
            log.warning("redis_clock_set", forwards_s=round(self._ahead_s - before, 1))
            self._judge_after = monotonic + self._timeout_s
        return monotonic >= self._judge_after

    def _lose(self, call_id: str, owner: str) -> int:
        state, data, hit = self._redis.execute("HMGET", reservation_key(call_id), "s", "d", "h")
        if state != b"open":
            # Ended, or so old that Redis forgot it: only its name is left in the worker's list.
            self._redis.execute("ZREM", reservations_key(owner), call_id)
            return 0
        try:
            reservation = recorded(data, owner=owner)
        except UnreadableRecord as exc:
            if call_id not in self._unreadable:
                # Of another version, or damaged: it must not keep the others' calls from being settled.
                log.error("reservation_unreadable", call_id=call_id, reason=str(exc))
                if len(self._unreadable) >= _MAX_UNREADABLE:
                    self._unreadable.clear()
                self._unreadable.add(call_id)
            return 0
        if not self._settle(*lose_call(reservation, from_cache=hit == b"1")):
            return 0  # it ended just now
        log.warning("call_lost", call_id=call_id, model=reservation.row.model)
        return 1
