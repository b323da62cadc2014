"""The short way's reader of requests against gunicorn's own: what is served, gunicorn would serve the same way."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from gevent import socket
from gunicorn.config import Config
from gunicorn.http.errors import NoMoreData, ParseException
from gunicorn.http.parser import RequestParser
from gunicorn.http.wsgi import create

from app.server.connection import Connection
from app.server.state import WorkerState

PEER, HERE = ("127.0.0.1", 50123), ("127.0.0.1", 8000)
ParsedRequest = tuple[dict[str, str], bytes]


def parsed_request(environ: dict[str, Any]) -> ParsedRequest:
    """The request line, headers and body that an application receives."""
    return {name: value for name, value in environ.items() if isinstance(value, str)}, environ["wsgi.input"].read()


class BothParsers:
    """Both ways of reading what a client sends, with the same settings."""

    def __init__(self, **settings: Any) -> None:
        self._cfg = Config()  # type: ignore[no-untyped-call]
        for name, value in {"http_parser": "python", **settings}.items():
            self._cfg.set(name, value)  # type: ignore[no-untyped-call]
        self._found: list[ParsedRequest] = []
        self._listener = SimpleNamespace(getsockname=lambda: HERE)
        self._state = WorkerState(
            SimpleNamespace(
                wsgi=self._application, cfg=self._cfg, sockets=[], settling_s=10, counts_request=lambda: True
            )
        )

    def _application(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        self._found.append(parsed_request(environ))
        start_response("204 No Content", [])
        return []

    def short(self, packets: tuple[bytes, ...]) -> tuple[list[ParsedRequest], bytes]:
        """Returns the requests that the fast path serves, and the bytes that it hands over."""
        self._found = []
        server, client = socket.socketpair()
        with server, client:
            serving = gevent.spawn(Connection(self._state, self._listener, server, PEER).serve)
            for at, packet in enumerate(packets):
                client.sendall(packet)
                gevent.idle()  # it has taken the packet
                if serving.dead:
                    return self._found, (serving.get() or b"") + b"".join(packets[at + 1 :])
            client.shutdown(socket.SHUT_WR)
            return self._found, serving.get(timeout=5) or b""

    def general(self, data: bytes) -> tuple[list[ParsedRequest], str]:
        """Returns gunicorn's reading of the same bytes, and its reason to stop."""
        found: list[ParsedRequest] = []
        sock = SimpleNamespace(send=len)
        try:
            for request in RequestParser(self._cfg, iter([data]), PEER):  # type: ignore[no-untyped-call]
                found.append(parsed_request(create(request, sock, PEER, HERE, self._cfg)[1]))  # type: ignore[no-untyped-call]
        except NoMoreData:
            return found, "cut"
        except ParseException as exc:
            return found, type(exc).__name__
        return found, "ended"

    def agree(self, *packets: bytes) -> int:
        """Returns the number of requests that the fast path served, each as gunicorn does."""
        served, rest = self.short(packets)
        expected, end = self.general(b"".join(packets))
        assert served == expected[: len(served)]
        assert self.general(rest) == (expected[len(served) :], end)
        return len(served)


@pytest.fixture(scope="module")
def parsers() -> BothParsers:
    return BothParsers()


def request(*fields: bytes, line: bytes = b"POST /v1/chat/completions HTTP/1.1", body: bytes = b"") -> bytes:
    length = [b"Content-Length: %d" % len(body)] if body else []
    return b"\r\n".join([line, *fields, *length, b"", body])


