"""Overflow errors: recognises, by code or wording, a vendor's refusal of a prompt that its model's window cannot hold.

Wordings are of OpenAI, Anthropic, Gemini, vLLM, TGI, llama.cpp, Mistral, xAI, OpenRouter and Bedrock.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_CODES = frozenset({"context_length_exceeded", "exceed_context_size_error", "model_context_window_exceeded"})
_N = r"\D{0,3}(\d[\d,]*)"  # a number, perhaps in brackets or after a colon
# Each as it names the tokens and the maximum: the tokens first, the maximum first, or neither.
_TOKENS_FIRST = (
    rf"prompt is too long:{_N} tokens >{_N} maximum",
    rf"exceed context limit:{_N} \+ \d+ >{_N}",
    rf"input token count{_N}\)? exceeds the maximum number of tokens allowed{_N}",
    rf"input token count is{_N} but model only supports up to{_N}",
    rf"prompt \(length{_N}\) is longer than the maximum model length of{_N}",
    rf"prompt contains{_N} tokens.* too large for model with{_N} maximum context length",
    rf"request \({_N} tokens\) exceeds the available context size \({_N} tokens",
)
_MAXIMUM_FIRST = (
    rf"maximum context length is{_N} tokens?.*?\({_N} (?:in the messages|of text input|in your prompt)",
    rf"maximum context length is{_N} tokens?.*?(?:resulted in|requested(?: about)?|has|contains?|length is){_N}",
    rf"maximum prompt length is{_N} but the request contains{_N}",
    rf"`inputs`(?: tokens \+ `max_new_tokens`)? must (?:be <=|have less than){_N}(?: tokens)?\. given:{_N}",
)
_NEITHER = (
    r"maximum context length",
    r"exceeds? the (?:available )?context (?:window|size|length)",
    r"exceeds the maximum number of tokens",
    r"prompt is too long",
    r"input is too long for requested model",
    r"longer than the model's context length",
)
_PATTERNS = [
    *((re.compile(pattern), 1, 2) for pattern in _TOKENS_FIRST),
    *((re.compile(pattern), 2, 1) for pattern in _MAXIMUM_FIRST),
    *((re.compile(pattern), 0, 0) for pattern in _NEITHER),
]


class Overflow(NamedTuple):
    """The length of a prompt that was refused and the longest that is not, in tokens, as far as the vendor said."""

    tokens: int | None = None
    maximum: int | None = None


def find_overflow(message: str, code: str = "") -> Overflow | None:
    """Returns what an error says of a prompt that is too long; None for an error about something else."""
    text = message[:1000].lower()
    for pattern, tokens, maximum in _PATTERNS:
        found = pattern.search(text)
        if found:
            return Overflow(_number(found[tokens]), _number(found[maximum])) if tokens else Overflow()
    return Overflow() if code in _CODES else None


def _number(text: str) -> int:
    return int(text.replace(",", ""))
