"""Escaping of text from outside for log lines and messages: no line breaks, no terminal escapes."""

from __future__ import annotations


def printable(text: str) -> str:
    """Returns `text` with Python's escapes for characters that cannot be printed."""
    return text if text.isprintable() else "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
