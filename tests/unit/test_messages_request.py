"""Requests of Anthropic's dialect: read from callers, and written for vendors."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.domain.content import (
    Audio,
    CacheMark,
    Document,
    Format,
    Image,
    Message,
    Opaque,
    Prompt,
    Reasoning,
    ServerTool,
    Source,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from app.domain.messages import MessagesRequest
from app.errors import InvalidRequest, Untranslatable
from app.providers.dialects import carrier
from app.providers.dialects.dialect import Outgoing
from app.providers.dialects.messages import DIALECT

USER = {"role": "user", "content": "Hi"}
HI = Message(role="user", blocks=(Text(text="Hi"),))
OWN = Opaque("up", "signature", "sig")
OTHERS = Opaque("other", "encrypted_content", "blob")
BASH = Tool(name="Bash", schema={"type": "object", "properties": {}})


def read(*, messages: Any = None, **fields: Any) -> Prompt:
    body = {"model": "m", "max_tokens": 10, "messages": messages or [USER], **fields}
    return DIALECT.decode_request(MessagesRequest.parse(json.dumps(body).encode()))


def read_blocks(*blocks: dict[str, Any], role: str = "user") -> Prompt:
    return read(messages=[USER, {"role": role, "content": list(blocks)}, *([USER] if role == "assistant" else [])])


def outgoing(model: str = "claude-haiku-4-5", **fields: Any) -> Outgoing:
    return Outgoing(origin="up", model=model, stream=False, **fields)


def write(*messages: Message, to: Outgoing | None = None, **fields: Any) -> dict[str, Any]:
    prompt = Prompt(model="m", messages=messages or (HI,), **fields)
    return DIALECT.encode_request(prompt, to or outgoing())


def said(role: Any, *blocks: Any) -> Message:
    return Message(role=role, blocks=blocks)


# Reading


def test_a_whole_request_is_read() -> None:
    prompt = read(
        system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
        tools=[{"name": "Bash", "description": "Runs.", "input_schema": {"type": "object"}, "strict": True}],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        stop_sequences=["X"],
        top_k=3,
        top_p=0.5,
        temperature=0.1,
        metadata={"user_id": "u"},
        stream=True,
    )
    assert prompt.messages[0] == said("system", Text(text="Be brief.", cache=CacheMark(ttl="1h")))
    assert prompt.tools == (Tool(name="Bash", description="Runs.", schema={"type": "object"}, strict=True),)
    assert (prompt.tool_choice, prompt.parallel_tool_calls) == (ToolChoice(mode="required"), False)
    assert (prompt.stop, prompt.top_k, prompt.top_p, prompt.temperature) == (("X",), 3, 0.5, 0.1)
    assert (prompt.user, prompt.stream, prompt.max_output_tokens) == ("u", True, 10)
    assert (prompt.hints, prompt.foreign) == ({}, {})


@pytest.mark.parametrize(
    ("block", "read_as"),
    [
        ({"type": "text", "text": "x"}, Text(text="x")),
        (
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA"}},
            Image(source=Source(media_type="image/png", data="AA")),
        ),
        ({"type": "image", "source": {"type": "url", "url": "https://a/b"}}, Image(source=Source(url="https://a/b"))),
        ({"type": "image", "source": {"type": "file", "file_id": "f"}}, Image(source=Source(file_id="f"))),
        (
            {
                "type": "document",
                "source": {"type": "text", "media_type": "text/plain", "data": "x"},
                "title": "T",
                "citations": {"enabled": True},
            },
            Document(source=Source(media_type="text/plain", text="x"), title="T", cites=True),
        ),
        (
            {"type": "tool_result", "tool_use_id": "t", "content": "out", "is_error": True},
            ToolResult(call_id="t", content=(Text(text="out"),), is_error=True),
        ),
        (
            {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "out"}]},
            ToolResult(call_id="t", content=(Text(text="out"),)),
        ),
        ({"type": "tool_result", "tool_use_id": "t"}, ToolResult(call_id="t")),
    ],
)
def test_a_users_blocks_are_read(block: dict[str, Any], read_as: Any) -> None:
    assert read_blocks(block).messages[1].blocks == (read_as,)


@pytest.mark.parametrize(
    ("block", "read_as"),
    [
        ({"type": "tool_use", "id": "t", "name": "f", "input": {}}, ToolCall(id="t", name="f", arguments="")),
        (
            {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1.0}},
            ToolCall(id="t", name="f", arguments='{"a":1.0}'),
        ),
        (
            {"type": "thinking", "thinking": "hm", "signature": carrier.pack(OTHERS)},
            Thinking(text="hm", signature=OTHERS),
        ),
        ({"type": "redacted_thinking", "data": carrier.pack(OTHERS)}, Thinking(signature=OTHERS)),
        (
            {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
            ServerTool(
                dialect="messages",
                value={"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
            ),
        ),
    ],
)
def test_an_assistants_blocks_are_read(block: dict[str, Any], read_as: Any) -> None:
    assert read_blocks(block, role="assistant").messages[1].blocks == (read_as,)


def test_a_native_signature_stays_with_its_vendor() -> None:
    prompt = read_blocks({"type": "thinking", "thinking": "hm", "signature": "EqQB"}, role="assistant")
    assert prompt.messages[1].blocks == (Thinking(text="hm"),)
    assert list(prompt.hints) == ["messages[].content[].signature"]


def test_results_come_before_what_else_the_user_says() -> None:
    result = {"type": "tool_result", "tool_use_id": "t"}
    prompt = read_blocks({"type": "text", "text": "x"}, result)
    assert prompt.messages[1].blocks == (ToolResult(call_id="t"), Text(text="x"))


def test_the_system_may_speak_in_the_middle() -> None:
    prompt = read(messages=[USER, {"role": "system", "content": "Now."}])
    assert prompt.messages == (HI, said("system", Text(text="Now.")))


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"tools": [{"name": "f"}, {"type": "web_search_20250305", "name": "w"}]}, "tools[1].web_search_20250305"),
        ({"tools": [{"name": "f", "allowed_callers": ["code_execution_20260120"]}]}, "tools[0].allowed_callers"),
        ({"container": "c"}, "container"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"mcp_servers": []}, "mcp_servers"),
        ({"never_heard_of": 1}, "never_heard_of"),
        ({"messages": [USER, {"role": "assistant", "content": "The"}]}, "messages[1]"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "odd": 1}]}]},
            "messages[0].content[0].odd",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "tool_reference"}]}
                        ],
                    }
                ]
            },
            "messages[0].content[0].content[0].tool_reference",
        ),
    ],
)
def test_what_only_this_dialect_can_say_is_noted_as_foreign(fields: dict[str, Any], path: str) -> None:
    assert list(read(**fields).foreign) == [path]


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"context_management": {"edits": []}}, "context_management"),
        ({"metadata": {"user_id": "u", "team": "x"}}, "metadata.team"),
        ({"output_config": {"task_budget": {}}}, "output_config.task_budget"),
        ({"tools": [{"name": "f", "defer_loading": True}]}, "tools[].defer_loading"),
        ({"tools": [{"name": "f", "allowed_callers": ["direct"]}]}, "tools[].allowed_callers"),
    ],
)
def test_what_others_may_leave_out_is_noted_as_a_hint(fields: dict[str, Any], path: str) -> None:
    prompt = read(**fields)
    assert (list(prompt.hints), prompt.foreign) == ([path], {})


@pytest.mark.parametrize(
    ("fields", "reasoning"),
    [
        ({}, None),
        ({"thinking": {"type": "adaptive"}}, Reasoning(adaptive=True)),
        (
            {"thinking": {"type": "adaptive", "display": "omitted"}, "output_config": {"effort": "high"}},
            Reasoning(adaptive=True, effort="high", show=""),
        ),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 2000, "display": "summarized"}},
            Reasoning(budget_tokens=2000, show="auto"),
        ),
        ({"thinking": {"type": "disabled"}}, Reasoning(effort="none")),
        ({"thinking": {"type": "between_tools"}}, Reasoning(effort="none")),
        ({"output_config": {"effort": "max"}}, Reasoning(effort="max")),
    ],
)
def test_thinking_is_read(fields: dict[str, Any], reasoning: Reasoning | None) -> None:
    assert read(**fields).reasoning == reasoning


def test_a_format_is_strict_where_every_field_is_required() -> None:
    closed = {"type": "object", "properties": {"a": {}}, "required": ["a"], "additionalProperties": False}
    variants: list[tuple[dict[str, Any], bool | None]] = [(closed, True), ({**closed, "required": []}, None)]
    for schema, strict in [*variants, ({**closed, "required": [{}]}, None), ({**closed, "required": 5}, None)]:
        prompt = read(output_config={"format": {"type": "json_schema", "schema": schema}})
        assert prompt.format == Format(kind="json_schema", name="answer", schema=schema, strict=strict)


@pytest.mark.parametrize(
    ("choice", "read_as", "parallel"),
    [
        ({"type": "auto"}, ToolChoice(mode="auto"), None),
        ({"type": "none"}, ToolChoice(mode="none"), None),
        ({"type": "tool", "name": "f"}, ToolChoice(mode="required", names=("f",)), None),
        ({"type": "auto", "disable_parallel_tool_use": False}, ToolChoice(mode="auto"), True),
    ],
)
def test_a_tool_choice_is_read(choice: dict[str, Any], read_as: ToolChoice, parallel: bool | None) -> None:
    prompt = read(tool_choice=choice)
    assert (prompt.tool_choice, prompt.parallel_tool_calls) == (read_as, parallel)


# Writing


def test_the_least_request_is_written() -> None:
    assert write() == {
        "model": "claude-haiku-4-5",
        "max_tokens": 16_384,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
    }


@pytest.mark.parametrize(
    ("callers", "bound", "written"), [(None, None, 16_384), (50, None, 50), (50, 20, 20), (None, 20, 20)]
)
def test_a_bound_is_always_written(callers: int | None, bound: int | None, written: int) -> None:
    body = write(max_output_tokens=callers, to=outgoing(max_output_tokens=bound))
    assert body["max_tokens"] == written


def test_turns_alternate_and_results_come_first_in_the_next_one() -> None:
    calls = (ToolCall(id="a", name="Bash"), ToolCall(id="b", name="Bash", arguments='{"x": 1}'))
    body = write(
        said("system", Text(text="S")),
        HI,
        said("assistant", Text(text="Let me see. ")),
        said("assistant", *calls),
        said("user", ToolResult(call_id="b", content=(Text(text="2"),))),
        said("user", Text(text="And?")),
        said("user", ToolResult(call_id="a")),
        tools=(BASH,),
    )
    assert body["system"] == [{"type": "text", "text": "S"}]
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]
    assert body["messages"][1]["content"] == [
        {"type": "text", "text": "Let me see. "},
        {"type": "tool_use", "id": "a", "name": "Bash", "input": {}},
        {"type": "tool_use", "id": "b", "name": "Bash", "input": {"x": 1}},
    ]
    assert body["messages"][2]["content"] == [
        {"type": "tool_result", "tool_use_id": "b", "content": "2"},
        {"type": "tool_result", "tool_use_id": "a"},
        {"type": "text", "text": "And?"},
    ]


def test_empty_text_is_left_out_and_messages_of_nothing_else_too() -> None:
    body = write(said("user", Text(text=" \n")), HI, said("assistant", Text(text="")), said("user", Text(text="?")))
    assert [[block["text"] for block in message["content"]] for message in body["messages"]] == [["Hi"], ["?"]]
    with pytest.raises(InvalidRequest) as refused:
        write(said("user", Text(text="")))
    assert refused.value.param == "messages"


@pytest.mark.parametrize(
    ("model", "roles", "system"),
    [("claude-opus-4-8", ["user", "system", "user"], 1), ("claude-opus-4-5", ["user"], 2), ("kimi-k2", ["user"], 2)],
)
def test_the_system_speaks_between_turns_only_to_models_that_listen(model: str, roles: list[str], system: int) -> None:
    messages = (said("system", Text(text="S")), HI, said("developer", Text(text="Now.")), HI)
    body = write(*messages, to=outgoing(model))
    assert [message["role"] for message in body["messages"]] == roles
    assert len(body["system"]) == system


def test_a_result_stands_right_behind_its_call_whoever_spoke_between() -> None:
    call, result = ToolCall(id="a", name="Bash"), ToolResult(call_id="a")
    messages = (HI, said("assistant", call), said("system", Text(text="Now.")), said("user", result))
    body = write(*messages, to=outgoing("claude-opus-4-8"))
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user", "system"]
    assert body["messages"][2]["content"][0]["type"] == "tool_result"


def test_thinking_goes_back_to_its_own_vendor_only() -> None:
    thoughts = (
        Thinking(text="mine", signature=OWN),
        Thinking(signature=Opaque("up", "redacted_thinking", "data")),
        Thinking(text="not mine", signature=OTHERS),
        Thinking(text="unsigned"),
    )
    to = outgoing()
    body = write(HI, said("assistant", *thoughts, Text(text="x")), HI, to=to)
    assert body["messages"][1]["content"] == [
        {"type": "thinking", "thinking": "mine", "signature": "sig"},
        {"type": "redacted_thinking", "data": "data"},
        {"type": "text", "text": "x"},
    ]
    assert to.dropped == ["messages[].content[].thinking"]


@pytest.mark.parametrize(
    ("block", "written"),
    [
        (
            Image(source=Source(media_type="image/png", data="AA"), cache=CacheMark(ttl="1h")),
            {
                "type": "image",
                "source": {"type": "base64", "media_type": "image/png", "data": "AA"},
                "cache_control": {"type": "ephemeral", "ttl": "1h"},
            },
        ),
        (Image(source=Source(url="https://a/b")), {"type": "image", "source": {"type": "url", "url": "https://a/b"}}),
        (
            Document(source=Source(media_type="application/pdf", data="AA"), title="T"),
            {
                "type": "document",
                "source": {"type": "base64", "media_type": "application/pdf", "data": "AA"},
                "title": "T",
            },
        ),
        (
            Document(source=Source(media_type="text/csv; charset=utf-8", data="YSxi")),
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "a,b"}},
        ),
        (
            ToolResult(call_id="t", content=(Text(text="x"), Image(source=Source(url="u"))), is_error=True),
            {
                "type": "tool_result",
                "tool_use_id": "t",
                "content": [{"type": "text", "text": "x"}, {"type": "image", "source": {"type": "url", "url": "u"}}],
                "is_error": True,
            },
        ),
        (ServerTool(dialect="messages", value={"type": "container_upload"}), {"type": "container_upload"}),
    ],
)
def test_a_users_blocks_are_written(block: Any, written: dict[str, Any]) -> None:
    assert write(said("user", block, Text(text="?")))["messages"][0]["content"][0] == written


@pytest.mark.parametrize(
    ("call", "given"),
    [
        (ToolCall(id="t", name="f", arguments=""), {}),
        (ToolCall(id="t", name="f", arguments='{"a": [1]}'), {"a": [1]}),
        (ToolCall(id="t", name="f", arguments="{broken"), {"arguments": "{broken"}),
        (ToolCall(id="t", name="f", arguments="[1]"), {"arguments": "[1]"}),
        (ToolCall(id="t", name="f", arguments="ls -l", custom=True), {"input": "ls -l"}),
    ],
)
def test_the_input_of_a_call_is_always_an_object(call: ToolCall, given: dict[str, Any]) -> None:
    body = write(HI, said("assistant", call), said("user", ToolResult(call_id="t")))
    assert body["messages"][1]["content"][0]["input"] == given


@pytest.mark.parametrize("tool_id", ["functions.Bash:0", "x" * 200, "", "🙂"])
def test_any_tool_id_becomes_a_valid_one_on_both_sides(tool_id: str) -> None:
    body = write(HI, said("assistant", ToolCall(id=tool_id, name="f")), said("user", ToolResult(call_id=tool_id)))
    written = body["messages"][1]["content"][0]["id"]
    assert written == body["messages"][2]["content"][0]["tool_use_id"]
    assert written.replace("_", "").replace("-", "").isalnum()
    assert len(written) <= 64


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"seed": 1}, "seed"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"frequency_penalty": -1}, "frequency_penalty"),
        ({"top_logprobs": 0}, "logprobs"),
        ({"top_logprobs": 5}, "top_logprobs"),
        ({"temperature": 1.2}, "temperature"),
        ({"stop": ("\n",)}, "stop"),
        ({"format": Format(kind="json_object")}, "response_format"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"foreign": {"logit_bias": {}}}, "logit_bias"),
    ],
)
def test_what_this_dialect_cannot_say_is_refused_or_dropped_by_name(fields: dict[str, Any], path: str) -> None:
    with pytest.raises(Untranslatable) as refused:
        write(**fields)
    assert refused.value.param == path
    to = outgoing(drop=frozenset({path}))
    write(**fields, to=to)
    assert to.dropped == [path]


@pytest.mark.parametrize("part", ["input_audio", "file_id", "application/zip"])
def test_content_that_this_dialect_cannot_carry_is_refused(part: str) -> None:
    block = {
        "input_audio": Audio(source=Source(media_type="audio/wav", data="AA")),
        "file_id": Image(source=Source(file_id="f")),
        "application/zip": Document(source=Source(media_type="application/zip", data="AA")),
    }[part]
    with pytest.raises(Untranslatable) as refused:
        write(said("user", Text(text="x"), block))
    assert refused.value.param == f"messages[0].content[1].{part}"


def test_harmless_fields_are_left_out_and_told() -> None:
    to = outgoing()
    write(Message(role="user", name="ann", blocks=HI.blocks), verbosity="low", cache_key="k", hints={"store": 1}, to=to)
    assert to.dropped == ["store", "verbosity", "prompt_cache_key", "messages[].name"]


@pytest.mark.parametrize(
    ("choice", "parallel", "written"),
    [
        (None, None, None),
        (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
        (ToolChoice(mode="required"), True, {"type": "any", "disable_parallel_tool_use": False}),
        (ToolChoice(mode="required", names=("Bash",)), None, {"type": "tool", "name": "Bash"}),
        (ToolChoice(mode="none"), False, {"type": "none"}),
    ],
)
def test_a_tool_choice_is_written(choice: ToolChoice | None, parallel: bool | None, written: Any) -> None:
    body = write(tools=(BASH,), tool_choice=choice, parallel_tool_calls=parallel)
    assert body.get("tool_choice") == written


def test_a_choice_among_several_tools_leaves_the_others_out() -> None:
    tools = tuple(Tool(name=name) for name in "abc")
    body = write(tools=tools, tool_choice=ToolChoice(mode="required", names=("a", "c")))
    assert [tool["name"] for tool in body["tools"]] == ["a", "c"]
    assert body["tool_choice"] == {"type": "any"}


def test_tools_are_written_with_an_object_as_schema() -> None:
    tools = (
        Tool(name="a", description="A.", schema={"properties": {"x": {}}}, strict=False, cache=CacheMark()),
        Tool(name="b"),
        Tool(name="c", description="Patch.", custom=True, grammar={"syntax": "lark", "definition": "start: x"}),
    )
    a, b, c = write(tools=tools)["tools"]
    schema = {"properties": {"x": {}}, "type": "object"}
    mark = {"type": "ephemeral"}
    assert a == {"name": "a", "description": "A.", "input_schema": schema, "strict": False, "cache_control": mark}
    assert b == {"name": "b", "input_schema": {"properties": {}, "type": "object"}}
    assert c["input_schema"]["required"] == ["input"]
    assert "start: x" in c["description"]


def test_a_schema_of_the_answer_has_closed_objects() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "object", "properties": {}}}}}
    written = write(format=Format(kind="json_schema", name="n", schema=schema))["output_config"]["format"]
    assert written["type"] == "json_schema"
    assert written["schema"]["additionalProperties"] is False
    assert written["schema"]["properties"]["a"]["items"]["additionalProperties"] is False


@pytest.mark.parametrize(
    ("model", "reasoning", "thinking", "effort"),
    [
        ("claude-haiku-4-5", None, None, None),
        ("claude-haiku-4-5", Reasoning(show="auto"), None, None),
        ("claude-haiku-4-5", Reasoning(effort="none"), {"type": "disabled"}, None),
        ("claude-haiku-4-5", Reasoning(budget_tokens=0), {"type": "disabled"}, None),
        ("claude-haiku-4-5", Reasoning(budget_tokens=500), {"type": "enabled", "budget_tokens": 1024}, None),
        ("claude-haiku-4-5", Reasoning(budget_tokens=90_000), {"type": "enabled", "budget_tokens": 16_383}, None),
        ("claude-haiku-4-5", Reasoning(effort="low"), {"type": "enabled", "budget_tokens": 2048}, None),
        (
            "kimi-k2",
            Reasoning(effort="max", show=""),
            {"type": "enabled", "budget_tokens": 8192, "display": "omitted"},
            None,
        ),
        ("claude-opus-4-8", Reasoning(effort="minimal"), {"type": "adaptive"}, "low"),
        (
            "claude-opus-4-8",
            Reasoning(effort="xhigh", show="auto"),
            {"type": "adaptive", "display": "summarized"},
            "xhigh",
        ),
        ("anthropic.claude-sonnet-5-v1:0", Reasoning(budget_tokens=500), {"type": "adaptive"}, "low"),
        ("claude-sonnet-4-20250514", Reasoning(adaptive=True), {"type": "enabled", "budget_tokens": 8192}, None),
    ],
)
def test_thinking_is_written_as_the_model_takes_it(
    model: str, reasoning: Reasoning | None, thinking: Any, effort: str | None
) -> None:
    body = write(reasoning=reasoning, to=outgoing(model))
    assert body.get("thinking") == thinking
    assert body.get("output_config", {}).get("effort") == effort


@pytest.mark.parametrize(
    "fields",
    [
        {"max_output_tokens": 1000},
        {"tools": (BASH,), "tool_choice": ToolChoice(mode="required")},
    ],
)
def test_thinking_is_left_out_where_it_cannot_be(fields: dict[str, Any]) -> None:
    to = outgoing()
    assert "thinking" not in write(reasoning=Reasoning(effort="high"), to=to, **fields)
    assert to.dropped == ["reasoning"]


@pytest.mark.parametrize(("signature", "thinks"), [(OWN, True), (OTHERS, False)])
def test_a_turn_that_began_without_thinking_ends_without(signature: Opaque, thinks: bool) -> None:
    turn = said("assistant", Thinking(text="hm", signature=signature), ToolCall(id="t", name="f"))
    body = write(HI, turn, said("user", ToolResult(call_id="t")), reasoning=Reasoning(budget_tokens=2000))
    assert ("thinking" in body) is thinks


def test_sampling_near_the_default_is_left_out_for_models_that_take_none() -> None:
    to = outgoing("claude-opus-4-8")
    body = write(temperature=1, top_p=0.95, top_k=64, to=to)
    assert not {"temperature", "top_p", "top_k"} & body.keys()
    assert to.dropped == ["top_p", "top_k"]
    assert write(temperature=0.3, top_p=0.5, top_k=64)["top_k"] == 64
    refused: list[dict[str, Any]] = [{"temperature": 0.3}, {"top_p": 0.5}]
    for fields in refused:
        with pytest.raises(Untranslatable):
            write(to=outgoing("claude-opus-4-8"), **fields)
        with pytest.raises(Untranslatable):
            write(reasoning=Reasoning(effort="low"), **fields)


def test_a_prefill_goes_to_the_models_that_go_on_with_it() -> None:
    messages = (HI, said("assistant", Text(text="The answer is: ")))
    assert write(*messages)["messages"][-1]["content"] == [{"type": "text", "text": "The answer is:"}]
    with pytest.raises(Untranslatable) as refused:
        write(*messages, to=outgoing("claude-opus-4-8"))
    assert refused.value.param == "messages[1]"
    body = write(*messages, to=outgoing("claude-opus-4-8", drop=frozenset({"messages"})))
    assert [message["role"] for message in body["messages"]] == ["user"]


def test_no_more_cache_marks_are_sent_than_vendors_accept() -> None:
    marked = tuple(Text(text=str(i), cache=CacheMark()) for i in range(6))
    to = outgoing()
    content = write(said("user", *marked), to=to)["messages"][0]["content"]
    assert [block["text"] for block in content if "cache_control" in block] == ["2", "3", "4", "5"]
    assert to.dropped == ["cache_control"]


def test_a_cache_mark_of_an_hour_stands_before_those_of_minutes() -> None:
    marked = tuple(Text(text=ttl, cache=CacheMark(ttl=ttl)) for ttl in ("1h", "5m", "1h"))
    to = outgoing()
    content = write(said("user", *marked), to=to)["messages"][0]["content"]
    assert [block["cache_control"].get("ttl") for block in content] == ["1h", "5m", None]
    assert to.dropped == ["cache_control.ttl"]


def test_a_request_that_is_read_and_written_says_the_same() -> None:
    body = {
        "model": "m",
        "max_tokens": 5000,
        "system": [{"type": "text", "text": "S", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t", "content": "x"},
                    {
                        "type": "search_result",
                        "title": "T",
                        "source": "https://a",
                        "content": [{"type": "text", "text": "r"}],
                    },
                    {
                        "type": "document",
                        "source": {"type": "content", "content": [{"type": "text", "text": "d"}]},
                        "title": "D",
                    },
                ],
            },
        ],
        "tools": [{"name": "f", "input_schema": {"type": "object", "properties": {}}, "strict": True}],
        "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
        "stop_sequences": ["X"],
        "temperature": 0.2,
        "metadata": {"user_id": "u"},
        "service_tier": "standard_only",
        "stream": True,
    }
    prompt = DIALECT.decode_request(MessagesRequest.parse(json.dumps(body).encode()))
    assert DIALECT.encode_request(prompt, Outgoing(origin="up", model="m", stream=True)) == body


def canonical(body: str) -> MessagesRequest:
    raw = '{"model": "m", "max_tokens": 10, "messages": [{"role": "user", "content": "Hi"}], ' + body + "}"
    return MessagesRequest.parse(raw.encode()).canonical()


def test_under_a_budget_a_tools_fields_go_out_once() -> None:
    request = canonical('"tools": [{"type": "web_search_20250305", "name": "a", "ty\\u0070e": "custom"}]')
    assert bytes(request.fields["tools"]) == b'[{"type":"custom","name":"a"}]'
    assert request.tools == request.fields["tools"]
    assert bytes(canonical('"tools": null').fields["tools"]) == b"null"


def test_a_budget_refuses_an_odd_spelling_in_a_tool() -> None:
    with pytest.raises(InvalidRequest) as refused:
        canonical('"tools": [{"name": "a", "Type": "web_search_20250305"}]')
    assert refused.value.param == "tools[0].Type"


def test_the_bound_on_a_prompt_knows_numbers_that_grow_when_written() -> None:
    request = canonical('"tools": [{"name": "a", "input_schema": {"enum": [' + ",".join(["1e15"] * 1000) + "]}}]")
    assert request.prompt_tokens_upper_bound() > len(DIALECT.pass_request(request, outgoing())) > 15_000
