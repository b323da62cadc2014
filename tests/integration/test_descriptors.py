"""File descriptors: all that the system gives are used, and a flood of connections takes none from running calls."""

from __future__ import annotations

import http.client
import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from app.net.descriptors import connections_within
from tests.support.client import chat, in_parallel
from tests.support.servers import DEV_KEY, ROOT, Gateway, free_port, wait_for
from tests.support.upstream import Upstream

CONFIG = """
providers:
  up: {{kind: openai, base_url: {url}}}
models: {{usage-10-5: {{targets: [{{provider: up}}]}}}}
"""


def limited(soft: int, hard: int, _: Path) -> list[str]:
    return ["sh", "-c", f'ulimit -Sn {soft}; ulimit -Hn {hard}; exec "$0" "$@"']


def call(connection: http.client.HTTPConnection) -> int:
    headers = {"Authorization": f"Bearer {DEV_KEY}", "Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps(chat("usage-10-5")), headers)
    response = connection.getresponse()
    response.read()
    return response.status


@pytest.mark.parametrize(("limit", "connections"), [(1024, 384), (600, 172), (20_000, 8192), (-1, 8192), (100, 25)])
def test_as_many_connections_as_there_are_descriptors_for_calls(limit: int, connections: int) -> None:
    assert connections_within(limit, 8192) == connections


def test_the_limit_is_raised_and_a_low_one_is_told(gateway: Callable[..., Gateway], upstream: Upstream) -> None:
    server = gateway(CONFIG.format(url=upstream.url), workers=1, prefix=partial(limited, 300, 2000))
    limits = Path(f"/proc/{server.worker_pids()[0]}/limits").read_text()
    assert re.search(r"Max open files +2000 +2000 ", limits)
    told = [line for line in server.log().splitlines() if "few_descriptors" in line]
    assert len(told) == 1
    assert "2000" in told[0]
    assert "872" in told[0]


def test_a_flood_of_connections_takes_no_descriptor_from_served_ones(
    gateway: Callable[..., Gateway], upstream: Upstream
) -> None:
    server = gateway(CONFIG.format(url=upstream.url), workers=1, prefix=partial(limited, 600, 600))
    kept = [http.client.HTTPConnection("127.0.0.1", server.port, timeout=20) for _ in range(20)]
    with ExitStack() as stack:
        for connection in kept:
            stack.callback(connection.close)
            assert call(connection) == 200
        with ExitStack() as flood:
            for _ in range(2000):
                flood.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=20))
            for _ in range(3):
                assert in_parallel([partial(call, connection) for connection in kept]) == [200] * len(kept)
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as new:
            new.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert new.recv(12) == b"HTTP/1.1 200"
    assert "Too many open files" not in server.log()


ECHO = """
from gevent import monkey; monkey.patch_all()
import resource, sys
from gevent.pool import Pool
from app.server.worker import _Server

def echo(client, _):
    while data := client.recv(100):
        client.sendall(data)

resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
server = _Server(("127.0.0.1", int(sys.argv[1])), echo, spawn=Pool(1000), backlog=1000)
server.serve_forever()
"""


def test_an_accept_loop_without_descriptors_waits_and_keeps_its_clients() -> None:
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", ECHO, str(port)], cwd=ROOT, stdout=-1, stderr=-2)

    def connected() -> socket.socket | None:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=10)
        except OSError:
            return None

    def echoes(client: socket.socket) -> bool:
        client.sendall(b"x")
        return client.recv(1) == b"x"

    with wait_for(connected, message="it did not start") as kept:
        assert echoes(kept)
        with ExitStack() as flood:
            crowd = [flood.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10)) for _ in range(200)]
            for _ in range(20):
                assert echoes(kept)
            assert echoes(crowd[0])
        with socket.create_connection(("127.0.0.1", port), timeout=10) as new:
            assert echoes(new)
    process.terminate()
    said = process.communicate(timeout=10)[0].decode()
    assert said.count("out_of_descriptors") == 1, said
    assert "Traceback" not in said
