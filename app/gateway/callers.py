"""Which caller a key stands for, with as little I/O as safety allows.

A worker remembers callers, but never trusts its memory alone: admission compares the remembered record with
Redis in its one round trip, and `verify` (for everything that is not a model call) re-reads a record older
than `FRESH_S`. A revoked key therefore stops working within a second on every worker.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from app.domain.identity import Caller, Role, hash_key, is_well_formed, key_format_hint
from app.errors import InvalidApiKey

FRESH_S = 0.5
_REMEMBERED = 10_000
_UNKNOWN = "Incorrect API key provided."


class KeyStore(Protocol):
    """`store.keys.Keys`, as far as a worker needs it."""

    def authenticate(self, key_hash: str) -> Caller | None: ...


class Callers:
    """Callers by the hash of their key; the keys from the environment are always known."""

    def __init__(
        self,
        *,
        keys: KeyStore,
        dev_key: str | None = None,
        admin_key: str | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys = keys
        self._clock = clock
        self._monotonic = monotonic
        self._static: dict[str, Caller] = {}
        if dev_key:
            self._static[hash_key(dev_key)] = Caller("dev", "development key", key_hash=hash_key(dev_key))
        if admin_key:
            self._static[hash_key(admin_key)] = Caller(
                "admin", "admin key", role=Role.ADMIN, key_hash=hash_key(admin_key)
            )
        # hash → (caller or None for an unknown key, when it was read); the least recently used goes first.
        self._known: OrderedDict[str, tuple[Caller | None, float]] = OrderedDict()

    def lookup(self, key: str) -> Caller:
        """The caller of `key`, perhaps from memory: only for calls that admission verifies. Raises `InvalidApiKey`."""
        key_hash = hash_key(key)
        caller = self._static.get(key_hash)
        if caller is not None:
            return caller
        known = self._known.get(key_hash)
        if known is not None and (known[0] is not None or self._monotonic() - known[1] < FRESH_S):
            self._known.move_to_end(key_hash)
            return self._valid(known[0])
        if not is_well_formed(key):
            raise InvalidApiKey(f"{_UNKNOWN} {key_format_hint(key)}".rstrip())
        return self.refresh(key_hash)

    def by_hash(self, key_hash: str) -> Caller:
        """The caller whose key has this hash, read now. Raises `InvalidApiKey`, `StoreUnavailable`."""
        return self._static.get(key_hash) or self.refresh(key_hash)

    def verify(self, key: str) -> Caller:
        """The caller of `key`, read at most `FRESH_S` ago. Raises `InvalidApiKey`, `StoreUnavailable`."""
        caller = self.lookup(key)
        known = self._known.get(caller.key_hash)
        if known is not None and self._monotonic() - known[1] >= FRESH_S:
            return self.refresh(caller.key_hash)
        return caller

    def refresh(self, key_hash: str) -> Caller:
        """Reads the caller anew. Raises `InvalidApiKey` when the key is unknown, revoked or expired."""
        caller = self._keys.authenticate(key_hash)
        self._known[key_hash] = (caller, self._monotonic())
        self._known.move_to_end(key_hash)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return self._valid(caller)

    def _valid(self, caller: Caller | None) -> Caller:
        if caller is None:
            raise InvalidApiKey(_UNKNOWN)
        if caller.expires_at is not None and caller.expires_at <= self._clock():
            raise InvalidApiKey("This API key has expired.")
        return caller
