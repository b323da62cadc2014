"""Tools and the choice among them, to and from the neutral form."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from app.domain.body import encode
from app.domain.content import Block, CacheMark, Format, Prompt, Tool, ToolCall, ToolChoice, ToolResult
from app.errors import InvalidRequest
from app.providers.dialects.custom_tools import description, schema, wrap
from app.providers.dialects.dialect import Outgoing
from app.providers.dialects.fields import Fields

_MODES = {"auto": "auto", "none": "none", "required": "required", "any": "required"}  # any: Mistral's word


def decode_tools(body: Fields) -> tuple[Tool, ...]:
    """Returns the caller's tools. Any of another type than function and custom is foreign."""
    return tuple(tool for fields in body.objects("tools") if (tool := _decode_tool(fields)) is not None)


def _decode_tool(fields: Fields) -> Tool | None:
    kind = fields.text("type") or "function"
    if kind not in ("function", "custom"):
        fields.is_foreign(kind)
        return None
    cache = fields.object("cache_control")
    mark = None
    if cache is not None:
        cache.any("type")
        ttl = cache.text("ttl")
        mark = CacheMark(ttl=ttl if ttl in ("5m", "1h") else "")
    inner = Fields(fields.require(kind, dict), fields.at(kind), fields.notes)
    fields.rest_is_hint()
    name, description = inner.require("name", str), inner.text("description")
    if kind == "custom":
        form = inner.object("format")
        grammar = form.take("grammar", dict) if form is not None else None
        inner.rest_is_hint()
        return Tool(name=name, description=description, custom=True, grammar=grammar, cache=mark)
    tool = Tool(
        name=name,
        description=description,
        schema=inner.take("parameters", dict),
        strict=inner.take("strict", bool),
        cache=mark,
    )
    inner.rest_is_hint()
    return tool


def decode_tool_choice(body: Fields) -> ToolChoice | None:
    """Returns how tools may be used."""
    path = body.at("tool_choice")
    choice = body.any("tool_choice")
    if choice is None:
        return None
    if isinstance(choice, str):
        return ToolChoice(mode=_mode(choice, path))
    fields = Fields(choice, path, body.notes)
    kind = fields.text("type") or "function"
    inner = Fields(fields.require(kind, dict), fields.at(kind), body.notes)
    if kind in ("function", "custom"):
        return ToolChoice(mode="required", names=(inner.require("name", str),))
    if kind != "allowed_tools":
        raise InvalidRequest(f"Expected function, custom or allowed_tools: `{path}.type`.", param=f"{path}.type")
    names = []
    for tool in inner.objects("tools"):
        named = tool.object(tool.text("type") or "function")
        if named is None:
            tool.is_foreign()
        else:
            names.append(named.require("name", str))
    return ToolChoice(mode=_mode(inner.text("mode") or "auto", f"{inner.path}.mode"), names=tuple(names))


def _mode(word: str, path: str) -> Any:
    if word not in _MODES:
        raise InvalidRequest(f"Expected auto, none or required: `{path}`.", param=path)
    return _MODES[word]


def encode_tools(prompt: Prompt, outgoing: Outgoing) -> list[dict[str, Any]]:
    """Returns the tools."""
    return [_encode_tool(tool, outgoing) for tool in prompt.tools]


def _encode_tool(tool: Tool, outgoing: Outgoing) -> dict[str, Any]:
    if tool.cache is not None:
        outgoing.leave_out("cache_control")
    inner: dict[str, Any] = {"name": tool.name}
    if tool.description:
        inner["description"] = tool.description
    if tool.custom:
        if tool.grammar is not None:
            inner["format"] = {"type": "grammar", "grammar": tool.grammar}
        return {"type": "custom", "custom": inner}
    if tool.schema is not None:
        inner["parameters"] = tool.schema
    if tool.strict is not None:
        inner["strict"] = tool.strict
    return {"type": "function", "function": inner}


def encode_tool_choice(prompt: Prompt) -> Any:
    """Returns the choice; None if the caller made none."""
    choice = prompt.tool_choice
    if choice is None or not choice.names or choice.mode == "none":
        return choice and choice.mode
    custom = {tool.name for tool in prompt.tools if tool.custom}
    named = [_named(name, "custom" if name in custom else "function") for name in choice.names]
    if choice.mode == "required" and len(named) == 1:
        return named[0]
    return {"type": "allowed_tools", "allowed_tools": {"mode": choice.mode, "tools": named}}


def _named(name: str, kind: str) -> dict[str, Any]:
    return {"type": kind, kind: {"name": name}}


def decode_format(body: Fields) -> Format | None:
    """Returns the form of the answer in `response_format`."""
    fields = body.object("response_format")
    if fields is None:
        return None
    kind = fields.text("type")
    if kind == "json_schema":
        inner = Fields(fields.require("json_schema", dict), fields.at("json_schema"), body.notes)
        return Format(
            kind="json_schema",
            name=inner.text("name"),
            schema=inner.take("schema", dict),
            strict=inner.take("strict", bool),
            description=inner.text("description"),
        )
    if kind == "json_object":
        return Format(kind="json_object")
    if kind != "text":
        fields.is_foreign(kind)
    return None


def encode_format(form: Format) -> dict[str, Any]:
    """Returns `response_format`."""
    if form.kind == "json_object":
        return {"type": "json_object"}
    inner: dict[str, Any] = {"name": form.name or "answer", "schema": form.schema or {}}
    if form.description:
        inner["description"] = form.description
    if form.strict is not None:
        inner["strict"] = form.strict
    return {"type": "json_schema", "json_schema": inner}


def without_custom_tools(prompt: Prompt) -> Prompt:
    """Returns the prompt with its custom tools, their calls and results as functions that take one text."""
    customs = [tool.custom for tool in prompt.tools]
    customs += [block.custom for message in prompt.messages for block in message.blocks if isinstance(block, ToolCall)]
    if not any(customs):
        return prompt
    tools = tuple(
        replace(tool, custom=False, grammar=None, description=description(tool), schema=schema())
        if tool.custom
        else tool
        for tool in prompt.tools
    )
    messages = tuple(
        replace(message, blocks=tuple(map(_without_custom, message.blocks))) for message in prompt.messages
    )
    return replace(prompt, tools=tools, messages=messages)


def _without_custom(block: Block) -> Block:
    if isinstance(block, ToolCall) and block.custom:
        return replace(block, custom=False, arguments=encode(wrap(block.arguments)).decode())
    return replace(block, custom=False) if isinstance(block, ToolResult) and block.custom else block
