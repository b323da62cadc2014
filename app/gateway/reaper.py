"""Calls whose worker died are settled in its place, as `lost`: one row each, their reservations given back.

Run by the ledger process, every second. A call is lost when its worker has shown no sign of life for a while, or
when its own deadline has passed. What was reserved as likely is what it is charged: nobody can know better.

All times are Redis's: the machines' clocks may differ. Should Redis's own clock be set, nobody is lost for it: after a
step forwards workers get the time to show a sign of life, after one back they are judged from then on.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec
import structlog

from app.errors import StoreUnavailable
from app.gateway.heartbeat import QUEUE, reservations_of
from app.gateway.reservation import decode_recorded
from app.store.redis.client import Redis
from app.store.redis.keys import WORKERS, reservation_key

log = structlog.get_logger()
# How long a lost call is remembered, for a worker that was only stalled and settles after all.
_LOST_MS = 86_400_000
# How long a dead worker is still looked after: one that was only stalled may admit calls before its next sign of life.
_FORGET_S = 3600.0
# By so much, Redis's time may go ahead of ours between two looks without its clock having been set.
_STEP_S = 1.0


class Reaper:
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
        self._ahead_s: float | None = None  # of our own time, Redis's at the last look

    def run_once(self) -> int:
        """Settles every lost call there is now; returns how many. Raises `StoreUnavailable`."""
        try:
            return self._run_once()
        except StoreUnavailable:
            # While Redis was away nobody could show a sign of life: they get the time to do so.
            self._judge_after = self._monotonic() + self._timeout_s
            raise

    def _run_once(self) -> int:
        self._redis.ping()  # one that takes no writes takes no signs of life either
        clock, beats = self._redis.pipeline([("TIME",), ("ZRANGE", WORKERS, 0, -1, "WITHSCORES")])
        now = int(clock[0]) + int(clock[1]) / 1e6
        may_judge = self._may_judge(now)
        lost = 0
        for worker, beat in zip(beats[::2], beats[1::2], strict=True):
            silent_s = now - float(beat)
            if silent_s < 0:  # the clock has gone back
                self._redis.execute("ZADD", WORKERS, "XX", now, worker)
            dead = may_judge and silent_s > self._timeout_s
            open_calls = reservations_of(worker.decode())
            ids = self._redis.execute("ZRANGEBYSCORE", open_calls, "-inf", "+inf" if dead else int(now * 1000))
            for call_id in ids:
                lost += self._lose(call_id.decode(), open_calls)
            if dead and ids:
                log.warning("worker_lost", worker=worker.decode(), calls=len(ids))
            if dead and silent_s > self._timeout_s + _FORGET_S:
                self._redis.execute("ZREM", WORKERS, worker)
        # Queued calls belong to no worker: only their deadline ends them.
        queued = reservations_of(QUEUE)
        for call_id in self._redis.execute("ZRANGEBYSCORE", queued, "-inf", int(now * 1000)):
            lost += self._lose(call_id.decode(), queued)
        return lost

    def _may_judge(self, now: float) -> bool:
        """Whether who is silent by Redis's time `now` really is: not just after its clock was set."""
        monotonic = self._monotonic()
        before, self._ahead_s = self._ahead_s, now - monotonic
        if before is not None and self._ahead_s - before > _STEP_S:
            log.warning("redis_clock_set", forwards_s=round(self._ahead_s - before, 1))
            self._judge_after = monotonic + self._timeout_s
        return monotonic >= self._judge_after

    def _lose(self, call_id: str, open_calls: str) -> int:
        state, data, hit = self._redis.execute("HMGET", reservation_key(call_id), "s", "d", "h")
        if state != b"open":
            # Ended, or so old that Redis forgot it: only its name is left in the worker's list.
            self._redis.execute("ZREM", open_calls, call_id)
            return 0
        call = decode_recorded(data)
        row, charges = call.row, call.args
        if hit == b"1":
            row |= {"prompt_tokens": 0, "completion_tokens": 0, "cost_nanousd": 0, "cache": "hit"}
            charges = call.cached_args
        keys = call.settle_keys(call_id, open_calls)
        if not self._settle(keys, [call_id, "lost", msgspec.json.encode(row), "", 1, _LOST_MS, *charges]):
            return 0  # it ended just now
        log.warning("call_lost", call_id=call_id, model=row["model"])
        return 1
