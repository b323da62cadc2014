"""Dialects: the wire formats of callers and vendors, and a codec for each between it and the neutral form."""

from __future__ import annotations

from app.domain.content import Prompt
from app.domain.generation import GenerationRequest
from app.errors import InvalidRequest
from app.providers.dialects import chat, gemini, messages, responses
from app.providers.dialects.dialect import Dialect

_MAX_MESSAGES = 10_000
# One line each, in alphabetical order of the modules.
DIALECTS: dict[str, Dialect] = {
    "chat": chat.DIALECT,
    "gemini": gemini.DIALECT,
    "messages": messages.DIALECT,
    "responses": responses.DIALECT,
}


def decode_request(request: GenerationRequest) -> Prompt:
    """Returns what a request means. Raises `InvalidRequest`, also for one that is too long or nested to be translated.

    Objects take time here, not bytes, and nothing else in the worker runs meanwhile: half a second for 10,000 messages.
    """
    if request.message_count > _MAX_MESSAGES:
        raise InvalidRequest(f"More than {_MAX_MESSAGES} messages cannot be translated for the model's vendor.")
    try:
        return DIALECTS[request.dialect].decode_request(request)
    except RecursionError:
        raise InvalidRequest("The request is nested too deeply.") from None
