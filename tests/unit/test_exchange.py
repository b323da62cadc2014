"""Connections over time: the four timeouts, the pool, a client that hangs up, and how much is ever held."""

from __future__ import annotations

import gc
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

from app.config.providers import Timeouts
from app.errors import ClientGone, UpstreamError, UpstreamTimeout, UpstreamUnavailable
from app.providers.base import CancelToken
from app.providers.http import client as http_client
from app.providers.wire_provider import WireProvider
from tests.support.providers import HEADERS, SSE_HEADERS, chat_call, drip, openai, scripted_server
from tests.support.upstream import Upstream

PATIENT = {"connect_s": 5.0, "first_byte_s": 5.0, "idle_s": 5.0, "total_s": 10.0}
CHUNK = b'data: {"choices":[{"index":0,"delta":{"content":"tok "}}]}\n\n'


@pytest.fixture
def provider(upstream: Upstream) -> WireProvider:
    return openai(upstream.url)


@pytest.fixture
def deaf_url() -> Iterator[str]:
    """A host that takes no more connections: the kernel drops what does not fit its backlog."""
    with socket.socket() as listening, socket.socket() as first, socket.socket() as second:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"


def timed_out(ask: Callable[[], Any]) -> tuple[str, float]:
    """The kind of the timeout that `ask` runs into, and after how long."""
    began = time.monotonic()
    with pytest.raises(UpstreamTimeout) as caught:
        ask()
    assert (caught.value.status, caught.value.code) == (504, "TIMEOUT")
    return caught.value.kind, time.monotonic() - began


def with_timeout(url: str, **changed: float) -> WireProvider:
    return openai(url, timeouts=Timeouts(**{**PATIENT, **changed}))


# Bug 11: four timeouts


def test_bug_11_a_host_that_takes_no_connection(deaf_url: str) -> None:
    provider = with_timeout(deaf_url, connect_s=0.15)
    kind, after_s = timed_out(lambda: provider.chat(chat_call()))
    assert kind == "timeout_connect"
    assert 0.1 < after_s < 1
    assert timed_out(lambda: provider.check(0.1))[0] == "timeout_connect"
    assert provider.stats()["active"] == 0


def test_bug_11_a_tls_handshake_that_stalls_is_part_of_connecting() -> None:
    with scripted_server(lambda sock: gevent.sleep(2)) as url:
        provider = with_timeout(url.replace("http:", "https:"), connect_s=0.15)
        assert timed_out(lambda: provider.chat(chat_call()))[0] == "timeout_connect"


@pytest.mark.parametrize("stream", [False, True])
def test_bug_11_silence_before_the_headers(upstream: Upstream, stream: bool) -> None:
    provider = with_timeout(upstream.url, first_byte_s=0.15)
    ask = provider.stream if stream else provider.chat
    kind, after_s = timed_out(lambda: ask(chat_call("silent", stream=stream)))
    assert kind == "timeout_first_byte"
    assert 0.1 < after_s < 1
    upstream.wait_until("waiting", 0)


@pytest.mark.parametrize(
    "pieces", [[b"HTTP/1.1 200 OK\r\n", *[b"X-More: 1\r\n"] * 40], [SSE_HEADERS, *[b": still thinking\n\n"] * 40]]
)
def test_bug_11_headers_or_comments_in_drops_are_no_first_chunk(pieces: list[bytes]) -> None:
    with scripted_server(drip(pieces, 0.05)) as url:
        provider = with_timeout(url, first_byte_s=0.2)
        kind, after_s = timed_out(lambda: provider.stream(chat_call(stream=True)))
    assert kind == "timeout_first_byte"
    assert after_s < 1


def test_bug_11_silence_in_the_middle_of_a_stream(upstream: Upstream) -> None:
    provider = with_timeout(upstream.url, idle_s=0.15)
    stream = provider.stream(chat_call("silentmid-2", stream=True))
    assert timed_out(lambda: list(stream))[0] == "timeout_idle"
    assert (stream.complete, stream.chunks) == (False, 2)
    upstream.wait_until("open_streams", 0)
    assert provider.stats()["active"] == 0


def test_bug_11_silence_in_the_middle_of_an_answer() -> None:
    with scripted_server(drip([HEADERS % b"application/json" + b"Content-Length: 99\r\n\r\n{", b""], 1)) as url:
        provider = with_timeout(url, idle_s=0.15)
        assert timed_out(lambda: provider.chat(chat_call()))[0] == "timeout_idle"
        assert provider.stats()["active"] == 0


@pytest.mark.parametrize("model", ["silent", "silentmid-1", "stream-50-20"])
def test_bug_11_the_whole_call_has_an_end_of_its_own(provider: WireProvider, upstream: Upstream, model: str) -> None:
    kind, after_s = timed_out(lambda: list(provider.stream(chat_call(model, stream=True, total_s=0.2))))
    assert kind == "timeout_total"
    assert 0.15 < after_s < 1
    upstream.wait_until("open_streams", 0)


