"""Text from outside as it may stand in a log line or a message: without line breaks and terminal escapes."""

from __future__ import annotations


def printable(text: str) -> str:
    """`text` with escapes, as Python writes them, for what cannot be printed."""
    return text if text.isprintable() else "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
