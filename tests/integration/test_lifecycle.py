"""Workers come and go: nobody's call is dropped, and a wrong edit changes nothing."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.support.client import Answer, chat, post
from tests.support.servers import DEV_KEY, Gateway, wait_for
from tests.support.upstream import Upstream

CONFIG = """
providers:
  up: {{kind: openai, base_url: {url}}}
models:
  stream-100-50: {{targets: [{{provider: up}}]}}
  usage-10-5: {{targets: [{{provider: up}}]}}
server: {{drain_s: {drain_s}}}
"""
# With it a request is not plain: it is handed over to gunicorn's own way of serving, and its connection with it.
HANDED_OVER = {"TE": "trailers"}
ONE_MORE = "  usage-20-5: {targets: [{provider: up}]}\nserver:"


def edit(server: Gateway, text: str) -> None:
    Path(server.env["GATEWAY_CONFIG"]).write_text(text)


def is_served(server: Gateway, model: str) -> bool:
    return post(server.port, chat(model), DEV_KEY).status == 200


def streaming(server: Gateway, headers: dict[str, str] | None = None) -> Answer:
    return post(server.port, chat("stream-100-50", stream=True), DEV_KEY, headers=headers)


def test_a_reload_under_load_drops_nothing_and_applies_the_new_config(
    gateway: Callable[..., Gateway], upstream: Upstream
) -> None:
    config = CONFIG.format(url=upstream.url, drain_s=30)
    server = gateway(config)
    before = set(server.worker_pids())
    stop = threading.Event()

    def call_again_and_again() -> list[int]:
        statuses = []
        while not stop.is_set():
            statuses.append(post(server.port, chat("usage-10-5"), DEV_KEY).status)
        return statuses

    with ThreadPoolExecutor(24) as pool:
        streams = [pool.submit(streaming, server) for _ in range(20)]
        calls = [pool.submit(call_again_and_again) for _ in range(4)]
        upstream.wait_until("open_streams", 20)
        edit(server, config.replace("server:", ONE_MORE))
        server.reload()
        answers = [stream.result() for stream in streams]
        wait_for(lambda: not before & set(server.worker_pids()), message="the old workers stayed")
        stop.set()
        statuses = [status for call in calls for status in call.result()]
    assert {(answer.status, answer.chunks, answer.done) for answer in answers} == {(200, 100, True)}
    assert set(statuses) == {200}
    assert is_served(server, "usage-20-5")
    server.drained()
    rows = server.rows()
    assert Counter(row["status"] for row in rows) == {"ok": 20 + len(statuses) + 1}


def test_a_wrong_configuration_is_refused_and_the_last_good_one_stays(
    gateway: Callable[..., Gateway], upstream: Upstream
) -> None:
    config = CONFIG.format(url=upstream.url, drain_s=5)
    server = gateway(config)
    before = set(server.worker_pids())
    edit(server, config.replace("provider: up", "provider: nobody"))
    # Whoever starts before the operator says so gets what the others have.
    os.kill(min(before), signal.SIGKILL)
    wait_for(lambda: min(before) not in server.worker_pids() and len(server.worker_pids()) == 2)
    server.reload()
    wait_for(lambda: not before & set(server.worker_pids()), message="the old workers stayed")
    wait_for(server.ready)
    assert all(is_served(server, "usage-10-5") for _ in range(10))
    assert "config_refused" in server.log()
    assert "models.stream-100-50.targets.0.provider: no provider 'nobody'" in server.log()
    edit(server, config.replace("server:", ONE_MORE))
    server.reload()
    wait_for(partial(is_served, server, "usage-20-5"), message="a right one is taken again")


def test_a_stopping_gateway_finishes_its_streams_and_takes_nothing_new(
    gateway: Callable[..., Gateway], upstream: Upstream
) -> None:
    server = gateway(CONFIG.format(url=upstream.url, drain_s=30), workers=1)
    kept = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    idle = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    kept.request("GET", "/ready")
    assert kept.getresponse().read()
    master = psutil.Process(server.master_pid)
    with ThreadPoolExecutor(10) as pool:
        streams = [pool.submit(streaming, server) for _ in range(10)]
        upstream.wait_until("open_streams", 10)
        master.send_signal(signal.SIGTERM)
        wait_for(lambda: not _connects(server), message="it still takes connections")
        kept.request("GET", "/ready")
        told = kept.getresponse()
        assert (told.status, told.headers["Connection"]) == (503, "close")
        assert b"about to stop" in told.read()
        answers = [stream.result() for stream in streams]
    assert {(answer.status, answer.chunks, answer.done) for answer in answers} == {(200, 100, True)}
    assert idle.recv(1) == b"", "an idle connection does not hold the worker"
    idle.close()
    wait_for(lambda: not master.is_running() or master.status() == psutil.STATUS_ZOMBIE)
    server.drained()
    assert Counter(row["status"] for row in server.rows()) == {"ok": 10}


def test_a_handed_over_connection_is_served_while_the_gateway_stops(
    gateway: Callable[..., Gateway], upstream: Upstream
) -> None:
    server = gateway(CONFIG.format(url=upstream.url, drain_s=60), workers=1)
    kept, idle = (http.client.HTTPConnection("127.0.0.1", server.port, timeout=30) for _ in range(2))
    for connection in (kept, idle):
        connection.request("GET", "/ready", headers=HANDED_OVER)
        assert connection.getresponse().read()
    master = psutil.Process(server.master_pid)
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(streaming, server, HANDED_OVER)
        upstream.wait_until("open_streams", 1)
        master.send_signal(signal.SIGTERM)
        wait_for(lambda: not _connects(server), message="it still takes connections")
        kept.request("GET", "/ready", headers=HANDED_OVER)
        told = kept.getresponse()
        assert (told.status, told.headers["Connection"]) == (503, "close")
        assert b"about to stop" in told.read()
        answer = stream.result()
    assert (answer.status, answer.chunks, answer.done) == (200, 100, True)
    wait_for(lambda: not master.is_running() or master.status() == psutil.STATUS_ZOMBIE, message="it does not end")
    idle.close()
    server.drained()
    assert Counter(row["status"] for row in server.rows()) == {"ok": 1}
    assert "Traceback" not in server.log()


@pytest.mark.parametrize("headers", [{}, HANDED_OVER])
def test_what_outlasts_the_deadline_ends_as_aborted(
    gateway: Callable[..., Gateway], upstream: Upstream, headers: dict[str, str]
) -> None:
    server = gateway(CONFIG.format(url=upstream.url, drain_s=1), workers=1)
    with ThreadPoolExecutor(5) as pool:
        streams = [pool.submit(_cut, server, headers) for _ in range(5)]
        upstream.wait_until("open_streams", 5)
        psutil.Process(server.master_pid).send_signal(signal.SIGTERM)
        assert all(stream.result() for stream in streams)
    upstream.wait_until("open_streams", 0, timeout_s=5)
    server.drained()
    rows = server.rows()
    assert Counter(row["status"] for row in rows) == {"aborted": 5}
    assert all(0 < row["completion_tokens"] < 100 and row["estimated"] for row in rows)


def _cut(server: Gateway, headers: dict[str, str]) -> bool:
    try:
        return not streaming(server, headers).done
    except (OSError, http.client.HTTPException):
        return True


def _connects(server: Gateway) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", server.port)) == 0
