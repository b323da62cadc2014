"""The address of a client: taken from our own proxy, and from nobody else."""

from __future__ import annotations

import pytest

from app.api.trusted_proxies import TrustedProxies
from app.errors import ConfigError
from app.settings import load_settings

OURS = ("127.0.0.1", "::1", "10.0.0.0/8")


@pytest.mark.parametrize(
    ("peer", "told", "found"),
    [
        ("127.0.0.1", None, "127.0.0.1"),
        ("127.0.0.1", "203.0.113.7", "203.0.113.7"),
        ("10.9.8.7", "203.0.113.7", "203.0.113.7"),
        ("127.0.0.1", "6.6.6.6, 203.0.113.7", "203.0.113.7"),  # the client may write the first one itself
        ("::1", "2001:db8::7", "2001:db8::7"),
        ("192.0.2.1", "203.0.113.7", "192.0.2.1"),  # a stranger who calls himself another
        ("nonsense", "203.0.113.7", "nonsense"),
        ("", "203.0.113.7", "203.0.113.7"),  # over a Unix socket comes only our proxy
        ("127.0.0.1", "x" * 10_000, "x" * 45),
    ],
)
def test_only_a_trusted_proxy_names_the_client(peer: str, told: str | None, found: str) -> None:
    environ = {"REMOTE_ADDR": peer, **({} if told is None else {"HTTP_X_FORWARDED_FOR": told})}
    peers = TrustedProxies(OURS)
    assert [peers.client_ip(environ) for _ in range(2)] == [found, found]
    assert peers.client_ip({}) == ""


def test_a_star_trusts_everybody_and_an_empty_list_nobody() -> None:
    environ = {"REMOTE_ADDR": "192.0.2.1", "HTTP_X_FORWARDED_FOR": "203.0.113.7"}
    assert TrustedProxies(("*",)).client_ip(environ) == "203.0.113.7"
    assert TrustedProxies(()).client_ip(environ | {"REMOTE_ADDR": "127.0.0.1"}) == "127.0.0.1"


def test_what_is_known_of_peers_is_bounded() -> None:
    peers = TrustedProxies(OURS)
    for number in range(3000):
        peers.client_ip({"REMOTE_ADDR": f"10.0.{number // 250}.{number % 250}", "HTTP_X_FORWARDED_FOR": "a"})
    assert len(peers._trusted_peers) == 1000


@pytest.mark.parametrize(
    ("text", "found"),
    [(None, ("127.0.0.1", "::1")), ("", ()), ("*", ("*",)), (" 10.0.0.0/8 ,::1,", ("10.0.0.0/8", "::1"))],
)
def test_which_proxies_are_trusted_is_read_as_gunicorn_reads_it(text: str | None, found: tuple[str, ...]) -> None:
    env = {} if text is None else {"FORWARDED_ALLOW_IPS": text}
    assert load_settings(env).forwarded_allow_ips == found


@pytest.mark.parametrize("text", ["nginx", "10.0.0.1/8", "300.1.1.1"])
def test_a_proxy_that_is_no_address_stops_the_start_with_a_line(text: str) -> None:
    with pytest.raises(ConfigError, match="^environment: FORWARDED_ALLOW_IPS: ") as caught:
        load_settings({"FORWARDED_ALLOW_IPS": text})
    assert "\n" not in caught.value.message
