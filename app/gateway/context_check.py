"""Context check: refuses a prompt that no target of the model can hold, before one of them is asked."""

from __future__ import annotations

from collections.abc import Callable, Collection

import msgspec

from app.config.gateway import GatewayConfig
from app.domain.chat import EmbedRequest
from app.domain.content import Prompt
from app.domain.generation import GenerationRequest
from app.domain.media import MediaRequest
from app.errors import ContextOverflow, InvalidRequest
from app.gateway.model_facts import ModelFacts
from app.gateway.pricing import Pricing
from app.gateway.routes import Target
from app.gateway.token_counts import least_tokens

# A body with fewer bytes for each token of the window is sent: only numbers and base64 have more tokens, and the vendor
# refuses them. So most calls are done with a comparison, and those of agents near the window's end are not counted with
# every turn, which takes 20 ms of the processor for half a megabyte.
_BYTES_PER_TOKEN = 3
_SHORT_BYTES = 4096 * _BYTES_PER_TOKEN  # fits any window
# Fields with which a vendor shortens a long conversation itself.
_SHORTENED_BY = {"context_management": None, "truncation": b'"disabled"', "transforms": b"[]"}
# The beta of Anthropic's in which a model takes longer prompts than its window.
_LONGER = b"context-1m"


class ContextCheck:
    """`decode` turns a caller's request into the neutral form, in which its texts are counted."""

    def __init__(
        self, *, config: GatewayConfig, pricing: Pricing, decode: Callable[[GenerationRequest], Prompt]
    ) -> None:
        self._facts = ModelFacts(config=config, pricing=pricing)
        self._decode = decode

    def check(
        self, request: GenerationRequest | EmbedRequest | MediaRequest, targets: Collection[Target], headers: bytes
    ) -> None:
        """Raises `ContextOverflow` for a generation whose text alone has more tokens than any of the targets takes, by
        a count that theirs is not below. What cannot be counted passes. `headers` go on to vendors."""
        if not isinstance(request, GenerationRequest):
            return
        size = len(request.raw) - request.inline_bytes
        if size <= _SHORT_BYTES:
            return
        maximum = self._facts.longest_prompt(targets)
        if maximum is None or size <= maximum * _BYTES_PER_TOKEN or _is_made_to_fit(request, headers):
            return
        try:
            prompt = self._decode(request)
        except (InvalidRequest, ValueError):  # the vendor, or the translation, has the better message
            return
        tokens = least_tokens(prompt, {target.model for target in targets})
        if tokens > maximum:
            raise ContextOverflow(tokens, maximum)


def _is_made_to_fit(request: GenerationRequest, headers: bytes) -> bool:
    """Returns whether the vendor is asked to shorten the prompt, or to take a longer one than usual."""
    none = msgspec.Raw(b"null")
    shortened = any(bytes(request.fields.get(name, none)) not in (b"null", off) for name, off in _SHORTENED_BY.items())
    return shortened or _LONGER in headers.lower()
