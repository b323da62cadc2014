"""A caller's request, read into the neutral form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import msgspec

from app.domain.body import decode_body, encode
from app.domain.content import Format, Message, Prompt, Reasoning, Role, Tool, ToolChoice, ToolResult
from app.domain.generation import GenerationRequest
from app.domain.messages import MessagesRequest
from app.providers.dialects.messages.blocks_in import Notes, cache_mark, read_content, read_texts
from app.providers.dialects.messages.reading import (
    integer_of,
    object_of,
    objects_of,
    required_text,
    text_of,
    wrong,
)

_BODY = msgspec.json.Decoder(dict[str, Any])
# Fields that are read elsewhere, or say to another dialect's vendor nothing that it must do.
_READ = frozenset(
    {
        "model",
        "messages",
        "system",
        "max_tokens",
        "stream",
        "temperature",
        "top_p",
        "top_k",
        "stop_sequences",
        "metadata",
        "tools",
        "tool_choice",
        "thinking",
        "output_config",
        "output_format",
        "service_tier",
        "speed",
    }
)
_HINTS = frozenset(
    {
        "cache_control",
        "context_management",
        "compaction",
        "diagnostics",
        "fallbacks",
        "fallback_credit_token",
        "billing_policy",
        "user_profile_id",
        "anthropic_version",
        "anthropic_beta",
        "betas",
    }
)
_TOOL_FIELDS = frozenset({"name", "description", "input_schema", "type", "strict", "cache_control"})
_TOOL_HINTS = frozenset({"defer_loading", "eager_input_streaming", "input_examples"})
_EFFORTS = ("low", "medium", "high", "xhigh", "max")
_TIERS = {"auto": "auto", "standard_only": "default"}


def decode_request(request: GenerationRequest) -> Prompt:
    """Returns what `request` asks for. Raises `InvalidRequest` whose `param` names the field."""
    parsed = cast(MessagesRequest, request)
    body = decode_body(_BODY, encode(request.fields))
    notes = Notes()
    for name, value in body.items():
        if name not in _READ and value is not None:
            (notes.hints if name in _HINTS else notes.foreign)[name[:64]] = value
    if parsed.max_tokens == 0:
        notes.foreign["max_tokens"] = 0  # no answer is wanted, but the vendor's cache written
    tools = _tools(body, notes)
    tool_choice, parallel = _tool_choice(body.get("tool_choice"))
    metadata = object_of(body.get("metadata"), "metadata")
    for name in metadata.keys() - {"user_id"}:
        notes.hints[f"metadata.{name[:64]}"] = metadata[name]
    messages = _messages(body, notes)
    reasoning, answer_format = _reasoning(body, notes), _format(body)
    return Prompt(
        model=request.model,
        messages=messages,
        tools=tools,
        tool_choice=tool_choice,
        parallel_tool_calls=parallel,
        format=answer_format,
        reasoning=reasoning,
        max_output_tokens=parsed.max_tokens or None,
        temperature=parsed.temperature,
        top_p=parsed.top_p,
        top_k=integer_of(body, "top_k", ""),
        stop=tuple(parsed.stop_sequences or ()),
        user=text_of(metadata, "user_id", "metadata"),
        service_tier="fast" if parsed.speed == "fast" else _service_tier(body, notes),
        stream=bool(request.stream),
        hints=notes.hints,
        foreign=notes.foreign,
    )


def _messages(body: dict[str, Any], notes: Notes) -> tuple[Message, ...]:
    messages: list[Message] = []
    system = body.get("system")
    if system is not None:
        messages.append(Message(role="system", blocks=read_texts(system, "system", notes)))
    given = objects_of(body["messages"], "messages")
    for i, value in enumerate(given):
        role = cast(Role, required_text(value, "role", f"messages[{i}]"))
        read: Callable[[Any, str, Notes], Any] = read_texts if role == "system" else read_content
        blocks = read(value.get("content"), f"messages[{i}].content", notes)
        results = tuple(block for block in blocks if isinstance(block, ToolResult))
        if results:
            blocks = results + tuple(block for block in blocks if not isinstance(block, ToolResult))
        messages.append(Message(role=role, blocks=blocks))
    if messages[-1].role == "assistant":
        # The vendors of this dialect go on with the text that it ends in; those of others begin another answer.
        notes.foreign[f"messages[{len(given) - 1}]"] = "prefill"
    return tuple(messages)


def _tools(body: dict[str, Any], notes: Notes) -> tuple[Tool, ...]:
    tools = []
    for i, value in enumerate(objects_of(body.get("tools"), "tools")):
        path, kind = f"tools[{i}]", text_of(value, "type", f"tools[{i}]")
        if kind not in ("", "custom"):
            notes.foreign[f"{path}.{kind[:64]}"] = value
            continue
        for name in value.keys() - _TOOL_FIELDS:
            harmless = name in _TOOL_HINTS or (name == "allowed_callers" and _is_direct(value[name]))
            where = f"tools[].{name}" if harmless else f"{path}.{name[:64]}"
            (notes.hints if harmless else notes.foreign)[where] = value[name]
        strict = value.get("strict")
        tools.append(
            Tool(
                name=required_text(value, "name", path),
                description=text_of(value, "description", path),
                schema=object_of(value.get("input_schema"), f"{path}.input_schema"),
                strict=strict if isinstance(strict, bool) else None,
                cache=cache_mark(value, path),
            )
        )
    return tuple(tools)


def _is_direct(callers: Any) -> bool:
    """Returns whether the model itself may call the tool, and not only code that the vendor runs."""
    return callers is None or (isinstance(callers, list) and "direct" in callers)


def _tool_choice(value: Any) -> tuple[ToolChoice | None, bool | None]:
    """Returns how tools may be used, and if several at once."""
    choice = object_of(value, "tool_choice")
    if not choice:
        return None, None
    disabled = choice.get("disable_parallel_tool_use")
    parallel = not disabled if isinstance(disabled, bool) else None
    kind = choice.get("type")
    if kind == "tool":
        return ToolChoice(mode="required", names=(required_text(choice, "name", "tool_choice"),)), parallel
    if kind == "any":
        return ToolChoice(mode="required"), parallel
    if kind in ("auto", "none"):
        return ToolChoice(mode=kind), parallel
    raise wrong("tool_choice.type", "`auto`, `any`, `tool` or `none`")


def _reasoning(body: dict[str, Any], notes: Notes) -> Reasoning | None:
    """Returns how much to think: `thinking` says if, and `output_config.effort` how much."""
    thinking = object_of(body.get("thinking"), "thinking")
    config = object_of(body.get("output_config"), "output_config")
    for name in config.keys() - {"effort", "format"}:
        notes.hints[f"output_config.{name[:64]}"] = config[name]
    effort = config.get("effort")
    if effort is not None and effort not in _EFFORTS:
        raise wrong("output_config.effort", "`low`, `medium`, `high`, `xhigh` or `max`")
    if not thinking:
        return Reasoning(effort=effort) if effort else None
    kind = thinking.get("type")
    if kind in ("disabled", "between_tools"):
        if effort:
            notes.hints["output_config.effort"] = effort
        return Reasoning(effort="none")
    show = {None: None, "summarized": "auto", "omitted": ""}.get(text_of(thinking, "display", "thinking") or None)
    if kind == "adaptive":
        return Reasoning(effort=effort, adaptive=True, show=show)
    if kind != "enabled":
        raise wrong("thinking.type", "`adaptive`, `enabled`, `between_tools` or `disabled`")
    budget = integer_of(thinking, "budget_tokens", "thinking")
    if budget is None or budget < 0:
        raise wrong("thinking.budget_tokens", "a number of tokens")
    return Reasoning(effort=effort, budget_tokens=budget, show=show)


def _format(body: dict[str, Any]) -> Format | None:
    """Returns the form of the answer, from `output_config.format` or its older place, `output_format`."""
    config = object_of(body.get("output_config"), "output_config")
    path = "output_config.format" if config.get("format") is not None else "output_format"
    value = object_of(config.get("format") or body.get("output_format"), path)
    if not value:
        return None
    if value.get("type") != "json_schema":
        raise wrong(f"{path}.type", "`json_schema`")
    schema = object_of(value.get("schema"), f"{path}.schema")
    # An answer always fits the schema here. Other dialects promise that only of schemas that list every field.
    return Format(kind="json_schema", name="answer", schema=schema, strict=True if _is_closed(schema) else None)


def _is_closed(schema: Any) -> bool:
    """Returns whether every object in the schema names all its fields, none of them optional."""
    if isinstance(schema, list):
        return all(map(_is_closed, schema))
    if not isinstance(schema, dict):
        return True
    properties = schema.get("properties")
    if isinstance(properties, dict):
        required = schema.get("required")
        names = {name for name in required if isinstance(name, str)} if isinstance(required, list) else set()
        if schema.get("additionalProperties") is not False or names != properties.keys():
            return False
    elif schema.get("type") == "object":
        return False
    return all(map(_is_closed, schema.values()))


def _service_tier(body: dict[str, Any], notes: Notes) -> str:
    tier = text_of(body, "service_tier", "") if body.get("service_tier") else ""
    if tier and tier not in _TIERS:
        notes.hints["service_tier"] = tier
    return _TIERS.get(tier, "")
