"""Responses in Redis: the answers of the Responses API that callers refer to later, bounded in bytes and time.

A record's key holds the API key's id, so that one customer never reads another's (docs/clients.md, bug 7), and a digest
of the response's id, which a vendor may have made.
"""

from __future__ import annotations

import hashlib

import msgspec

from app.store.redis.client import Redis
from app.store.redis.keys import RESPONSE_SIZES, RESPONSES, RESPONSES_OF_KEY, response_key

# What Redis takes for a record besides its bytes: key, index entries and size, measured with 100,000 of them.
_OVERHEAD_BYTES = 500


class StoredResponse(msgspec.Struct, frozen=True):
    """One response, with the items that its request added to the conversation.

    `earlier` are the ids of the responses before it, oldest first, `provider` the one that answered.
    """

    id: str
    response: msgspec.Raw
    input: list[msgspec.Raw]
    earlier: list[str]
    provider: str


_decode = msgspec.json.Decoder(StoredResponse).decode
_encode = msgspec.json.Encoder().encode


class Responses:
    """The responses of all API keys, each kept for `ttl_s` after its last use.

    Where they would take more than `max_bytes`, or one key's more than `max_bytes_per_key`, the oldest are forgotten.
    Methods raise `StoreUnavailable`.
    """

    def __init__(
        self, *, redis: Redis, ttl_s: int, max_response_bytes: int, max_bytes_per_key: int, max_bytes: int
    ) -> None:
        self._redis = redis
        self._keep = redis.script("keep_response")
        self._read = redis.script("read_responses")
        self._ttl_ms = ttl_s * 1000
        self._max_response_bytes = max_response_bytes
        self._max_bytes_per_key = max_bytes_per_key
        self._max_bytes = max_bytes

    def keep(self, key_id: str, stored: StoredResponse) -> bool:
        """Keeps a response. Returns False if it is too long for that."""
        record = _encode(stored)
        if len(record) > self._max_response_bytes:
            return False
        keys = (_key(key_id, stored.id), RESPONSES, RESPONSE_SIZES)
        size = len(record) + _OVERHEAD_BYTES
        bounds = (self._ttl_ms, self._max_bytes, self._max_bytes_per_key)
        self._keep(keys, (record, size, key_id, *bounds, RESPONSES_OF_KEY))
        return True

    def read(self, key_id: str, response_ids: list[str]) -> list[StoredResponse | None]:
        """Returns the responses with these ids, each as None if there is none of the key's."""
        if not response_ids:
            return []
        keys = (RESPONSES, RESPONSES_OF_KEY + key_id, *(_key(key_id, response_id) for response_id in response_ids))
        found = self._read(keys, (self._ttl_ms,))
        return [None if record is None else _decode(record) for record in found]

    def delete(self, key_id: str, response_id: str) -> bool:
        """Forgets a response. Returns False if there is none. Its bytes count until its time has come."""
        return bool(self._redis.execute("DEL", _key(key_id, response_id)))


def _key(key_id: str, response_id: str) -> str:
    return response_key(key_id, hashlib.sha256(response_id.encode("utf-8", "surrogatepass")).hexdigest())
