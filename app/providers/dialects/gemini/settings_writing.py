"""Requests in the neutral form, written for Gemini: tools, the answer's form, sampling and thinking.

Source: Google's API reference, "GenerationConfig", "Tool" and "ToolConfig", and its guide "Thinking".
"""

from __future__ import annotations

import re
from typing import Any

from app.domain.content import Prompt, Reasoning, Tool
from app.providers.dialects.dialect import Outgoing
from app.providers.dialects.gemini.schemas import write_schema

# Models that do not think refuse to be told how much.
_THOUGHTLESS = re.compile(r"(?:^|/)(?:gemini-(?:1|2\.0|pro|flash)\b|gemma|learnlm)")
_BY_BUDGET = re.compile(r"(?:^|/)gemini-2\.5\b")
# As Google's own translation of OpenAI's efforts has it.
_BUDGETS = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24_576, "xhigh": 24_576, "max": 24_576}
_LEVELS = {"low": "LOW", "medium": "MEDIUM", "high": "HIGH", "xhigh": "HIGH", "max": "HIGH"}
_MAX_BUDGET, _MAX_PRO_BUDGET, _MIN_PRO_BUDGET = 24_576, 32_768, 128
_LOW_BUDGET, _MEDIUM_BUDGET = 4_096, 16_384
_SERVICE_TIERS = frozenset({"flex", "priority"})
_ORDINARY_TIERS = frozenset({"", "auto", "default", "standard", "standard_only"})


def write_settings(prompt: Prompt, outgoing: Outgoing) -> dict[str, Any]:
    """Returns the fields of the body beside the conversation."""
    body: dict[str, Any] = {}
    if prompt.tools:
        body["tools"] = [{"functionDeclarations": [_declaration(tool) for tool in prompt.tools]}]
        calling = _calling(prompt)
        if calling is not None:
            body["toolConfig"] = {"functionCallingConfig": calling}
        if prompt.parallel_tool_calls is False:
            outgoing.leave_out("parallel_tool_calls")
    config = _config(prompt, outgoing)
    if config:
        body["generationConfig"] = config
    if prompt.service_tier in _SERVICE_TIERS:
        body["serviceTier"] = prompt.service_tier
    elif prompt.service_tier not in _ORDINARY_TIERS:
        outgoing.leave_out("service_tier")
    return body


def _declaration(tool: Tool) -> dict[str, Any]:
    found: dict[str, Any] = {"name": tool.name}
    description, schema = tool.description, tool.schema
    if tool.custom:
        # A tool that reads free text is one with a single argument here.
        schema = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
        definition = (tool.grammar or {}).get("definition")
        if isinstance(definition, str):
            description = f"{description}\n\nThe input must match this grammar:\n{definition}".strip()
    if description:
        found["description"] = description
    if schema is not None:
        found["parametersJsonSchema"] = write_schema(schema)
    return found


def _calling(prompt: Prompt) -> dict[str, Any] | None:
    choice = prompt.tool_choice
    if choice is None:
        return None
    if choice.mode == "none":
        return {"mode": "NONE"}
    names = {"allowedFunctionNames": list(choice.names)} if choice.names else {}
    if choice.mode == "required":
        return {"mode": "ANY", **names}
    return {"mode": "VALIDATED", **names} if names else {"mode": "AUTO"}


def _config(prompt: Prompt, outgoing: Outgoing) -> dict[str, Any]:
    bound = outgoing.max_output_tokens if outgoing.max_output_tokens is not None else prompt.max_output_tokens
    values: dict[str, Any] = {
        "maxOutputTokens": bound,
        "temperature": prompt.temperature,
        "topP": prompt.top_p,
        "topK": prompt.top_k,
        "stopSequences": list(prompt.stop) or None,
        "seed": prompt.seed,
        "presencePenalty": prompt.presence_penalty,
        "frequencyPenalty": prompt.frequency_penalty,
    }
    if prompt.top_logprobs is not None:
        values["responseLogprobs"] = True
        values["logprobs"] = prompt.top_logprobs or None
    if prompt.format is not None:
        values["responseMimeType"] = "application/json"
        if prompt.format.schema is not None:
            values["responseJsonSchema"] = write_schema(prompt.format.schema)
    if prompt.reasoning is not None:
        values["thinkingConfig"] = _thinking(prompt.reasoning, outgoing) or None
    for path, value in (("verbosity", prompt.verbosity), ("prompt_cache_key", prompt.cache_key)):
        if value:
            outgoing.leave_out(path)
    return {name: value for name, value in values.items() if value is not None}


def _thinking(reasoning: Reasoning, outgoing: Outgoing) -> dict[str, Any]:
    if _THOUGHTLESS.search(outgoing.model):
        outgoing.leave_out("reasoning")
        return {}
    found: dict[str, Any] = {}
    if _BY_BUDGET.search(outgoing.model):
        budget = _budget(reasoning, is_pro="-pro" in outgoing.model)
        if budget is not None:
            found["thinkingBudget"] = budget
    else:
        level = _level(reasoning, is_flash="flash" in outgoing.model)
        if level is not None:
            found["thinkingLevel"] = level
    # A caller that names a budget, or leaves it to the model, is of a dialect that shows thinking unasked.
    if reasoning.show or (reasoning.show is None and (reasoning.adaptive or reasoning.budget_tokens is not None)):
        found["includeThoughts"] = True
    return found


def _budget(reasoning: Reasoning, *, is_pro: bool) -> int | None:
    if reasoning.effort is not None:
        tokens = _BUDGETS.get(reasoning.effort)
    elif reasoning.budget_tokens is not None:
        tokens = reasoning.budget_tokens
    else:
        return -1 if reasoning.adaptive else None
    if tokens is None:
        return None
    return min(max(tokens, _MIN_PRO_BUDGET), _MAX_PRO_BUDGET) if is_pro else min(tokens, _MAX_BUDGET)


def _level(reasoning: Reasoning, *, is_flash: bool) -> str | None:
    if reasoning.effort in ("none", "minimal"):
        return "MINIMAL" if is_flash else "LOW"  # the other models have no MINIMAL
    if reasoning.effort is not None:
        return _LEVELS.get(reasoning.effort)
    tokens = reasoning.budget_tokens
    if tokens is None:
        return None
    return "LOW" if tokens <= _LOW_BUDGET else "MEDIUM" if tokens <= _MEDIUM_BUDGET else "HIGH"
