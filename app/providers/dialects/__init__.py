"""Dialects: the wire formats of callers and vendors, and a codec for each between it and the neutral form."""

from __future__ import annotations

from app.providers.dialects import chat, gemini, messages, responses
from app.providers.dialects.dialect import Dialect

# One line each, in alphabetical order of the modules.
DIALECTS: dict[str, Dialect] = {
    "chat": chat.DIALECT,
    "gemini": gemini.DIALECT,
    "messages": messages.DIALECT,
    "responses": responses.DIALECT,
}
