"""The head of an HTTP/1.1 message, cut into its lines if it is a plain one, for those who read requests and answers.

Python's own methods of `bytes` and `str` do it as fast as a parser in C that has to make objects of what it finds.
What is in doubt is refused here, and a full parser has the last word.
"""

from __future__ import annotations

import re
from functools import lru_cache

# What may stand in a line: RFC 9110, 5.5. Of the rest, only the line feeds and carriage returns of its end may occur.
_IN_A_LINE = bytes({9, *range(0x20, 0x7F), *range(0x80, 0x100)})
_TOKEN = re.compile(r"[0-9A-Za-z!#$%&'*+\-.^_`|~]+")


def lines_of(data: bytes) -> tuple[list[str], int] | None:
    """The lines of the head at the start of `data`, and where its body starts. None if the head is not all there, has a
    control character, or a line that does not end with CRLF."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = data[:end]
    lines = head.decode("latin-1").split("\r\n")
    if head.translate(None, _IN_A_LINE) != b"\r\n" * (len(lines) - 1):
        return None
    return lines, end + 4


@lru_cache(512)
def lower_name(name: str) -> str:
    """A field's name in lower case; "" for what is no name: empty, folded, with a space before its colon."""
    return name.lower() if _TOKEN.fullmatch(name) else ""
