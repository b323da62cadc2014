"""Framing of translated answers: what an encoder is told of the call that it answers."""

from __future__ import annotations

import time

from app.domain.content import Prompt
from app.providers.base import ChatCall
from app.providers.dialects.dialect import Framing


def framing_of(call: ChatCall, prompt: Prompt) -> Framing:
    """Returns the framing of the answer to `call`, whose request means `prompt`."""
    return Framing(
        call_id=call.call_id.removeprefix("req_") or call.request_id,
        created=int(time.time()),
        prompt=prompt,
        fields=call.request.fields,
        include_usage=call.request.include_usage,
    )
