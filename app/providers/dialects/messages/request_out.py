"""A vendor's request, written from the neutral form."""

from __future__ import annotations

from typing import Any

from app.domain.content import Prompt, Tool
from app.errors import InvalidRequest
from app.providers.dialects import custom_tools
from app.providers.dialects.dialect import Outgoing
from app.providers.dialects.messages.blocks_out import write_blocks, write_mark
from app.providers.dialects.messages.thinking import TITLE, sampling_fields, thinking_fields
from app.providers.dialects.messages.turns import split
from app.providers.dialects.tool_ids import IdRule, with_valid_ids

RULE = IdRule("a-zA-Z0-9_-", 64)
_MAX_MARKS = 4
_TIERS = {"auto": "auto", "default": "standard_only", "priority": "auto"}


def encode_request(prompt: Prompt, outgoing: Outgoing) -> dict[str, Any]:
    """Returns the body. Raises `Untranslatable`, and `InvalidRequest` for a conversation in which nothing is said."""
    outgoing.check(prompt, TITLE)
    prompt = with_valid_ids(prompt, RULE)
    _refuse_unknown(prompt, outgoing)
    max_tokens = outgoing.max_output_tokens
    if max_tokens is None:
        max_tokens = prompt.max_output_tokens or outgoing.model_max_output_tokens
    system, messages = _conversation(prompt, outgoing)
    thinking = thinking_fields(prompt, outgoing, max_tokens)
    config: dict[str, Any] = {}
    if "effort" in thinking:
        config["effort"] = thinking.pop("effort")
    answer_format = _format(prompt, outgoing)
    if answer_format is not None:
        config["format"] = answer_format
    tools = [_tool(tool) for tool in _allowed(prompt)]
    fields = {
        "model": outgoing.model,
        "max_tokens": max_tokens,
        "system": system,
        "messages": messages,
        "tools": tools,
        "tool_choice": _tool_choice(prompt) if tools else None,
        "stop_sequences": _stop(prompt, outgoing),
        "metadata": {"user_id": prompt.user} if prompt.user else None,
        "output_config": config,
        **thinking,
        **sampling_fields(prompt, outgoing, thinks=thinking.get("thinking", {}).get("type", "disabled") != "disabled"),
        **_tier(prompt, outgoing),
        "stream": outgoing.stream or None,
    }
    body = {name: value for name, value in fields.items() if value not in (None, [], {})}
    _limit_marks(body, outgoing)
    return body


def _refuse_unknown(prompt: Prompt, outgoing: Outgoing) -> None:
    """Refuses what this dialect has no field for, and notes what may be left out."""
    if prompt.seed is not None:
        outgoing.refuse("seed", TITLE)
    if prompt.presence_penalty:
        outgoing.refuse("presence_penalty", TITLE)
    if prompt.frequency_penalty:
        outgoing.refuse("frequency_penalty", TITLE)
    if prompt.top_logprobs is not None:
        outgoing.refuse("top_logprobs" if prompt.top_logprobs else "logprobs", TITLE)
    if prompt.verbosity is not None:
        outgoing.leave_out("verbosity")
    if prompt.cache_key:
        outgoing.leave_out("prompt_cache_key")
    if any(message.name for message in prompt.messages):
        outgoing.leave_out("messages[].name")