def test_bug_11_the_end_of_the_whole_call_may_come_while_connecting(deaf_url: str) -> None:
    provider = with_timeout(deaf_url)
    assert timed_out(lambda: provider.chat(chat_call(total_s=0.15)))[0] == "timeout_total"


# The pool


def test_connections_are_reused(provider: WireProvider) -> None:
    for _ in range(3):
        provider.chat(chat_call())
        list(provider.stream(chat_call(stream=True)))
        with pytest.raises(UpstreamError):
            provider.chat(chat_call("status-500"))
    assert provider.stats() == {"idle": 1, "active": 0, "opened": 1, "reused": 8}


def test_a_connection_that_the_provider_closed_meanwhile_is_noticed(provider: WireProvider, upstream: Upstream) -> None:
    for _ in range(3):
        provider.chat(chat_call("closeidle"))
        gevent.sleep(0.05)  # the provider's close is on its way
    assert provider.stats() == {"idle": 1, "active": 0, "opened": 3, "reused": 0}
    assert upstream.served()["calls"] == 3


def answer_then(close: bool, seen: list[bytes]) -> Callable[[Any], None]:
    """Answers the first request; on the second one over the same connection breaks off, perhaps behind some bytes."""

    def serve(sock: Any) -> None:
        sock.sendall(HEADERS % b"application/json" + b'Content-Length: 14\r\n\r\n{"choices":[]}')
        seen.append(sock.recv(65536))
        if not close:
            sock.sendall(b"HTTP/1.1 200 OK\r\n")

    return serve


def test_a_reused_connection_that_dies_before_any_byte_is_replaced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "_MIN_ROUND_TRIP_S", 10.0)  # however busy this machine is, it was at once
    seen: list[bytes] = []
    with scripted_server(answer_then(True, seen)) as url:
        provider = openai(url)
        provider.chat(chat_call())
        assert provider.chat(chat_call()).body == b'{"choices":[]}'
        assert len(seen) == 1
        assert provider.stats() == {"idle": 1, "active": 0, "opened": 2, "reused": 1}


def test_a_vendor_that_read_the_request_before_closing_is_not_asked_twice() -> None:
    seen: list[bytes] = []

    def serve(sock: Any) -> None:
        answer_then(True, seen)(sock)
        gevent.sleep(0.1)

    with scripted_server(serve) as url:
        provider = openai(url)
        provider.chat(chat_call())
        with pytest.raises(UpstreamError) as caught:
            provider.chat(chat_call())
        assert (caught.value.kind, caught.value.billable) == ("closed", True)
        assert len(seen) == 1
        assert provider.stats() == {"idle": 0, "active": 0, "opened": 1, "reused": 1}


def test_a_reused_connection_that_dies_within_an_answer_is_not_asked_twice() -> None:
    seen: list[bytes] = []
    with scripted_server(answer_then(False, seen)) as url:
        provider = openai(url)
        provider.chat(chat_call())
        with pytest.raises(UpstreamError) as caught:
            provider.chat(chat_call())
        assert caught.value.kind == "closed"
        assert provider.stats() == {"idle": 0, "active": 0, "opened": 1, "reused": 1}


def test_a_fresh_connection_that_dies_is_not_tried_again(provider: WireProvider, upstream: Upstream) -> None:
    with pytest.raises(UpstreamError) as caught:
        provider.chat(chat_call("reset"))
    assert caught.value.kind == "closed"
    assert upstream.served()["calls"] == 1


def test_no_more_connections_than_configured(upstream: Upstream) -> None:
    provider = openai(upstream.url, max_connections=1, timeouts=Timeouts(connect_s=0.1))
    stream = provider.stream(chat_call("silentmid-1", stream=True))
    with pytest.raises(UpstreamUnavailable, match="at once") as caught:
        provider.chat(chat_call())
    assert caught.value.kind == "saturated", "our own limit is no fault of the provider's"
    stream.close()
    assert provider.chat(chat_call()).usage is not None


def test_a_call_waits_for_a_place_no_longer_than_it_may_take(upstream: Upstream) -> None:
    provider = openai(upstream.url, max_connections=1, timeouts=Timeouts(connect_s=30))
    stream = provider.stream(chat_call("silentmid-1", stream=True))
    began = time.monotonic()
    with pytest.raises(UpstreamUnavailable):
        provider.chat(chat_call(total_s=0.1))
    assert time.monotonic() - began < 5
    stream.close()


def test_no_more_idle_connections_than_configured(upstream: Upstream) -> None:
    provider = openai(upstream.url, max_idle_connections=0)
    provider.chat(chat_call())
    assert provider.stats() == {"idle": 0, "active": 0, "opened": 1, "reused": 0}


