"""Which answers are read at once, and that they then say what the strict parser makes of them."""

from __future__ import annotations

import pytest

from app.providers.head import Parser, whole

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
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "nothing": b"",
}


@pytest.mark.parametrize("data", PLAIN.values(), ids=PLAIN)
def test_a_plain_answer_is_read_at_once_and_as_the_strict_parser_reads_it(data: bytes) -> None:
    found, strict = whole(data), Parser("POST")
    strict.feed(data)
    assert found is not None
    assert strict.message_complete
    assert not strict.should_close()
    assert not found.should_close()
    assert found.get_code() == strict.get_code()
    assert found.take() == strict.take()
    assert found.take() == b""
    for name in ("content-type", "retry-after", "content-length", "x-missing"):
        assert found.get(name) == strict.get(name)


@pytest.mark.parametrize("data", NOT_PLAIN.values(), ids=NOT_PLAIN)
def test_whatever_is_not_plain_is_left_to_the_strict_parser(data: bytes) -> None:
    assert whole(data) is None
