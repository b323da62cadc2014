"""Requests of Gemini's callers, read into the neutral form: tools, the answer's form, sampling and thinking.

Source: Google's API reference, "GenerationConfig", "Tool" and "ToolConfig", and the google-genai package.
"""

from __future__ import annotations

from typing import Any

import msgspec

from app.domain.body import decode_body
from app.domain.content import Format, Reasoning, Tool, ToolChoice
from app.errors import InvalidRequest
from app.providers.dialects.gemini.schemas import read_schema

_READ = frozenset({"contents", "systemInstruction", "tools", "toolConfig", "generationConfig", "serviceTier", "model"})
_HINTS = frozenset({"safetySettings", "labels", "store"})
_CONFIG_HINTS = frozenset({"mediaResolution", "enableEnhancedCivicAnswers"})
_DECLARED = frozenset({"name", "description", "parameters", "parametersJsonSchema"})
# What Gemini's models take for themselves: a caller that says it, as Gemini CLI does in each call, asks for nothing
# else than one that does not, and other vendors have other defaults, or none of it.
_DEFAULTS = {"temperature": 1, "topP": 0.95, "topK": 64}


class _Thinking(msgspec.Struct, frozen=True, rename="camel"):
    thinking_level: str | None = None
    thinking_budget: int | None = None
    include_thoughts: bool | None = None


class _Config(msgspec.Struct, frozen=True, rename="camel"):
    temperature: float | None = None
    top_p: float | None = None
    top_k: float | None = None
    candidate_count: int | None = None
    max_output_tokens: int | None = None
    stop_sequences: list[str] | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    response_logprobs: bool | None = None
    logprobs: int | None = None
    response_mime_type: str | None = None
    response_schema: dict[str, Any] | None = None
    response_json_schema: Any = None
    response_modalities: list[str] | None = None
    thinking_config: _Thinking | None = None


class _Calling(msgspec.Struct, frozen=True, rename="camel"):
    mode: str | None = None
    allowed_function_names: list[str] | None = None
    stream_function_call_arguments: bool | None = None


class _ToolConfig(msgspec.Struct, frozen=True, rename="camel"):
    function_calling_config: _Calling | None = None


class _Settings(msgspec.Struct, frozen=True, rename="camel"):
    generation_config: _Config | None = None
    tool_config: _ToolConfig | None = None
    service_tier: str | None = None


_SETTINGS = msgspec.json.Decoder(_Settings)
_KNOWN_CONFIG = frozenset(msgspec.structs.fields(_Config)[i].encode_name for i in range(len(_Config.__struct_fields__)))
_CHOICES = {"NONE": "none", "ANY": "required"}


def read_settings(body: dict[str, Any], hints: dict[str, Any], foreign: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of the `Prompt` beside its messages; adds to `hints` and `foreign` what none of them says."""
    settings = decode_body(_SETTINGS, msgspec.json.encode({name: body.get(name) for name in _KNOWN_SETTINGS}))
    for name in body.keys() - _READ:
        if body[name] is not None:
            (hints if name in _HINTS else foreign)[name] = body[name]
    given = body.get("generationConfig") or {}
    config = settings.generation_config or _Config()
    for name in given.keys() - _KNOWN_CONFIG:
        if given[name] is not None:
            (hints if name in _CONFIG_HINTS else foreign)[f"generationConfig.{name}"] = given[name]
    if (config.candidate_count or 1) > 1:
        foreign["generationConfig.candidateCount"] = config.candidate_count
    if any(each.upper() != "TEXT" for each in config.response_modalities or ()):
        foreign["generationConfig.responseModalities"] = config.response_modalities
    tier = (settings.service_tier or "").lower()
    return {
        "tools": _tools(body.get("tools"), hints, foreign),
        "tool_choice": _choice(settings.tool_config, hints),
        "format": _format(config, foreign),
        "reasoning": _reasoning(config.thinking_config),
        "max_output_tokens": config.max_output_tokens,
        "stop": tuple(config.stop_sequences or ()),
        "seed": config.seed,
        "presence_penalty": config.presence_penalty,
        "frequency_penalty": config.frequency_penalty,
        "top_logprobs": (config.logprobs or 0) if config.response_logprobs else None,
        "service_tier": "" if tier in ("unspecified", "standard") else tier,
        **_sampling(config, hints),
    }


_KNOWN_SETTINGS = ("generationConfig", "toolConfig", "serviceTier")


def _sampling(config: _Config, hints: dict[str, Any]) -> dict[str, Any]:
    values = {"temperature": config.temperature, "topP": config.top_p, "topK": config.top_k}
    for name, default in _DEFAULTS.items():
        if values[name] == default:
            hints[f"generationConfig.{name}"] = default
            values[name] = None
    top_k = values["topK"]
    return {
        "temperature": values["temperature"],
        "top_p": values["topP"],
        "top_k": int(top_k) if top_k is not None else None,
    }


def _tools(value: Any, hints: dict[str, Any], foreign: dict[str, Any]) -> tuple[Tool, ...]:
    tools: list[Tool] = []
    for i, group in enumerate(_listed(value)):
        if not isinstance(group, dict):
            raise InvalidRequest(f"Expected an object: `tools[{i}]`.", param=f"tools[{i}]")
        for name, inner in group.items():
            if name != "functionDeclarations" and inner is not None:
                foreign[f"tools[{i}].{name}"] = inner
        for j, each in enumerate(_listed(group.get("functionDeclarations"))):
            tools.append(_tool(each, f"tools[{i}].functionDeclarations[{j}]", hints))
    return tuple(tools)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _tool(declared: Any, path: str, hints: dict[str, Any]) -> Tool:
    if not isinstance(declared, dict) or not isinstance(declared.get("name"), str):
        raise InvalidRequest(f"Expected a name: `{path}.name`.", param=f"{path}.name")
    schema = declared.get("parametersJsonSchema")
    if schema is None:
        schema = declared.get("parameters")
    if schema is not None and not isinstance(schema, dict):
        raise InvalidRequest(f"Expected an object: `{path}.parameters`.", param=f"{path}.parameters")
    for name in declared.keys() - _DECLARED:
        if declared[name] is not None:
            hints[f"{path}.{name}"] = declared[name]
    return Tool(
        name=declared["name"],
        description=declared.get("description") or "",
        schema=read_schema(schema) if schema is not None else None,
    )


def _choice(config: _ToolConfig | None, hints: dict[str, Any]) -> ToolChoice | None:
    calling = config.function_calling_config if config is not None else None
    if calling is None:
        return None
    if calling.stream_function_call_arguments:
        hints["toolConfig.functionCallingConfig.streamFunctionCallArguments"] = True
    names = tuple(calling.allowed_function_names or ())
    mode = (calling.mode or "").upper()
    if mode in ("", "MODE_UNSPECIFIED") and not names:
        return None
    if mode == "NONE":
        return ToolChoice(mode="none")
    return ToolChoice(mode="required" if mode == "ANY" else "auto", names=names)


def _format(config: _Config, foreign: dict[str, Any]) -> Format | None:
    kind = config.response_mime_type
    if kind in (None, "", "text/plain"):
        return None
    if kind != "application/json":
        foreign["generationConfig.responseMimeType"] = kind
        return None
    schema = config.response_json_schema if config.response_json_schema is not None else config.response_schema
    if not isinstance(schema, dict):
        return Format(kind="json_object")
    return Format(kind="json_schema", name="response", schema=read_schema(schema))


def _reasoning(thinking: _Thinking | None) -> Reasoning | None:
    if thinking is None:
        return None
    show = None if thinking.include_thoughts is None else "auto" if thinking.include_thoughts else ""
    level, budget = (thinking.thinking_level or "").lower(), thinking.thinking_budget
    effort = level if level and level != "thinking_level_unspecified" else None
    if effort is None and budget == 0:
        effort = "none"
    adaptive = effort is None and budget is not None and budget < 0
    tokens = budget if effort is None and budget is not None and budget > 0 else None
    if effort is None and tokens is None and not adaptive and show is None:
        return None
    return Reasoning(effort=effort, budget_tokens=tokens, adaptive=adaptive, show=show)
