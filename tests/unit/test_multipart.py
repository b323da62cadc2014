"""Multipart forms: what SDKs and browsers send is read, what is ambiguous is refused, and forms are made anew."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.formparser import FormDataParser
from werkzeug.test import EnvironBuilder

from app.domain import multipart
from app.domain.multipart import Part
from app.errors import InvalidRequest

TYPE = "multipart/form-data; boundary=b"


def form(*parts: str) -> bytes:
    return "".join(f"--b\r\n{part}\r\n" for part in parts).encode() + b"--b--\r\n"


def disposition(parameters: str, value: str = "v", more: str = "") -> str:
    return f"Content-Disposition: form-data; {parameters}\r\n{more}\r\n{value}"


def parsed(body: bytes, content_type: str = TYPE) -> list[tuple[str, bytes, bytes | None, bytes]]:
    return [
        (part.name, bytes(part.content), part.filename, part.content_type)
        for part in multipart.parse(body, content_type)
    ]


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (disposition('name="model"', "whisper-1"), ("model", b"whisper-1", None, b"")),
        (disposition("name=model", ""), ("model", b"", None, b"")),
        (
            disposition('name="file"; filename="a b.wav"', "RIFF", "Content-Type: audio/wav\r\n"),
            ("file", b"RIFF", b"a b.wav", b"audio/wav"),
        ),
        (disposition('filename="x\\"y"; NAME="file"'), ("file", b"v", b'x"y', b"")),
        (disposition('name="file"; filename="a%22b"'), ("file", b"v", b'a"b', b"")),
        (
            disposition('name="file"; filename="a"; filename*=UTF-8\'\'%C3%A4.wav'),
            ("file", b"v", "ä.wav".encode(), b""),
        ),
        (disposition('name="image[]"; filename=""', "\r\n--c\r\n"), ("image[]", b"\r\n--c\r\n", b"", b"")),
    ],
)
def test_a_part_is_read_as_clients_write_it(part: str, expected: tuple[str, bytes, bytes | None, bytes]) -> None:
    assert parsed(form(part)) == [expected]


@pytest.mark.parametrize(
    "content_type", ['multipart/form-data; charset=utf-8; boundary="b"', "multipart/form-data;BOUNDARY=b"]
)
def test_a_boundary_is_found_in_any_spelling(content_type: str) -> None:
    assert len(parsed(b"preamble\r\n" + form(disposition('name="a"'), disposition('name="b"')), content_type)) == 2


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--b--",
        b"--b\r\n",
        form()[:-6],
        form(disposition('name="a"'))[:-8],
        form("Content-Type: text/plain\r\n\r\nv"),
        form(disposition('filename="a"')),
        form(disposition('name="a"; name="b"')),
        form(disposition('name="a"', more="x: " + "y" * 9000 + "\r\n")),
        b'--bb\r\nContent-Disposition: form-data; name="a"\r\n\r\nv\r\n--b--',
        b'--b\nContent-Disposition: form-data; name="a"\n\nv\n--b--',
        form(*[disposition('name="a[]"')] * 300),
        form('Content-Disposition: form-data; name="a"\r\n\r\nv\r\n--bx'),
    ],
)
def test_a_body_that_is_no_form_is_refused(body: bytes) -> None:
    if body == b"--b--":
        assert parsed(body) == []
        return
    with pytest.raises(InvalidRequest):
        parsed(body)


def test_a_form_without_a_boundary_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="boundary"):
        parsed(form(), "multipart/form-data")


NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters='"\\%'), min_size=1, max_size=20
)
PARTS = st.builds(
    Part,
    NAMES,
    st.binary(max_size=200).map(memoryview),
    st.one_of(st.none(), st.binary(max_size=20).map(lambda name: name.translate(None, b'"\\\r\n\0%'))),
    st.sampled_from([b"", b"audio/wav", b"image/png"]),
)


@given(st.lists(PARTS, max_size=5))
def test_a_form_that_was_made_anew_says_the_same(parts: list[Part]) -> None:
    body, content_type = multipart.encode(parts)
    found = parsed(body, content_type)
    assert found == [(part.name, bytes(part.content), part.filename, part.content_type) for part in parts]


def test_another_parser_finds_the_same_in_a_form_made_anew() -> None:
    hostile = form(
        disposition('name="model"', "cheap"),
        disposition('name="prompt"', '"\r\nContent-Disposition: form-data; name="model"\r\n\r\ndear'),
        disposition('name="file"; filename="a\\"; name=\\"model"', "x", "Content-Type: audio/wav\r\n"),
    )
    body, content_type = multipart.encode(multipart.parse(hostile, TYPE))
    environ = EnvironBuilder(method="POST", data=body, content_type=content_type).get_environ()
    _, fields, files = FormDataParser(silent=False).parse_from_environ(environ)
    assert fields.getlist("model") == ["cheap"]
    assert set(fields) == {"model", "prompt"}
    assert set(files) == {"file"}


def test_a_large_or_hostile_body_takes_no_time() -> None:
    big = form(disposition('name="file"; filename="a"', "x" * 26_000_000))
    seams = form(disposition('name="file"; filename="a"', "\r\n--" * 5_000_000))
    headers = b"--b\r\n" + b"\r\n--b\r\n" * 1_000_000
    began = time.process_time()
    assert len(multipart.encode(multipart.parse(big, TYPE))[0]) > 26_000_000
    assert len(multipart.parse(seams, TYPE)) == 1
    with pytest.raises(InvalidRequest):
        multipart.parse(headers, TYPE)
    assert time.process_time() - began < 1, "0.05 s is usual"
