"""The forms of REDIS_URL and their meaning: with Sentinels, the master that they name each time."""

from __future__ import annotations

import pytest

from app.errors import ConfigError, StoreUnavailable
from app.store.redis.client import Redis
from app.store.redis.url import connector
from tests.support.servers import free_port


def test_a_sentinel_address_names_servers_sentinels_and_service() -> None:
    url = "sentinel://us%20er:p%40ss@10.0.0.1,[::1]:5,host:26380/my%20service/3?sentinel_password=other"
    _, new = connector(url, socket_timeout=2.0)
    made = new()
    sentinels = [sentinel.connection_pool.connection_kwargs for sentinel in made._sentinels.sentinels]  # type: ignore[attr-defined]
    assert [(s["host"], s["port"]) for s in sentinels] == [("10.0.0.1", 26379), ("::1", 5), ("host", 26380)]
    assert {s["password"] for s in sentinels} == {"other"}
    assert all(s["socket_timeout"] <= 0.5 and s["socket_connect_timeout"] <= 0.5 for s in sentinels)
    assert (made.username, made.password, made.db) == ("us er", "p@ss", 3)
    assert made.socket_timeout == 2.0
    assert made._service == "my service"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "url",
    [
        "sentinel://:secret@10.0.0.1:26379",
        "sentinel://:secret@/service",
        "sentinel://:secret@host:port/service",
        "sentinel://:secret@host:1/service/db",
    ],
)
def test_a_wrong_sentinel_address_stops_the_start_and_repeats_no_secret(url: str) -> None:
    with pytest.raises(ConfigError, match="environment: REDIS_URL: expected sentinel://") as raised:
        Redis(url)
    assert "secret" not in raised.value.message


@pytest.mark.parametrize("shared", [False, True])
def test_sentinels_that_do_not_answer_are_an_outage_soon(shared: bool) -> None:
    client = Redis(f"sentinel://127.0.0.1:{free_port()},127.0.0.1:{free_port()}/penstock", shared=shared)
    with pytest.raises(StoreUnavailable):
        client.ping()
    client.close()
