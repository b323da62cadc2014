"""Anthropic's messages, played: pairs of calls and results, and thinking that comes back as it was signed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.support.vendors.messages_rules import MessagesRules, Said, merged
from tests.support.vendors.play import Asked, Offered, Refused, Turn, sign
from tests.support.vendors.rules import Fields, need
from tests.support.vendors.wire import Pieces, chopped, sse

_STOPS = {
    "end": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "pause": "pause_turn",
    "filter": "refusal",
}


class MessagesWire:
    def __init__(self) -> None:
        self._rules = MessagesRules()

    def read(self, body: bytes, headers: dict[str, str], *, model: str, stream: bool) -> Asked:
        request = self._rules.check(body, headers, counting=False)
        need(
            request.max_tokens > 0, "max_tokens: Field required" if not request.max_tokens else "max_tokens: too small"
        )
        messages = merged(request)
        last = messages[-1].blocks if messages[-1].role == "user" else []
        results = [block for block in _blocks_of_step(messages) if block["type"] == "tool_result"]
        spoken = [m for m in messages if m.role == "user" and any(b["type"] == "text" for b in m.blocks)]
        form = (request.output_config or {}).get("format") or {}
        return Asked(
            model=request.model,
            stream=bool(request.stream),
            prompt="\n".join(b["text"] for b in spoken[-1].blocks if b["type"] == "text") if spoken else "",
            tools=tuple(_offered(request.tools)),
            results=tuple(_result_text(block) for block in results) if last else (),
            schema=form.get("schema"),
            shows=(request.thinking or {}).get("display") != "omitted",
            request=json.loads(body),
        )

    def blocks(self, turn: Turn, asked: Asked) -> Iterator[dict[str, Any]]:
        if turn.thinking:
            text = turn.thinking if asked.shows else ""
            yield {
                "type": "thinking",
                "thinking": text,
                "signature": sign("thinking", text) if text else sign("omitted"),
            }
        if turn.words:
            yield {"type": "text", "text": turn.text}
        for n, call in enumerate(turn.calls):
            call_id = {"-": "", "": f"toolu_{turn.id}{n}"}.get(call.id, call.id)
            self._rules.issued.add(call_id)
            if turn.thinking:
                self._rules.thought.add(call_id)
            yield {"type": "tool_use", "id": call_id, "name": call.tool.name, "input": call.arguments}

    def whole(self, turn: Turn, asked: Asked) -> dict[str, Any]:
        bill = _bill(turn)
        answer = {**_message(turn), "content": list(self.blocks(turn, asked)), **_stop(turn), **bill}
        final = answer.pop("delta_usage", {})
        if "usage" in bill:
            answer["usage"] = {**bill["usage"], **final}
        return answer

    def pieces(self, turn: Turn, asked: Asked) -> Pieces:
        bill = _bill(turn)
        begun = bill.pop("usage", None)
        final = bill.pop("delta_usage", None) or (begun and {"output_tokens": begun["output_tokens"]})
        start = {**_message(turn), **bill, **({"usage": {**begun, "output_tokens": 1}} if begun else {})}
        content: list[bytes] = []
        for n, block in enumerate(self.blocks(turn, asked)):
            empty: dict[str, dict[str, Any]] = {
                "text": {"text": ""},
                "thinking": {"thinking": "", "signature": ""},
                "tool_use": {"input": {}},
            }
            opened = {**block, **empty[block["type"]]}
            content.append(_event("content_block_start", index=n, content_block=opened))
            content += [_event("content_block_delta", index=n, delta=delta) for delta in _deltas(turn, block)]
            content.append(_event("content_block_stop", index=n))
        delta = _event("message_delta", delta=_stop(turn), **({"usage": final} if final else {}))
        return Pieces(
            [_event("message_start", message=start), _event("ping")], content, [delta, _event("message_stop")]
        )

    def error(self, refused: Refused) -> dict[str, Any]:
        kinds = {
            400: "invalid_request_error",
            401: "authentication_error",
            403: "permission_error",
            404: "not_found_error",
        }
        kinds |= {402: "billing_error", 413: "request_too_large", 429: "rate_limit_error", 504: "timeout_error"}
        kind = refused.code or {**kinds, 529: "overloaded_error"}.get(refused.status, "api_error")
        return {"type": "error", "error": {"type": kind, "message": refused.message}, "request_id": "req_played"}

    def error_event(self, refused: Refused) -> bytes:
        return sse(self.error(refused), "error")

    def overflow(self) -> Refused:
        return Refused("prompt is too long: 250001 tokens > 200000 maximum")

    def count(self, body: bytes, headers: dict[str, str]) -> dict[str, int]:
        self._rules.check(body, headers, counting=True)
        return {"input_tokens": len(body) // 4}


def _blocks_of_step(messages: list[Said]) -> list[Fields]:
    """Returns the users' blocks since the user last spoke without a result beside it."""
    found: list[Fields] = []
    for message in reversed(messages):
        if message.role == "user":
            if not any(block["type"] == "tool_result" for block in message.blocks):
                break
            found = [*message.blocks, *found]
    return found


def _offered(tools: list[Fields] | None) -> Iterator[Offered]:
    for tool in tools or ():
        if "input_schema" in tool:
            yield Offered(tool["name"], tool["input_schema"])


def _result_text(block: Fields) -> str:
    content = block.get("content", "")
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _deltas(turn: Turn, block: dict[str, Any]) -> list[dict[str, Any]]:
    if block["type"] == "thinking":
        words = [{"type": "thinking_delta", "thinking": part} for part in chopped(block["thinking"])]
        return [*words, {"type": "signature_delta", "signature": block["signature"]}]
    if block["type"] == "text":
        return [{"type": "text_delta", "text": word} for word in turn.words]
    parts = ["", *([json.dumps(block["input"])] if turn.done_only else chopped(json.dumps(block["input"])))]
    return [{"type": "input_json_delta", "partial_json": part} for part in parts]


def _event(name: str, **fields: Any) -> bytes:
    return sse({"type": name, **fields}, name)


def _message(turn: Turn) -> dict[str, Any]:
    empty: dict[str, Any] = {"content": [], "stop_reason": None, "stop_sequence": None}
    return {"id": f"msg_{turn.id}", "type": "message", "role": "assistant", "model": turn.model, **empty}


def _stop(turn: Turn) -> dict[str, Any]:
    return {
        "stop_reason": _STOPS.get(turn.stop, turn.stop),
        "stop_sequence": "END" if turn.stop == "stop_sequence" else None,
    }


def _bill(turn: Turn) -> dict[str, Any]:
    """Returns `usage`, and `delta_usage` where a bill has one."""
    if turn.bill is not None:
        return json.loads(json.dumps(turn.bill))  # type: ignore[no-any-return]  # the caller's to change
    usage = {
        "input_tokens": turn.prompt_tokens - turn.cached - turn.written,
        "cache_creation_input_tokens": turn.written,
        "cache_read_input_tokens": turn.cached,
        "cache_creation": {"ephemeral_5m_input_tokens": turn.written, "ephemeral_1h_input_tokens": 0},
        "output_tokens": turn.completion_tokens,
        "service_tier": "standard",
    }
    return {"usage": usage}
