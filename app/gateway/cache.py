"""Which answers are kept, under which key, and how identical calls share one upstream call.

Exact match only: the key covers every field of the request, the model's alias, and the API key unless the
configuration shares answers between keys (docs/clients.md, bug 7). Calls of different keys never wait for each other:
one that is made to last would hold up the others.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Any

import msgspec

from app.config.gateway import CacheConfig
from app.domain.chat import ChatRequest
from app.domain.identity import Caller
from app.errors import ClientGone, StoreUnavailable
from app.gateway.admission import Admitted
from app.providers.base import CancelToken
from app.store.redis.client import Redis
from app.store.redis.keys import cache_entry_key, flight_key, unkept_key

# A follower looks again after this long, at first and at most.
_FIRST_LOOK_S, _LAST_LOOK_S = 0.01, 0.1
_NOT_PART_OF_THE_QUESTION = ("stream", "stream_options")


class Cache:
    def __init__(
        self,
        *,
        redis: Redis,
        config: CacheConfig,
        monotonic: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._redis = redis
        self._config = config
        self._monotonic = monotonic
        self._pause = pause

    @property
    def ttl_s(self) -> int:
        return self._config.ttl_s

    def key(self, caller: Caller, request: ChatRequest) -> str:
        """The cache key of `request`; "" when its answer must not be cached (too creative, or caching is off)."""
        if not self._config.enabled or request.temperature is None:
            return ""
        if request.temperature > self._config.max_temperature:
            return ""
        shared = self._config.shared
        digest = hashlib.sha256(b"shared" if shared else caller.key_id.encode())
        fields = request.fields
        for name in sorted(fields):
            if name not in _NOT_PART_OF_THE_QUESTION:
                digest.update(b"\x00%d:%s=" % (len(name), name.encode("utf-8", "surrogatepass")))
                digest.update(fields[name])
        return f"{digest.hexdigest()}@{caller.key_id}" if shared else digest.hexdigest()

    def keepable(self, admitted: Admitted, answer: bytes) -> bytes:
        """`answer` if it may be kept, else nothing."""
        if len(answer) <= self._config.max_entry_bytes:
            return answer
        self.not_kept(admitted)
        return b""

    def not_kept(self, admitted: Admitted) -> None:
        """The answer to this call will not be kept: whoever waits for it, or would in the time to come, need not."""
        if not admitted.reservation.single_flight:
            return
        try:
            self._redis.execute("SET", unkept_key(admitted.reservation.cache_key), "1", "EX", self._config.ttl_s)
        except StoreUnavailable:
            pass  # they wait in vain, but not for ever

    @property
    def max_entry_bytes(self) -> int:
        return self._config.max_entry_bytes

    def kept(self, cache_key: str) -> bytes | None:
        """The answer that is kept under `cache_key` now. Raises `StoreUnavailable`."""
        found: bytes | None = self._redis.execute("GET", cache_entry_key(cache_key)) if cache_key else None
        return found

    def answer(self, admitted: Admitted, deadline: float, cancel: CancelToken) -> bytes | None:
        """The cached answer; waits for it while an identical call is fetching it. None: fetch it yourself.

        All who wait go at once when the answer turns out not to be kept. When the call that they wait for fails or is
        hung up, one of them takes its place: a vendor that fails one call is not asked by all. Nobody waits for longer
        than `flight_wait_s`, or half of the time that the call has. Raises `ClientGone` when the client hangs up.
        """
        if admitted.cached is not None or not admitted.follows:
            return admitted.cached
        reservation = admitted.reservation
        call_id, cache_key = reservation.call_id, reservation.cache_key
        # In this order: whoever gets the flight after another call let go of it must see what that call kept.
        look: list[tuple[str | bytes | int | float, ...]] = [
            ("SET", flight_key(cache_key), call_id, "NX", "PX", int(reservation.deadline_s * 1000)),
            ("GET", cache_entry_key(cache_key)),
            ("GET", flight_key(cache_key)),
            ("EXISTS", unkept_key(cache_key)),
        ]
        wait_s = _FIRST_LOOK_S
        began = self._monotonic()
        until = began + min(self._config.flight_wait_s, (deadline - began) / 2)
        while self._monotonic() < until:
            self._pause(wait_s)
            wait_s = min(wait_s * 1.5, _LAST_LOOK_S)
            if cancel.cancelled:
                raise ClientGone("The client hung up.")
            try:
                _, answer, holder, unkept = self._redis.pipeline(look)
            except StoreUnavailable:
                return None
            if answer is not None or unkept or holder == call_id.encode():
                # The flight is ours without an answer: the first call failed.
                kept: bytes | None = answer
                return kept
        return None


def marked(answer: bytes, *, call_id: str, created: int) -> bytes:
    """A cached completion as the answer to another call: with an id and a time of its own, and `"cached": true`.

    The rest stays as the provider wrote it, byte for byte: looking for the fields' ends takes a microsecond.
    """
    fields: dict[str, Any] = _fields(answer)
    fields["id"] = f"chatcmpl-{call_id}"
    fields["created"] = created
    fields["cached"] = True
    return _encode(fields)


_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode
