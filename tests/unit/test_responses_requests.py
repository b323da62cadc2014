"""Requests of the Responses API: what the gateway refuses, what they mean, and how other dialects' are written."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from app.domain.content import (
    CacheMark,
    Document,
    Format,
    Image,
    Message,
    Opaque,
    Prompt,
    Reasoning,
    Refusal,
    ServerTool,
    Source,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from app.domain.responses import ResponsesRequest
from app.errors import InvalidRequest, Untranslatable
from app.providers.dialects import carrier
from app.providers.dialects.dialect import Outgoing
from app.providers.dialects.responses import DIALECT

PNG = "data:image/png;base64,iVBORw0KGgo="


def parse(**body: Any) -> ResponsesRequest:
    return ResponsesRequest.parse(json.dumps({"model": "m", **body}).encode())


def decode(**body: Any) -> Prompt:
    return DIALECT.decode_request(parse(**body))


def outgoing(**fields: Any) -> Outgoing:
    return Outgoing(**{"origin": "vendor", "model": "gpt", "stream": False, **fields})


def encode(*messages: Message, to: Outgoing | None = None, **fields: Any) -> dict[str, Any]:
    return DIALECT.encode_request(Prompt(model="m", messages=messages, **fields), to or outgoing())


def user(*blocks: Any) -> Message:
    return Message(role="user", blocks=blocks)


def assistant(*blocks: Any) -> Message:
    return Message(role="assistant", blocks=blocks)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({}, "input"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
        ({"input": [{"type": "message", "content": "x"}]}, "input[0].role"),
        ({"input": [{"content": "x"}]}, "input[0].type"),
        ({"input": "x", "background": True}, "background"),
        ({"input": "x", "temperature": 3}, "temperature"),
        ({"input": "x", "max_output_tokens": 0}, "max_output_tokens"),
        ({"input": "x", "Model": "dear"}, "Model"),
        ({"input": "x", "user": "a\x00"}, "user"),
    ],
)
def test_a_bad_request_is_refused_by_its_field(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(**body)
    assert refused.value.param == param


def test_a_body_with_messages_hears_of_input() -> None:
    with pytest.raises(InvalidRequest, match="There is `messages` instead"):
        parse(messages=[])


def test_admission_learns_of_texts_pictures_and_bounds() -> None:
    request = parse(
        instructions="Be brief.",
        input=[
            {
                "role": "user",
                "content": [{"type": "input_text", "text": "a"}, {"type": "input_image", "image_url": PNG}],
            },
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "b"},
            {"type": "computer_call_output", "call_id": "d", "output": {"type": "computer_screenshot", "file_id": "f"}},
        ],
        max_output_tokens=50,
        stream=True,
    )
    assert request.texts == ["Be brief.", "a", "b"]
    assert (request.images, request.inline_bytes, request.message_count) == (2, len(PNG), 5)
    assert (request.max_output_tokens, request.stream, request.include_usage) == (50, True, True)


def test_a_request_for_another_model_keeps_its_bytes() -> None:
    request = parse(input="x", metadata={"a": "b"}).with_model("other")
    assert request.model == "other"
    assert json.loads(request.raw) == {"model": "other", "input": "x", "metadata": {"a": "b"}}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
        ({"input": [{"type": "file_search_call", "id": "fs_1", "status": "completed"}]}, "input[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}, "input[0].content[0]"),
        ({"input": [{"role": "user", "Content": "x", "content": "y"}]}, "input[0].Content"),
        ({"input": "x", "conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"input": "x", "context_management": [{"type": "compaction"}]}, "context_management"),
        ({"input": "x", "tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]}, "tools[0]"),
        ({"input": "x", "tools": [{"type": "namespace", "tools": [{"type": "mcp"}]}]}, "tools[0].tools[0]"),
        ({"input": [{"type": "tool_search_output", "tools": [{"type": "mcp"}]}]}, "input[0].tools[0]"),
        ({"input": [{"type": "tool_search_output", "tools": [{"type": "web_search"}]}]}, "input[0].tools[0]"),
        (
            {"input": [{"type": "tool_search_output", "tools": [{"type": "namespace", "tools": [{"type": "mcp"}]}]}]},
            "input[0].tools[0].tools[0]",
        ),
        ({"input": [{"type": "reasoning", "id": "rs_1", "summary": []}]}, "input[0]"),
        ({"input": [{"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": ""}]}, "input[0]"),
        ({"input": [{"type": "web_search_call", "id": "ws_1"}]}, "input[0]"),
        ({"input": [{"type": "function_call_output", "id": "fc_1"}]}, "input[0]"),
    ],
)
def test_a_budget_refuses_what_has_no_bounded_cost(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(**body).canonical()
    assert refused.value.param == param


def test_a_budget_accepts_fields_that_are_null() -> None:
    parse(input="x", conversation=None, prompt=None, context_management=None).canonical()


def test_the_bound_on_a_prompt_knows_numbers_that_grow_when_written() -> None:
    numbers = ",".join(["1e15"] * 1000)
    tools = '[{"type": "function", "name": "f", "parameters": {"enum": [' + numbers + "]}}]"
    request = ResponsesRequest.parse(('{"model": "m", "input": "x", "tools": ' + tools + "}").encode()).canonical()
    assert request.prompt_tokens_upper_bound() > len(DIALECT.pass_request(request, outgoing())) > 15_000


def test_a_budget_accepts_a_coding_agents_history() -> None:
    body = {
        "input": [
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "x"}]},
            {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "abc"},
            {"type": "custom_tool_call", "call_id": "c", "name": "apply_patch", "input": "*** Begin"},
            {"type": "custom_tool_call_output", "call_id": "c", "output": "ok"},
            {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search"}},
            {"type": "tool_search_output", "call_id": "d", "tools": [{"type": "function", "name": "f"}]},
        ],
        "tools": [{"type": "namespace", "name": "n", "description": "", "tools": []}, {"type": "web_search"}],
    }
    canonical = parse(**body).canonical()
    assert msgspec.json.decode(canonical.fields["input"]) == body["input"]


def test_plain_text_is_a_users_message() -> None:
    prompt = decode(input="hi", instructions="Be brief.")
    assert prompt.messages == (Message(role="system", blocks=(Text(text="Be brief."),)), user(Text(text="hi")))
    assert (prompt.hints, prompt.foreign) == ({}, {})


def test_items_of_a_turn_are_one_message() -> None:
    prompt = decode(
        input=[
            {"role": "user", "content": "a"},
            {"role": "user", "content": [{"type": "input_text", "text": "b"}]},
            {
                "type": "message",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "c", "annotations": []}],
            },
            {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
            {"type": "custom_tool_call", "call_id": "2", "name": "g", "input": "free"},
            {"type": "function_call_output", "call_id": "1", "output": ""},
            {"type": "custom_tool_call_output", "call_id": "2", "output": [{"type": "input_image", "image_url": PNG}]},
            {"role": "user", "content": "d"},
        ]
    )
    picture = Image(source=Source(media_type="image/png", data="iVBORw0KGgo="))
    assert prompt.messages == (
        user(Text(text="a")),
        user(Text(text="b")),
        assistant(
            Text(text="c"),
            ToolCall(id="1", name="f", arguments="{}"),
            ToolCall(id="2", name="g", arguments="free", custom=True),
        ),
        user(ToolResult(call_id="1"), ToolResult(call_id="2", content=(picture,), custom=True), Text(text="d")),
    )


def test_tools_of_a_namespace_get_flat_names() -> None:
    inner = {"type": "function", "name": "close", "parameters": {"type": "object"}, "strict": False}
    prompt = decode(
        input=[{"type": "function_call", "call_id": "c", "name": "close", "namespace": "agents", "arguments": "{}"}],
        tools=[{"type": "namespace", "name": "agents", "description": "Agents.", "tools": [inner]}],
        tool_choice={"type": "function", "name": "close", "namespace": "agents"},
    )
    assert prompt.tools == (Tool(name="agents__close", schema={"type": "object"}, strict=False, namespace="agents"),)
    assert prompt.messages == (assistant(ToolCall(id="c", name="agents__close", arguments="{}")),)
    assert prompt.tool_choice == ToolChoice(mode="required", names=("agents__close",))
    assert prompt.hints == {"tools[0].description": "Agents."}


def test_a_long_namespaced_name_is_bounded_and_valid() -> None:
    tools = [{"type": "namespace", "name": "mcp.server" * 10, "tools": [{"type": "function", "name": "ping"}]}]
    name = decode(input="x", tools=tools).tools[0].name
    assert len(name) <= 64
    assert "." not in name
    assert decode(input="x", tools=tools).tools[0].name == name


def test_a_vendors_tool_is_foreign_by_its_type() -> None:
    prompt = decode(input="x", tools=[{"type": "web_search"}, {"type": "mcp", "server_label": "s"}])
    assert list(prompt.foreign) == ["tools[0].web_search", "tools[1].mcp"]
    with pytest.raises(Untranslatable) as refused:
        outgoing().check(prompt, "x")
    assert refused.value.param == "tools[0].web_search"
    dropping = outgoing(drop=frozenset({"tools.web_search", "tools.mcp"}))
    dropping.check(prompt, "x")
    assert dropping.dropped == ["tools[0].web_search", "tools[1].mcp"]


@pytest.mark.parametrize(
    ("body", "field", "value"),
    [
        ({"text": {"format": {"type": "json_object"}}}, "format", Format(kind="json_object")),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": {"a": 1}, "strict": True}}},
            "format",
            Format(kind="json_schema", name="n", schema={"a": 1}, strict=True),
        ),
        ({"text": {"verbosity": "low"}}, "verbosity", "low"),
        ({"reasoning": {"effort": "high", "summary": "auto"}}, "reasoning", Reasoning(effort="high", show="auto")),
        ({"reasoning": {"effort": None}}, "reasoning", None),
        ({"include": ["message.output_text.logprobs"]}, "top_logprobs", 0),
        ({"top_logprobs": 3}, "top_logprobs", 3),
        ({"safety_identifier": "s"}, "user", "s"),
        ({"prompt_cache_key": "k"}, "cache_key", "k"),
        ({"tool_choice": "required"}, "tool_choice", ToolChoice(mode="required")),
        (
            {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]}},
            "tool_choice",
            ToolChoice(mode="auto", names=("f",)),
        ),
        ({"parallel_tool_calls": False}, "parallel_tool_calls", False),
        ({"service_tier": "flex"}, "service_tier", "flex"),
    ],
)
def test_a_field_is_read(body: dict[str, Any], field: str, value: Any) -> None:
    prompt = decode(input="x", **body)
    assert getattr(prompt, field) == value
    assert (prompt.hints, prompt.foreign) == ({}, {})


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"metadata": {"a": "b"}}, "metadata"),
        ({"client_metadata": {"a": "b"}}, "client_metadata"),
        ({"truncation": "auto"}, "truncation"),
        ({"user": "u", "safety_identifier": "s"}, "safety_identifier"),
        ({"reasoning": {"context": "all_turns"}}, "reasoning.context"),
        ({"include": ["file_search_call.results"]}, "include[0]"),
        ({"prompt_cache_retention": "24h"}, "prompt_cache_retention"),
        ({"tools": [{"type": "function", "name": "f", "defer_loading": True}]}, "tools[0].defer_loading"),
    ],
)
def test_a_harmless_field_is_a_hint(body: dict[str, Any], path: str) -> None:
    prompt = decode(input="x", **body)
    assert (list(prompt.hints), prompt.foreign) == ([path], {})


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"moderation": {"model": "o"}}, "moderation"),
        ({"from_the_future": 1}, "from_the_future"),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice"),
        ({"reasoning": {"mode": "pro"}}, "reasoning.mode"),
        ({"input": [{"role": "user", "content": [{"type": "input_video"}]}]}, "input[0].content[0].input_video"),
        ({"input": [{"id": "msg_1"}]}, "input[0].item_reference"),
    ],
)
def test_a_field_that_changes_the_answer_is_foreign(body: dict[str, Any], path: str) -> None:
    assert list(decode(**{"input": "x", **body}).foreign) == [path]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tools": "x"}, "tools"),
        ({"tools": [1]}, "tools[0]"),
        ({"tools": [{"type": "function", "name": "f", "parameters": "x"}]}, "tools[0].parameters"),
        ({"reasoning": {"effort": 5}}, "reasoning.effort"),
        ({"reasoning": "high"}, "reasoning"),
        ({"text": {"format": []}}, "text.format"),
        ({"include": "x"}, "include"),
        ({"top_logprobs": True}, "top_logprobs"),
    ],
)
def test_a_field_of_a_wrong_type_is_refused(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        decode(input="x", **body)
    assert refused.value.param == param


def test_another_vendors_thinking_comes_back_from_its_carrier() -> None:
    signature = Opaque("anthropic", "signature", "SIG")
    prompt = decode(
        input=[
            {
                "type": "reasoning",
                "summary": [{"type": "summary_text", "text": "hm"}],
                "encrypted_content": carrier.pack(signature),
            },
            {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAA"},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        ]
    )
    assert prompt.messages[0].blocks[0] == Thinking(text="hm", signature=signature)
    assert len(prompt.messages[0].blocks) == 2
    assert list(prompt.hints) == ["input[1].encrypted_content"]


def test_own_thinking_goes_back_before_its_call() -> None:
    own = Opaque("vendor", "encrypted_content", "gAAAA", "rs_1")
    other = Opaque("else", "signature", "SIG")
    to = outgoing()
    body = encode(
        user(Text(text="x")),
        assistant(Thinking(text="a", signature=other), Thinking(text="b", signature=own), ToolCall(id="c", name="f")),
        user(ToolResult(call_id="c", content=(Text(text="ok"),))),
        to=to,
    )
    assert body["input"][1:] == [
        {
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": "b"}],
            "encrypted_content": "gAAAA",
            "id": "rs_1",
        },
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "ok"},
    ]
    assert body["include"] == ["reasoning.encrypted_content"]
    assert to.dropped == ["thinking"]


def test_the_first_system_text_is_the_instructions() -> None:
    system = Message(role="system", blocks=(Text(text="s"),))
    assert encode(system, user(Text(text="x")))["instructions"] == "s"
    apart = Message(role="system", blocks=(Text(text="s"), Text(text="t")))
    assert [part["text"] for part in encode(apart, user(Text(text="x")))["input"][0]["content"]] == ["s", "t"]
    assert "instructions" not in encode(system)


def test_nothing_is_kept_by_the_vendor() -> None:
    assert encode(user(Text(text="x")))["store"] is False


def test_calls_get_valid_ids_with_their_results() -> None:
    body = encode(
        assistant(ToolCall(id="functions.Bash:0", name="f"), ToolCall(id="x" * 200, name="g")),
        user(ToolResult(call_id="functions.Bash:0"), ToolResult(call_id="x" * 200)),
    )
    ids = [item["call_id"] for item in body["input"]]
    assert ids[:2] == ids[2:]
    assert all(len(found) <= 64 for found in ids)


def test_a_function_says_that_it_is_not_strict() -> None:
    tools = encode(user(Text(text="x")), tools=(Tool(name="f"), Tool(name="g", strict=True)))["tools"]
    assert [tool["strict"] for tool in tools] == [False, True]
    assert tools[0]["parameters"] == {"type": "object", "properties": {}}


def test_namespaces_and_grammars_are_written_as_they_were_read() -> None:
    tools = [
        {"type": "custom", "name": "patch", "format": {"type": "grammar", "syntax": "lark", "definition": "start: X"}},
        {
            "type": "namespace",
            "name": "agents",
            "description": "",
            "tools": [{"type": "function", "name": "close", "parameters": {"type": "object"}, "strict": True}],
        },
    ]
    given = decode(input="x", tools=tools)
    written = encode(user(Text(text="x")), tools=given.tools)["tools"]
    assert decode(input="x", tools=written).tools == given.tools
    assert written == tools


@pytest.mark.parametrize(
    ("reasoning", "written"),
    [
        (Reasoning(effort="high"), {"effort": "high"}),
        (Reasoning(budget_tokens=1024), {"effort": "low"}),
        (Reasoning(budget_tokens=10_000), {"effort": "medium"}),
        (Reasoning(budget_tokens=60_000, show="auto"), {"effort": "high", "summary": "auto"}),
        (Reasoning(budget_tokens=0), {"effort": "none"}),
        (Reasoning(adaptive=True), None),
    ],
)
def test_thinking_is_asked_for_by_effort(reasoning: Reasoning, written: dict[str, str] | None) -> None:
    body = encode(user(Text(text="x")), reasoning=reasoning)
    assert body.get("reasoning") == written


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"stop": ("x",)}, "stop"),
        ({"seed": 1}, "seed"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"foreign": {"logit_bias": {}}}, "logit_bias"),
    ],
)
def test_what_the_dialect_lacks_is_refused_or_dropped(fields: dict[str, Any], path: str) -> None:
    with pytest.raises(Untranslatable) as refused:
        encode(user(Text(text="x")), **fields)
    assert refused.value.param == path
    to = outgoing(drop=frozenset({path}))
    assert path not in encode(user(Text(text="x")), to=to, **fields)
    assert to.dropped == [path]


def test_hints_and_top_k_are_left_out_and_noted() -> None:
    to = outgoing()
    encode(user(Text(text="x", cache=CacheMark())), to=to, top_k=64, hints={"metadata": {}})
    assert to.dropped == ["metadata", "top_k", "cache_control"]


def test_a_foreign_server_tool_is_refused() -> None:
    block = ServerTool(dialect="messages", value={"type": "server_tool_use"})
    with pytest.raises(Untranslatable, match="server_tool_use"):
        encode(assistant(block))


def test_a_bound_is_at_least_what_the_api_accepts() -> None:
    assert encode(user(Text(text="x")), max_output_tokens=1)["max_output_tokens"] == 16
    assert encode(user(Text(text="x")), max_output_tokens=9, to=outgoing(max_output_tokens=5))["max_output_tokens"] == 5


def test_a_conversation_survives_the_neutral_form() -> None:
    messages = (
        Message(role="system", blocks=(Text(text="s"),)),
        Message(role="developer", blocks=(Text(text="d1"), Text(text="d2"))),
        user(
            Text(text="look"),
            Image(source=Source(url="https://x/y.png"), detail="low"),
            Document(source=Source(media_type="application/pdf", data="JVBE"), title="a.pdf"),
        ),
        assistant(Text(text="ok"), Refusal(text="no"), ToolCall(id="c1", name="f", arguments='{"a":1}')),
        user(ToolResult(call_id="c1", content=(Text(text="1"), Text(text="2"))), Text(text="next")),
    )
    prompt = Prompt(
        model="gpt",
        messages=messages,
        tools=(Tool(name="f", description="d", schema={"type": "object"}, strict=True),),
        tool_choice=ToolChoice(mode="auto", names=("f",)),
        parallel_tool_calls=False,
        format=Format(kind="json_schema", name="n", schema={"type": "object"}, strict=True, description="x"),
        reasoning=Reasoning(effort="low", show="auto"),
        max_output_tokens=99,
        temperature=0.5,
        top_p=0.9,
        top_logprobs=2,
        verbosity="low",
        user="u",
        service_tier="flex",
        cache_key="k",
        stream=True,
    )
    body = DIALECT.encode_request(prompt, outgoing(stream=True))
    assert DIALECT.decode_request(ResponsesRequest.parse(msgspec.json.encode(body))) == prompt
