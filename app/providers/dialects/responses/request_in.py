"""Requests, read into the neutral form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import msgspec

from app.domain.content import Format, Message, Prompt, Reasoning, Text, Tool, ToolChoice
from app.domain.generation import GenerationRequest
from app.domain.responses import ResponsesRequest
from app.errors import InvalidRequest
from app.providers.dialects.responses.items_in import Turns
from app.providers.dialects.responses.names import flat_name

_decode = msgspec.json.Decoder().decode
# What the gateway does itself, whatever the vendor: it keeps answers, writes carriers of reasoning, and never pads.
_SERVED = frozenset({"model", "stream", "store", "stream_options", "background"})
_HINTS = frozenset(
    {
        "metadata",
        "client_metadata",
        "safety_identifier",
        "truncation",
        "prompt_cache_options",
        "prompt_cache_retention",
        "context_management",
        "max_tool_calls",
        "image",
    }
)
_TOOL_HINTS = frozenset({"defer_loading", "output_schema"})
_DIRECT = (["direct"], ["direct", "programmatic"], ["programmatic", "direct"])
_FUNCTION_FIELDS = frozenset({"type", "name", "description", "parameters", "strict", "format"})
_LOGPROBS = "message.output_text.logprobs"
_ENCRYPTED = "reasoning.encrypted_content"
_T = TypeVar("_T")


def decode_request(request: GenerationRequest) -> Prompt:
    """Returns what the request asks."""
    served = served_by_gateway(request)
    fields = {name: _decoded(name, value) for name, value in request.fields.items() if name not in served}
    return _Reader(fields).prompt(request.model)


def _decoded(name: str, value: msgspec.Raw) -> Any:
    try:
        return _decode(value)
    except (msgspec.DecodeError, RecursionError):
        raise InvalidRequest(f"The value is not valid JSON: `{name}`.", param=name) from None


def served_by_gateway(request: GenerationRequest) -> tuple[str, ...]:
    """Returns the fields that no vendor is to see: what they ask for has been done."""
    return ("previous_response_id",) if isinstance(request, ResponsesRequest) and request.continued else ()


class _Reader:
    """Reads one request: takes field by field, and sorts what is left into hints and foreign fields."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._left = {name: value for name, value in fields.items() if value is not None and name not in _SERVED}
        self._stream = bool(fields.get("stream"))
        self._hints: dict[str, Any] = {}
        self._foreign: dict[str, Any] = {}

    def prompt(self, model: str) -> Prompt:
        return Prompt(
            model=model,
            messages=self._messages(),
            tools=self._tools(),
            tool_choice=self._tool_choice(),
            parallel_tool_calls=self._typed("parallel_tool_calls", bool),
            **self._text(),
            reasoning=self._reasoning(),
            max_output_tokens=self._typed("max_output_tokens", int),
            temperature=self._number("temperature"),
            top_p=self._number("top_p"),
            presence_penalty=self._number("presence_penalty"),
            frequency_penalty=self._number("frequency_penalty"),
            top_logprobs=self._logprobs(),
            user=self._string("user") or self._string("safety_identifier"),
            service_tier=self._string("service_tier"),
            cache_key=self._string("prompt_cache_key"),
            stream=self._stream,
            hints=self._hints,
            foreign=self._rest(),
        )

    def _messages(self) -> tuple[Message, ...]:
        turns = Turns(self._hints, self._foreign)
        given = self._left.pop("input", "")
        for i, item in enumerate([{"role": "user", "content": given}] if isinstance(given, str) else given):
            _check_object(item, f"input[{i}]")
            turns.add(item, f"input[{i}]")
        instructions = self._string("instructions")
        first = (Message(role="system", blocks=(Text(text=instructions),)),) if instructions else ()
        return first + turns.messages

    def _tools(self) -> tuple[Tool, ...]:
        tools: list[Tool] = []
        for i, tool in enumerate(self._typed("tools", list) or ()):
            _check_object(tool, f"tools[{i}]")
            if tool.get("type") == "namespace" and isinstance(tool.get("tools"), list):
                namespace = str(tool.get("name") or "")
                if tool.get("description"):
                    self._hints[f"tools[{i}].description"] = tool["description"]
                for j, inner in enumerate(tool["tools"]):
                    _check_object(inner, f"tools[{i}].tools[{j}]")
                    tools += self._tool(inner, f"tools[{i}].tools[{j}]", namespace)
            else:
                tools += self._tool(tool, f"tools[{i}]", "")
        return tuple(tools)

    def _tool(self, tool: Any, path: str, namespace: str) -> list[Tool]:
        kind = tool.get("type") if isinstance(tool, dict) else None
        name = tool.get("name") if isinstance(tool, dict) else None
        if kind not in ("function", "custom") or not isinstance(name, str):
            self._foreign[f"{path}.{kind}"] = tool
            return []
        for field, value in tool.items():
            if field not in _FUNCTION_FIELDS and value not in (None, False):
                harmless = field in _TOOL_HINTS or (field == "allowed_callers" and value in _DIRECT)
                (self._hints if harmless else self._foreign)[f"{path}.{field}"] = value
        form = tool.get("format")
        grammar = None
        if kind == "custom" and isinstance(form, dict) and form.get("type") == "grammar":
            grammar = {name: form.get(name) for name in ("syntax", "definition")}
        return [
            Tool(
                name=flat_name(namespace, name) if namespace else name,
                description=_checked(tool.get("description"), str, f"{path}.description") or "",
                schema=_checked(tool.get("parameters"), dict, f"{path}.parameters"),
                strict=_checked(tool.get("strict"), bool, f"{path}.strict"),
                custom=kind == "custom",
                grammar=grammar,
                namespace=namespace,
            )
        ]

    def _tool_choice(self) -> ToolChoice | None:
        choice = self._left.pop("tool_choice", None)
        if choice is None:
            return None
        if choice in ("auto", "none", "required"):
            return ToolChoice(mode=choice)
        if isinstance(choice, dict):
            if choice.get("type") in ("function", "custom") and isinstance(choice.get("name"), str):
                return ToolChoice(mode="required", names=(_choice_name(choice),))
            allowed = choice.get("tools")
            if choice.get("type") == "allowed_tools" and isinstance(allowed, list):
                named = [tool for tool in allowed if isinstance(tool, dict) and isinstance(tool.get("name"), str)]
                mode: Literal["auto", "required"] = "required" if choice.get("mode") == "required" else "auto"
                if len(named) == len(allowed):
                    return ToolChoice(mode=mode, names=tuple(map(_choice_name, named)))
        self._foreign["tool_choice"] = choice
        return None

    def _text(self) -> dict[str, Any]:
        text = self._typed("text", dict) or {}
        for name in text.keys() - {"format", "verbosity"}:
            if text[name] is not None:
                self._foreign[f"text.{name}"] = text[name]
        form = _checked(text.get("format"), dict, "text.format") or {}
        kind = form.get("type", "text")
        found: Format | None = None
        if kind == "json_object":
            found = Format(kind="json_object")
        elif kind == "json_schema":
            found = Format(
                kind="json_schema",
                name=_checked(form.get("name"), str, "text.format.name") or "",
                schema=_checked(form.get("schema"), dict, "text.format.schema"),
                strict=_checked(form.get("strict"), bool, "text.format.strict"),
                description=_checked(form.get("description"), str, "text.format.description") or "",
            )
        elif kind != "text":
            self._foreign[f"text.format.{kind}"] = form
        return {"format": found, "verbosity": _checked(text.get("verbosity"), str, "text.verbosity")}

    def _reasoning(self) -> Reasoning | None:
        reasoning = self._typed("reasoning", dict) or {}
        for name in reasoning.keys() - {"effort", "summary", "generate_summary"}:
            if reasoning[name] is not None:
                paid = name == "mode" and reasoning[name] != "standard"  # `pro` asks for another kind of answer
                (self._foreign if paid else self._hints)[f"reasoning.{name}"] = reasoning[name]
        effort = _checked(reasoning.get("effort"), str, "reasoning.effort")
        show = _checked(reasoning.get("summary") or reasoning.get("generate_summary"), str, "reasoning.summary")
        return Reasoning(effort=effort, show=show) if effort or show else None

    def _logprobs(self) -> int | None:
        included = self._typed("include", list) or ()
        wanted = self._typed("top_logprobs", int)
        for i, name in enumerate(included):
            if name == _LOGPROBS:
                wanted = wanted or 0
            elif name != _ENCRYPTED:
                self._hints[f"include[{i}]"] = name
        return wanted

    def _rest(self) -> dict[str, Any]:
        for name, value in self._left.items():
            (self._hints if name in _HINTS else self._foreign)[name] = value
        return self._foreign

    def _typed(self, name: str, kind: type[_T]) -> _T | None:
        return _checked(self._left.pop(name, None), kind, name)

    def _number(self, name: str) -> float | None:
        value = self._left.get(name)
        return self._left.pop(name) if isinstance(value, int | float) and not isinstance(value, bool) else None

    def _string(self, name: str) -> str:
        return str(self._left.pop(name)) if isinstance(self._left.get(name), str) else ""


def _choice_name(choice: dict[str, Any]) -> str:
    namespace = choice.get("namespace")
    return flat_name(namespace, choice["name"]) if isinstance(namespace, str) and namespace else str(choice["name"])


def _checked(value: Any, kind: type[_T], path: str) -> _T | None:
    """Returns `value`, which may be None. Raises `InvalidRequest` if it is of another type than `kind`."""
    if value is None or (isinstance(value, kind) and not (kind is int and isinstance(value, bool))):
        return value
    raise InvalidRequest(f"Expected `{kind.__name__}`, got `{type(value).__name__}`: `{path}`.", param=path)


def _check_object(value: Any, path: str) -> None:
    """Raises `InvalidRequest` for anything that is no object, null among it."""
    if not isinstance(value, dict):
        raise InvalidRequest(f"Expected `object`, got `{type(value).__name__}`: `{path}`.", param=path)
