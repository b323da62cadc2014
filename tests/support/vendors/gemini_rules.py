"""Rules of generateContent: what Google refuses."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.support.vendors.play import Offered, sign
from tests.support.vendors.rules import Fields, Strict, need

_DUMMIES = ("skip_thought_signature_validator", "context_engineering_is_the_way_to_go")


_DATA = {"text", "inlineData", "fileData", "functionCall", "functionResponse", "executableCode", "codeExecutionResult"}


_PART = _DATA | {"thought", "thoughtSignature", "videoMetadata", "mediaResolution", "partMetadata"}


_VERBATIM = ("args", "response", "parametersJsonSchema", "responseJsonSchema", "labels")


_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.:-]{0,127}")


_TYPES = {"STRING", "NUMBER", "INTEGER", "BOOLEAN", "ARRAY", "OBJECT", "NULL", "TYPE_UNSPECIFIED"}


_SCHEMA = {
    "type",
    "format",
    "title",
    "description",
    "nullable",
    "enum",
    "maxItems",
    "minItems",
    "properties",
    "required",
}


_SCHEMA |= {
    "minProperties",
    "maxProperties",
    "minLength",
    "maxLength",
    "pattern",
    "example",
    "anyOf",
    "propertyOrdering",
}


_SCHEMA |= {"default", "items", "minimum", "maximum"}


_TOOLS = {"functionDeclarations", "googleSearch", "codeExecution", "urlContext", "googleSearchRetrieval", "computerUse"}


_TOOLS |= {"fileSearch", "googleMaps"}


class Request(Strict):
    contents: list[Fields]
    systemInstruction: Fields | None = None
    tools: list[Fields] | None = None
    toolConfig: Fields | None = None
    safetySettings: list[Fields] | None = None
    generationConfig: Fields | None = None
    cachedContent: str | None = None
    serviceTier: str | None = None
    store: bool | None = None
    model: str | None = None  # in a count's `generateContentRequest`


class Options(Strict):
    stopSequences: list[str] | None = None
    responseMimeType: str | None = None
    responseSchema: Fields | None = None
    responseJsonSchema: Fields | bool | None = None
    responseFormat: Fields | None = None
    responseModalities: list[str] | None = None
    candidateCount: int | None = None
    maxOutputTokens: int | None = None
    temperature: float | None = None
    topP: float | None = None
    topK: float | None = None
    seed: int | None = None
    presencePenalty: float | None = None
    frequencyPenalty: float | None = None
    responseLogprobs: bool | None = None
    logprobs: int | None = None
    enableEnhancedCivicAnswers: bool | None = None
    speechConfig: Fields | None = None
    thinkingConfig: Fields | None = None
    imageConfig: Fields | None = None
    mediaResolution: str | None = None


def camel(value: Any, key: str = "") -> Any:
    """Returns `value` with each name in camel case: Google takes both spellings. Callers' own names stay."""
    if isinstance(value, list):
        return [camel(inner, key) for inner in value]
    if not isinstance(value, dict) or key in _VERBATIM:
        return value
    own = key == "properties"  # names of a schema's properties
    names = {name: name if own else re.sub(r"_([a-z])", lambda m: m[1].upper(), name) for name in value}
    return {names[name]: camel(inner, "" if own else names[name]) for name, inner in value.items()}


def checked(content: Fields, position: int) -> Fields:
    path = f"contents[{position}]"
    need(
        set(content) <= {"role", "parts"},
        f"Invalid JSON payload received. Unknown name \"{sorted(content)}\" at '{path}'",
    )
    role = content.get("role", "user")
    need(role in ("user", "model", "function"), f"Please use a valid role: user, model. ({path})")
    need(content.get("parts"), f"* GenerateContentRequest.{path}.parts: contents.parts must not be empty.")
    for n, part in enumerate(content["parts"]):
        place = f"{path}.parts[{n}]"
        unknown = set(part) - _PART
        need(
            not unknown,
            f"Invalid JSON payload received. Unknown name {sorted(unknown)} at '{place}': Cannot find field.",
        )
        data = set(part) & _DATA
        need(
            len(data) == 1,
            f"* GenerateContentRequest.{place}.data: required oneof field 'data' must have one initialized field",
        )
        need(
            part.get("text") != "" or role == "model",
            f"Unable to submit request because it has an empty text parameter: {place}",
        )
        if call := part.get("functionCall"):
            need(
                set(call) <= {"name", "args", "id"} and isinstance(call.get("args", {}), dict),
                f"Unknown name in {place}",
            )
        if response := part.get("functionResponse"):
            known = {"name", "response", "id", "parts", "willContinue", "scheduling"}
            need(
                set(response) <= known and response.get("name"), f"Unknown or missing name in {place}.function_response"
            )
            need(isinstance(response.get("response"), dict), f"{place}.function_response.response is not an object")
            need(
                '"$ref"' not in json.dumps(response["response"]),
                f"{place}.function_response.response: $ref is reserved",
            )
    return {**content, "role": "user" if role == "function" else role}


def merged(contents: list[Fields]) -> list[Fields]:
    """Returns the contents with neighbours of one role as one: the SDK keeps one for each chunk of a stream."""
    turns: list[Fields] = []
    for content in contents:
        if turns and turns[-1]["role"] == content["role"]:
            turns[-1] = {**content, "parts": [*turns[-1]["parts"], *content["parts"]]}
        else:
            turns.append(content)
    return turns


