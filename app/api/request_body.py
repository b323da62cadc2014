"""Reader of a whole request body within a time limit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
from gunicorn.http.errors import ParseException

from app.errors import InvalidRequest

_BLOCK = 65_536


def read_body(source: Any, size: int, timeout_s: float, on_block: Callable[[int], None] | None = None) -> bytes:
    """Returns at most `size` bytes of `source`, a `wsgi.input`. `on_block` gets each block's length, and may raise.

    Raises `InvalidRequest` when they do not arrive within `timeout_s`, or not whole.
    """
    timeout = gevent.Timeout(timeout_s)
    try:
        with timeout:
            if on_block is None:
                body: bytes = source.read(size)
                return body
            blocks = bytearray()
            while len(blocks) < size and (block := source.read(min(_BLOCK, size - len(blocks)))):
                blocks += block
                on_block(len(block))
            return bytes(blocks)
    except gevent.Timeout as exc:
        if exc is not timeout:
            raise
        raise InvalidRequest(f"The request body did not arrive within {timeout_s:g} seconds.") from None
    except OSError:
        raise InvalidRequest("The request body ended early.") from None
    except ParseException:
        raise InvalidRequest("The request body is not validly chunked.") from None
