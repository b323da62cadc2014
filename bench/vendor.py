"""Vendor of the benchmark: `tests.support.upstream`, which answers in the dialects of Anthropic, Google and OpenAI's
Responses, too, as cheaply as in its own. It is no judge of requests.

`python -m bench.vendor`, which prints its port. The models are `plain` and `stream-N-MS`.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import gevent

from tests.support.upstream import Upstream, VendorState, main

_OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
_SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class _Wire(NamedTuple):
    """Answers in one dialect: whole, and as a stream's beginning, chunk and end."""

    answer: bytes
    begin: bytes
    chunk: bytes
    end: bytes


class DialectVendor(VendorState):
    """The vendor in every dialect."""

    def answer(self, sock: Any, head: bytes, body: bytes) -> bool:
        path = head.split(b" ", 2)[1]
        if path.endswith((b"/messages", b"/messages?beta=true")):
            wire, request = _MESSAGES, json.loads(body)
            name, streamed = request["model"], request.get("stream")
        elif path.endswith(b"/responses"):
            wire, request = _RESPONSES, json.loads(body)
            name, streamed = request["model"], request.get("stream")
        elif b"enerateContent" in path:
            wire, name = _GEMINI, path.rpartition(b"/")[2].partition(b":")[0].decode()
            streamed = b"streamGenerate" in path
        else:
            return super().answer(sock, head, body)
        self.count(10, 5)
        if not streamed:
            sock.sendall(_OK % (len(wire.answer), wire.answer))
            return True
        numbers = [int(part) for part in name.split("-") if part.isdigit()]
        sock.sendall(_SSE + _chunked(wire.begin) if wire.begin else _SSE)
        for sent in range(numbers[0]):
            if sent:
                gevent.sleep(numbers[1] / 1000)
            sock.sendall(_chunked(wire.chunk))
        sock.sendall(_chunked(wire.end) + b"0\r\n\r\n")
        return True


class DialectUpstream(Upstream):
    """The vendor's process."""

    module = "bench.vendor"


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _event(fields: dict[str, Any], *, named: bool = True) -> bytes:
    data = b"data: " + json.dumps(fields, separators=(",", ":")).encode() + b"\n\n"
    return b"event: %b\n%b" % (fields["type"].encode(), data) if named else data


def _messages() -> _Wire:
    usage = {"input_tokens": 10, "output_tokens": 5}
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "up",
        "content": [{"type": "text", "text": "Hello there."}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": usage,
    }
    begin = _event({"type": "message_start", "message": {**message, "content": [], "stop_reason": None}})
    begin += _event({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})
    chunk = _event({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "tok "}})
    stop = {"stop_reason": "end_turn", "stop_sequence": None}
    end = _event({"type": "content_block_stop", "index": 0})
    end += _event({"type": "message_delta", "delta": stop, "usage": usage}) + _event({"type": "message_stop"})
    return _Wire(json.dumps(message).encode(), begin, chunk, end)


def _responses() -> _Wire:
    part = {"type": "output_text", "text": "Hello there.", "annotations": []}
    item = {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [part]}
    details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    response = {
        "id": "resp_1",
        "object": "response",
        "created_at": 1700000000,
        "status": "completed",
        "model": "up",
        "output": [item],
        "usage": {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15, **details},
    }
    where = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    started = {**response, "status": "in_progress", "output": [], "usage": None}
    begin = _event({"type": "response.created", "response": started, "sequence_number": 0})
    added = {**item, "status": "in_progress", "content": []}
    begin += _event({"type": "response.output_item.added", "output_index": 0, "item": added, "sequence_number": 1})
    empty = {**part, "text": ""}
    begin += _event({"type": "response.content_part.added", **where, "part": empty, "sequence_number": 2})
    chunk = _event(
        {"type": "response.output_text.delta", **where, "delta": "tok ", "logprobs": [], "sequence_number": 3}
    )
    end = _event(
        {"type": "response.output_text.done", **where, "text": "Hello there.", "logprobs": [], "sequence_number": 4}
    )
    end += _event({"type": "response.content_part.done", **where, "part": part, "sequence_number": 5})
    end += _event({"type": "response.output_item.done", "output_index": 0, "item": item, "sequence_number": 6})
    end += _event({"type": "response.completed", "response": response, "sequence_number": 7})
    return _Wire(json.dumps(response).encode(), begin, chunk, end)


def _gemini() -> _Wire:
    def answer(text: str, finish: str | None) -> dict[str, Any]:
        candidate = {"content": {"role": "model", "parts": [{"text": text}]}, "index": 0}
        usage = {"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 15}
        if finish is not None:
            candidate["finishReason"] = finish
        return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "up", "responseId": "r1"}

    whole = json.dumps(answer("Hello there.", "STOP")).encode()
    return _Wire(whole, b"", _event(answer("tok ", None), named=False), _event(answer("", "STOP"), named=False))


_MESSAGES, _RESPONSES, _GEMINI = _messages(), _responses(), _gemini()

if __name__ == "__main__":
    main(DialectVendor())
