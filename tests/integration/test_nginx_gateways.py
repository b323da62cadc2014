"""nginx and its gateways: names that change, connections that are kept, calls that are never made twice."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.executables import find_nginx
from tests.integration.test_nginx import call, is_ours, plain
from tests.support.backends import Backend
from tests.support.edge import Edge
from tests.support.names import Names
from tests.support.servers import wait_for

A, B = "127.0.0.1", "127.0.0.2"


@pytest.fixture(params=["newest", "debian"])
def nginx(request: pytest.FixtureRequest) -> str:
    found = find_nginx() if request.param == "newest" else shutil.which("nginx", path="/usr/sbin")
    if found is None:
        pytest.skip(f"the {request.param} nginx is not installed")
    return found


@pytest.fixture
def pair() -> Iterator[tuple[Backend, Backend]]:
    with Backend(A, 0) as first, Backend(B, first.port) as second:
        yield first, second


def test_a_replaced_gateway_is_found_by_its_name(nginx: str, pair: tuple[Backend, Backend], tmp_path: Path) -> None:
    with Names(A) as names, Edge(tmp_path, 0, NGINX_BIN=nginx, **named(names, pair)) as edge:
        wait_for(lambda: call(edge, "/")[1] == A.encode())  # nginx serves before it has its first answer
        names.addresses = (B,)
        wait_for(lambda: call(edge, "/")[1] == B.encode(), message="nginx still asks the old one")
        names.addresses = (A, B)
        wait_for(lambda: call(edge, "/")[1] == A.encode(), message="the added one gets nothing")
        assert {call(edge, "/")[1] for _ in range(20)} == {A.encode(), B.encode()}


@pytest.mark.parametrize("by_name", [True, False])
def test_connections_to_the_gateways_are_kept(nginx: str, by_name: bool, tmp_path: Path) -> None:
    with Backend(A, 0) as gateway, Names(A) as names:
        given = named(names, (gateway,)) if by_name else {}
        with Edge(tmp_path, gateway.port, NGINX_BIN=nginx, **given) as edge:
            wait_for(lambda: call(edge, "/")[0].status == 200)
            assert [call(edge, "/")[0].status for _ in range(20)] == [200] * 20
    # Looking a name up anew costs an older nginx its connections: start.sh.
    connections = 21 if by_name and nginx != find_nginx() else 1
    assert (gateway.met["GET"], gateway.met["connections"]) == (21, connections)


def test_only_what_is_safe_to_repeat_goes_to_another_gateway(
    nginx: str, pair: tuple[Backend, Backend], tmp_path: Path
) -> None:
    broken, sound = pair
    broken.manner = "breaks off"
    with Names(A, B) as names, Edge(tmp_path, 0, NGINX_BIN=nginx, **named(names, pair)) as edge:
        wait_for(lambda: call(edge, "/")[0].status == 200 and broken.met["GET"], message="it was never asked")
        assert {call(edge, "/")[0].status for _ in range(6)} == {200}
        posted: list[int] = []

        def one_was_lost() -> bool:
            response, body = call(edge, "/", b"")
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
        Names(A, B) as names,
        Edge(tmp_path, 0, NGINX_BIN=nginx, **named(names, (there,))) as edge,
    ):
        wait_for(lambda: call(edge, "/")[0].status == 200)
        answers = [call(edge, "/", b"") for _ in range(8)]
    assert [(response.status, body) for response, body in answers] == [(200, B.encode())] * 8


def test_a_call_goes_to_the_gateway_that_has_the_fewest(pair: tuple[Backend, Backend], tmp_path: Path) -> None:
    with Names(A, B) as names, Edge(tmp_path, 0, **named(names, pair)) as edge:
        wait_for(lambda: {call(edge, "/")[1] for _ in range(4)} == {A.encode(), B.encode()})
        for gateway in pair:
            gateway.manner = "silent"
        with edge.connect() as held:
            held.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
            busy, free = wait_for(lambda: sorted(pair, key=lambda it: -it.met["POST"]) if posts(pair) else None)
            free.manner = "answers"
            answers = [call(edge, "/", b"") for _ in range(12)]
    assert [(response.status, body) for response, body in answers] == [(200, free.address.encode())] * 12
    assert busy.met["POST"] == 1


def test_a_gateway_that_never_answers_is_a_timeout(nginx: str, tmp_path: Path) -> None:
    with Backend(A, 0, "silent") as gateway, Edge(tmp_path, gateway.port, NGINX_BIN=nginx, READ_TIMEOUT="1s") as edge:
        is_ours(*call(edge, "/", b""), 504, "TIMEOUT")
    assert gateway.met["POST"] == 1


def test_a_gateway_that_breaks_off_is_not_one_that_could_not_be_reached(nginx: str, tmp_path: Path) -> None:
    with Backend(A, 0, "breaks off") as gateway, Edge(tmp_path, gateway.port, NGINX_BIN=nginx) as edge:
        is_ours(*call(edge, "/", b""), 502, "MODEL_ERROR")


def test_a_name_that_nobody_knows_is_not_ready(nginx: str, tmp_path: Path) -> None:
    with Names() as names, Edge(tmp_path, 0, NGINX_BIN=nginx, GATEWAY="gone:1", RESOLVER=names.address) as edge:
        is_ours(*call(edge, "/"), 503, "NOT_READY")


def test_a_load_balancers_checks_on_plain_http_reach_a_gateway_by_its_name(nginx: str, tmp_path: Path) -> None:
    with (
        Backend(A, 0) as gateway,
        Names(A) as names,
        Edge(tmp_path, 0, NGINX_BIN=nginx, **named(names, (gateway,))) as edge,
    ):
        wait_for(lambda: plain(edge, "/ready")[0].status == 200)
        is_ours(*plain(edge, "/ready", Authorization="Bearer x"), 403, "FORBIDDEN", secure=False)
        assert plain(edge, "/", b"x")[0].status == 308


def posts(gateways: tuple[Backend, ...]) -> int:
    return sum(gateway.met["POST"] for gateway in gateways)


def named(names: Names, gateways: tuple[Backend, ...]) -> dict[str, str]:
    """What start.sh is told to find `gateways` by a name."""
    return {"GATEWAY": f"gateway.test:{gateways[0].port}", "RESOLVER": names.address}
