"""Dramatiq broker on Redis that treats every Redis error as a lost connection.

Dramatiq's own one does so with broken connections only: it would log a Redis that is busy, loading or read-only as a
bug, with a traceback each time.
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
        with _redis_errors_as_outages():
            super().ack(message)

    def nack(self, message: Any) -> None:
        with _redis_errors_as_outages():
            super().nack(message)

    def requeue(self, messages: Iterable[Any]) -> None:
        with _redis_errors_as_outages():
            super().requeue(messages)

    def __next__(self) -> MessageProxy | None:
        with _redis_errors_as_outages():
            message: MessageProxy | None = super().__next__()
        return message


@contextmanager
def _redis_errors_as_outages() -> Iterator[None]:
    try:
        yield
    except redis.RedisError as exc:
        raise ConnectionClosed(exc) from None
