"""The short way through the server: what it serves is served as gunicorn would, what is not plain goes to gunicorn."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.servers import ROOT, free_port, wait_for


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """gunicorn with our worker and its short way, before an application that shows what it is given."""
    port = free_port()
    command = [
        f"{Path(sys.executable).parent}/gunicorn",
        "-c",
        "gunicorn.conf.py",
        "-b",
        f"127.0.0.1:{port}",
        "-w",
        "1",
        "tests.support.echo:app",
    ]
    env = {**os.environ, "DATA_DIR": str(tmp_path_factory.mktemp("echo"))}
    process = subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.DEVNULL)
    wait_for(lambda: _listens(port), message="gunicorn did not start")
    yield port
    process.terminate()
    process.wait(10)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def client(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        yield client


def request(path: str = "/", *headers: str, body: bytes = b"", method: str = "POST", version: str = "1.1") -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "Host: x", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


class ExactReader(socket.SocketIO):
    """A socket's file that reads no byte further than asked, so that each answer is read from where the one before
    it ended. An unbuffered file does that too, but is content with one packet, however much of a body is to come."""

    def read(self, size: int = -1) -> bytes:
        found = bytearray()
        while len(found) != size:
            block = super().read(size - len(found) if size >= 0 else -1)
            if not block:
                break
            found += block
        return bytes(found)


class SingleAnswerSocket:
    """The part of a socket that `HTTPResponse` needs."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client

    def makefile(self, _: str) -> Any:
        return ExactReader(self._client, "rb")


def answer(client: socket.socket) -> tuple[http.client.HTTPResponse, bytes]:
    response = http.client.HTTPResponse(SingleAnswerSocket(client))  # type: ignore[arg-type]
    response.begin()
    return response, response.read()


def test_an_answers_body_may_come_in_two_packets() -> None:
    """Of the test's own client: the server sends each block of an answer when it has it."""
    here, there = socket.socketpair()
    with here, there:
        there.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nfi")
        later = threading.Timer(0.05, there.sendall, [b"vHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext"])
        later.start()
        assert [answer(here)[1], answer(here)[1]] == [b"fiv", b"next"]
        later.join()


def echoed(client: socket.socket, sent: bytes) -> dict[str, Any]:
    client.sendall(sent)
    response, body = answer(client)
    assert response.status == 200
    found: dict[str, Any] = json.loads(body)
    found["environ"].pop("REMOTE_PORT")
    return found


# Sent with the plain requests to make them not plain: gunicorn then serves them its general way.
AND_THE_GENERAL_WAY = "TE: trailers"


@pytest.mark.parametrize(
    "sent",
    [
        ("/v1/chat/completions", ("Authorization: Bearer x", "Content-Type: application/json")),
        ("/a/b?c=d&e=%20f?g", ("X-Request-ID: one", "x-mixed-Case:  spaces \t")),
        ("/", ("X-Forwarded-Proto: https", "X-Forwarded-For: 1.2.3.4")),
        ("/", ("X-Forwarded-Proto: http", "Accept: */*", "Connection: keep-alive")),
        ("/", ("X-Latin: \xe9", "Cookie: a=b; c=d", "X-Empty:")),
    ],
)
@pytest.mark.parametrize("body", [b"", b"a body"])
def test_the_application_sees_the_same_either_way(port: int, sent: tuple[str, tuple[str, ...]], body: bytes) -> None:
    path, headers = sent
    found = []
    for way in ((), (AND_THE_GENERAL_WAY,)):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            found.append(echoed(client, request(path, *headers, *way, body=body)))
    short, general = found
    assert general["environ"].pop("HTTP_TE") == "trailers"
    assert short == general
    assert short["body"] == body.decode()


def test_requests_in_one_packet_are_answered_one_after_the_other(client: socket.socket) -> None:
    client.sendall(request("/1", body=b"first") + request("/2") + request("/3", AND_THE_GENERAL_WAY, body=b"third"))
    told = []
    for _ in range(3):
        _, body = answer(client)
        told.append((json.loads(body)["environ"]["PATH_INFO"], json.loads(body)["body"]))
    assert told == [("/1", "first"), ("/2", ""), ("/3", "third")]


def test_a_body_may_come_in_pieces_and_a_head_too(client: socket.socket) -> None:
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for sent in (request(body=b"0123456789"), request("/again", body=b"abc")):
        for at in range(len(sent)):
            client.sendall(sent[at : at + 1])
        assert json.loads(answer(client)[1])["body"] == sent.partition(b"\r\n\r\n")[2].decode()


