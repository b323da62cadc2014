"""Implied usage: what a request lets a vendor bill besides tokens, and what it implies that the answer does not report.

A vendor's own tools are billed by the use (web search), by the tokens that they add to the prompt, or at a price that
no answer tells. The tools of each dialect are those of the vendors' API references.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from app.domain.generation import GenerationRequest
from app.domain.requests import CallRequest
from app.domain.usage import Details, Usage

# Models that search the web for every answer: OpenAI's, OpenRouter's suffix for any model, Perplexity's.
_SEARCH_MODEL = re.compile(r"-search-preview|-search-api|:online$|(^|/)sonar")
# Models whose Google search is billed once a prompt, however many queries the model made; later ones bill each query.
_BILLED_BY_PROMPT = re.compile(r"(^|/)gemini-[12]\b")
# Web searches for one answer that a budget must have room for: our choice, where the caller names no bound.
MAX_SEARCHES = 25
# Tokens that one use of a vendor's tool adds to the prompt, that a budget must have room for: our choice as well.
TOKENS_PER_USE = 10_000

# Chat tools of OpenRouter's and other vendors', as {"type": "openrouter:web_search"}. A function of the caller's own
# has type "function", whatever its name.
_CHAT_SEARCH = re.compile(rb'"type"\s*:\s*"[^"]*search')
_MESSAGES_FREE = re.compile(r"custom|(bash|text_editor|computer|memory|tool_search_tool)_.*|mcp_toolset")
_MESSAGES_READING = re.compile(r"(web_fetch|code_execution)_.*")
_RESPONSES_FREE = frozenset(
    {
        "function",
        "custom",
        "namespace",
        "tool_search",
        "local_shell",
        "apply_patch",
        "computer",
        "computer_use_preview",
        "programmatic_tool_calling",
    }
)
_GEMINI_FREE = frozenset({"functiondeclarations", "computeruse"})
_GEMINI_READING = frozenset({"urlcontext", "codeexecution", "filesearch", "mcpservers"})
_GEMINI_SEARCHES = frozenset({"googlesearch", "googlesearchretrieval"})


class Fees(NamedTuple):
    """The most that an answer can be billed for besides its own tokens.

    `prompt_tokens` are those that the vendor's tools add. `unknown` names what nobody knows the price of, "" for none.
    """

    searches: int = 0
    file_searches: int = 0
    prompt_tokens: int = 0
    unknown: str = ""

    def plus(self, other: Fees) -> Fees:
        """Returns the sum."""
        return Fees(
            self.searches + other.searches,
            self.file_searches + other.file_searches,
            self.prompt_tokens + other.prompt_tokens,
            self.unknown or other.unknown,
        )


_NONE = Fees()
_READS = Fees(prompt_tokens=MAX_SEARCHES * TOKENS_PER_USE)


def with_implied_usage(usage: Usage, request: CallRequest, model: str, kind: str = "openai") -> Usage:
    """Returns `usage` with what `model` bills besides: a search that was requested and not reported counts as one.

    `kind` is the provider's. Those of OpenAI's dialects report no lifetime of cache writes: where a chat request asks
    for an hour, all are for an hour.
    """
    if not isinstance(request, GenerationRequest):
        return usage
    details = usage.details
    if details is None and not request.web_search_options and not _always_searches(model):
        return usage
    if (details is None or not details.searches) and searches_web(request, model):
        details = (details or Details())._replace(searches=1)
    if details is not None and kind == "openai" and request.dialect == "chat":
        if details.cache_write_tokens and b'"1h"' in request.raw:
            details = details._replace(cache_write_1h_tokens=details.cache_write_tokens)
    elif details is not None and details.searches > 1 and kind == "gemini" and _BILLED_BY_PROMPT.search(model):
        details = details._replace(searches=1)
    return usage if details is usage.details else usage._replace(details=details)


def searches_web(request: GenerationRequest, model: str) -> bool:
    """Returns whether an answer of `model` to `request` comes with a web search, reported or not."""
    return _given(request.web_search_options) or _always_searches(model)


def asked_tier(request: CallRequest) -> str:
    """Returns the service tier that the request asks for; "" for none."""
    if not isinstance(request, GenerationRequest):
        return ""
    if request.dialect == "messages" and bytes(request.fields.get("speed", b"")) == b'"fast"':
        return "fast"
    return request.service_tier or ""


def most_fees(request: CallRequest, model: str, *, translated: bool = False) -> Fees:
    """Returns the most that an answer of `model` can be billed for besides its own tokens.

    `translated`: to another dialect, into which no vendor's own tool is translated.
    """
    if not isinstance(request, GenerationRequest):
        return _NONE
    if translated:
        return Fees(searches=MAX_SEARCHES) if _always_searches(model) else _NONE
    if request.dialect == "chat":
        return _fees_of_chat(request, model)
    total = Fees(searches=MAX_SEARCHES) if searches_web(request, model) else _NONE
    if request.dialect == "messages" and _given(request.fields.get("fallbacks", b"")):
        total = total.plus(Fees(unknown="fallbacks"))
    if not request.tools:
        return total
    fees_of = _FEES_OF[request.dialect]
    for tool in _objects(request.tools):
        total = total.plus(fees_of(tool, model))
    return total


def max_searches(request: CallRequest, model: str) -> int:
    """Returns the most web searches that an answer of `model` can be billed for; 0 where the request allows none."""
    return most_fees(request, model).searches


def _fees_of_chat(request: GenerationRequest, model: str) -> Fees:
    allowed = _given(request.search_parameters) or _given(request.plugins) or searches_web(request, model)
    if not allowed and request.tools:
        allowed = _CHAT_SEARCH.search(bytes(request.tools)) is not None
    return Fees(searches=MAX_SEARCHES) if allowed else _NONE


def _fees_of_messages_tool(tool: dict[str, Any], _model: str) -> Fees:
    kind = tool.get("type") or "custom"
    if not isinstance(kind, str):
        return Fees(unknown="tools")
    if _MESSAGES_FREE.fullmatch(kind):
        return _NONE
    uses = _bound(tool.get("max_uses"), MAX_SEARCHES)
    if kind.startswith("web_search_"):
        return Fees(searches=uses, prompt_tokens=uses * TOKENS_PER_USE)
    if _MESSAGES_READING.fullmatch(kind):
        return Fees(prompt_tokens=uses * _bound(tool.get("max_content_tokens"), TOKENS_PER_USE))
    return Fees(unknown=kind)


def _fees_of_responses_tool(tool: dict[str, Any], _model: str) -> Fees:
    kind = tool.get("type")
    if not isinstance(kind, str):
        return Fees(unknown="tools")
    if kind in _RESPONSES_FREE:
        return _NONE
    if kind.startswith("web_search"):
        return _READS._replace(searches=MAX_SEARCHES)
    if kind == "file_search":
        return _READS._replace(file_searches=MAX_SEARCHES)
    if kind == "mcp":
        return _READS
    environment = tool.get("environment")
    if kind == "shell" and isinstance(environment, dict) and environment.get("type") == "local":
        return _NONE
    return Fees(unknown=kind)


def _fees_of_gemini_tool(tool: dict[str, Any], model: str) -> Fees:
    total = _NONE
    for name, value in tool.items():
        kind = name.replace("_", "").lower()
        if value is None or kind in _GEMINI_FREE:
            continue
        if kind in _GEMINI_SEARCHES:
            total = total.plus(Fees(searches=1 if _BILLED_BY_PROMPT.search(model) else MAX_SEARCHES))
        elif kind in _GEMINI_READING:
            total = total.plus(_READS)
        else:
            total = total.plus(Fees(unknown=name))
    return total


_FEES_OF = {
    "messages": _fees_of_messages_tool,
    "responses": _fees_of_responses_tool,
    "gemini": _fees_of_gemini_tool,
}


def _objects(raw: msgspec.Raw) -> Iterator[dict[str, Any]]:
    value = msgspec.json.decode(raw)
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, dict):
            yield each


def _bound(value: object, default: int) -> int:
    return value if type(value) is int and value >= 0 else default


@lru_cache(maxsize=1000)  # of the configuration's models
def _always_searches(model: str) -> bool:
    return _SEARCH_MODEL.search(model) is not None


def _given(field: msgspec.Raw | bytes) -> bool:
    return bool(field) and bytes(field) != b"null"
