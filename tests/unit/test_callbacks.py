"""Callbacks: where they may go, how they are signed, and what becomes of them on the way."""

from __future__ import annotations

import base64
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest

from app.errors import CallbackUndelivered, InvalidRequest
from app.jobs.callbacks import CallbackSender
from tests.support.certificates import self_signed

SECRET = "whsec_" + base64.b64encode(b"a secret of thirty-two characters").decode()
NOW = 1_800_000_000.0


@contextmanager
def server_that(
    answers: Callable[[socket.socket], None], requests: list[bytes] | None = None, tls: ssl.SSLContext | None = None
) -> Iterator[str]:
    """Reads a request (into `requests`), then leaves the connection to `answers`; in a thread. Yields its URL."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                client = client if tls is None else tls.wrap_socket(client, server_side=True)
            except OSError:
                client.close()
                continue
            with client:
                request = b""
                while b"\r\n\r\n" not in request and (data := client.recv(65536)):
                    request += data
                head, _, body = request.partition(b"\r\n\r\n")
                length = next(
                    (int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:")), 0
                )
                while len(body) < length and (data := client.recv(65536)):
                    body += data
                if requests is not None:
                    requests.append(head + b"\r\n\r\n" + body)
                answers(client)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{listener.getsockname()[1]}/hook"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def callbacks(*allow: str, resolve: Callable[[str, int], list[str]] | None = None) -> CallbackSender:
    return CallbackSender(secret=SECRET, allow=allow, resolve=resolve)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "ftp://example.org/",
        "file:///etc/passwd",
        "//example.org/",
        "https://",
        "https:///path",
        "https://user:pass@example.org/",
        "https://user@example.org/",
        "https://example.org:0x50/",
        "https://[::1/",
        "https://exa mple.org/",
        "https://example.org/\r\nX-Evil: 1",
        "https://bücher.example/",
        "https://example.org/" + "a" * 3000,
        "http://127.0.0.1/",
        "http://127.1.2.3:8000/",
        "http://[::1]/",
        "http://0.0.0.0/",
        "http://10.0.0.1/",
        "http://172.16.0.1/",
        "http://192.168.1.1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://100.64.0.1/",
        "http://[fe80::1]/",
        "http://[fd00::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:169.254.169.254]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[2002:7f00:1::]/",
        "http://224.0.0.1/",
        "http://255.255.255.255/",
        "http://[::]/",
    ],
)
def test_bug_08_a_callback_to_a_non_public_address_is_refused_when_named(url: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        callbacks().check(url)
    assert refused.value.param == "callback_url"


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/hook?x=1",
        "http://example.org:8080/",
        "http://93.184.216.34/",
        "https://[2606:2800:220:1::1]/x",
    ],
)
def test_a_public_url_is_taken(url: str) -> None:
    assert callbacks().check(url) == url


def test_without_a_secret_there_are_no_callbacks() -> None:
    with pytest.raises(InvalidRequest, match="CALLBACK_SECRET"):
        CallbackSender(secret=None, allow=()).check("https://example.org/")


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], ["169.254.169.254"], ["93.184.216.34", "10.0.0.7"], ["::ffff:10.0.0.7"], ["fe80::1%eth0"]],
)
def test_bug_08_a_name_with_one_private_address_among_others_is_refused(addresses: list[str]) -> None:
    found = callbacks(resolve=lambda host, port: addresses)
    with pytest.raises(InvalidRequest, match="not public"):
        found.deliver("http://innocent.example/", "evt_1", b"{}", now=NOW)


def test_bug_08_it_goes_to_the_checked_address_and_resolves_the_name_once() -> None:
    asked: list[str] = []
    requests: list[bytes] = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    with server_that(lambda sock: sock.sendall(b"HTTP/1.1 204 No Content\r\n\r\n"), requests) as url:
        port = url.split(":")[2].split("/")[0]
        target = f"http://hooks.example:{port}/done?a=1"
        callbacks("127.0.0.0/8", resolve=resolve).deliver(target, "evt_1", b'{"a":1}', now=NOW)
    assert asked == ["hooks.example"]
    assert requests[0].startswith(b"POST /done?a=1 HTTP/1.1\r\n")
    assert f"Host: hooks.example:{port}".encode() in requests[0]


def test_the_official_sdk_verifies_the_signature() -> None:
    requests: list[bytes] = []
    body = b'{"type":"request.completed","data":{"request_id":"req_1"}}'
    with server_that(lambda sock: sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), requests) as url:
        callbacks("127.0.0.1").deliver(url, "evt_req_1", body, now=time.time())
    head, _, sent = requests[0].partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    client = openai.OpenAI(api_key="unused")
    client.webhooks.verify_signature(sent, headers, secret=SECRET)
    with pytest.raises(openai.InvalidWebhookSignatureError):
        client.webhooks.verify_signature(sent.replace(b"req_1", b"req_2"), headers, secret=SECRET)


@pytest.mark.parametrize(
    "status", [b"302 Found\r\nLocation: http://169.254.169.254/", b"301 Moved\r\nLocation: /", b"500 Oops", b"404 No"]
)
def test_bug_08_only_2xx_is_delivered_and_a_redirect_is_not_followed(status: bytes) -> None:
    requests: list[bytes] = []
    answer = b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n"
    with server_that(lambda sock: sock.sendall(answer), requests) as url, pytest.raises(CallbackUndelivered):
        callbacks("127.0.0.1").deliver(url, "evt_1", b"{}", now=NOW)
    assert len(requests) == 1


@pytest.mark.parametrize("answer", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n"])
def test_what_is_no_answer_is_not_delivered(answer: bytes) -> None:
    with server_that(lambda sock: sock.sendall(answer)) as url, pytest.raises(CallbackUndelivered):
        callbacks("127.0.0.1").deliver(url, "evt_1", b"{}", now=NOW)


def test_a_server_that_is_not_there_is_undelivered() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(CallbackUndelivered):
            callbacks("127.0.0.1").deliver(f"http://127.0.0.1:{closed.getsockname()[1]}/", "e", b"{}", now=NOW)


def test_a_name_without_an_address_is_undelivered() -> None:
    def resolve(host: str, port: int) -> list[str]:
        raise socket.gaierror

    with pytest.raises(CallbackUndelivered):
        callbacks(resolve=resolve).deliver("https://nowhere.example/", "e", b"{}", now=NOW)


DRIP = """
from gevent import monkey; monkey.patch_all()
import gevent, socket
from app.errors import CallbackUndelivered
from app.jobs import callbacks
callbacks._TOTAL_S = 0.3
server = socket.create_server(("127.0.0.1", 0))
def drip():
    client, _ = server.accept()
    while True:
        client.sendall(b"H")
        gevent.sleep(0.02)