HOST = b"Host: localhost:8000"
SDK = (
    HOST,
    b"Accept-Encoding: gzip, deflate",
    b"Connection: keep-alive",
    b"Accept: application/json",
    b"Content-Type: application/json",
    b"User-Agent: OpenAI/Python 3.52.0",
    b"X-Stainless-Lang: python",
    b"x-stainless-os: Linux",
    b"X-Stainless-Retry-Count: 0",
    b"Authorization: Bearer pstk_0123456789",
)
PLAIN = {
    "an SDK's": request(*SDK, body=b'{"model": "x"}'),
    "nginx's": request(HOST, b"X-Forwarded-Proto: https", b"X-Forwarded-For: 1.2.3.4", b"X-Request-ID: 5", body=b"{}"),
    "no body": request(HOST, line=b"GET /health HTTP/1.1"),
    "no field": request(line=b"GET / HTTP/1.1"),
    "a body of nothing": request(HOST, b"Content-Length: 0"),
    "zeros before a length": request(HOST, b"Content-Length: 002") + b"{}",
    "a query": request(HOST, line=b"GET /v1/usage?from=2026-01-01&by=day&q=a?b;c HTTP/1.1"),
    "an empty query": request(HOST, line=b"GET /? HTTP/1.1"),
    "an odd path": request(HOST, line=b'DELETE /a//b/../c;d=1:2@[e]{f}|\\"<>^`~ HTTP/1.1'),
    "no space before a value": request(b"Host:x", b"X-Tabs:\t a \t", b"X-Empty:", b"X-Colons: a:b:c:"),
    "latin-1": request(HOST, b"X-Name: caf\xe9 \xff\x80\xa0"),
    "every character of a name": request(HOST, b"X-!#$%&'*+.^`|~9aZ: 1"),
    "the last one": request(HOST, b"Connection: CLOSE"),
    "a name like a variable's": request(HOST, b"Wsgi.Input: x", b"REMOTE-ADDR: 6.6.6.6", b"Request-Method: DELETE"),
}
# gunicorn serves some of them; the short way may leave any of them to it.
ODD = {
    "absolute form": request(HOST, line=b"GET http://other/path HTTP/1.1"),
    "a path like a host": request(HOST, line=b"GET //other/path HTTP/1.1"),
    "escapes": request(HOST, line=b"GET /%2e%2e/%00 HTTP/1.1"),
    "a fragment": request(HOST, line=b"GET /a#b HTTP/1.1"),
    "an asterisk": request(HOST, line=b"OPTIONS * HTTP/1.1"),
    "HTTP/1.0": request(HOST, line=b"GET / HTTP/1.0"),
    "another method": request(HOST, line=b"PROPFIND / HTTP/1.1"),
    "a connect": request(HOST, line=b"CONNECT other:443 HTTP/1.1"),
    "the same field twice": request(HOST, b"X-Same: a", b"x-same: b"),
    "underscores": request(HOST, b"X_Forwarded_For: 6.6.6.6", b"Content_Length: 5"),
    "chunked": request(HOST, b"Transfer-Encoding: chunked") + b"2;a=b\r\n{}\r\n0\r\nX-Trailer: 1\r\n\r\n",
    "gzip, chunked": request(HOST, b"Transfer-Encoding: gzip, chunked") + b"2\r\n{}\r\n0\r\n\r\n",
    "an upgrade": request(HOST, b"Connection: Upgrade", b"Upgrade: h2c"),
    "a list of connections": request(HOST, b"Connection: keep-alive, TE", b"TE: trailers"),
    "an expected body": request(HOST, b"Expect: 100-continue", body=b"{}"),
    "a script name": request(HOST, b"Script-Name: /v1"),
    "an empty line first": b"\r\n" + request(HOST),
    "two empty lines first": b"\r\n\r\n" + request(HOST),
    "a large body": request(HOST, b"Content-Length: 9999999") + b"{}",
    "cut in its head": request(*SDK, body=b"{}")[:100],
    "cut in its body": request(HOST, b"Content-Length: 5") + b"{}",
    "a length in other digits": request(HOST, "Content-Length: \u00b2".encode("latin-1")),
    "a TLS client": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}
BODY = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
HOSTILE = {
    "a length and chunks": request(HOST, b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + BODY),
    "two lengths": request(HOST, b"Content-Length: 0", body=BODY),
    "the same length twice": request(HOST, b"Content-Length: 35", body=BODY),
    "a list of lengths": request(HOST, b"Content-Length: 0, 35") + BODY,
    "a signed length": request(HOST, b"Content-Length: +35") + BODY,
    "a negative length": request(HOST, b"Content-Length: -1") + BODY,
    "a length with a tail": request(HOST, b"Content-Length: 35;q=1") + BODY,
    "a hexadecimal length": request(HOST, b"Content-Length: 0x23") + BODY,
    "an empty length": request(HOST, b"Content-Length:") + BODY,
    "identity": request(HOST, b"Transfer-Encoding: identity", body=BODY),
    "unknown coding": request(HOST, b"Transfer-Encoding: xchunked") + BODY,
    "chunked twice": request(HOST, b"Transfer-Encoding: chunked, chunked") + b"0\r\n\r\n",
    "two hosts": request(HOST, b"Host: other"),
    "two types": request(HOST, b"Content-Type: a", b"Content-Type: b"),
    "a folded field": request(HOST, b"X-Folded: a", b" b"),
    "a folded field first": request(b" folded", HOST),
    "a space before the colon": request(HOST, b"Content-Length : 35") + BODY,
    "a tab before the colon": request(HOST, b"Transfer-Encoding\t: chunked") + BODY,
    "a space before the name": request(b" Host: x"),
    "no colon": request(HOST, b"Accept"),
    "no name": request(HOST, b": value"),
    "a name in latin-1": request(HOST, b"X-\xdf: value"),
    "a quoted name": request(HOST, b'"X": value'),
    "a bare line feed": request(HOST, b"X: a\nContent-Length: 35") + BODY,
    "a bare carriage return": request(HOST, b"X: a\rContent-Length: 35") + BODY,
    "a carriage return more": request(HOST, b"X: a\r") + BODY,
    "line feeds only": request(*SDK).replace(b"\r\n", b"\n"),
    "line feeds at the end": request(HOST).replace(b"\r\n\r\n", b"\n\n") + request(HOST),
    "a NUL in a value": request(HOST, b"X: a\0b"),
    "a NUL in a name": request(HOST, b"X\0: a"),
    "a NUL in the target": request(HOST, line=b"GET /\0 HTTP/1.1"),
    "a delete in a value": request(HOST, b"X: \x7f"),
    "an escape in a value": request(HOST, b"X: \x1b[2J"),
    "a tab in the request line": request(HOST, line=b"GET\t/ HTTP/1.1"),
    "two spaces in the request line": request(HOST, line=b"GET  / HTTP/1.1"),
    "a space in the target": request(HOST, line=b"GET /a b HTTP/1.1"),
    "a space at the end of the request line": request(HOST, line=b"GET / HTTP/1.1 "),
    "no version": request(HOST, line=b"GET /"),
    "a version in lower case": request(HOST, line=b"GET / http/1.1"),
    "a longer version": request(HOST, line=b"GET / HTTP/1.10"),
    "a later version": request(HOST, line=b"GET / HTTP/2.0"),
    "a method in lower case": request(HOST, line=b"get / HTTP/1.1"),
    "no target": request(HOST, line=b"GET  HTTP/1.1"),
    "a relative target": request(HOST, line=b"GET health HTTP/1.1"),
    "a target in latin-1": request(HOST, line=b"GET /caf\xe9 HTTP/1.1"),
    "another expectation": request(HOST, b"Expect: the-unexpected"),
    "a bad chunk": request(HOST, b"Transfer-Encoding: chunked") + b"0x2\r\n{}\r\n0\r\n\r\n",
    "many fields": request(*(b"X-%d: 1" % number for number in range(101))),
    "a long field": request(HOST, b"X-Long: " + b"a" * 8190),
    "a long target": request(HOST, line=b"GET /" + b"a" * 4094 + b" HTTP/1.1"),
}


@pytest.mark.parametrize("data", PLAIN.values(), ids=PLAIN)
def test_a_plain_request_is_served_the_short_way_and_as_gunicorn_reads_it(parsers: BothParsers, data: bytes) -> None:
    assert parsers.agree(data) == 1


@pytest.mark.parametrize("data", ODD.values(), ids=ODD)
def test_an_odd_request_is_read_as_gunicorn_does_or_left_to_it(parsers: BothParsers, data: bytes) -> None:
    for pipelined in (data, PLAIN["an SDK's"] + data, data + PLAIN["an SDK's"]):
        parsers.agree(pipelined)


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_request_is_gunicorns_to_refuse(parsers: BothParsers, data: bytes) -> None:
    assert parsers.general(data)[1] not in ("ended", "cut")
    assert parsers.agree(data) == 0
    assert parsers.agree(PLAIN["an SDK's"] + data) == 1


@pytest.mark.slow
def test_a_connection_may_be_cut_into_packets_anywhere(parsers: BothParsers) -> None:
    data = PLAIN["an SDK's"] + PLAIN["no body"] + ODD["chunked"] + PLAIN["nginx's"]
    assert parsers.agree(data) == 2
    for at in range(1, len(data)):
        parsers.agree(data[:at], data[at:])
    parsers.agree(*(data[at : at + 1] for at in range(len(data))))


NEAR = (-1, 0, 1)


@pytest.mark.parametrize(
    "settings",
    [
        {"limit_request_line": 4094, "limit_request_fields": 100, "limit_request_field_size": 8190},
        {"limit_request_line": 30, "limit_request_fields": 3, "limit_request_field_size": 40},
        {"limit_request_line": 0, "limit_request_fields": 32768, "limit_request_field_size": 0},
        {"limit_request_line": 20_000, "limit_request_fields": 1, "limit_request_field_size": 20_000},
    ],
)
def test_the_limits_of_a_head_are_gunicorns_to_the_byte(settings: dict[str, int]) -> None:
    parsers = BothParsers(**settings)
    heads = [
        *(
            request(line=b"GET /" + b"a" * (size + more - 14) + b" HTTP/1.1")
            for size in (30, 4094, 8190)
            for more in NEAR
        ),
        *(request(b"X: " + b"a" * (size + more - 5)) for size in (40, 8190, 20_000) for more in NEAR),
        *(request(*(b"X-%d: 1" % number for number in range(most + more))) for most in (1, 3, 100) for more in NEAR),
    ]
    served = [parsers.agree(head) for head in heads]
    assert 0 in served
    if all(settings.values()):
        assert served == [len(parsers.general(head)[0]) for head in heads]


PIECES = [*SDK, b"Content-Length: 35", b"Transfer-Encoding: chunked", b"Connection: close", b"X: a", b"X-Y:\t", b"\t"]
NASTY = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b"_",
    b"-",
    b"\x7f",
    b"\xe9",
    b"%",
    b"#",
    b"/",
    b"?",
    b"0",
    b"\r\n\r\n",
    b" HTTP/1.1\r\n",
    b"Host",
    b"content-length: 5\r\n",
    b"chunked",
]


def mangled(chance: random.Random) -> bytes:
    """Requests of a connection, most of them nearly plain."""
    data = bytearray()
    for _ in range(chance.randint(1, 3)):
        line = chance.choice([b"POST /v1 HTTP/1.1", b"GET /a?b=c HTTP/1.1", b"GET / HTTP/1.1"])
        data += request(*chance.sample(PIECES, chance.randint(0, 9)), line=line, body=chance.choice([b"", b"{}", BODY]))
    for _ in range(chance.choice([0, 1, 1, 2, 4])):
        at = chance.randrange(len(data))
        data[at : at + chance.randint(0, 2)] = chance.choice(NASTY)
    return bytes(data)


@pytest.mark.slow
def test_whatever_comes_is_read_as_gunicorn_does_or_left_to_it(parsers: BothParsers) -> None:
    chance = random.Random(11)
    served = [parsers.agree(mangled(chance)) for _ in range(5000)]
    assert 1000 < sum(count > 0 for count in served) < 4000, "both ways are tried"
