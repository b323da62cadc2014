"""Conversation history in Redis: the last turns of each user, bounded in number, bytes and time.

A conversation is a list of turns, each a message with its answer, appended in one step: concurrent messages of one
user cannot lose each other or come between a message and its answer, no lock is held while a model thinks, and however
much is trimmed, the rest begins with a user's message.

Its Redis key holds the API key's id, so that one customer never reads another's (docs/clients.md, bug 7), and a digest
of the user's id: any text makes a key of the same shape, and Redis's own logs contain no user's name.
"""

from __future__ import annotations

import hashlib

import msgspec

from app.store.redis.client import Redis
from app.store.redis.keys import CONVERSATIONS, history_key


class ConversationTurn(msgspec.Struct, frozen=True):
    """One message and its answer, "" when there was none. `id` is unique: an append may be sent twice."""

    id: str
    message: str
    answer: str


_decode = msgspec.json.Decoder(ConversationTurn).decode
_encode = msgspec.json.Encoder().encode


class History:
    """The last `max_turns` turns of each user, at most `max_bytes` in all, kept for `ttl_s` after the last one.

    Methods raise `StoreUnavailable`.
    """

    def __init__(self, *, redis: Redis, max_turns: int, max_bytes: int, ttl_s: int) -> None:
        self._redis = redis
        self._remember = redis.script("remember")
        self._max_turns = max_turns
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s

    def read(self, key_id: str, user_id: str) -> list[ConversationTurn]:
        """Returns the turns, oldest first; none for an unknown user."""
        kept = self._redis.execute("LRANGE", _key(key_id, user_id), -self._max_turns, -1)
        return [_decode(turn) for turn in kept]

    def append(self, key_id: str, user_id: str, turn: ConversationTurn) -> None:
        """Adds a turn; its answer is cut if the turn alone would take more than `max_bytes`."""
        data = _encode(turn)
        excess = len(data) - self._max_bytes
        if excess > 0:
            # A byte of UTF-8 is at least a byte of JSON.
            answer = turn.answer.encode()
            cut = answer[: max(len(answer) - excess, 0)].decode(errors="ignore")
            data = _encode(msgspec.structs.replace(turn, answer=cut))
        args = (data, self._max_turns, self._max_bytes, self._ttl_s * 1000)
        self._remember((_key(key_id, user_id), CONVERSATIONS), args)

    def clear(self, key_id: str, user_id: str) -> None:
        key = _key(key_id, user_id)
        self._redis.pipeline([("DEL", key), ("ZREM", CONVERSATIONS, key)])

    def count(self) -> int:
        """Returns the number of conversations of all users, without a scan of Redis's keys."""
        seconds, _ = self._redis.execute("TIME")
        return int(self._redis.execute("ZCOUNT", CONVERSATIONS, f"({int(seconds) * 1000}", "+inf"))


def _key(key_id: str, user_id: str) -> str:
    return history_key(key_id, hashlib.sha256(user_id.encode()).hexdigest())
