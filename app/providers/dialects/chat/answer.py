"""Completions, to and from the neutral form."""

from __future__ import annotations

from app.domain.content import Answer
from app.providers.dialects.dialect import Framing


def decode_answer(body: bytes, origin: str) -> Answer:
    """Returns the completion in `body`. Raises `ValueError` for a body that is none."""
    raise NotImplementedError


def encode_answer(answer: Answer, framing: Framing) -> bytes:
    """Returns `answer` as a completion."""
    raise NotImplementedError
