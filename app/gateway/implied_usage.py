"""Implied usage: web searches and lifetimes of cache writes that a request implies and the answer does not report."""

from __future__ import annotations

import re
from functools import lru_cache

import msgspec

from app.domain.chat import ChatRequest, EmbedRequest
from app.domain.usage import Details, Usage

# Models that search the web for every answer: OpenAI's, OpenRouter's suffix for any model, Perplexity's.
_SEARCH_MODEL = re.compile(r"-search-preview|-search-api|:online$|(^|/)sonar")
# OpenRouter's and other vendors' own tools, as {"type": "openrouter:web_search"}. A function of the caller's own has
# type "function", whatever its name.
_SEARCH_TOOL = re.compile(rb'"type"\s*:\s*"[^"]*search')
# Web searches for one answer that a budget must have room for: our choice, since vendors name no bound.
MAX_SEARCHES = 25


def with_implied_usage(usage: Usage, request: ChatRequest | EmbedRequest, model: str) -> Usage:
    """Returns `usage` with what `model` bills besides: a search that was requested and not reported counts as one.

    Vendors of this dialect report no lifetime of cache writes: where the request asks for an hour, all are for an hour.
    """
    if not isinstance(request, ChatRequest):
        return usage
    details = usage.details
    if details is None and not request.web_search_options and not _always_searches(model):
        return usage
    if (details is None or not details.searches) and searches_web(request, model):
        details = (details or Details())._replace(searches=1)
    if details is not None and details.cache_write_tokens and b'"1h"' in request.raw:
        details = details._replace(cache_write_1h_tokens=details.cache_write_tokens)
    return usage if details is usage.details else usage._replace(details=details)


def searches_web(request: ChatRequest, model: str) -> bool:
    """Returns whether an answer of `model` to `request` comes with a web search, reported or not."""
    return _given(request.web_search_options) or _always_searches(model)


def max_searches(request: ChatRequest | EmbedRequest, model: str) -> int:
    """Returns the most web searches that an answer of `model` can be billed for; 0 where the request allows none."""
    if not isinstance(request, ChatRequest):
        return 0
    allowed = _given(request.search_parameters) or _given(request.plugins) or searches_web(request, model)
    if not allowed and request.tools:
        allowed = _SEARCH_TOOL.search(bytes(request.tools)) is not None
    return MAX_SEARCHES if allowed else 0


@lru_cache(maxsize=1000)  # of the configuration's models
def _always_searches(model: str) -> bool:
    return _SEARCH_MODEL.search(model) is not None


def _given(field: msgspec.Raw) -> bool:
    return bool(field) and bytes(field) != b"null"
