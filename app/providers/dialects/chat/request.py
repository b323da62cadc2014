"""Requests for chat completions, to and from the neutral form."""

from __future__ import annotations

from typing import Any

from app.domain.content import Prompt
from app.domain.generation import GenerationRequest
from app.providers.dialects.dialect import Outgoing


def decode_request(request: GenerationRequest) -> Prompt:
    """Returns what the request asks."""
    raise NotImplementedError


def encode_request(prompt: Prompt, outgoing: Outgoing) -> dict[str, Any]:
    """Returns the body that asks for `prompt`."""
    raise NotImplementedError
