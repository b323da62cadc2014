"""Rules of messages: what Anthropic refuses."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from tests.support.vendors.play import sign
from tests.support.vendors.rules import TOOL_NAME, Fields, Strict, need, parse

_TOOL_ID = re.compile(r"[a-zA-Z0-9_-]+")

_BETA_FIELDS = {"context_management": "context-management", "mcp_servers": "mcp-client", "fallbacks": "fallback"}

_MARK = {"cache_control"}

_BLOCKS: dict[str, set[str]] = {
    "text": {"text", "citations"} | _MARK,
    "image": {"source", "transformations"} | _MARK,
    "document": {"source", "title", "context", "citations"} | _MARK,
    "search_result": {"source", "title", "content", "citations"} | _MARK,
    "tool_use": {"id", "name", "input", "caller", "toolset_name"} | _MARK,
    "tool_result": {"tool_use_id", "content", "is_error", "toolset_name"} | _MARK,
    "thinking": {"thinking", "signature"},
    "redacted_thinking": {"data"},
}

_USERS = {"text", "image", "document", "search_result", "tool_result"}

_ASSISTANTS = {"text", "thinking", "redacted_thinking", "tool_use"}


class Request(Strict):
    model: str
    messages: list[Fields]
    max_tokens: int = 0
    cache_control: Fields | None = None
    container: str | Fields | None = None
    context_management: Fields | None = None
    diagnostics: Fields | None = None
    fallbacks: list[Fields] | None = None
    inference_geo: str | None = None
    mcp_servers: list[Fields] | None = None
    metadata: Fields | None = None
    output_config: Fields | None = None
    service_tier: str | None = None
    speed: str | None = None
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    system: str | list[Fields] | None = None
    temperature: float | None = None
    thinking: Fields | None = None
    tool_choice: Fields | None = None
    tools: list[Fields] | None = None
    top_k: int | None = None
    top_p: float | None = None
    user_profile_id: str | None = None
    workspace_id: str | None = None


class Message(Strict):
    role: str
    content: str | list[Fields]


@dataclass(frozen=True)
class Said:
    """Neighbouring messages of one role, as one."""

    role: str
    blocks: list[Fields]


class MessagesRules:
    """Holds requests to the rules. `issued`: ids of calls that this vendor made; `thought`: of those after thinking."""

    def __init__(self) -> None:
        self.issued: set[str] = set()
        self.thought: set[str] = set()

    def check(self, body: bytes, headers: dict[str, str], *, counting: bool) -> Request:
        bearer = headers.get("authorization", "").startswith("Bearer ")
        need(bearer or headers.get("x-api-key"), "invalid x-api-key", status=401)
        need(headers.get("anthropic-version"), "anthropic-version: header is required")
        request = parse(body, Request)
        for name, beta in _BETA_FIELDS.items():
            allowed = beta in headers.get("anthropic-beta", "") or getattr(request, name) is None
            need(allowed, f"{name}: Extra inputs are not permitted")
        need(not counting or not request.max_tokens, "max_tokens: Extra inputs are not permitted")
        _check_options(request, counting=counting)
        _check_tools(request)
        self._check_messages(request)
        _check_marks(json.loads(body))
        return request

    def _check_messages(self, request: Request) -> None:
        messages = merged(request)
        need(messages and messages[0].role == "user", 'messages: first message must use the "user" role')
        used: set[str] = set()
        for n, message in enumerate(messages):
            path = f"messages.{n}"
            final = n == len(messages) - 1
            need(
                message.blocks or (final and message.role == "assistant"),
                f"{path}: all messages must have non-empty content",
            )
            for m, block in enumerate(message.blocks):
                self._check_block(message.role, block, f"{path}.content.{m}")
            before = messages[n - 1].blocks if n else []
            _check_pairs([b["id"] for b in before if b["type"] == "tool_use"], message, path)
            for call in (b for b in message.blocks if b["type"] == "tool_use"):
                need(call["id"] not in used, f"{path}: `tool_use` ids must be unique")
                used.add(call["id"])
        last = messages[-1]
        calls = [b["id"] for b in last.blocks if b["type"] == "tool_use"]
        need(
            not calls, f"messages.{len(messages) - 1}: `tool_use` ids were found without `tool_result` blocks: {calls}"
        )
        if last.role == "assistant":
            need((request.thinking or {}).get("type") != "enabled", "no assistant prefill when thinking is enabled")
            end = last.blocks[-1].get("text", "") if last.blocks else ""
            need(end == end.rstrip(), "messages: final assistant content cannot end with trailing whitespace")
        self._check_thinking(request, messages)

    def _check_block(self, role: str, block: Fields, path: str) -> None:
        kind = block.get("type", "")
        need(kind in (_USERS if role == "user" else _ASSISTANTS), f"{path}: Input tag {kind!r} found is not expected")
        extra = set(block) - _BLOCKS[kind] - {"type"}
        need(not extra, f"{path}.{kind}.{min(extra, default='')}: Extra inputs are not permitted")
        if kind == "text":
            need(isinstance(block.get("text"), str) and block["text"], f"{path}: text content blocks must be non-empty")
        elif kind == "thinking":
            good = block.get("signature") == sign("thinking", block.get("thinking", ""))
            omitted = block.get("thinking") == "" and block.get("signature") == sign("omitted")
            need(good or omitted, f"{path}: Invalid `signature` in `thinking` block")
        elif kind == "redacted_thinking":
            need(block.get("data") == sign("redacted"), f"{path}: Invalid `data` in `redacted_thinking` block")
        elif kind == "tool_use":
            valid = _TOOL_ID.fullmatch(block.get("id", "")) or block.get("id") in self.issued
            need(valid, f"{path}.tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'")
            need(isinstance(block.get("input"), dict), f"{path}.tool_use.input: Input should be a valid dictionary")
            need(TOOL_NAME.fullmatch(block.get("name", "")), f"{path}.tool_use.name: String should match pattern")
        elif kind == "tool_result":
            content = block.get("content", "")
            for n, inner in enumerate(content if isinstance(content, list) else ()):
                need(
                    inner["type"] in ("text", "image", "document", "search_result"),
                    f"{path}.content.{n}: {inner['type']}",
                )
                self._check_block("user", inner, f"{path}.content.{n}")
        elif kind in ("image", "document"):
            source = block.get("source", {})
            fields = {
                "base64": {"media_type", "data"},
                "url": {"url"},
                "file": {"file_id"},
                "text": {"media_type", "data"},
            }
            fields["content"] = {"content"}
            need(source.get("type") in fields, f"{path}.source: Input tag not expected")
            need(set(source) == fields[source["type"]] | {"type"}, f"{path}.source: {sorted(source)}")

    def _check_thinking(self, request: Request, messages: list[Said]) -> None:
        """While thinking is enabled, the calls of a step that began with thinking come back with it."""
        if (request.thinking or {}).get("type") != "enabled" or len(messages) < 2 or messages[-1].role != "user":
            return
        blocks = messages[-2].blocks
        calls = [block["id"] for block in blocks if block["type"] == "tool_use"]
        if self.thought.intersection(calls):
            need(
                blocks[0]["type"] in ("thinking", "redacted_thinking"),
                f"messages.{len(messages) - 2}.content.0.type: Expected `thinking` or `redacted_thinking`, but found "
                f"`{blocks[0]['type']}`. When `thinking` is enabled, a final `assistant` message must start with "
                "a thinking block.",
            )


def merged(request: Request) -> list[Said]:
    """Returns the turns with neighbours of one role made one, and without system messages, each content as blocks."""
    turns: list[Said] = []
    for n, fields in enumerate(request.messages):
        message = parse(fields, Message, f"messages.{n}")
        need(
            message.role in ("user", "assistant", "system"), f"messages.{n}.role: Input should be 'user' or 'assistant'"
        )
        content = message.content
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if message.role == "system":
            need(n > 0, "messages.0.role: a system message cannot be the first")
            need(all(b.get("type") == "text" and b.get("text") for b in blocks), f"messages.{n}: system is text")
        elif turns and turns[-1].role == message.role:
            turns[-1] = Said(message.role, [*turns[-1].blocks, *blocks])
        else:
            turns.append(Said(message.role, blocks))
    return turns


def _check_pairs(calls: list[str], message: Said, path: str) -> None:
    if message.role == "assistant":
        return
    results = [b["tool_use_id"] for b in message.blocks if b["type"] == "tool_result"]
    first = [b["type"] for b in message.blocks[: len(results)]]
    missing = set(calls) - set(results)
    need(
        not missing and (not calls or set(first) == {"tool_result"}),
        f"{path}: `tool_use` ids were found without `tool_result` blocks immediately after: {missing or calls}. "
        "Each `tool_use` block must have a corresponding `tool_result` block in the next message.",
    )
    for result in results:
        need(result in calls, f"{path}: unexpected `tool_use_id` found in `tool_result` blocks: {result}")
    need(len(set(results)) == len(results), f"{path}: each tool_use must have a single result")


def _check_options(request: Request, *, counting: bool) -> None:
    thinking = request.thinking or {"type": "disabled"}
    need(thinking.get("type") in ("enabled", "adaptive", "disabled"), "thinking.type: Input tag not expected")
    if thinking["type"] == "enabled":
        budget = thinking.get("budget_tokens", 0)
        need(budget >= 1024, "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024")
        need(counting or budget < request.max_tokens, "`max_tokens` must be greater than `thinking.budget_tokens`")
    if thinking["type"] != "disabled":
        need(request.temperature in (None, 1), "`temperature` may only be set to 1 when thinking is enabled")
        need(request.top_k is None, "`top_k` must be unset when thinking is enabled")
        forced = (request.tool_choice or {}).get("type") in ("any", "tool")
        need(not forced, "Thinking may not be enabled when tool_choice forces tool use.")
    need(0 <= (request.temperature or 0) <= 1, "temperature: range: 0..1")
    need(all(stop.strip() for stop in request.stop_sequences or ()), "stop_sequences: each must contain non-whitespace")
    need(set(request.metadata or {}) <= {"user_id"}, "metadata: Extra inputs are not permitted")
    need(set(request.output_config or {}) <= {"effort", "format"}, "output_config: Extra inputs are not permitted")
    efforts = (None, "low", "medium", "high", "xhigh", "max")
    need((request.output_config or {}).get("effort") in efforts, "output_config.effort: Input should be 'low' … 'max'")
    form = (request.output_config or {}).get("format")
    need(
        form is None or (form.get("type") == "json_schema" and set(form) == {"type", "schema"}), "output_config.format"
    )
    need(
        request.service_tier in (None, "auto", "standard_only"),
        "service_tier: Input should be 'auto' or 'standard_only'",
    )
    system = request.system if isinstance(request.system, list) else []
    need(
        all(b.get("type") == "text" and b.get("text") for b in system), "system: text content blocks must be non-empty"
    )


def _check_tools(request: Request) -> None:
    names = [tool.get("name", "") for tool in request.tools or ()]
    need(len(set(names)) == len(names), "tools: Tool names must be unique.")
    known = {
        "type",
        "name",
        "description",
        "input_schema",
        "cache_control",
        "strict",
        "defer_loading",
        "input_examples",
    }
    known |= {"eager_input_streaming", "allowed_callers"}
    for n, tool in enumerate(request.tools or ()):
        if tool.get("type", "custom") != "custom":
            continue  # a tool that the vendor runs
        need(TOOL_NAME.fullmatch(tool.get("name", "")), f"tools.{n}.custom.name: String should match pattern")
        need(
            tool.get("input_schema", {}).get("type") == "object", f"tools.{n}.custom.input_schema.type: Field required"
        )
        need(set(tool) <= known, f"tools.{n}.custom.{sorted(set(tool) - known)}: Extra inputs are not permitted")
    choice = request.tool_choice or {"type": "auto"}
    need(request.tools or request.tool_choice is None, "tool_choice: may only be specified while providing tools")
    allowed = {"auto": set(), "any": set(), "tool": {"name"}, "none": set()}
    need(choice.get("type") in allowed, "tool_choice: Input tag not expected")
    extra = allowed[choice["type"]] | {"type"} | (set() if choice["type"] == "none" else {"disable_parallel_tool_use"})
    need(set(choice) <= extra, f"tool_choice: Extra inputs are not permitted: {sorted(set(choice) - extra)}")
    need("name" not in choice or choice["name"] in names, f"Tool '{choice.get('name')}' not found in provided tools")


def _check_marks(request: Fields) -> None:
    """At most four marks, and none of an hour after one of five minutes."""
    marks: list[str] = []

    def collect(value: Any, key: str = "") -> None:
        if isinstance(value, dict):
            if key in ("input", "input_schema"):
                return
            if isinstance(mark := value.get("cache_control"), dict):
                need(
                    mark.get("type") == "ephemeral" and set(mark) <= {"type", "ttl", "scope"},
                    "cache_control: Input tag not expected",
                )
                marks.append(mark.get("ttl", "5m"))
            for name, inner in value.items():
                collect(inner, name)
        elif isinstance(value, list):
            for inner in value:
                collect(inner)

    for part in ("tools", "system", "messages"):
        collect(request.get(part))
    need(len(marks) <= 4, f"A maximum of 4 blocks with cache_control may be provided. Found {len(marks)}.")
    need(marks == sorted(marks), "a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block")