def check_turns(contents: list[Fields]) -> None:
    need(contents[-1]["role"] == "user", "Please ensure that the conversation ends with a user role.")
    for n, content in enumerate(contents):
        calls = len(of(content, "functionCall"))
        responses = len(of(content, "functionResponse"))
        if calls:
            before = n > 0 and contents[n - 1]["role"] == "user"
            need(
                before,
                "Please ensure that function call turn comes immediately after a user turn or after a function "
                "response turn.",
            )
            answered = len(of(contents[n + 1], "functionResponse")) if n + 1 < len(contents) else 0
            need(
                answered == calls,
                "Please ensure that the number of function response parts is equal to the number of function call "
                "parts of the function call turn.",
            )
        if responses:
            after = n > 0 and of(contents[n - 1], "functionCall")
            need(after, "Please ensure that function response turn comes immediately after a function call turn.")
            names = sorted(call["name"] for call in after) if after else []
            answered_names = sorted(response["name"] for response in of(content, "functionResponse"))
            need(names == answered_names, f"function responses {answered_names} for function calls {names}")


def check_signatures(contents: list[Fields]) -> None:
    """Holds the first call of each step of this turn to its signature, and each other one that has one."""
    for content in contents:
        calls = [part for part in content["parts"] if "functionCall" in part]
        for n, part in enumerate(calls):
            signature = part.get("thoughtSignature")
            call = part["functionCall"]
            missing = f"Function call `{call.get('name')}` is missing a thought_signature in functionCall parts."
            need(n or signature, missing)
            good = signature in (None, *_DUMMIES, call_signature(call))
            need(good, "Corrupted thought signature.")


def check_options(options: Options) -> None:
    need(len(options.stopSequences or ()) <= 5, "stop_sequences: at most 5")
    need(0 <= (options.temperature or 0) <= 2, "temperature must be in the range [0.0, 2.0]")
    thinking = options.thinkingConfig or {}
    need(
        set(thinking) <= {"includeThoughts", "thinkingBudget", "thinkingLevel"},
        f"Unknown name in thinking_config: {sorted(thinking)}",
    )
    need(
        len({"thinkingBudget", "thinkingLevel"} & set(thinking)) < 2,
        "thinking_budget and thinking_level cannot be used together",
    )
    level = str(thinking.get("thinkingLevel", "LOW")).upper()
    need(
        level in ("MINIMAL", "LOW", "MEDIUM", "HIGH", "THINKING_LEVEL_UNSPECIFIED"),
        f"Invalid value: thinking_level {level}",
    )
    both = options.responseSchema is not None and options.responseJsonSchema is not None
    need(not both, "response_schema and response_json_schema cannot both be set")
    shaped = options.responseSchema is not None or options.responseJsonSchema is not None
    need(
        not shaped or options.responseMimeType == "application/json",
        "response_schema needs response_mime_type application/json",
    )
    if options.responseSchema is not None:
        _schema(options.responseSchema, "generation_config.response_schema")
    need(options.responseLogprobs or options.logprobs is None, "logprobs needs response_logprobs")


def tools_of(request: Request) -> list[Offered]:
    offered = []
    for tool in request.tools or ():
        need(set(tool) <= _TOOLS, f"Unknown name \"{sorted(set(tool) - _TOOLS)}\" at 'tools': Cannot find field.")
        for declared in tool.get("functionDeclarations", ()):
            known = {
                "name",
                "description",
                "parameters",
                "parametersJsonSchema",
                "response",
                "responseJsonSchema",
                "behavior",
            }
            need(set(declared) <= known, f"Unknown name \"{sorted(set(declared) - known)}\" at 'function_declarations'")
            need(
                _NAME.fullmatch(declared.get("name", "")),
                "Invalid function name. Must start with a letter or an underscore.",
            )
            both = "parameters" in declared and "parametersJsonSchema" in declared
            need(not both, "parameters and parameters_json_schema cannot both be set")
            _schema(declared.get("parameters", {}), f"function_declarations.{declared['name']}.parameters")
            offered.append(
                Offered(declared["name"], declared.get("parametersJsonSchema") or declared.get("parameters") or {})
            )
    names = [tool.name for tool in offered]
    need(len(set(names)) == len(names), "Duplicate function declaration found")
    config = (request.toolConfig or {}).get("functionCallingConfig") or {}
    need(config.get("mode", "AUTO") in ("AUTO", "ANY", "NONE", "VALIDATED"), "Invalid function_calling_config.mode")
    allowed = config.get("allowedFunctionNames")
    need(not allowed or config.get("mode") in ("ANY", "VALIDATED"), "allowed_function_names needs mode ANY")
    need(set(allowed or ()) <= set(names), "allowed_function_names has to be a subset of the declared functions")
    return offered


def _schema(schema: Fields, path: str) -> None:
    """Holds a schema to OpenAPI's subset."""
    unknown = set(schema) - _SCHEMA
    need(
        not unknown,
        f"Invalid JSON payload received. Unknown name \"{min(unknown, default='')}\" at '{path}': Cannot find field.",
    )
    need(str(schema.get("type", "STRING")).upper() in _TYPES, f"{path}.type: {schema.get('type')!r}")
    for name, inner in schema.get("properties", {}).items():
        _schema(inner, f"{path}.properties[{name}]")
    for inner in [*schema.get("anyOf", ()), *([schema["items"]] if "items" in schema else [])]:
        _schema(inner, path)


def of(content: Fields, kind: str) -> list[Any]:
    return [part[kind] for part in content["parts"] if kind in part]


def call_signature(call: Fields) -> str:
    return sign("call", call["name"], json.dumps(call.get("args", {}), sort_keys=True))