def _conversation(prompt: Prompt, outgoing: Outgoing) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns the system prompt and the messages."""
    blocks, turns = split(prompt, outgoing)
    system = write_blocks(blocks, "system", outgoing)
    messages: list[dict[str, Any]] = []
    for i, turn in enumerate(turns):
        content = write_blocks(turn.blocks, f"messages[{i}].content", outgoing)
        if content:
            messages.append({"role": turn.role, "content": content})
    if not messages:
        raise InvalidRequest(
            f"Expected at least one message with text, which the {TITLE} API demands.", param="messages"
        )
    last = messages[-1]
    if last["role"] == "assistant" and last["content"][-1]["type"] == "text":
        last["content"][-1]["text"] = last["content"][-1]["text"].rstrip()  # of a begun answer: the vendors demand it
    return system, messages


def _allowed(prompt: Prompt) -> tuple[Tool, ...]:
    """Returns the tools that may be called: a choice among some of them cannot be said otherwise."""
    choice = prompt.tool_choice
    if choice is None or not choice.names or (choice.mode == "required" and len(choice.names) == 1):
        return prompt.tools
    return tuple(tool for tool in prompt.tools if tool.name in choice.names)


def _tool(tool: Tool) -> dict[str, Any]:
    value: dict[str, Any] = {"name": tool.name}
    described = custom_tools.description(tool) if tool.custom else tool.description
    if described:
        value["description"] = described
    if tool.custom:
        value["input_schema"] = custom_tools.schema()
    else:
        value["input_schema"] = {**(tool.schema or {"properties": {}}), "type": "object"}
    if tool.strict is not None:
        value["strict"] = tool.strict
    if tool.cache is not None:
        value["cache_control"] = write_mark(tool.cache)
    return value


def _tool_choice(prompt: Prompt) -> dict[str, Any] | None:
    choice = prompt.tool_choice
    value: dict[str, Any]
    if choice is None:
        value = {"type": "auto"}
    elif choice.mode == "required":
        value = {"type": "tool", "name": choice.names[0]} if len(choice.names) == 1 else {"type": "any"}
    else:
        value = {"type": choice.mode}
    if prompt.parallel_tool_calls is not None and value["type"] != "none":
        return {**value, "disable_parallel_tool_use": not prompt.parallel_tool_calls}
    return value if choice is not None else None


def _format(prompt: Prompt, outgoing: Outgoing) -> dict[str, Any] | None:
    if prompt.format is None:
        return None
    if prompt.format.kind == "json_object" or prompt.format.schema is None:
        outgoing.refuse("response_format", TITLE)
        return None
    return {"type": "json_schema", "schema": closed(prompt.format.schema)}


def closed(schema: Any) -> Any:
    """Returns the schema with all of its objects closed to other fields, as this dialect demands of each."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    changed = {
        name: closed(value) if name not in ("enum", "const", "default") else value for name, value in schema.items()
    }
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        changed.setdefault("additionalProperties", False)
    return changed


def _stop(prompt: Prompt, outgoing: Outgoing) -> list[str]:
    """Returns the stop sequences. The vendors refuse those of white space."""
    visible = [text for text in prompt.stop if text.strip()]
    if len(visible) < len(prompt.stop):
        outgoing.refuse("stop", TITLE)
    return visible


def _tier(prompt: Prompt, outgoing: Outgoing) -> dict[str, Any]:
    if not prompt.service_tier:
        return {}
    if prompt.service_tier == "fast":
        return {"speed": "fast"}
    if prompt.service_tier not in _TIERS:
        outgoing.refuse("service_tier", TITLE)
        return {}
    return {"service_tier": _TIERS[prompt.service_tier]}


def _limit_marks(body: dict[str, Any], outgoing: Outgoing) -> None:
    """Takes the first cache marks away where there are more than the vendors accept: the last ones cover the most.

    A mark of an hour behind one of five minutes becomes one of five minutes: the vendors accept no other order.
    """
    blocks: list[dict[str, Any]] = [*body.get("tools", ()), *body.get("system", ())]
    for message in body["messages"]:
        for block in message["content"]:
            inner = block.get("content")
            blocks += inner if block["type"] == "tool_result" and isinstance(inner, list) else ()
            blocks.append(block)
    marked = [block for block in blocks if "cache_control" in block]
    for block in marked[:-_MAX_MARKS]:
        del block["cache_control"]
        outgoing.leave_out("cache_control")
    short = False
    for block in marked[-_MAX_MARKS:]:
        if short and block["cache_control"].pop("ttl", "5m") != "5m":
            outgoing.leave_out("cache_control.ttl")
        short = short or block["cache_control"].get("ttl") != "1h"
