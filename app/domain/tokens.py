"""Token estimates without a tokenizer."""

from __future__ import annotations

import re

BYTES_PER_TOKEN = 4  # of English text
_ESCAPED = re.compile(rb"\\u[0-9a-fA-F]{4}")
_LETTERS = bytes(range(65, 91)) + bytes(range(97, 123)) + b" "
_ASCII = bytes(range(128))


def estimate_tokens(raw: bytes) -> int:
    """Returns about the count of a byte-level tokenizer.

    That is a token for four letters and for each digit or sign, and three tokens for four bytes of other alphabets.
    """
    text = _ESCAPED.sub(b"\xff\xff", raw)
    signs = text.translate(None, _LETTERS)
    others = len(signs.translate(None, _ASCII))
    return (len(text) - len(signs)) // BYTES_PER_TOKEN + len(signs) - others + others * 3 // 4
