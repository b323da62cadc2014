"""nginx and its gateways: names that change, connections that are kept, calls that are never made twice."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.executables import find_nginx
from tests.integration.test_nginx import call, is_ours, plain
from tests.support.backends import Backend
from tests.support.dns import DnsServer
from tests.support.nginx import Nginx
from tests.support.servers import wait_for

A, B = "127.0.0.1", "127.0.0.2"


@pytest.fixture(params=["newest", "debian"])
def nginx(request: pytest.FixtureRequest) -> str:
    found = find_nginx() if request.param == "newest" else shutil.which("nginx", path="/usr/sbin")
    if found is None:
        pytest.skip(f"the {request.param} nginx is not installed")
    return found


@pytest.fixture
def backends() -> Iterator[tuple[Backend, Backend]]:
    with Backend(A, 0) as first, Backend(B, first.port) as second:
        yield first, second


def test_a_replaced_gateway_is_found_by_its_name(nginx: str, backends: tuple[Backend, Backend], tmp_path: Path) -> None:
    with DnsServer(A) as names, Nginx(tmp_path, 0, NGINX_BIN=nginx, **named(names, backends)) as proxy:
        wait_for(lambda: call(proxy, "/")[1] == A.encode())  # nginx serves before it has its first answer
        names.addresses = (B,)
        wait_for(lambda: call(proxy, "/")[1] == B.encode(), message="nginx still asks the old one")
        names.addresses = (A, B)
        wait_for(lambda: call(proxy, "/")[1] == A.encode(), message="the added one gets nothing")
        assert {call(proxy, "/")[1] for _ in range(20)} == {A.encode(), B.encode()}


@pytest.mark.parametrize("by_name", [True, False])
def test_connections_to_the_gateways_are_kept(nginx: str, by_name: bool, tmp_path: Path) -> None:
    with Backend(A, 0) as gateway, DnsServer(A) as names:
        given = named(names, (gateway,)) if by_name else {}
        with Nginx(tmp_path, gateway.port, NGINX_BIN=nginx, **given) as proxy:
            wait_for(lambda: call(proxy, "/")[0].status == 200)
            assert [call(proxy, "/")[0].status for _ in range(20)] == [200] * 20
    # Looking a name up anew costs an older nginx its connections: start.sh.
    connections = 21 if by_name and nginx != find_nginx() else 1
    assert (gateway.met["GET"], gateway.met["connections"]) == (21, connections)


def test_only_what_is_safe_to_repeat_goes_to_another_gateway(
    nginx: str, backends: tuple[Backend, Backend], tmp_path: Path
) -> None:
    broken, sound = backends
    broken.manner = "breaks off"
    with DnsServer(A, B) as names, Nginx(tmp_path, 0, NGINX_BIN=nginx, **named(names, backends)) as proxy:
        wait_for(lambda: call(proxy, "/")[0].status == 200 and broken.met["GET"], message="it was never asked")
        assert {call(proxy, "/")[0].status for _ in range(6)} == {200}
        posted: list[int] = []

        def one_was_lost() -> bool:
            response, body = call(proxy, "/", b"")
            posted.append(response.status)
            if response.status != 200:
                is_ours(response, body, 502, "MODEL_ERROR")
            return 502 in posted

        wait_for(one_was_lost, message="the broken gateway was never asked")
    assert broken.met["POST"] == 1
    assert broken.met["POST"] + sound.met["POST"] == len(posted), "once each"


def test_a_call_goes_to_another_gateway_when_one_cannot_be_reached(nginx: str, tmp_path: Path) -> None:
    with (
        Backend(B, 0) as there,  # and nobody listens at A
        DnsServer(A, B) as names,
        Nginx(tmp_path, 0, NGINX_BIN=nginx, **named(names, (there,))) as proxy,
    ):
        wait_for(lambda: call(proxy, "/")[0].status == 200)
        answers = [call(proxy, "/", b"") for _ in range(8)]
    assert [(response.status, body) for response, body in answers] == [(200, B.encode())] * 8


def test_a_call_goes_to_the_gateway_that_has_the_fewest(backends: tuple[Backend, Backend], tmp_path: Path) -> None:
    with DnsServer(A, B) as names, Nginx(tmp_path, 0, **named(names, backends)) as proxy:
        wait_for(lambda: {call(proxy, "/")[1] for _ in range(4)} == {A.encode(), B.encode()})
        for gateway in backends:
            gateway.manner = "silent"
        with proxy.connect() as held:
            held.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
            busy, free = wait_for(lambda: sorted(backends, key=lambda it: -it.met["POST"]) if posts(backends) else None)
            free.manner = "answers"
            answers = [call(proxy, "/", b"") for _ in range(12)]
    assert [(response.status, body) for response, body in answers] == [(200, free.address.encode())] * 12
    assert busy.met["POST"] == 1


def test_a_gateway_that_never_answers_is_a_timeout(nginx: str, tmp_path: Path) -> None:
    with Backend(A, 0, "silent") as gateway, Nginx(tmp_path, gateway.port, NGINX_BIN=nginx, READ_TIMEOUT="1s") as proxy:
        is_ours(*call(proxy, "/", b""), 504, "TIMEOUT")
    assert gateway.met["POST"] == 1


def test_a_gateway_that_breaks_off_is_not_one_that_could_not_be_reached(nginx: str, tmp_path: Path) -> None:
    with Backend(A, 0, "breaks off") as gateway, Nginx(tmp_path, gateway.port, NGINX_BIN=nginx) as proxy:
        is_ours(*call(proxy, "/", b""), 502, "MODEL_ERROR")


def test_a_name_that_nobody_knows_is_not_ready(nginx: str, tmp_path: Path) -> None:
    with DnsServer() as names, Nginx(tmp_path, 0, NGINX_BIN=nginx, GATEWAY="gone:1", RESOLVER=names.address) as proxy:
        is_ours(*call(proxy, "/"), 503, "NOT_READY")


def test_a_load_balancers_checks_on_plain_http_reach_a_gateway_by_its_name(nginx: str, tmp_path: Path) -> None:
    with (
        Backend(A, 0) as gateway,
        DnsServer(A) as names,
        Nginx(tmp_path, 0, NGINX_BIN=nginx, **named(names, (gateway,))) as proxy,
    ):
        wait_for(lambda: plain(proxy, "/ready")[0].status == 200)
        is_ours(*plain(proxy, "/ready", Authorization="Bearer x"), 403, "FORBIDDEN", secure=False)
        assert plain(proxy, "/", b"x")[0].status == 308


def posts(gateways: tuple[Backend, ...]) -> int:
    return sum(gateway.met["POST"] for gateway in gateways)


def named(names: DnsServer, gateways: tuple[Backend, ...]) -> dict[str, str]:
    """Returns start.sh's variables for `gateways` behind one DNS name."""
    return {"GATEWAY": f"gateway.test:{gateways[0].port}", "RESOLVER": names.address}
