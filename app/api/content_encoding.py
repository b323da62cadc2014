"""Content encodings of request bodies: zstd (Codex), gzip and deflate, decoded within a bound on their length."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator

from app.domain.printable import printable
from app.errors import InvalidRequest, RequestTooLarge, UnsupportedMediaType

_BLOCK = 65_536
# What a decoder must at least support (RFC 8878, 3.1.1.1.2); a frame that wants more memory is refused.
_MAX_WINDOW_BYTES = 8_388_608
_MAX_NAME_CHARS = 32
_GZIP, _ZLIB, _RAW = zlib.MAX_WBITS | 16, zlib.MAX_WBITS, -zlib.MAX_WBITS


def decode_content(body: bytes, encoding: str, max_bytes: int, on_block: Callable[[int], None]) -> bytes:
    """Returns the body without its `Content-Encoding`. `on_block` gets the length of each block, and may raise.

    Raises `UnsupportedMediaType` for an encoding that is not known, `InvalidRequest` for a broken body, and
    `RequestTooLarge` as soon as more than `max_bytes` have been decoded: a small body may stand for gigabytes.
    """
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return body
    blocks = _DECODERS.get(name)
    if blocks is None:
        raise UnsupportedMediaType(
            f"Expected Content-Encoding: zstd, gzip or deflate; not `{printable(encoding[:_MAX_NAME_CHARS])}`."
        )
    decoded = bytearray()
    try:
        for block in blocks(body):
            on_block(len(block))
            decoded += block
            if len(decoded) > max_bytes:
                raise RequestTooLarge("The request body is too large.")
    except _Broken:
        raise InvalidRequest(f"The request body is not valid {name}.") from None
    return bytes(decoded)


class _Broken(Exception):
    """The body is not what its encoding says."""


def _zstd_blocks(body: bytes) -> Iterator[bytes]:
    # Loaded with the first body that needs it: 1 MB that most processes never do.
    import zstandard

    decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
    try:
        with decompressor.stream_reader(io.BytesIO(body), read_across_frames=True) as reader:
            while block := reader.read(_BLOCK):
                yield block
    except zstandard.ZstdError:
        raise _Broken from None


def _gzip_blocks(body: bytes) -> Iterator[bytes]:
    return _zlib_blocks(body, _GZIP)


def _deflate_blocks(body: bytes) -> Iterator[bytes]:
    # Some clients leave out the header that RFC 9110 wants.
    has_header = len(body) > 1 and body[0] & 0x0F == 8 and (body[0] << 8 | body[1]) % 31 == 0
    return _zlib_blocks(body, _ZLIB if has_header else _RAW)


def _zlib_blocks(body: bytes, window_bits: int) -> Iterator[bytes]:
    decompressor = zlib.decompressobj(window_bits)
    rest = body
    try:
        while not decompressor.eof:
            block = decompressor.decompress(rest, _BLOCK)
            rest = decompressor.unconsumed_tail
            if not block and not rest and not decompressor.eof:
                raise _Broken
            yield block
    except zlib.error:
        raise _Broken from None
    if decompressor.unused_data:
        raise _Broken


_DECODERS: dict[str, Callable[[bytes], Iterator[bytes]]] = {
    "zstd": _zstd_blocks,
    "gzip": _gzip_blocks,
    "x-gzip": _gzip_blocks,
    "deflate": _deflate_blocks,
}
