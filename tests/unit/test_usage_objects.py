"""Vendors' usage objects: each costs what was reckoned by hand, to the micro-dollar, however its dialect is read.

Same-dialect calls are read by `read_answer` and `watch`, translated ones by `decode_answer` and `stream_decoder`.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import cache
from typing import Any

import pytest

from app.config.gateway import GatewayConfig
from app.domain.chat import ChatRequest
from app.domain.content import Stopped
from app.domain.generation import GenerationRequest
from app.domain.usage import Usage
from app.gateway.attempt_costs import AttemptCosts
from app.gateway.pricing import Pricing
from app.providers.dialects import DIALECTS
from tests.support.usage_objects import USAGE_OBJECTS, UsageObject

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
KINDS = {"messages": "anthropic", "gemini": "gemini"}
TEXT = {"type": "output_text", "text": "Hi", "annotations": []}
ITEM = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [TEXT]}


@cache
def costs() -> AttemptCosts:
    providers = {
        f"{each.dialect}-{each.prices}": {
            "kind": KINDS.get(each.dialect, "openai"),
            "base_url": "https://openrouter.ai/api/v1" if each.prices == "openrouter" else "http://up.test/v1",
            "prices": each.prices,
        }
        for each in USAGE_OBJECTS
    }
    models = {"m": {"targets": [{"provider": "chat-openai"}]}}
    config = GatewayConfig.model_validate({"providers": providers, "models": models})
    return AttemptCosts(Pricing(config=config, overrides={}, clock=NOW.timestamp))


def request_of(each: UsageObject) -> GenerationRequest:
    return ChatRequest.parse(b'{"model":"m","messages":[{"role":"user","content":"Hi"}],"stream":true}')


def whole(each: UsageObject) -> bytes:
    """Returns a whole answer."""
    head: dict[str, Any] = {"id": "x_1", "model": each.model, "created": 1}
    content: dict[str, dict[str, Any]] = {
        "chat": {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}]},
        "messages": {"type": "message", "role": "assistant", "content": [{"type": "text", "text": "Hi"}]}
        | {"stop_reason": "end_turn", "stop_sequence": None},
        "responses": {"object": "response", "status": "completed", "created_at": 1, "output": [ITEM]},
        "gemini": {
            "candidates": [{"content": {"role": "model", "parts": [{"text": "Hi"}]}, "finishReason": "STOP"}],
            "modelVersion": each.model,
        },
    }
    return json.dumps({**head, **content[each.dialect], **each.whole_bill}).encode()


def events(each: UsageObject) -> list[tuple[str, bytes]]:
    """Returns the events of a stream, as name and payload."""
    bill = each.streamed_bill
    if each.dialect == "messages":
        usage = dict(bill["usage"])
        final = bill.get("delta_usage") or {"output_tokens": usage["output_tokens"]}
        message = json.loads(whole(each)) | {"content": [], "stop_reason": None}
        message["usage"] = usage if "delta_usage" in bill else {**usage, "output_tokens": 1}
        told: list[dict[str, Any]] = [
            {"type": "message_start", "message": message},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": final},
            {"type": "message_stop"},
        ]
        return [(event["type"], json.dumps(event).encode()) for event in told]
    if each.dialect == "responses":
        response = json.loads(whole(each))
        begun = {**response, "status": "in_progress", "output": [], "usage": None}
        place = {"output_index": 0, "item_id": "msg_1", "content_index": 0}
        told = [
            {"type": "response.created", "response": begun},
            {"type": "response.output_item.added", "output_index": 0, "item": {**ITEM, "content": []}},
            {"type": "response.output_text.delta", **place, "delta": "Hi"},
            {"type": "response.output_item.done", "output_index": 0, "item": ITEM},
            {"type": "response.completed", "response": response},
        ]
        return [
            (event["type"], json.dumps({**event, "sequence_number": number}).encode())
            for number, event in enumerate(told)
        ]
    if each.dialect == "gemini":
        return [("", whole(each))]
    frame = {"id": "x_1", "object": "chat.completion.chunk", "created": 1, "model": each.model}
    choice = {"index": 0, "delta": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
    chunks = [{**frame, "choices": [choice], "usage": None}, {**frame, "choices": [], **bill}]
    return [("", json.dumps(chunk).encode()) for chunk in chunks] + [("", b"[DONE]")]


def watched(each: UsageObject) -> Usage | None:
    watch = DIALECTS[each.dialect].watch(request_of(each))
    for name, payload in events(each):
        watch.see(name, payload)
    watch.end()
    assert watch.complete
    return watch.usage


def decoded_stream(each: UsageObject) -> Usage | None:
    decoder = DIALECTS[each.dialect].stream_decoder("up")
    found = [event for name, payload in events(each) for event in decoder.decode(name, payload)]
    found += decoder.end()
    assert decoder.complete
    (stopped,) = [event for event in found if isinstance(event, Stopped)]
    return stopped.usage


READERS = {
    "whole, passed": lambda each: DIALECTS[each.dialect].read_answer(whole(each)).usage,
    "whole, translated": lambda each: DIALECTS[each.dialect].decode_answer(whole(each), "up").usage,
    "streamed, passed": watched,
    "streamed, translated": decoded_stream,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("each", USAGE_OBJECTS, ids=lambda each: each.name)
def test_a_usage_object_costs_what_its_vendor_bills(each: UsageObject, reader: str) -> None:
    usage = READERS[reader](each)
    assert usage is not None
    cost = costs().of_answer(request_of(each), f"{each.dialect}-{each.prices}", each.model, usage)
    assert round(cost.nanousd / 1000, 2) == round(each.micro_usd, 2)
    recorded = {
        **cost.usage._asdict(),
        **cost.usage.recorded(),
        "unpriced": cost.unpriced,
        "computed_cost_nanousd": cost.computed_nanousd,
    }
    assert {name: recorded.get(name, 0) for name in each.row} == each.row
    assert cost.price_version.startswith("genai-prices ")


def test_there_are_objects_of_each_dialect_and_no_two_of_one_name() -> None:
    assert len({each.name for each in USAGE_OBJECTS}) == len(USAGE_OBJECTS) >= 30
    assert {each.dialect for each in USAGE_OBJECTS} == set(DIALECTS)
