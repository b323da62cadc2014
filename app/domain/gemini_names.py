"""Field names of Gemini requests: in lowerCamelCase, whichever of its two spellings Google's parser was given.

Only names that the API defines are rewritten: arguments, results, schemas and labels are the caller's own words.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from app.errors import InvalidRequest

_SHOWN_CHARS = 64
# The API's objects, and which object stands in which of their fields. A name of an object that is not listed here has
# fields of its own, but none with an object in it that the gateway looks into.
_OBJECTS: dict[str, dict[str, str]] = {
    "request": {
        "contents": "content",
        "systemInstruction": "content",
        "tools": "tool",
        "toolConfig": "toolConfig",
        "generationConfig": "generationConfig",
        "safetySettings": "safetySetting",
    },
    "content": {"parts": "part"},
    "part": {
        "inlineData": "blob",
        "fileData": "fileData",
        "functionCall": "functionCall",
        "functionResponse": "functionResponse",
        "executableCode": "executableCode",
        "codeExecutionResult": "codeExecutionResult",
    },
    "functionResponse": {"parts": "part"},
    "tool": {"functionDeclarations": "functionDeclaration"},
    "toolConfig": {"functionCallingConfig": "functionCallingConfig"},
    "generationConfig": {"thinkingConfig": "thinkingConfig"},
}


def camel(name: str) -> str:
    """Returns a field's name in lowerCamelCase."""
    if "_" not in name[1:]:
        return name
    first, *rest = name.split("_")
    return first + "".join(part[:1].upper() + part[1:] for part in rest)


def with_camel_names(value: Any, kind: str = "request", path: str = "") -> Any:
    """Returns an object of the API, or a list of them, with the names of its fields in lowerCamelCase.

    A single object stands for a list of one, as Google's parser has it, wherever a list may stand. Raises
    `InvalidRequest` for a field that is given twice, once in each spelling.
    """
    if isinstance(value, list):
        return [with_camel_names(each, kind, f"{path}[{i}]") for i, each in enumerate(value)]
    if not isinstance(value, dict):
        return value
    fields: dict[str, Any] = {}
    inner = _OBJECTS.get(kind, {})
    for given, each in value.items():
        name = camel(given)
        where = f"{path}.{name}" if path else name
        if name in fields:
            raise InvalidRequest(f"`{where}` is given twice, in two spellings.", param=where)
        fields[name] = with_camel_names(each, inner[name], where) if name in inner else each
    return fields


def check_spelling(names: Iterable[str], known: frozenset[str], path: str = "") -> None:
    """Raises `InvalidRequest` for an odd spelling of one of the `known` names, which are in lowerCamelCase.

    Some servers of this dialect ignore case (Go's parser does), and would find a field that was not looked at.
    """
    for name in names:
        if name not in known and (expected := _FOLDED.get(_fold(name))) in known:
            param = f"{path}{name[:_SHOWN_CHARS]}"
            raise InvalidRequest(f"Unknown field `{param}`: expected `{expected}`.", param=param)


def _fold(name: str) -> str:
    return name.replace("_", "").casefold()


REQUEST_FIELDS = frozenset(
    {
        "model",
        "contents",
        "systemInstruction",
        "tools",
        "toolConfig",
        "generationConfig",
        "safetySettings",
        "cachedContent",
        "serviceTier",
        "labels",
        "store",
        "continuationToken",
    }
)
CONTENT_FIELDS = frozenset({"role", "parts"})
PART_FIELDS = frozenset(
    {
        "text",
        "thought",
        "thoughtSignature",
        "inlineData",
        "fileData",
        "functionCall",
        "functionResponse",
        "executableCode",
        "codeExecutionResult",
        "toolCall",
        "toolResponse",
        "videoMetadata",
        "mediaResolution",
        "partMetadata",
    }
)
BLOB_FIELDS = frozenset({"mimeType", "data", "displayName"})
CONFIG_FIELDS = frozenset(
    {
        "candidateCount",
        "maxOutputTokens",
        "temperature",
        "topP",
        "topK",
        "stopSequences",
        "seed",
        "presencePenalty",
        "frequencyPenalty",
        "responseLogprobs",
        "logprobs",
        "responseMimeType",
        "responseSchema",
        "responseJsonSchema",
        "responseModalities",
        "responseFormat",
        "mediaResolution",
        "speechConfig",
        "imageConfig",
        "thinkingConfig",
    }
)
_FOLDED = {_fold(name): name for name in REQUEST_FIELDS | CONTENT_FIELDS | PART_FIELDS | BLOB_FIELDS | CONFIG_FIELDS}
