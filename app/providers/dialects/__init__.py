"""Dialects: the wire formats of callers and vendors, and a codec for each between it and the neutral form."""

from __future__ import annotations

from app.domain.content import Prompt
from app.domain.generation import GenerationRequest
from app.providers.dialects import chat, gemini, messages, responses
from app.providers.dialects.dialect import Dialect

# One line each, in alphabetical order of the modules.
DIALECTS: dict[str, Dialect] = {
    "chat": chat.DIALECT,
    "gemini": gemini.DIALECT,
    "messages": messages.DIALECT,
    "responses": responses.DIALECT,
}


def decode_request(request: GenerationRequest) -> Prompt:
    """Returns what a request of any dialect asks."""
    return DIALECTS[request.dialect].decode_request(request)
