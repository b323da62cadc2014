"""Grammar of a plain HTTP/1.1 head, for parsers that read it with one regular expression.

Stricter than RFC 9112: no folded lines, no bare line feeds, nothing before the start line. Whatever does not match is
for a full parser to judge. The quantifiers are possessive: they never go back, so a match takes as long as its input.
"""

from __future__ import annotations

import re

_NAME = r"[0-9A-Za-z!#$%&'*+\-.^_`|~]++"
TEXT = r"[^\x00-\x08\x0a-\x1f\x7f]*+"  # a field's value: RFC 9110, 5.5
_FIELDS = rf"((?:{_NAME}:{TEXT}\r\n)*+)"


def head(start_line: str) -> re.Pattern[bytes]:
    """Returns the pattern of a whole head that begins with `start_line`; its last group are the lines of the fields."""
    return re.compile(rf"{start_line}\r\n{_FIELDS}\r\n".encode("ascii"))
