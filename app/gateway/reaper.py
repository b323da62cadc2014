"""Calls whose worker died are settled in its place, as `lost`: one row each, their reservations given back.

Run by the ledger process, every second. A call is lost when its worker has shown no sign of life for a while, or
when its own deadline has passed. What was reserved as likely is what it is charged: nobody can know better.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from app.errors import StoreUnavailable
from app.gateway.presence import QUEUE, WORKERS, reservations_of
from app.store.redis import Redis
from app.store.rediskeys import NOTHING, OUTBOX, reservation_key

log = structlog.get_logger()
# How long a lost call is remembered, for a worker that was only stalled and settles after all.
_LOST_MS = 86_400_000
# How long a dead worker is still looked after: one that was only stalled may admit calls before its next sign of life.
_FORGET_S = 3600.0


class Reaper:
    def __init__(
        self,
        *,
        redis: Redis,
        timeout_s: float,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._redis = redis
        self._settle = redis.script("settle")
        self._timeout_s = timeout_s
        self._clock = clock
        self._monotonic = monotonic
        self._judge_after = 0.0

    def run_once(self) -> int:
        """Settles every lost call there is now; returns how many. Raises `StoreUnavailable`."""
        try:
            return self._run_once()
        except StoreUnavailable:
            # While Redis was away nobody could show a sign of life: they get the time to do so.
            self._judge_after = self._monotonic() + self._timeout_s
            raise

    def _run_once(self) -> int:
        now = self._clock()
        lost = 0
        beats = self._redis.execute("ZRANGE", WORKERS, 0, -1, "WITHSCORES")
        for worker, beat in zip(beats[::2], beats[1::2], strict=True):
            dead = now - float(beat) > self._timeout_s and self._monotonic() >= self._judge_after
            open_calls = reservations_of(worker.decode())
            latest: float | str = "+inf" if dead else int(now * 1000)
            ids = self._redis.execute("ZRANGEBYSCORE", open_calls, "-inf", latest)
            for call_id in ids:
                lost += self._lose(call_id.decode(), open_calls)
            if dead and ids:
                log.warning("worker_lost", worker=worker.decode(), calls=len(ids))
            if dead and now - float(beat) > self._timeout_s + _FORGET_S:
                self._redis.execute("ZREM", WORKERS, worker)
        # Queued calls belong to no worker: only their deadline ends them.
        queued = reservations_of(QUEUE)
        for call_id in self._redis.execute("ZRANGEBYSCORE", queued, "-inf", int(now * 1000)):
            lost += self._lose(call_id.decode(), queued)
        return lost

    def _lose(self, call_id: str, open_calls: str) -> int:
        found = self._redis.execute("HMGET", reservation_key(call_id), "d", "h")
        if found[0] is None:
            # Settled, or so old that Redis forgot it: only its name is left in the worker's list.
            self._redis.execute("ZREM", open_calls, call_id)
            return 0
        call: dict[str, Any] = msgspec.json.decode(found[0])
        row = call["row"]
        if found[1] == b"1":
            row |= {"prompt_tokens": 0, "completion_tokens": 0, "cost_nanousd": 0, "cache": "hit"}
        keys = [reservation_key(call_id), open_calls, NOTHING, call["flight"], call["leases"], OUTBOX, *call["keys"]]
        charges = call["cached_args"] if found[1] == b"1" else call["args"]
        settled = self._settle(keys, [call_id, "lost", msgspec.json.encode(row), "", 1, _LOST_MS, *charges])
        log.warning("call_lost", call_id=call_id, model=row["model"])
        return int(settled)
