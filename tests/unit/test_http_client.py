"""Every way a provider can fail at the level of connections and statuses, and what the caller is told."""

from __future__ import annotations

import errno
import json
import os
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import gevent
import pytest

from app.config.providers import Timeouts
from app.errors import ConfigError, UpstreamError, UpstreamRejected, UpstreamTimeout, UpstreamUnavailable
from app.providers.wire_provider import WireProvider
from tests.support.certificates import self_signed
from tests.support.providers import SECRET, chat_call, openai, scripted_server
from tests.support.upstream import Upstream

FAST = Timeouts(connect_s=0.2, first_byte_s=0.2, idle_s=0.2, total_s=10)


@pytest.fixture
def provider(upstream: Upstream) -> WireProvider:
    return openai(upstream.url, timeouts=FAST)


@pytest.fixture
def refusing_url() -> Iterator[str]:
    with socket.socket() as bound:  # bound, not listening: nobody else can take the port, and it refuses
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/v1"


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    return self_signed(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="session")
def tls_vendor(certificate: tuple[Path, Path]) -> Iterator[Upstream]:
    with Upstream(certificate=certificate) as vendor:
        yield vendor


def failure(provider: WireProvider, model: str = "plain", **call: Any) -> UpstreamError:
    with pytest.raises(UpstreamError) as caught:
        provider.chat(chat_call(model, **call))
    assert provider.stats()["active"] == 0, "the failed call kept its place in the pool"
    return caught.value


# Connecting


def test_a_refused_connection_is_a_provider_that_is_unavailable(refusing_url: str) -> None:
    error = failure(openai(refusing_url))
    assert (type(error), error.kind, error.status) == (UpstreamUnavailable, "connect", 503)


def test_a_host_that_cannot_be_resolved_is_told_apart() -> None:
    error = failure(openai("http://no-such-host.invalid/v1"))
    assert (type(error), error.kind) == (UpstreamUnavailable, "resolve")


