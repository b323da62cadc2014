"""Rules of responses: what OpenAI refuses."""

from __future__ import annotations

from collections.abc import Iterator

from tests.support.vendors.play import Offered, sign
from tests.support.vendors.rules import TOOL_NAME, Fields, Strict, closed, need

_CONTENTS = {
    "user": {"input_text", "input_image", "input_file", "input_audio"},
    "system": {"input_text"},
    "developer": {"input_text"},
    "assistant": {"output_text", "refusal"},
}


CALLS = {"function_call": "function_call_output", "custom_tool_call": "custom_tool_call_output"}


_ITEMS: dict[str, set[str]] = {
    "message": {"role", "content", "id", "status", "phase"},
    "function_call": {"arguments", "async", "call_id", "caller", "id", "name", "namespace", "status"},
    "function_call_output": {"call_id", "caller", "id", "name", "namespace", "output", "status"},
    "custom_tool_call": {"call_id", "caller", "id", "input", "name", "namespace", "status"},
    "custom_tool_call_output": {"call_id", "caller", "id", "name", "output", "status"},
    "reasoning": {"content", "encrypted_content", "id", "status", "summary"},
}


_PREFIXES = {"message": "msg", "function_call": "fc", "custom_tool_call": "ctc", "reasoning": "rs"}


_HOSTED = {"web_search", "web_search_preview", "file_search", "code_interpreter", "image_generation", "mcp"}


_HOSTED |= {"local_shell", "shell", "apply_patch", "computer_use_preview", "tool_search", "programmatic_tool_calling"}


class Request(Strict):
    model: str
    input: str | list[Fields]
    access_programs: Fields | None = None
    background: bool | None = None
    client_metadata: Fields | None = None  # Codex sends it, and OpenAI takes it
    context_management: list[Fields] | None = None
    conversation: str | Fields | None = None
    image: Fields | None = None
    include: list[str] | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    metadata: dict[str, str] | None = None
    moderation: Fields | None = None
    parallel_tool_calls: bool | None = None
    previous_response_id: str | None = None
    prompt: Fields | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: Fields | None = None
    prompt_cache_retention: str | None = None
    reasoning: Fields | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: Fields | None = None
    temperature: float | None = None
    text: Fields | None = None
    tool_choice: str | Fields | None = None
    tools: list[Fields] | None = None
    top_logprobs: int | None = None
    top_p: float | None = None
    truncation: str | None = None
    user: str | None = None


def check_options(request: Request) -> None:
    bound = request.max_output_tokens
    need(
        bound is None or bound >= 16,
        f"Invalid 'max_output_tokens': integer below minimum value: {bound}",
        code="integer_below_min_value",
    )
    need(0 <= (request.temperature or 0) <= 2, "Invalid 'temperature'")
    need(0 <= (request.top_logprobs or 0) <= 20, "Invalid 'top_logprobs'")
    reasoning = request.reasoning or {}
    known = {"effort", "summary", "generate_summary", "context", "mode"}
    need(set(reasoning) <= known, f"Unknown parameter: 'reasoning.{sorted(set(reasoning) - known)}'.")
    efforts = (None, "none", "minimal", "low", "medium", "high", "xhigh", "max")
    need(reasoning.get("effort") in efforts, f"Invalid value: {reasoning.get('effort')!r}", param="reasoning.effort")
    need(reasoning.get("summary") in (None, "auto", "concise", "detailed"), "Invalid value", param="reasoning.summary")
    text = request.text or {}
    need(set(text) <= {"format", "verbosity"}, f"Unknown parameter: 'text.{sorted(text)}'.")
    form = text.get("format") or {"type": "text"}
    need(form.get("type") in ("text", "json_object", "json_schema"), "Invalid 'text.format.type'")
    if form["type"] == "json_schema":
        need(
            form.get("name") and isinstance(form.get("schema"), dict), "Missing required parameter: 'text.format.name'."
        )
        need(
            set(form) <= {"type", "name", "schema", "strict", "description"},
            f"Unknown parameter: text.format {sorted(form)}",
        )
        if form.get("strict"):
            closed(form["schema"], "text.format.schema")
    need(request.truncation in (None, "auto", "disabled"), "Invalid 'truncation'")


def tools_of(tools: list[Fields] | None, namespace: str = "") -> Iterator[Offered]:
    for n, tool in enumerate(tools or ()):
        kind = tool.get("type")
        if kind == "namespace":
            yield from tools_of(tool["tools"], tool["name"])
            continue
        need(kind in ("function", "custom", *_HOSTED), f"Invalid value: {kind!r}.", param=f"tools[{n}].type")
        if kind in _HOSTED:
            continue
        known = {"type", "name", "description", "defer_loading", "allowed_callers", "async"}
        known |= {"parameters", "strict", "output_schema"} if kind == "function" else {"format"}
        need(
            set(tool) <= known,
            f"Unknown parameter: 'tools[{n}].{sorted(set(tool) - known)}'.",
            code="unknown_parameter",
        )
        need(TOOL_NAME.fullmatch(tool.get("name", "")), f"Invalid 'tools[{n}].name'")
        schema = tool.get("parameters") or {}
        need(schema.get("type", "object") == "object", f"Invalid schema for function '{tool['name']}'")
        if tool.get("strict"):
            closed(schema, f"tools[{n}].parameters")
        yield Offered(tool["name"], schema, custom=kind == "custom", namespace=namespace)


def check_item(item: Fields, position: int) -> None:
    path = f"input[{position}]"
    kind = item.get("type", "message")
    if kind not in _ITEMS:
        return  # of the many kinds that a vendor's own tools have
    extra = set(item) - _ITEMS[kind] - {"type"}
    need(not extra, f"Unknown parameter: '{path}.{min(extra, default='')}'.", code="unknown_parameter")
    prefix = _PREFIXES.get(kind)
    named = item.get("id")
    need(
        prefix is None or named is None or named.startswith(prefix),
        f"Invalid '{path}.id': '{named}'. Expected an ID that begins with '{prefix}'.",
    )
    if "call_id" in _ITEMS[kind]:
        size = len(item.get("call_id", ""))
        need(
            1 <= size <= 64,
            f"Invalid '{path}.call_id': string too long. Expected a string with maximum length 64, got {size}.",
        )
    if kind == "message":
        need(item.get("role") in _CONTENTS, f"Invalid value: {item.get('role')!r}", param=f"{path}.role")
        for n, part in enumerate(item["content"] if isinstance(item["content"], list) else ()):
            allowed = sorted(_CONTENTS[item["role"]])
            need(
                part.get("type") in allowed,
                f"Invalid value: {part.get('type')!r}. Supported: {allowed}",
                param=f"{path}.content[{n}]",
            )
    elif kind == "function_call":
        need(isinstance(item.get("arguments"), str), f"Missing required parameter: '{path}.arguments'.")
        need(TOOL_NAME.fullmatch(item.get("name", "")), f"Invalid '{path}.name'")
    elif kind == "reasoning":
        need(isinstance(item.get("summary"), list), f"Missing required parameter: '{path}.summary'.")
        blob = item.get("encrypted_content")
        refused = (
            "The encrypted content could not be verified. Reason: Encrypted content could not be decrypted or parsed."
        )
        need(blob is None or blob == encrypted(item), refused, code="invalid_encrypted_content", param=path)


def encrypted(item: Fields) -> str:
    return "gAAAA" + sign("encrypted", item["id"], *(part["text"] for part in item["summary"]))
