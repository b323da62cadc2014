"""Requests, written from the neutral form."""

from __future__ import annotations

from typing import Any

from app.domain.content import Format, Message, Prompt, Reasoning, Text, Tool, ToolChoice
from app.providers.dialects.dialect import Outgoing
from app.providers.dialects.responses.items_out import KIND, ItemWriter, inner_name
from app.providers.dialects.responses.parts import TITLE
from app.providers.dialects.tool_ids import IdRule, with_valid_ids

ID_RULE = IdRule(most=64)
_SERVICE_TIERS = frozenset({"auto", "default", "flex", "scale", "priority", "fast", "ultrafast"})
_MIN_OUTPUT_TOKENS = 16  # the API refuses a smaller bound
# Thinking budgets in tokens up to which an effort is the nearest; a small one is `low`, which still thinks.
_EFFORTS = ((4_096, "low"), (16_384, "medium"))


def encode_request(prompt: Prompt, outgoing: Outgoing) -> dict[str, Any]:
    """Returns the body that asks for `prompt`. The vendor is told to keep nothing: the gateway does."""
    outgoing.check(prompt, TITLE)
    prompt = with_valid_ids(prompt, ID_RULE)
    _refuse_unknown(prompt, outgoing)
    body: dict[str, Any] = {"model": outgoing.model, **_conversation(prompt, outgoing), "store": False}
    include: list[str] = []
    if outgoing.stream:
        body["stream"] = True
    if prompt.tools:
        body["tools"] = _tools(prompt.tools, outgoing)
    if prompt.tool_choice is not None:
        body["tool_choice"] = _tool_choice(prompt.tool_choice, prompt.tools)
    text = {"format": _format(prompt.format), "verbosity": prompt.verbosity}
    if prompt.format is not None or prompt.verbosity is not None:
        body["text"] = {name: value for name, value in text.items() if value is not None}
    reasoning = _reasoning(prompt.reasoning)
    if reasoning:
        body["reasoning"] = reasoning
    # A model that does not reason refuses to include it.
    if reasoning or (prompt.reasoning and prompt.reasoning.adaptive) or any(i.get(KIND) for i in body["input"]):
        include.append("reasoning.encrypted_content")
    if prompt.top_logprobs is not None:
        include.append("message.output_text.logprobs")
    optional = {
        "include": include or None,
        "parallel_tool_calls": prompt.parallel_tool_calls,
        "max_output_tokens": _bound(prompt, outgoing),
        "temperature": prompt.temperature,
        "top_p": prompt.top_p,
        "top_logprobs": prompt.top_logprobs,
        "user": prompt.user or None,
        "service_tier": _service_tier(prompt, outgoing),
        "prompt_cache_key": prompt.cache_key or None,
    }
    return body | {name: value for name, value in optional.items() if value is not None}


def _refuse_unknown(prompt: Prompt, outgoing: Outgoing) -> None:
    if prompt.top_k is not None:
        outgoing.leave_out("top_k")
    if prompt.stop:
        outgoing.refuse("stop", TITLE)
    if prompt.seed is not None:
        outgoing.refuse("seed", TITLE)
    for name in ("presence_penalty", "frequency_penalty"):
        if getattr(prompt, name):  # 0 is what the API does
            outgoing.refuse(name, TITLE)


def _conversation(prompt: Prompt, outgoing: Outgoing) -> dict[str, Any]:
    writer = ItemWriter(outgoing, prompt.tools)
    messages = prompt.messages
    instructions = _instructions(messages[0]) if len(messages) > 1 else None
    for i, message in enumerate(messages):
        if i or instructions is None:
            writer.add(message, f"messages[{i}]")
    found: dict[str, Any] = {"input": writer.items}
    if instructions is not None:
        found["instructions"] = instructions
    return found


def _instructions(message: Message) -> str | None:
    """Returns the text of a first message of the system's, if it is one block: items keep blocks apart."""
    if message.role != "system" or message.name or len(message.blocks) != 1:
        return None
    block = message.blocks[0]
    return block.text if isinstance(block, Text) and block.cache is None and block.text else None


def _tools(tools: tuple[Tool, ...], outgoing: Outgoing) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    namespaces: dict[str, dict[str, Any]] = {}
    for tool in tools:
        if tool.cache is not None:
            outgoing.leave_out("cache_control")
        if not tool.namespace:
            found.append(_tool(tool, tool.name))
            continue
        group = namespaces.get(tool.namespace)
        if group is None:
            group = {"type": "namespace", "name": tool.namespace, "description": "", "tools": []}
            namespaces[tool.namespace] = group
            found.append(group)
        group["tools"].append(_tool(tool, inner_name(tool.namespace, tool.name)))
    return found


def _tool(tool: Tool, name: str) -> dict[str, Any]:
    described = {"description": tool.description} if tool.description else {}
    if tool.custom:
        grammar = {"format": {"type": "grammar", **tool.grammar}} if tool.grammar else {}
        return {"type": "custom", "name": name, **described, **grammar}
    schema = tool.schema if tool.schema is not None else {"type": "object", "properties": {}}
    # Unsaid means strict here, and not strict in every other dialect.
    return {"type": "function", "name": name, **described, "parameters": schema, "strict": bool(tool.strict)}


def _tool_choice(choice: ToolChoice, tools: tuple[Tool, ...]) -> str | dict[str, Any]:
    custom = {tool.name for tool in tools if tool.custom}
    namespaces = {tool.name: tool.namespace for tool in tools if tool.namespace}
    if not choice.names:
        return choice.mode
    named = [
        {"type": "custom" if name in custom else "function", "name": name}
        if name not in namespaces
        else {"type": "function", "name": inner_name(namespaces[name], name), "namespace": namespaces[name]}
        for name in choice.names
    ]
    if choice.mode == "required" and len(named) == 1:
        return named[0]
    return {"type": "allowed_tools", "mode": "required" if choice.mode == "required" else "auto", "tools": named}


def _format(form: Format | None) -> dict[str, Any] | None:
    if form is None or form.kind == "json_object":
        return None if form is None else {"type": "json_object"}
    found: dict[str, Any] = {"type": "json_schema", "name": form.name or "answer", "schema": form.schema or {}}
    if form.strict is not None:
        found["strict"] = form.strict
    if form.description:
        found["description"] = form.description
    return found


def _reasoning(reasoning: Reasoning | None) -> dict[str, str]:
    if reasoning is None:
        return {}
    effort = reasoning.effort
    if effort is None and reasoning.budget_tokens is not None:
        budget = reasoning.budget_tokens
        effort = next((name for most, name in _EFFORTS if budget <= most), "high") if budget > 0 else "none"
    found = {"effort": effort} if effort else {}
    return {**found, "summary": reasoning.show} if reasoning.show else found


def _bound(prompt: Prompt, outgoing: Outgoing) -> int | None:
    if outgoing.max_output_tokens is not None:
        return outgoing.max_output_tokens
    asked = prompt.max_output_tokens
    return None if asked is None else max(asked, _MIN_OUTPUT_TOKENS)


def _service_tier(prompt: Prompt, outgoing: Outgoing) -> str | None:
    if prompt.service_tier and prompt.service_tier not in _SERVICE_TIERS:
        outgoing.leave_out("service_tier")
        return None
    return prompt.service_tier or None
