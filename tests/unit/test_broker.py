"""The worker's broker on a Redis that answers every command with an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis
from dramatiq.errors import ConnectionClosed

from app.jobs.broker import Broker


class RefusingRedis(Broker):
    """Every command of it is refused."""

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("do_"):
            raise AttributeError(name)

        def refuse(*_: Any) -> None:
            raise redis.ResponseError("BUSY Redis is busy running a script.")

        return refuse


class FakeMessage:
    message_id = "m"
    options = {"redis_message_id": "r"}  # noqa: RUF012


COMMANDS: dict[str, Callable[[Any], Any]] = {
    "fetch": next,
    "ack": lambda consumer: consumer.ack(FakeMessage()),
    "nack": lambda consumer: consumer.nack(FakeMessage()),
    "requeue": lambda consumer: consumer.requeue([FakeMessage()]),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_redis_that_refuses_is_an_outage_and_no_bug(command: Callable[[Any], Any]) -> None:
    consumer = RefusingRedis(url="redis://127.0.0.1:1").consume("bells")  # type: ignore[no-untyped-call]
    with pytest.raises(ConnectionClosed, match="BUSY"):
        command(consumer)
