"""Multipart forms (RFC 7578): the parts of a body that is in memory, and such a body made anew of them.

A form that goes to a vendor is always encoded anew: no parser can then find another field in it than we did. The
parts' contents are never copied before that.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from app.errors import InvalidRequest

_MAX_PARTS = 256
_MAX_HEADER_BYTES = 8192
_BOUNDARY = re.compile(
    r';\s*boundary=(?:"([^"]{1,200})"|([^\s";,]{1,200}))', re.IGNORECASE
)  # 70 at most, but Werkzeug's has more
_DISPOSITION = re.compile(rb"^content-disposition:[ \t]*form-data[ \t]*(;.*)$", re.IGNORECASE | re.MULTILINE)
_PARAMETER = re.compile(rb';[ \t]*([a-z*]+)[ \t]*=[ \t]*(?:"((?:[^"\\\r\n]|\\.)*)"|([^\s;"]*))', re.IGNORECASE)
_CONTENT_TYPE = re.compile(rb"^content-type:[ \t]*([\x20-\x7e]+?)[ \t]*$", re.IGNORECASE | re.MULTILINE)
_ESCAPED = re.compile(rb'["\\\r\n\x00]')  # the backslash, since some parsers take it for an escape


class Part(NamedTuple):
    """A field of a form, or a file where it has a `filename`. `content` is a view of the body."""

    name: str
    content: memoryview
    filename: bytes | None = None
    content_type: bytes = b""

    def text(self) -> str:
        """Returns the field's value. Raises `InvalidRequest` when it is not UTF-8, or is a file."""
        try:
            if self.filename is None:
                return str(self.content, "utf-8")
        except UnicodeDecodeError:
            pass
        raise InvalidRequest(f"Expected a text: `{self.name}`.", param=self.name)


def parse(body: bytes, content_type: str) -> list[Part]:
    """Returns the form's parts. Raises `InvalidRequest`. Takes no longer for a body of hostile make."""
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise InvalidRequest("The request's Content-Type names no boundary of the form.")
    delimiter = b"--" + (found[1] or found[2]).encode("utf-8", "surrogateescape")
    at = 0 if body.startswith(delimiter) else _find(body, b"\r\n" + delimiter, 0) + 2
    view = memoryview(body)
    parts: list[Part] = []
    while True:
        at += len(delimiter)
        if body.startswith(b"--", at):
            return parts
        start, name, filename, kind = _headers(body, at)
        end = _find(body, b"\r\n" + delimiter, start)
        parts.append(Part(name, view[start:end], filename, kind))
        if len(parts) > _MAX_PARTS:
            raise InvalidRequest(f"The form has too many fields: expected at most {_MAX_PARTS}.")
        at = end + 2


def encode(parts: Iterable[Part | tuple[str, bytes]]) -> tuple[bytes, str]:
    """Returns a form with these parts, or texts by name, and its content type."""
    boundary = os.urandom(16).hex()  # in no content, but by chance
    blocks: list[bytes | memoryview] = []
    for part in parts:
        name, content, *rest = part
        filename, kind = rest or (None, b"")
        head = b'--%b\r\nContent-Disposition: form-data; name="%b"' % (boundary.encode(), _quoted(name.encode()))
        if filename is not None:
            head += b'; filename="%b"' % _quoted(filename)
        if kind:
            head += b"\r\nContent-Type: %b" % kind
        blocks += [head, b"\r\n\r\n", content, b"\r\n"]
    blocks.append(b"--%b--\r\n" % boundary.encode())
    return b"".join(blocks), f"multipart/form-data; boundary={boundary}"


def _headers(body: bytes, at: int) -> tuple[int, str, bytes | None, bytes]:
    """Returns where the content of the part begins whose delimiter ends at `at`, and its name, filename and type."""
    end = body.find(b"\r\n\r\n", at, at + _MAX_HEADER_BYTES)
    lines = body[at:end].replace(b"\r\n", b"\n") if end >= 0 else b""
    disposition = _DISPOSITION.search(lines)
    # A delimiter is followed by white space and the end of its line, and by nothing else.
    if disposition is None or lines.partition(b"\n")[0].strip(b" \t"):
        raise _malformed()
    name: str | None = None
    filename: bytes | None = None
    for key, quoted, plain in _PARAMETER.findall(disposition[1]):
        value = _unescaped(quoted) if quoted else plain
        if key.lower() == b"name":
            if name is not None:
                raise _malformed()
            name = value.decode("utf-8", "replace")
        elif key.lower() == b"filename" and filename is None:
            filename = value
        elif key.lower() == b"filename*":
            filename = unquote_to_bytes(value.rpartition(b"'")[2])
    if name is None or "\ufffd" in name:
        raise _malformed()
    kind = _CONTENT_TYPE.search(lines)
    return end + 4, name, filename, kind[1] if kind else b""


def _unescaped(quoted: bytes) -> bytes:
    # Browsers write %22 for a quote (HTML, "Multipart form data"), others a backslash before it.
    return re.sub(rb"\\(.)", rb"\1", quoted).replace(b"%22", b'"')


def _quoted(value: bytes) -> bytes:
    return _ESCAPED.sub(lambda found: b"%%%02X" % found[0][0], value)


def _find(body: bytes, delimiter: bytes, start: int) -> int:
    at = body.find(delimiter, start)
    if at < 0:
        raise _malformed()
    return at


def _malformed() -> InvalidRequest:
    return InvalidRequest("The request body is not valid multipart/form-data.")
