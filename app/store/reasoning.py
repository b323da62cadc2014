"""Reasoning in Redis: what vendors want to see again of the reasoning before a tool call, by the call's id.

Its Redis key holds the API key's id, so that nobody is given another's reasoning (docs/clients.md, bug 7).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from app.errors import StoreUnavailable
from app.store.redis.client import Redis
from app.store.redis.keys import reasoning_key


class Reasoning:
    """Reasoning by API key and tool call, each at most `max_bytes` long, kept for `ttl_s`. Methods never raise."""

    def __init__(self, *, redis: Redis, ttl_s: int, max_bytes: int) -> None:
        self._redis = redis
        self._ttl_s = ttl_s
        self._max_bytes = max_bytes

    def recall(self, key_id: str, call_ids: Sequence[str]) -> dict[str, bytes]:
        """Returns the reasoning that is kept for these calls."""
        names = list(dict.fromkeys(call_ids))
        try:
            kept = self._redis.execute("MGET", *(_key(key_id, name) for name in names))
        except StoreUnavailable:
            return {}
        return {name: data for name, data in zip(names, kept, strict=True) if data is not None}

    def remember(self, key_id: str, entries: Mapping[str, bytes]) -> None:
        """Keeps the reasoning of these calls. What is too long is not kept."""
        commands: list[tuple[str | bytes | int | float, ...]] = [
            ("SET", _key(key_id, call_id), data, "EX", self._ttl_s)
            for call_id, data in entries.items()
            if len(data) <= self._max_bytes
        ]
        try:
            if commands:
                self._redis.pipeline(commands)
        except StoreUnavailable:
            pass


def _key(key_id: str, call_id: str) -> str:
    return reasoning_key(key_id, hashlib.sha256(call_id.encode("utf-8", "surrogatepass")).hexdigest())