gevent.spawn(drip)
try:
    url = f"http://127.0.0.1:{server.getsockname()[1]}/"
    callbacks.CallbackSender(secret="s", allow=("127.0.0.1",)).deliver(url, "e", b"{}", now=1.0)
except CallbackUndelivered as exc:
    print(exc)
"""


@pytest.mark.slow
def test_an_answer_that_drips_is_given_up() -> None:
    run = subprocess.run([sys.executable, "-c", DRIP], capture_output=True, text=True, timeout=30, check=True)
    assert run.stdout == "The callback took too long.\n"


def test_a_certificate_that_nobody_vouches_for_is_not_delivered_to(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path, days=3)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    requests: list[bytes] = []
    with (
        server_that(lambda sock: sock.sendall(b"HTTP/1.1 204 No Content\r\n\r\n"), requests, tls=context) as url,
        pytest.raises(CallbackUndelivered, match="SSLCertVerificationError"),
    ):
        callbacks("127.0.0.1").deliver(url, "evt_1", b"{}", now=NOW)
    assert requests == []


HANGING_RESOLVER = """
import _socket, socket, threading
release = threading.Event()
really = _socket.getaddrinfo
def hang(host, *args, **kwargs):
    if host.endswith(".example"):
        release.wait(30)
        raise socket.gaierror
    return really(host, *args, **kwargs)
_socket.getaddrinfo = hang  # before gevent takes it: what runs in threads, whoever they belong to
wake = release.set
from gevent import monkey; monkey.patch_all()
import gevent
from app.errors import CallbackUndelivered
from app.jobs import callbacks
callbacks._TOTAL_S = 0.3
sender = callbacks.CallbackSender(secret="s", allow=())
def deliver():
    try:
        sender.deliver("https://hangs.example/", "e", b"{}", now=1.0)
    except CallbackUndelivered as exc:
        return str(exc)
greenlets = [gevent.spawn(deliver) for _ in range(20)]
with gevent.Timeout(10):
    print({greenlet.get() for greenlet in greenlets})
    print(bool(socket.getaddrinfo("localhost", 80)))
wake()
"""


@pytest.mark.slow
def test_a_resolver_that_hangs_holds_a_callback_briefly_and_no_provider() -> None:
    command = [sys.executable, "-c", HANGING_RESOLVER]
    found = subprocess.run(command, capture_output=True, text=True, timeout=40, check=False)
    assert found.stdout.splitlines() == ["{'The callback took too long.'}", "True"], found.stderr