@contextmanager
def no_descriptors() -> Iterator[None]:
    """This process can open nothing more."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with open(os.devnull) as lowest:
        free = lowest.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "no-such-host.invalid"])
def test_descriptors_that_are_used_up_are_no_providers_fault(upstream: Upstream, host: str) -> None:
    provider = openai(upstream.url.replace("127.0.0.1", host), timeouts=Timeouts(connect_s=5))
    with no_descriptors():
        error = failure(provider)
    assert (type(error), error.kind, error.status) == (UpstreamUnavailable, "saturated", 503)


def test_ports_that_are_used_up_are_no_providers_fault(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: Any) -> None:
        raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")

    monkeypatch.setattr("gevent.socket.socket.connect", none_left)
    assert failure(openai(upstream.url)).kind == "saturated"


@pytest.mark.parametrize("busy", [True, False])
def test_a_look_up_that_no_thread_was_free_for_is_no_providers_fault(upstream: Upstream, busy: bool) -> None:
    """One that a thread took on and that no resolver answered is."""
    pool = gevent.get_hub().threadpool
    done = threading.Event()
    waiting: list[Any] = [pool.spawn(done.wait) for _ in range(pool.maxsize)] if busy else []
    provider = openai(upstream.url, timeouts=FAST)
    try:
        if busy:
            assert failure(provider).kind == "saturated"
        else:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("app.providers.http.client.getaddrinfo", lambda *_: done.wait(5))
                assert failure(provider).kind == "timeout_connect"
    finally:
        done.set()
        gevent.joinall(waiting)
    assert provider.chat(chat_call()).usage is not None


@pytest.mark.parametrize("url", ["http://a..b/v1", "http://host:99999/v1", "http://host:x/v1", "http://[::1/v1"])
def test_an_address_that_cannot_be_one_stops_the_start(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^base_url: "):
        openai(url)


@pytest.mark.parametrize("file", ["missing.pem", "empty.pem"])
def test_an_authority_file_that_is_none_stops_the_start(file: str, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("")
    with pytest.raises(ConfigError, match=r"^ca_file: "):
        openai("https://127.0.0.1/v1", ca_file=str(tmp_path / file))


@pytest.mark.parametrize(
    "field", [{"api_key": "a-key\r\nX-Evil: 1"}, {"api_key": "schlüssel"}, {"headers": {"Connection": "x"}}]
)
def test_a_header_that_would_break_the_request_stops_the_start(field: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^headers.") as caught:
        openai("http://127.0.0.1/v1", **field)
    assert "key\r" not in caught.value.message
    assert "schl" not in caught.value.message


def test_a_configured_header_replaces_ours_however_it_is_spelt(upstream: Upstream) -> None:
    provider = openai(upstream.url, headers={"authorization": "Basic x", "user-agent": "other"})
    sent = json.loads(provider.chat(chat_call("echo")).body)["choices"][0]["message"]["content"].lower()
    assert sent.count("authorization:") == sent.count("user-agent:") == 1
    assert "authorization: basic x" in sent


def test_a_certificate_that_nobody_vouches_for_is_refused(tls_vendor: Upstream) -> None:
    error = failure(openai(tls_vendor.url))
    assert (type(error), error.kind, error.status) == (UpstreamError, "tls", 502)


def test_a_certificate_for_another_host_is_refused(tls_vendor: Upstream, certificate: tuple[Path, Path]) -> None:
    error = failure(openai(tls_vendor.url.replace("127.0.0.1", "localhost"), ca_file=str(certificate[0])))
    assert error.kind == "tls"


def test_a_private_authority_is_trusted_when_the_configuration_says_so(
    tls_vendor: Upstream, certificate: tuple[Path, Path]
) -> None:
    provider = openai(tls_vendor.url, ca_file=str(certificate[0]))
    for _ in range(3):
        assert provider.chat(chat_call()).usage is not None
    list(provider.stream(chat_call(stream=True)))
    assert provider.stats() == {"idle": 1, "active": 0, "opened": 1, "reused": 3}


def test_tls_spoken_to_a_plain_server_is_a_tls_failure(upstream: Upstream) -> None:
    assert failure(openai(upstream.url.replace("http:", "https:"), timeouts=FAST)).kind in ("tls", "timeout_connect")


# Statuses


@pytest.mark.parametrize("status", [400, 422])
def test_a_callers_fault_is_shown_with_its_parameter_and_without_keys(provider: WireProvider, status: int) -> None:
    error = failure(provider, f"status-{status}")
    assert (type(error), error.status, error.kind, error.param) == (UpstreamRejected, 400, "rejected", "messages")
    assert error.message == f"Upstream says {status}: your prompt about [redacted] is bad."


@pytest.mark.parametrize(
    ("status", "error_type", "kind", "shown_as"),
    [
        (401, UpstreamError, "auth", 502),
        (403, UpstreamError, "auth", 502),
        (404, UpstreamError, "not_found", 502),
        (408, UpstreamTimeout, "timeout_first_byte", 504),
        (409, UpstreamError, "status_4xx", 502),
        (429, UpstreamUnavailable, "rate_limited", 503),
        (500, UpstreamError, "status_5xx", 502),
        (503, UpstreamUnavailable, "status_5xx", 503),
        (302, UpstreamError, "bad_body", 502),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_bug_09_a_message_of_an_upstreams_status_never_reaches_the_caller(
    provider: WireProvider, status: int, error_type: type[UpstreamError], kind: str, shown_as: int, stream: bool
) -> None:
    with pytest.raises(UpstreamError) as caught:
        (provider.stream if stream else provider.chat)(chat_call(f"status-{status}", stream=stream))
    error = caught.value
    assert (type(error), error.kind, error.status, error.upstream_status) == (error_type, kind, shown_as, status)
    assert "Upstream says" not in str(error)
    assert error.param is None
    assert provider.stats()["active"] == 0


@pytest.mark.parametrize("status", [429, 503])
def test_the_retry_after_of_an_overloaded_provider_is_passed_on(provider: WireProvider, status: int) -> None:
    assert failure(provider, f"status-{status}-7").retry_after_s == 7
    assert failure(provider, f"status-{status}-9999").retry_after_s == 60
    assert failure(provider, f"status-{status}").retry_after_s is None


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("Retry-After: nan", None), ("Retry-After: soon", None), ("Retry-After: -3", 0.0), ("Retry-After-Ms: 1500", 1.5)],
)
def test_a_retry_after_that_makes_no_sense_is_none(header: str, seconds: float | None) -> None:
    answer = f"HTTP/1.1 429 X\r\n{header}\r\nContent-Length: 0\r\n\r\n".encode()
    with scripted_server(lambda sock: sock.sendall(answer)) as url:
        assert failure(openai(url)).retry_after_s == seconds


def test_a_retry_after_may_be_a_date() -> None:
    date = formatdate(time.time() + 30, usegmt=True)
    for told, least, most in ((date, 20, 30), (formatdate(0, usegmt=True), 0, 0), ("Mon, 99 GMT", None, None)):
        answer = f"HTTP/1.1 429 X\r\nRetry-After: {told}\r\nContent-Length: 0\r\n\r\n".encode()
        with scripted_server(lambda sock, answer=answer: sock.sendall(answer)) as url:
            wait_s = failure(openai(url)).retry_after_s
        assert wait_s is None if least is None or most is None else least <= (wait_s or 0.0) <= most


def test_a_status_counts_even_if_its_body_breaks_off() -> None:
    answer = b"HTTP/1.1 429 X\r\nContent-Length: 100\r\n\r\n{"
    with scripted_server(lambda sock: sock.sendall(answer)) as url:
        assert failure(openai(url)).kind == "rate_limited"


def test_bug_09_configured_secrets_are_redacted_whatever_they_look_like() -> None:
    reason = json.dumps({"error": {"message": "no house-key-1 nor house-key-1-b\u0000 here " + "x" * 900}}).encode()
    answer = b"HTTP/1.1 400 X\r\nContent-Length: %d\r\n\r\n%b" % (len(reason), reason)
    with scripted_server(lambda sock: sock.sendall(answer)) as url:
        message = failure(openai(url, secrets=frozenset({"house-key-1", "house-key-1-b"}))).message
    assert message.startswith("no [redacted] nor [redacted]  here xxx")
    assert len(message) == 500


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"error": "x"}', b'{"error": {"message": 5}}', b"\xff" * 9, b"[" * 9999]
)
def test_a_refusal_in_any_other_shape_is_a_refusal_without_a_reason(body: bytes) -> None:
    answer = b"HTTP/1.1 400 X\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    with scripted_server(lambda sock: sock.sendall(answer)) as url:
        assert failure(openai(url)).message == "The provider refused the request."


# Answers that are none


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("html", "bad_body"),
        ("garbage", "bad_body"),
        ("empty", "bad_body"),
        ("nothttp", "bad_body"),
        ("reset", "closed"),
    ],
)
def test_bug_09_an_answer_that_is_none_is_not_quoted(provider: WireProvider, model: str, kind: str) -> None:
    error = failure(provider, model)
    assert (error.status, error.kind) == (502, kind)
    assert "sk-" not in str(error)
    assert SECRET not in repr(error.__cause__)


@pytest.mark.parametrize("model", ["html", "garbage", "plain"])
def test_a_stream_that_is_no_event_stream_can_still_fall_back(provider: WireProvider, model: str) -> None:
    with pytest.raises(UpstreamError) as caught:
        provider.stream(chat_call(model if model != "plain" else "echo", stream=False))
    assert caught.value.kind == "bad_body"
    assert provider.stats()["active"] == 0


def test_an_answer_without_usage_says_how_long_it_is(provider: WireProvider) -> None:
    answer = provider.chat(chat_call("nousage"))
    assert (answer.usage, answer.text_bytes) == (None, len("Hello there."))


@pytest.mark.parametrize(
    "body",
    [
        b'{"choices":[{"message":{"content":"\xc3\xbc","tool_calls":[{"function":{"arguments":"{}"}}]}}]}',
        b'{"choices":[{"message":{"content":"four"}}, 7, {"message": null}],"usage":{"prompt_tokens":"many"}}',
    ],
)
def test_an_unusual_usage_or_choice_does_not_lose_the_answer(body: bytes) -> None:
    served = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    with scripted_server(lambda sock: sock.sendall(served)) as url:
        answer = openai(url).chat(chat_call())
    assert (answer.body, answer.usage, answer.text_bytes) == (body, None, 4)


def test_an_interim_answer_and_one_ended_by_the_connection_are_understood() -> None:
    served = b'HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\nHTTP/1.1 200 OK\r\n\r\n{"choices":[]}'
    with scripted_server(lambda sock: sock.sendall(served)) as url:
        provider = openai(url)
        assert provider.chat(chat_call()).body == b'{"choices":[]}'
        assert provider.stats()["idle"] == 0


@pytest.mark.parametrize(
    ("base", "fields", "target"),
    [
        ("/v1/", {}, "/v1/chat/completions"),
        ("/ä/v1%20", {}, "/%C3%A4/v1%20/chat/completions"),
        (
            "",
            {"query": {"api-version": "2024-10-21", "x": "ü&?"}},
            "/chat/completions?api-version=2024-10-21&x=%C3%BC%26%3F",
        ),
        ("/openai/deployments/{model}", {"query": {"v": "1"}}, "/openai/deployments/gpt%204o/chat/completions?v=1"),
    ],
)
def test_the_request_target_is_made_of_path_model_and_query(base: str, fields: dict[str, Any], target: str) -> None:
    requests: list[bytes] = []
    with scripted_server(lambda sock: sock.sendall(b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n"), requests) as url:
        failure(openai(url.removesuffix("/v1") + base, **fields), target="gpt 4o")
    assert requests[0].split(b" HTTP/1.1")[0].decode() == f"POST {target}"


def test_the_list_of_models_is_asked_for_beside_the_deployments() -> None:
    requests: list[bytes] = []
    with scripted_server(lambda sock: sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), requests) as url:
        azure = url.removesuffix("/v1") + "/openai/deployments/{model}"
        openai(azure, query={"api-version": "2024-10-21"}).check(5)
    assert requests[0].split(b" HTTP/1.1")[0] == b"GET /openai/models?api-version=2024-10-21"
