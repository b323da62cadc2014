"""Thinking of a vendor's request: how much a model of this dialect is to think, and what that rules out.

Models from Claude 4.6 on decide themselves how much to think, guided by an effort; the older ones, and those of other
vendors who speak the dialect, are given a number of tokens.
"""

from __future__ import annotations

import re
from typing import Any

from app.domain.content import Prompt, Reasoning, Thinking, ToolCall, ToolResult
from app.providers.dialects.dialect import Outgoing

TITLE = "Anthropic messages"
_MIN_BUDGET = 1_024
_BUDGETS = {"minimal": 1_024, "low": 2_048, "medium": 8_192, "high": 16_384, "xhigh": 24_576, "max": 32_768}
# The largest budget that is yet this effort.
_EFFORTS = ((4_096, "low"), (16_384, "medium"))
_DEFAULT_EFFORT = "medium"
# Anthropic's names of models, with or without a cloud's prefix: claude-opus-4-8, anthropic.claude-sonnet-5-v1:0.
_VERSION = re.compile(r"claude-[a-z]+-(?P<major>\d{1,2})(?:[-.](?P<minor>\d{1,2})(?!\d))?")
_ADAPTIVE_FROM = (4, 6)
_FIXED_SAMPLING_FROM = (4, 7)
_NEAR_TOP_P = 0.95


def version(model: str) -> tuple[int, int]:
    """Returns the version in a Claude model's name; (0, 0) for any other model."""
    found = _VERSION.search(model)
    return (int(found["major"]), int(found["minor"] or 0)) if found else (0, 0)


def takes_effort(model: str) -> bool:
    """Returns whether the model decides itself how much to think. Such a model continues no begun answer, either."""
    return version(model) >= _ADAPTIVE_FROM


def thinking_fields(prompt: Prompt, outgoing: Outgoing, max_tokens: int) -> dict[str, Any]:
    """Returns the fields `thinking` and `output_config.effort` (as `effort`), as far as they are needed."""
    wanted = prompt.reasoning
    if wanted is None or (wanted.effort is None and wanted.budget_tokens is None and not wanted.adaptive):
        return {}
    if wanted.effort == "none" or wanted.budget_tokens == 0:
        return {"thinking": {"type": "disabled"}}
    if prompt.tool_choice is not None and prompt.tool_choice.mode == "required":
        outgoing.leave_out("reasoning")  # a model that must call a tool cannot think first
        return {}
    if takes_effort(outgoing.model):
        fields = _adaptive(wanted, outgoing)
    else:
        fields = _budgeted(wanted, prompt, outgoing, max_tokens)
    if "thinking" in fields and wanted.show is not None:
        fields["thinking"]["display"] = "summarized" if wanted.show else "omitted"
    return fields


def _adaptive(wanted: Reasoning, outgoing: Outgoing) -> dict[str, Any]:
    effort = wanted.effort
    if effort is None and wanted.budget_tokens is not None and wanted.budget_tokens > 0:
        outgoing.leave_out("reasoning.budget_tokens")
        effort = next((name for most, name in _EFFORTS if wanted.budget_tokens <= most), "high")
    fields: dict[str, Any] = {"thinking": {"type": "adaptive"}}
    if effort is not None:
        fields["effort"] = "low" if effort == "minimal" else effort
    return fields


def _budgeted(wanted: Reasoning, prompt: Prompt, outgoing: Outgoing, max_tokens: int) -> dict[str, Any]:
    budget = wanted.budget_tokens or 0
    if budget <= 0:
        budget = _BUDGETS.get(wanted.effort or _DEFAULT_EFFORT, _BUDGETS[_DEFAULT_EFFORT])
        budget = min(budget, max_tokens // 2)  # an effort is to leave room for the answer
    budget = min(max(budget, _MIN_BUDGET), max_tokens - 1)
    if budget < _MIN_BUDGET or _continues_unsigned_turn(prompt, outgoing):
        outgoing.leave_out("reasoning")
        return {}
    return {"thinking": {"type": "enabled", "budget_tokens": budget}}


def _continues_unsigned_turn(prompt: Prompt, outgoing: Outgoing) -> bool:
    """Returns whether the model is within a turn of tool calls whose thinking it cannot be given back.

    A turn that began without thinking must end without (Anthropic, "Extended thinking with tool use").
    """
    for message in reversed(prompt.messages):
        if message.role == "assistant":
            first = message.blocks[0] if message.blocks else None
            signature = first.signature if isinstance(first, Thinking) else None
            is_own = signature is not None and signature.origin == outgoing.origin
            return not is_own and any(isinstance(block, ToolCall) for block in message.blocks)
        if message.role == "user" and not any(isinstance(block, ToolResult) for block in message.blocks):
            return False
    return False


def sampling_fields(prompt: Prompt, outgoing: Outgoing, *, thinks: bool) -> dict[str, Any]:
    """Returns `temperature`, `top_p` and `top_k`. Newer models take nothing but the defaults, nor do thinking ones.

    Clients send their own defaults with every request: what is near the vendor's is left out, other values are refused.
    """
    fields: dict[str, Any] = {}
    fixed = thinks or version(outgoing.model) >= _FIXED_SAMPLING_FROM
    temperature, top_p = prompt.temperature, prompt.top_p
    if temperature is not None and (temperature > 1 or (fixed and temperature != 1)):
        outgoing.refuse("temperature", TITLE)
    elif temperature is not None and not (temperature == 1 and (fixed or top_p is not None)):
        fields["temperature"] = temperature
    if top_p is not None and fixed:
        if top_p < _NEAR_TOP_P:
            outgoing.refuse("top_p", TITLE)
        elif top_p < 1:
            outgoing.leave_out("top_p")
    elif top_p is not None:
        fields["top_p"] = top_p
    if prompt.top_k is not None and fixed:
        outgoing.leave_out("top_k")
    elif prompt.top_k is not None:
        fields["top_k"] = prompt.top_k
    return fields
