"""Requests for messages: what is read of them, what is refused, and what callers with a budget may not ask."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.domain.messages import MessagesRequest
from app.errors import InvalidRequest

USER = {"role": "user", "content": "Hi"}
PIXEL = {"type": "base64", "media_type": "image/png", "data": "A" * 400}


def parse(*, messages: Any = None, **more: Any) -> MessagesRequest:
    body = {"model": "m", "max_tokens": 10, "messages": messages or [USER], **more}
    return MessagesRequest.parse(json.dumps({name: value for name, value in body.items() if value is not ...}).encode())


def content(*blocks: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(blocks)}]


def test_the_gateway_reads_what_it_acts_on() -> None:
    request = parse(
        system=[{"type": "text", "text": "Be brief."}],
        messages=[USER, {"role": "system", "content": "Now."}, {"role": "assistant", "content": "Hello"}, USER],
        metadata={"user_id": '{"device_id":"d"}'},
        temperature=0.5,
        stream=True,
    )
    assert (request.model, request.max_output_tokens, request.stream) == ("m", 10, True)
    assert (request.temperature, request.user) == (0.5, '{"device_id":"d"}')
    assert request.texts == ["Be brief.", "Hi", "Now.", "Hello", "Hi"]
    assert request.message_count == 4
    assert request.include_usage
    assert request.choices == 1


def test_every_field_keeps_the_bytes_it_came_in() -> None:
    raw = b'{"model": "m", "max_tokens": 1, "messages": [{"role": "user",  "content": "\\u0048i"}], "x": {"a":  1.0}}'
    fields = MessagesRequest.parse(raw).fields
    assert bytes(fields["messages"]) == b'[{"role": "user",  "content": "\\u0048i"}]'
    assert bytes(fields["x"]) == b'{"a":  1.0}'


def test_another_model_changes_nothing_else() -> None:
    request = parse(system="Be brief.").with_model("other")
    assert request.model == "other"
    assert json.loads(request.raw)["model"] == "other"
    assert bytes(request.fields["system"]) == b'"Be brief."'


def test_the_fast_speed_is_priced_as_a_tier() -> None:
    assert parse(speed="fast").service_tier == "fast"
    assert parse(service_tier="auto", speed="standard").service_tier == "auto"


def test_pictures_and_pages_count_by_their_number_and_not_their_bytes() -> None:
    image = {"type": "image", "source": PIXEL}
    page = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "A" * 250_000}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [image]}
    request = parse(messages=content(image, page, result))
    assert request.images == 1 + 3 + 1
    assert request.inline_bytes == 400 + 250_000 + 400


def test_only_a_count_needs_no_bound_on_the_answer() -> None:
    raw = json.dumps({"model": "m", "messages": [USER]}).encode()
    assert MessagesRequest.parse_count(raw).max_tokens is None
    with pytest.raises(InvalidRequest) as refused:
        MessagesRequest.parse(raw)
    assert refused.value.param == "max_tokens"


def test_a_model_may_be_left_to_the_gateway() -> None:
    assert parse(model=None).model == ""
    assert parse(model=...).model == ""


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "developer", "content": "x"}]}, "messages[0].role"),
        ({"messages": content({"type": "text", "text": 5})}, "messages[0].content[0].text"),
        ({"system": 5}, "system"),
        ({"temperature": 1.1}, "temperature"),
        ({"top_p": -1}, "top_p"),
        ({"stop_sequences": "x"}, "stop_sequences"),
        ({"metadata": {"user_id": "x" * 513}}, "metadata.user_id"),
        ({"metadata": {"user_id": "a\x00"}}, "metadata.user_id"),
        ({"Max_Tokens": 5}, "Max_Tokens"),
        ({"model": ..., "modle": "m"}, "model"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(**fields)
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": content({"type": "document", "source": PIXEL})}, "messages[0].content[0].source"),
        ({"messages": content({"type": "image", "source": {"type": "file"}})}, "messages[0].content[0].source"),
        ({"messages": content({"type": "container_upload", "file_id": "f"})}, "messages[0].content[0]"),
        ({"messages": content({"type": "text", "text": "x", "Text": "y"})}, "messages[0].content[0]"),
        (
            {"messages": content({"type": "tool_result", "tool_use_id": "t", "content": [{"type": "document"}]})},
            "messages[0].content[0].content[0].source",
        ),
        ({"messages": [{**USER, "more": 1}]}, "messages[0].more"),
        ({"system": [{"type": "document", "source": PIXEL}]}, "system[0]"),
        ({"tools": [{"name": "f"}, {"type": "web_search_20250305", "name": "web_search"}]}, "tools[1]"),
        ({"mcp_servers": [{}]}, "mcp_servers"),
        ({"context_management": {"edits": [{"type": "compact_20260112"}]}}, "context_management.edits[0]"),
    ],
)
def test_with_a_budget_nothing_of_unknown_cost_is_asked(fields: dict[str, Any], param: str) -> None:
    request = parse(**fields)
    with pytest.raises(InvalidRequest) as refused:
        request.canonical()
    assert refused.value.param == param


def test_with_a_budget_a_coding_agents_request_passes() -> None:
    request = parse(
        system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
        messages=[
            *content({"type": "text", "text": "Hi"}, {"type": "image", "source": PIXEL}),
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "", "signature": "s"},
                    {"type": "tool_use", "id": "t", "name": "Bash", "input": {"command": "ls"}},
                ],
            },
            *content({"type": "tool_result", "tool_use_id": "t", "content": "a.txt", "is_error": False}),
        ],
        tools=[{"name": "Bash", "input_schema": {"type": "object"}}, {"type": "bash_20250124", "name": "bash"}],
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    )
    assert json.loads(bytes(request.canonical().fields["messages"])) == json.loads(bytes(request.fields["messages"]))


def test_with_a_budget_a_name_given_twice_goes_out_once() -> None:
    raw = b'{"model":"m","max_tokens":1,"messages":[{"role":"user","content":"a","content":"b"}]}'
    assert bytes(MessagesRequest.parse(raw).canonical().fields["messages"]) == b'[{"role":"user","content":"b"}]'


def test_the_bound_on_a_prompt_has_room_for_what_tools_add() -> None:
    tools = [{"name": "f"}, {"type": "bash_20250124", "name": "bash"}]
    with_tools = parse(tools=tools).prompt_tokens_upper_bound()
    assert with_tools > parse(other=tools).prompt_tokens_upper_bound() + 2_000