# Bug 1: leaving ends the provider's work


def test_bug_01_closing_in_the_middle_of_a_stream_ends_it_at_the_provider(
    provider: WireProvider, upstream: Upstream
) -> None:
    stream = provider.stream(chat_call("stream-1000-5", stream=True))
    next(iter(stream))
    assert upstream.served()["open_streams"] == 1
    stream.close()
    stream.close()
    upstream.wait_until("open_streams", 0, timeout_s=1)
    assert provider.stats() == {"idle": 0, "active": 0, "opened": 1, "reused": 0}


def test_bug_01_a_stream_that_nobody_reads_on_is_closed(provider: WireProvider, upstream: Upstream) -> None:
    for _ in provider.stream(chat_call("stream-1000-5", stream=True)):
        break
    gc.collect()
    upstream.wait_until("open_streams", 0, timeout_s=1)
    assert provider.stats()["active"] == 0


def gone_after(cancel: CancelToken, ask: Callable[[], Any]) -> float:
    """Returns the time `ask` takes to end with `ClientGone` once the client hung up."""
    hung_up: list[float] = []

    def hang_up() -> None:
        hung_up.append(time.monotonic())
        cancel.cancel()

    gevent.spawn_later(0.05, hang_up)
    with pytest.raises(ClientGone):
        ask()
    return time.monotonic() - hung_up[0]


@pytest.mark.parametrize("model", ["silent", "silentmid-2"])
def test_bug_01_a_hang_up_wakes_a_silent_call_at_once(provider: WireProvider, upstream: Upstream, model: str) -> None:
    cancel = CancelToken()
    call = chat_call(model, stream=True, cancel=cancel)
    assert gone_after(cancel, lambda: list(provider.stream(call))) < 0.5
    upstream.wait_until("waiting", 0, timeout_s=1)
    assert provider.stats()["active"] == 0


def test_bug_01_a_hang_up_wakes_a_call_that_still_connects(deaf_url: str) -> None:
    provider, cancel = with_timeout(deaf_url), CancelToken()
    assert gone_after(cancel, lambda: provider.chat(chat_call(cancel=cancel))) < 0.5
    assert provider.stats()["active"] == 0


def test_bug_01_a_hang_up_wakes_a_tls_handshake() -> None:
    with scripted_server(lambda sock: gevent.sleep(2)) as url:
        provider, cancel = with_timeout(url.replace("http:", "https:")), CancelToken()
        assert gone_after(cancel, lambda: provider.chat(chat_call(cancel=cancel))) < 0.5


def test_a_call_whose_client_is_gone_already_is_not_made(provider: WireProvider, upstream: Upstream) -> None:
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(ClientGone):
        provider.chat(chat_call(cancel=cancel))
    assert upstream.served().get("calls", 0) == 0
    assert provider.stats()["active"] == 0


# Bug 12: how much is held


def endless(start: bytes, piece: bytes) -> Callable[[Any], None]:
    def serve(sock: Any) -> None:
        sock.sendall(start)
        while True:
            sock.sendall(piece)

    return serve


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (HEADERS % b"application/json" + b"\r\n", b" " * 65536),
        (b"HTTP/1.1 200 OK\r\n", b"X-More: " + b"x" * 8000 + b"\r\n"),
        (b"HTTP/1.1 200 OK\r\nX-Long: ", b"x" * 8000),
        (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100),
        (b"HTTP/1.1 500 X\r\n\r\n", b" " * 65536),
    ],
)
def test_bug_12_an_endless_answer_is_left(start: bytes, piece: bytes) -> None:
    with scripted_server(endless(start, piece)) as url:
        provider = openai(url)
        with pytest.raises(UpstreamError) as caught:
            provider.chat(chat_call())
        assert caught.value.kind in ("bad_body", "status_5xx")
        assert provider.stats()["active"] == 0


def test_bug_12_an_endless_event_is_left() -> None:
    with scripted_server(endless(SSE_HEADERS + CHUNK, b"data: " + b"x" * 65536)) as url:
        stream = openai(url).stream(chat_call(stream=True))
        with pytest.raises(UpstreamError) as caught:
            list(stream)
    assert caught.value.kind == "bad_body"
    assert (stream.complete, stream.chunks) == (False, 1)


def test_bug_12_a_slow_reader_slows_the_provider_down(provider: WireProvider, upstream: Upstream) -> None:
    stream = provider.stream(chat_call("stream-100000-0", stream=True))
    blocks = iter(stream)
    next(blocks)
    gevent.sleep(0.2)  # time in which an unbounded reader would have taken everything in
    assert upstream.served()["open_streams"] == 1
    assert len(next(blocks)) <= 65536
    stream.close()
