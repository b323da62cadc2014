"""Authentication: an in-process LRU cache of the callers that API keys stand for.

The cache is never trusted alone: admission compares the cached record with Redis in its one round trip, and `verify`
(for everything that is not a model call) reads a record anew that is older than `FRESH_S`. A revoked key therefore
stops working within a second on every worker.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from app.domain.identity import Caller, Role, hash_key, is_well_formed, key_format_hint
from app.errors import InvalidApiKey
from app.store.keys import Keys

FRESH_S = 0.5
_MAX_CACHED = 10_000
_UNKNOWN_KEY = "Incorrect API key provided."


class Callers:
    """Callers by the hash of their key. The keys from the environment (`dev_key`, `admin_key`) need no store."""

    def __init__(
        self,
        *,
        keys: Keys,
        dev_key: str | None = None,
        admin_key: str | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys = keys
        self._clock = clock
        self._monotonic = monotonic
        self._from_environment: dict[str, Caller] = {}
        if dev_key:
            self._from_environment[hash_key(dev_key)] = Caller("dev", "development key", key_hash=hash_key(dev_key))
        if admin_key:
            self._from_environment[hash_key(admin_key)] = Caller(
                "admin", "admin key", role=Role.ADMIN, key_hash=hash_key(admin_key)
            )
        # hash → (caller or None for an unknown key, when it was read); the least recently used is evicted first.
        self._cached: OrderedDict[str, tuple[Caller | None, float]] = OrderedDict()

    def lookup(self, key: str) -> Caller:
        """Returns the caller of `key`, perhaps from the cache: only for calls that admission verifies.

        Raises `InvalidApiKey`.
        """
        key_hash = hash_key(key)
        caller = self._from_environment.get(key_hash)
        if caller is not None:
            return caller
        cached = self._cached.get(key_hash)
        if cached is not None and (cached[0] is not None or self._monotonic() - cached[1] < FRESH_S):
            self._cached.move_to_end(key_hash)
            return self._valid(cached[0])
        if not is_well_formed(key):
            raise InvalidApiKey(f"{_UNKNOWN_KEY} {key_format_hint(key)}".rstrip())
        return self.refresh(key_hash)

    def by_hash(self, key_hash: str) -> Caller:
        """Returns the caller whose key has this hash, read now. Raises `InvalidApiKey`, `StoreUnavailable`."""
        return self._from_environment.get(key_hash) or self.refresh(key_hash)

    def verify(self, key: str) -> Caller:
        """Returns the caller of `key`, read at most `FRESH_S` ago. Raises `InvalidApiKey`, `StoreUnavailable`."""
        caller = self.lookup(key)
        cached = self._cached.get(caller.key_hash)
        if cached is not None and self._monotonic() - cached[1] >= FRESH_S:
            return self.refresh(caller.key_hash)
        return caller

    def refresh(self, key_hash: str) -> Caller:
        """Reads the caller anew, and caches it. Raises `InvalidApiKey` when the key is unknown, revoked or expired."""
        caller = self._keys.authenticate(key_hash)
        self._cached[key_hash] = (caller, self._monotonic())
        self._cached.move_to_end(key_hash)
        if len(self._cached) > _MAX_CACHED:
            self._cached.popitem(last=False)
        return self._valid(caller)

    def _valid(self, caller: Caller | None) -> Caller:
        if caller is None:
            raise InvalidApiKey(_UNKNOWN_KEY)
        if caller.expires_at is not None and caller.expires_at <= self._clock():
            raise InvalidApiKey("This API key has expired.")
        return caller
