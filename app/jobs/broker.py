"""Dramatiq's broker on Redis, for which every refusal of Redis's is an outage.

Its own one takes only broken connections for one. A Redis that is busy, loading or read-only would be logged as a bug,
with a traceback each time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import redis
from dramatiq import Consumer, MessageProxy
from dramatiq.brokers.redis import RedisBroker, _RedisConsumer
from dramatiq.errors import ConnectionClosed


class Broker(RedisBroker):
    @property
    def consumer_class(self) -> type[Consumer]:
        return _Consumer


class _Consumer(_RedisConsumer):
    def ack(self, message: Any) -> None:
        with _outages():
            super().ack(message)

    def nack(self, message: Any) -> None:
        with _outages():
            super().nack(message)

    def requeue(self, messages: Iterable[Any]) -> None:
        with _outages():
            super().requeue(messages)

    def __next__(self) -> MessageProxy | None:
        with _outages():
            found: MessageProxy | None = super().__next__()
        return found


@contextmanager
def _outages() -> Iterator[None]:
    try:
        yield
    except redis.RedisError as exc:
        raise ConnectionClosed(exc) from None
