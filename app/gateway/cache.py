"""Response cache: exact-match keys, the decision which answers are stored, and single flight.

A cache key covers every field of the request, the model's alias, and the API key unless the configuration shares
answers between keys (docs/clients.md, bug 7). Single flight lets one of several identical calls fetch the answer while
the others wait for it. Calls of different keys never wait for each other: a call that is made to last would hold up the
others. `lua/admit.lua` reads the cache and `lua/settle.lua` fills it; this module does the rest.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Any

import msgspec

from app.config.gateway import CacheConfig
from app.domain.generation import GenerationRequest
from app.domain.identity import Caller
from app.errors import ClientGone, StoreUnavailable
from app.gateway.admission import Admitted
from app.providers.base import CancelToken
from app.store.redis.client import Redis
from app.store.redis.keys import cache_entry_key, flight_key, uncacheable_key

# Between two polls of a follower, at first and at most.
_FIRST_POLL_S, _MAX_POLL_S = 0.01, 0.1
_FIELDS_NOT_IN_KEY = ("stream", "stream_options")


class Cache:
    """The response cache in Redis, as far as admission and settlement do not handle it in their round trips."""

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
        """Seconds for which an answer is cached."""
        return self._config.ttl_s

    def key(self, caller: Caller, request: GenerationRequest) -> str:
        """Returns the cache key of `request`; "" when its answer must not be cached.

        That is when caching is off, or the temperature is absent or too high for the same answer twice. Only chat
        completions are cached: the other dialects' clients keep state in their answers' ids and signatures.
        """
        if not self._config.enabled or request.temperature is None or request.dialect != "chat":
            return ""
        if request.temperature > self._config.max_temperature:
            return ""
        shared = self._config.shared
        digest = hashlib.sha256(b"shared" if shared else caller.key_id.encode())
        fields = request.fields
        for name in sorted(fields):
            if name not in _FIELDS_NOT_IN_KEY:
                digest.update(b"\x00%d:%s=" % (len(name), name.encode("utf-8", "surrogatepass")))
                digest.update(fields[name])
        return f"{digest.hexdigest()}@{caller.key_id}" if shared else digest.hexdigest()

    def cacheable(self, admitted: Admitted, answer: bytes) -> bytes:
        """Returns `answer`, or nothing if it is too long for the cache; followers then stop waiting for it."""
        if len(answer) <= self._config.max_entry_bytes:
            return answer
        self.mark_uncacheable(admitted)
        return b""

    def mark_uncacheable(self, admitted: Admitted) -> None:
        """Tells followers, present and future ones, that the answer to this call will not be cached."""
        if not admitted.reservation.single_flight:
            return
        try:
            self._redis.execute("SET", uncacheable_key(admitted.reservation.cache_key), "1", "EX", self._config.ttl_s)
        except StoreUnavailable:
            pass  # they wait in vain, but at most `flight_wait_s`

    @property
    def max_entry_bytes(self) -> int:
        """Length of the longest answer that is cached."""
        return self._config.max_entry_bytes

    def get(self, cache_key: str) -> bytes | None:
        """Returns the answer that is cached under `cache_key` now. Raises `StoreUnavailable`."""
        entry: bytes | None = self._redis.execute("GET", cache_entry_key(cache_key)) if cache_key else None
        return entry

    def lookup(self, admitted: Admitted, deadline: float, cancel: CancelToken) -> bytes | None:
        """Returns the cached answer, after waiting for it while an identical call fetches it; None: fetch it yourself.

        All followers go ahead at once when the answer turns out not to be cached. When the call that they wait for
        fails or its client hangs up, one of them takes over its flight: a vendor that fails one call is not asked by
        all. No call waits longer than `flight_wait_s`, or half of the time that it has. Raises `ClientGone` when the
        client hangs up.
        """
        if admitted.cached is not None or not admitted.follows:
            return admitted.cached
        reservation = admitted.reservation
        call_id, cache_key = reservation.call_id, reservation.cache_key
        # In this order: a call that gets the flight after another one let go of it must see what that one cached.
        poll: list[tuple[str | bytes | int | float, ...]] = [
            ("SET", flight_key(cache_key), call_id, "NX", "PX", int(reservation.deadline_s * 1000)),
            ("GET", cache_entry_key(cache_key)),
            ("GET", flight_key(cache_key)),
            ("EXISTS", uncacheable_key(cache_key)),
        ]
        wait_s = _FIRST_POLL_S
        began = self._monotonic()
        until = began + min(self._config.flight_wait_s, (deadline - began) / 2)
        while self._monotonic() < until:
            self._pause(wait_s)
            wait_s = min(wait_s * 1.5, _MAX_POLL_S)
            if cancel.cancelled:
                raise ClientGone("The client hung up.")
            try:
                _, answer, holder, uncacheable = self._redis.pipeline(poll)
            except StoreUnavailable:
                return None
            if answer is not None or uncacheable or holder == call_id.encode():
                # The flight is ours without an answer: the first call failed.
                cached: bytes | None = answer
                return cached
        return None


def as_cache_hit(answer: bytes, *, call_id: str, created: int) -> bytes:
    """Returns a cached completion as the answer to another call: with its own id and time, and `"cached": true`.

    The rest stays as the provider wrote it, byte for byte: finding the ends of the fields takes a microsecond.
    """
    fields: dict[str, Any] = _fields(answer)
    fields["id"] = f"chatcmpl-{call_id}"
    fields["created"] = created
    fields["cached"] = True
    return _encode(fields)


_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode
