"""Plain responses are parsed at once, and then say what the strict parser makes of them; no other one is."""

from __future__ import annotations

import random

import pytest
from geventhttpclient.response import HTTPParseError

from app.providers.http.parser import IncrementalParser, parse_complete

BODY = b'{"choices":[]}'


def answer(*headers: bytes, line: bytes = b"HTTP/1.1 200 OK", body: bytes = BODY) -> bytes:
    return b"\r\n".join([line, *headers, b"", b""]) + body


LENGTH = b"Content-Length: %d" % len(BODY)
PLAIN = {
    "just a length": answer(LENGTH),
    "kept alive": answer(b"content-type: application/json", LENGTH, b"Connection: Keep-Alive"),
    "several of a header": answer(b"Set-Cookie: a=1", b"Set-Cookie: b=2", LENGTH),
    "an error": answer(b"Retry-After: 3", LENGTH, line=b"HTTP/1.1 429 Too Many Requests"),
    "no reason": answer(LENGTH, line=b"HTTP/1.1 200 "),
    "nothing in it": answer(b"Content-Length: 0", body=b""),
}
NOT_PLAIN = {
    "cut in the body": answer(LENGTH)[:-1],
    "cut in the head": answer(LENGTH)[:20],
    "more than one answer": answer(LENGTH) + b"HTTP/1.1 200 OK\r\n",
    "chunked": answer(b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    "chunked, with a length": answer(LENGTH, b"Transfer-Encoding: chunked"),
    "two lengths": answer(LENGTH, LENGTH),
    "a length that is none": answer(b"Content-Length: +14"),
    "a list of lengths": answer(b"Content-Length: 14, 14"),
    "no length": answer(b"Content-Type: application/json"),
    "to be closed": answer(LENGTH, b"Connection: close"),
    "an older protocol": answer(LENGTH, line=b"HTTP/1.0 200 OK"),
    "an interim answer": answer(b"Content-Length: 0", line=b"HTTP/1.1 100 Continue", body=b""),
    "no content": answer(b"Content-Length: 0", line=b"HTTP/1.1 204 No Content", body=b""),
    "bare line feeds": answer(LENGTH).replace(b"\r\n", b"\n"),
    "a header over two lines": answer(b"X-Long: a\r\n b", LENGTH),
    "a bare line feed": answer(b"X: a\nContent-Length: 3", LENGTH),
    "a bare carriage return": answer(b"X: a\rb", LENGTH),
    "a NUL": answer(b"X: a\0b", LENGTH),
    "a space before the colon": answer(LENGTH.replace(b":", b" :")),
    "no colon": answer(b"Content-Type", LENGTH),
    "no name": answer(b": a", LENGTH),
    "to be closed after all": answer(b"Connection: keep-alive", b"Connection: close", LENGTH),
    "to be closed, told the old way": answer(b"Proxy-Connection: close", LENGTH),
    "an upgrade": answer(b"Connection: upgrade", b"Upgrade: h2c", LENGTH),
    "a longer status": answer(LENGTH, line=b"HTTP/1.1 2000 OK"),
    "a length in other digits": answer("Content-Length: \u00b2".encode("latin-1")),
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "nothing": b"",
}


@pytest.mark.parametrize("data", PLAIN.values(), ids=PLAIN)
def test_a_plain_answer_is_read_at_once_and_as_the_strict_parser_reads_it(data: bytes) -> None:
    found, strict = parse_complete(data), IncrementalParser("POST")
    strict.feed(data)
    assert found is not None
    assert strict.message_complete
    assert not strict.should_close()
    assert not found.should_close()
    assert found.get_code() == strict.get_code()
    assert found.take_body() == strict.take_body()
    assert found.take_body() == b""
    for name in ("content-type", "retry-after", "content-length", "x-missing"):
        assert found.get(name.lower()) == strict.get(name)


@pytest.mark.parametrize("data", NOT_PLAIN.values(), ids=NOT_PLAIN)
def test_whatever_is_not_plain_is_left_to_the_strict_parser(data: bytes) -> None:
    assert parse_complete(data) is None


FIELDS = [
    LENGTH,
    b"Content-Type: application/json",
    b"X-Empty:",
    b"X-Request-ID:  req_1\t",
    b"Set-Cookie: a=1",
    b"Connection: keep-alive",
    b"Connection: close",
    b"Transfer-Encoding: chunked",
    b"Retry-After: 1",
    b"Proxy-Connection: close",
    b"Upgrade: h2c",
    b"Trailer: X",
    b"Keep-Alive: timeout=5",
]
NASTY = [b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b"\x7f", b"\xe9", b"1", b"\r\n\r\n", b"HTTP/1.1 200 OK\r\n"]


def mangled(chance: random.Random) -> bytes:
    line = chance.choice([b"HTTP/1.1 200 OK", b"HTTP/1.1 200 ", b"HTTP/1.1 404 Not Found", b"HTTP/1.1 503 \xe9"])
    data = bytearray(answer(LENGTH, *chance.sample(FIELDS[1:], chance.randint(0, 4)), line=line))
    for _ in range(chance.choice([0, 0, 1, 2])):
        at = chance.randrange(len(data))
        data[at : at + chance.randint(0, 2)] = chance.choice(NASTY)
    return bytes(data)


def test_whatever_is_read_at_once_is_read_as_the_strict_parser_does() -> None:
    chance, read = random.Random(11), 0
    for _ in range(20_000):
        data = mangled(chance)
        found, strict = parse_complete(data), IncrementalParser("POST")
        if found is None:
            continue
        read += 1
        try:
            strict.feed(data)
        except HTTPParseError:
            pytest.fail(f"the strict parser refuses {data!r}")
        assert strict.message_complete, data
        assert not strict.should_close(), data
        assert (found.get_code(), found.take_body()) == (strict.get_code(), strict.take_body()), data
        for name, value in strict.items():
            first = value if isinstance(value, str) else value[0]
            assert found.get(name.lower()) == first.strip(" \t"), data
    assert 5000 < read < 15_000