def test_a_body_nobody_reads_does_not_pass_for_the_next_request(client: socket.socket) -> None:
    unread = request("/not-a-request") * 1000
    sent = request("/unread", body=unread)
    client.sendall(sent[: len(sent) // 2])
    assert answer(client)[1] == b"unread"
    client.sendall(sent[len(sent) // 2 :])
    assert echoed(client, request("/next"))["environ"]["PATH_INFO"] == "/next"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request("/", "Transfer-Encoding: chunked") + b"3\r\nabc\r\n0\r\n\r\n", 200),
        (request("/", body=b"abc", version="1.0"), 200),
        (request("/%41?x", body=b"abc"), 200),
        (request("//x", body=b"abc"), 200),
        (request("/", "X-Twice: 1", "X-Twice: 2", body=b"abc"), 200),
        (request("/", "Content-Length: 3", "Transfer-Encoding: chunked") + b"3\r\nabc\r\n0\r\n\r\n", 400),
        (request("/", "Content-Length: 3", "Content-Length: 4") + b"abc", 400),
        (request("/", "Content-Length: +3") + b"abc", 400),
        (request("/", "Content-Length: 3a") + b"abc", 400),
        (request("/", "X_Under_score: a", body=b"abc"), 200),
        (request("/", "X-Bad: \x00", body=b"abc"), 400),
        (request("/", "Host: y", body=b"abc"), 400),
        (b"POST / HTTP/3.0\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
    ],
)
def test_what_is_not_plain_is_gunicorns_to_serve_or_to_refuse(client: socket.socket, sent: bytes, status: int) -> None:
    client.sendall(sent)
    response, body = answer(client)
    assert response.status == status
    found = json.loads(body)
    if status == 200:
        assert found["body"] == "abc"
        assert "HTTP_X_UNDER_SCORE" not in found["environ"], "it could be mistaken for X-Under-Score"
    else:
        assert found["code"] == "INVALID_REQUEST"
        assert client.recv(1) == b"", "where the next request would start is not known"


def test_a_head_of_any_length_is_not_taken_in(client: socket.socket) -> None:
    for number in range(3):  # what was served does not count
        client.sendall(request(f"/{number}", AND_THE_GENERAL_WAY, *(f"X-{n}: {'x' * 1000}" for n in range(60))))
        assert answer(client)[0].status == 200
    client.sendall(request("/", AND_THE_GENERAL_WAY, *(f"X-{n}: {'x' * 4000}" for n in range(60))))
    response, body = answer(client)
    assert (response.status, json.loads(body)["code"]) == (431, "INVALID_REQUEST")


def test_the_unread_rest_of_a_refused_request_is_discarded_in_large_pieces(client: socket.socket) -> None:
    """gunicorn's pieces of 1 KiB, each of which moves all that was read ahead, cost ten times as much."""

    def cpu_s() -> float:
        spent = [process.cpu_times() for process in psutil.Process().children(recursive=True)]
        return sum(times.user + times.system for times in spent)

    body = b"x" * 10_000_000
    before = cpu_s()
    for way in (("Content-Length: 10000000",), ("Transfer-Encoding: chunked",)):
        sent = body if way[0].startswith("Content") else b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        client.sendall(request("/unread", *way) + sent)
        assert answer(client)[1] == b"unread"
    assert echoed(client, request("/next"))["environ"]["PATH_INFO"] == "/next"
    spent_s = cpu_s() - before
    assert spent_s < 0.2, f"{spent_s:.1f} s of CPU for 20 MB"


def test_a_body_is_asked_for_when_the_client_waits_for_that(client: socket.socket) -> None:
    head, _, body = request("/", "Expect: 100-continue", body=b"abc").partition(b"\r\n\r\n")
    client.sendall(head + b"\r\n\r\n")
    assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.sendall(body)
    assert json.loads(answer(client)[1])["body"] == "abc"


def test_a_stream_is_chunked_and_the_connection_goes_on(client: socket.socket) -> None:
    client.sendall(request("/chunks"))
    response, body = answer(client)
    assert (body, response.headers["Transfer-Encoding"]) == (b"onetwo", "chunked")
    client.sendall(request("/nothing"))
    response, body = answer(client)
    assert (response.status, body, response.headers["Transfer-Encoding"]) == (204, b"", None)
    client.sendall(request("/", "Connection: close"))
    response, _ = answer(client)
    assert response.headers["Connection"] == "close"
    assert client.recv(1) == b""


def test_an_answer_never_exceeds_its_length_and_a_shorter_one_disconnects(client: socket.socket) -> None:
    client.sendall(request("/long"))
    assert answer(client)[1] == b"fiv"
    client.sendall(request("/short"))
    with pytest.raises(http.client.IncompleteRead):
        answer(client)


def test_a_header_cannot_smuggle_in_another(client: socket.socket) -> None:
    client.sendall(request("/inject"))
    response, body = answer(client)
    assert (response.status, json.loads(body)["code"]) == (500, "INTERNAL_ERROR")
    assert "X-Injected" not in response.headers


def test_a_bug_is_an_error_and_in_the_middle_of_an_answer_a_cut(client: socket.socket, port: int) -> None:
    client.sendall(request("/raise"))
    response, body = answer(client)
    assert (response.status, json.loads(body)["code"]) == (500, "INTERNAL_ERROR")
    with socket.create_connection(("127.0.0.1", port), timeout=10) as other:
        other.sendall(request("/late"))
        with pytest.raises(http.client.IncompleteRead) as cut:
            answer(other)
        assert cut.value.partial == b"onetwo"
