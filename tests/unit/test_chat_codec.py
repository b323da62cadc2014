"""Chat completions' requests and answers, to and from the neutral form."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from app.domain.chat import ChatRequest
from app.domain.content import (
    Answer,
    Audio,
    CacheMark,
    Document,
    Format,
    Image,
    Message,
    Opaque,
    Prompt,
    Reasoning,
    Refusal,
    Source,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from app.domain.usage import Details, Usage
from app.errors import InvalidRequest, Untranslatable
from app.providers.dialects import carrier
from app.providers.dialects.chat import DIALECT
from app.providers.dialects.dialect import Framing, Outgoing

ASKED: list[Any] = [{"role": "user", "content": "hi"}]


def decode(messages: object = None, **fields: object) -> Prompt:
    body = {"model": "m", "messages": messages or ASKED, **fields}
    return DIALECT.decode_request(ChatRequest.parse(msgspec.json.encode(body)))


def target(*, openai: bool = True, **fields: Any) -> Outgoing:
    field = "max_completion_tokens" if openai else "max_tokens"
    return replace(Outgoing(origin="p", model="x", stream=False, max_tokens_field=field), **fields)


def encode(prompt: Prompt, **fields: Any) -> dict[str, Any]:
    return DIALECT.encode_request(prompt, target(**fields))


def prompt(*messages: Message, **fields: Any) -> Prompt:
    return Prompt(model="m", messages=messages or (Message(role="user", blocks=(Text(text="hi"),)),), **fields)


def said(*blocks: Any, role: Any = "user") -> Message:
    return Message(role=role, blocks=blocks)


@pytest.mark.parametrize(
    ("part", "block"),
    [
        (
            {"type": "image_url", "image_url": {"url": "data:image/gif;base64,AA", "detail": "low"}},
            Image(source=Source(media_type="image/gif", data="AA"), detail="low"),
        ),
        ({"type": "image_url", "image_url": {"url": "https://x/y"}}, Image(source=Source(url="https://x/y"))),
        (
            {"type": "input_audio", "input_audio": {"data": "AA", "format": "mp3"}},
            Audio(source=Source(media_type="audio/mpeg", data="AA")),
        ),
        (
            {"type": "file", "file": {"file_data": "data:application/pdf;base64,AA", "filename": "a.pdf"}},
            Document(source=Source(media_type="application/pdf", data="AA"), title="a.pdf"),
        ),
        ({"type": "file", "file": {"file_id": "f"}}, Document(source=Source(file_id="f"))),
        (
            {"type": "text", "text": "t", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
            Text(text="t", cache=CacheMark(ttl="1h")),
        ),
        (
            {"type": "text", "text": "t", "prompt_cache_breakpoint": {"mode": "explicit"}},
            Text(text="t", cache=CacheMark()),
        ),
    ],
)
def test_each_part_has_its_block(part: dict[str, Any], block: object) -> None:
    asked = decode([{"role": "user", "content": [part]}])
    assert asked.messages == (said(block),)
    assert not asked.foreign


@pytest.mark.parametrize(
    ("choice", "meant"),
    [
        ("auto", ToolChoice(mode="auto")),
        ("any", ToolChoice(mode="required")),
        ({"type": "function", "function": {"name": "f"}}, ToolChoice(mode="required", names=("f",))),
        ({"type": "custom", "custom": {"name": "p"}}, ToolChoice(mode="required", names=("p",))),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "f"}}]},
            },
            ToolChoice(mode="auto", names=("f",)),
        ),
    ],
)
def test_a_tool_choice_is_understood(choice: object, meant: ToolChoice) -> None:
    assert decode(tool_choice=choice).tool_choice == meant


@pytest.mark.parametrize(
    ("fields", "meant"),
    [
        ({"reasoning_effort": "low"}, Reasoning(effort="low")),
        ({"reasoning": {"max_tokens": 2000, "exclude": True}}, Reasoning(budget_tokens=2000, show="")),
        ({"thinking": {"type": "enabled", "budget_tokens": 99}}, Reasoning(budget_tokens=99)),
        ({"thinking": {"type": "adaptive"}}, Reasoning(adaptive=True)),
        ({"thinking": {"type": "disabled"}}, Reasoning(effort="none")),
        ({"reasoning_effort": None}, None),
    ],
)
def test_the_ways_to_ask_for_reasoning(fields: dict[str, object], meant: Reasoning | None) -> None:
    assert decode(**fields).reasoning == meant


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"n": 2}, "n"),
        ({"logit_bias": {"1": 2}}, "logit_bias"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"min_p": 0.5}, "min_p"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}, {"type": "mcp"}]}, "tools[1].mcp"),
        ({"response_format": {"type": "grammar"}}, "response_format.grammar"),
        ({"messages": [{"role": "user", "content": [{"type": "video_url"}]}]}, "messages[0].content[0].video_url"),
    ],
)
def test_what_only_this_dialect_can_say_is_foreign(fields: dict[str, Any], path: str) -> None:
    asked = decode(**fields)
    assert list(asked.foreign) == [path]
    with pytest.raises(Untranslatable) as refused:
        encode(asked)
    assert refused.value.param == path
    outgoing = target(drop=frozenset({path.split("[")[0].split(".")[0]}))
    DIALECT.encode_request(asked, outgoing)
    assert outgoing.dropped == [path]


@pytest.mark.parametrize(
    "fields",
    [{"n": 1}, {"logprobs": False}, {"logit_bias": None}, {"logit_bias": {}}, {"modalities": ["text"]}, {"stop": None}],
)
def test_what_is_the_default_anyway_is_not_noted(fields: dict[str, object]) -> None:
    asked = decode(**fields)
    assert (asked.hints, asked.foreign) == ({}, {})
    assert asked == decode()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"seed": "x"}, "seed"),
        ({"stop": [1]}, "stop"),
        ({"tools": {}}, "tools"),
        ({"tools": [1]}, "tools[0]"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {}}]}]},
            "messages[0].tool_calls[0].function.name",
        ),
        ({"seed": True}, "seed"),
    ],
)
def test_a_value_of_another_type_is_refused_by_its_path(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        decode(**fields)
    assert refused.value.param == param


def test_a_carrier_is_opened_and_a_foreign_signature_stays_out() -> None:
    ours = Opaque("anthropic", "signature", "S")
    blocks = [
        {"type": "thinking", "thinking": "a", "signature": carrier.pack(ours)},
        {"type": "thinking", "thinking": "b", "signature": "someone else's"},
    ]
    asked = decode([*ASKED, {"role": "assistant", "content": "x", "thinking_blocks": blocks}, *ASKED])
    assert asked.messages[1].blocks[:2] == (Thinking(text="a", signature=ours), Thinking(text="b"))
    assert list(asked.hints) == ["messages[1].thinking_blocks[1].signature"]


@pytest.mark.parametrize(
    ("signature", "fields"),
    [
        (Opaque("p", "reasoning_content", ""), {"reasoning_content": "hm"}),
        (
            Opaque("p", "reasoning_details", '[{"type":"reasoning.encrypted"}]'),
            {"reasoning": "hm", "reasoning_details": [{"type": "reasoning.encrypted"}]},
        ),
        (
            Opaque("p", "signature", "S"),
            {"thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "S"}]},
        ),
        (Opaque("q", "signature", "S"), {}),
        (None, {}),
    ],
)
def test_a_vendor_gets_its_own_reasoning_back_and_no_other(signature: Opaque | None, fields: dict[str, Any]) -> None:
    thought = said(Thinking(text="hm", signature=signature), Text(text="a"), role="assistant")
    sent = encode(prompt(said(Text(text="q")), thought, said(Text(text="r"))))
    assert sent["messages"][1] == {"role": "assistant", "content": "a", **fields}


def test_pictures_in_results_move_behind_the_results() -> None:
    picture = Image(source=Source(url="https://x/y"))
    turn = said(
        ToolResult(call_id="a", content=(Text(text="see"), picture)),
        ToolResult(call_id="b", content=(picture,)),
        Text(text="and?"),
    )
    sent = encode(prompt(said(ToolCall(id="a", name="f"), ToolCall(id="b", name="g"), role="assistant"), turn))
    shown = {"type": "image_url", "image_url": {"url": "https://x/y"}}
    assert sent["messages"][1:] == [
        {"role": "tool", "tool_call_id": "a", "content": "see"},
        {"role": "tool", "tool_call_id": "b", "content": "The result is in the user's message below."},
        {"role": "user", "content": [shown, shown, {"type": "text", "text": "and?"}]},
    ]


def test_only_openai_gets_custom_tools_and_developer_messages() -> None:
    tool = Tool(name="p", custom=True, grammar={"syntax": "lark", "definition": "x"})
    asked = prompt(
        said(Text(text="be"), role="developer"),
        said(ToolCall(id="a", name="p", arguments="raw", custom=True), role="assistant"),
        said(ToolResult(call_id="a", content=(Text(text="ok"),), custom=True)),
        tools=(tool,),
        tool_choice=ToolChoice(mode="required", names=("p",)),
    )
    sent = encode(asked, openai=False)
    assert sent["messages"][0]["role"] == "system"
    assert sent["tools"][0]["type"] == "function"
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "p"}}
    assert sent["messages"][1]["tool_calls"][0]["function"] == {"name": "p", "arguments": '{"input":"raw"}'}
    native = encode(asked)
    assert native["messages"][0]["role"] == "developer"
    assert native["tools"][0]["custom"]["format"] == {"type": "grammar", "grammar": tool.grammar}
    assert native["tool_choice"] == {"type": "custom", "custom": {"name": "p"}}
    assert native["messages"][1]["tool_calls"][0]["custom"] == {"name": "p", "input": "raw"}


def test_the_bound_of_the_budget_replaces_the_callers() -> None:
    asked = prompt(max_output_tokens=100)
    assert encode(asked)["max_completion_tokens"] == 100
    assert encode(asked, openai=False, max_output_tokens=7)["max_tokens"] == 7


def test_a_setting_can_be_dropped_by_the_models_configuration() -> None:
    outgoing = target(drop=frozenset({"temperature", "reasoning_effort"}))
    sent = DIALECT.encode_request(prompt(temperature=0.5, reasoning=Reasoning(effort="low"), seed=1), outgoing)
    assert sent.keys() == {"model", "messages", "seed"}
    assert outgoing.dropped == ["reasoning_effort", "temperature"]


@pytest.mark.parametrize(("tokens", "effort"), [(0, "none"), (1024, "low"), (10_000, "medium"), (30_000, "high")])
def test_a_budget_of_thinking_becomes_an_effort(tokens: int, effort: str) -> None:
    assert encode(prompt(reasoning=Reasoning(budget_tokens=tokens)))["reasoning_effort"] == effort


def test_a_stream_always_asks_for_usage() -> None:
    assert encode(prompt(), stream=True)["stream_options"] == {"include_usage": True}


def test_json_by_schema_has_a_name() -> None:
    form = Format(kind="json_schema", schema={"type": "object"})
    assert encode(prompt(format=form))["response_format"]["json_schema"]["name"]


ANSWER = Answer(
    id="c",
    model="v",
    blocks=(
        Thinking(text="hm", signature=Opaque("p", "reasoning_content", "")),
        Text(text="a"),
        ToolCall(id="a", name="f"),
        ToolCall(id="b", name="g", arguments='{"x":1}', signature=Opaque("p", "thought_signature", "T")),
    ),
    stop="tool_calls",
    native_stop="tool_calls",
    created=5,
    usage=Usage(9, 8, 7, 6, details=Details(cache_write_tokens=2, searches=1)),
    logprobs=[{"token": "a"}],
)


def test_an_answer_of_a_vendor_is_read_whole() -> None:
    body = {
        "id": "c",
        "model": "v",
        "created": 5,
        "choices": [
            {
                "finish_reason": "tool_calls",
                "logprobs": {"content": [{"token": "a"}]},
                "message": {
                    "role": "assistant",
                    "reasoning_content": "hm",
                    "content": "a",
                    "tool_calls": [
                        {"id": "a", "function": {"name": "f", "arguments": "{}"}},
                        {
                            "id": "b",
                            "function": {"name": "g", "arguments": {"x": 1}},
                            "extra_content": {"google": {"thought_signature": "T"}},
                        },
                    ],
                },
            }
        ],
        "usage": {
            "prompt_tokens": 9,
            "completion_tokens": 8,
            "prompt_tokens_details": {"cached_tokens": 7, "cache_write_tokens": 2},
            "completion_tokens_details": {"reasoning_tokens": 6},
            "server_tool_use": {"web_search_requests": 1},
        },
    }
    assert DIALECT.decode_answer(msgspec.json.encode(body), "p") == ANSWER


def test_an_answer_is_written_as_clients_replay_it() -> None:
    framing = Framing(call_id="abc", created=7, prompt=Prompt(model="m", messages=()), fields={})
    sent = msgspec.json.decode(DIALECT.encode_answer(ANSWER, framing))
    (choice,) = sent["choices"]
    assert choice["finish_reason"] == "tool_calls"
    replayed = decode([*ASKED, choice["message"], {"role": "tool", "tool_call_id": "a", "content": "r"}])
    assert replayed.messages[1].blocks == ANSWER.blocks
    assert sent["usage"]["prompt_tokens_details"] == {"cached_tokens": 7, "cache_write_tokens": 2}
    assert (sent["id"], sent["object"], sent["created"]) == ("chatcmpl-abc", "chat.completion", 5)


def test_thinking_between_calls_keeps_its_place_in_the_next_turn() -> None:
    signature = Opaque("p", "signature", "S")
    blocks = (
        Thinking(text="a", signature=signature),
        Text(text="t"),
        Thinking(text="b", signature=signature),
        ToolCall(id="a", name="f"),
    )
    framing = Framing(call_id="abc", created=7, prompt=Prompt(model="m", messages=()), fields={})
    answer = Answer(id="", model="", blocks=blocks, stop="tool_calls")
    message = msgspec.json.decode(DIALECT.encode_answer(answer, framing))["choices"][0]["message"]
    assert decode([*ASKED, message]).messages[1].blocks == blocks


@pytest.mark.parametrize(
    ("stop", "reason"),
    [("end", "stop"), ("pause", "length"), ("context_window", "length"), ("refusal", "stop")],
)
def test_finish_reasons_are_those_that_clients_know(stop: Any, reason: str) -> None:
    framing = Framing(call_id="abc", created=7, prompt=Prompt(model="m", messages=()), fields={})
    answer = Answer(id="", model="", blocks=(Refusal(text="no"),), stop=stop)
    choice = msgspec.json.decode(DIALECT.encode_answer(answer, framing))["choices"][0]
    assert (choice["finish_reason"], choice["message"]["refusal"]) == (reason, "no")


def test_a_refusal_without_words_of_its_own_is_filtered() -> None:
    framing = Framing(call_id="abc", created=7, prompt=Prompt(model="m", messages=()), fields={})
    answer = Answer(id="", model="", blocks=(Text(text="no"),), stop="refusal")
    assert (
        msgspec.json.decode(DIALECT.encode_answer(answer, framing))["choices"][0]["finish_reason"] == "content_filter"
    )


@pytest.mark.parametrize(
    ("message", "blocks"),
    [
        (None, ()),
        ({"content": None, "tool_calls": None, "reasoning": None}, ()),
        ({"content": [{"type": "text", "text": "a"}]}, (Text(text="a"),)),
        (
            {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"text": "a"}]},
            (Thinking(text="hm"), Text(text="a")),
        ),
        ({"function_call": {"name": "f", "arguments": "{}"}}, (ToolCall(id="", name="f"),)),
        (
            {"tool_calls": [{"custom": {"name": "p", "input": "{}"}}]},
            (ToolCall(id="", name="p", arguments="{}", custom=True),),
        ),
        (
            {"images": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]},
            (Image(source=Source(media_type="image/png", data="AA")),),
        ),
    ],
)
def test_odd_messages_of_vendors_are_understood(message: object, blocks: object) -> None:
    body = {"choices": [{"message": message, "finish_reason": None}]}
    assert DIALECT.decode_answer(msgspec.json.encode(body), "p").blocks == blocks


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"choices":[]}',
        b'{"choices":null}',
        b'{"choices":[{"finish_reason":"error"}]}',
        b"[" * 99999,
    ],
)
def test_what_is_no_answer_is_an_error(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        DIALECT.decode_answer(body, "p")
