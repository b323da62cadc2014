"""Gemini's requests and the neutral form: read from callers, written for vendors."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from app.domain.content import (
    Audio,
    Block,
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
from app.domain.gemini import GeminiRequest
from app.errors import InvalidRequest, Untranslatable
from app.providers.dialects import carrier
from app.providers.dialects.dialect import Outgoing
from app.providers.dialects.gemini import DIALECT, signatures

GOOGLE = Opaque("google", signatures.KIND, "c2ln")
CLAUDE = Opaque("anthropic", "signature", "EqQB")
PNG = {"mimeType": "image/png", "data": "AAAA"}


def read(body: dict[str, Any], **changes: Any) -> Prompt:
    raw = json.dumps({"contents": [{"parts": [{"text": "hi"}]}], **body}).encode()
    return DIALECT.decode_request(GeminiRequest.parse(raw, "gemini-3-pro", False))


def read_parts(*parts: dict[str, Any], role: str = "user") -> tuple[Block, ...]:
    (message,) = read({"contents": [{"role": role, "parts": list(parts)}]}).messages
    return message.blocks


def write(
    *messages: Message, model: str = "gemini-3-pro", drop: frozenset[str] = frozenset(), **fields: Any
) -> tuple[Any, list[str]]:
    outgoing = Outgoing(origin="google", model=model, stream=False, drop=drop)
    prompt = Prompt(model="m", messages=messages or (user(Text(text="hi")),), **fields)
    return json.loads(msgspec.json.encode(DIALECT.encode_request(prompt, outgoing))), outgoing.dropped


def user(*blocks: Block) -> Message:
    return Message(role="user", blocks=blocks)


def assistant(*blocks: Block) -> Message:
    return Message(role="assistant", blocks=blocks)


# Read from a caller


@pytest.mark.parametrize(
    ("part", "block"),
    [
        ({"text": "a"}, Text(text="a")),
        ({"text": "a", "thought": True}, Thinking(text="a")),
        ({"inlineData": PNG}, Image(source=Source(media_type="image/png", data="AAAA"))),
        (
            {"inline_data": {"mime_type": "image/png", "data": "-_A="}},
            Image(source=Source(media_type="image/png", data="+/A=")),
        ),
        (
            {"inlineData": {"mimeType": "audio/wav", "data": "AA"}},
            Audio(source=Source(media_type="audio/wav", data="AA")),
        ),
        (
            {"inlineData": {"mimeType": "application/pdf", "data": "AA", "displayName": "a.pdf"}},
            Document(source=Source(media_type="application/pdf", data="AA"), title="a.pdf"),
        ),
        (
            {"fileData": {"mimeType": "image/png", "fileUri": "https://example.com/a.png"}},
            Image(source=Source(media_type="image/png", url="https://example.com/a.png")),
        ),
        (
            {"functionCall": {"id": "c", "name": "f", "args": {"x": [1]}}},
            ToolCall(id="c", name="f", arguments='{"x":[1]}'),
        ),
        ({"functionCall": {"name": "f"}}, ToolCall(id="call_0", name="f")),
        (
            {"executableCode": {"language": "PYTHON", "code": "1"}},
            ServerTool(dialect="gemini", value={"executableCode": {"language": "PYTHON", "code": "1"}}),
        ),
    ],
)
def test_a_part_is_read_as_a_block(part: dict[str, Any], block: Block) -> None:
    assert read_parts(part) == (block,)


@pytest.mark.parametrize(
    ("response", "text", "is_error"),
    [
        ({"output": "done"}, "done", False),
        ({"result": {"a": 1}}, '{"a":1}', False),
        ({"error": "no such file"}, "no such file", True),
        ({"output": "x", "more": 1}, '{"output":"x","more":1}', False),
        ({}, "", False),
    ],
)
def test_a_response_is_read_as_a_result(response: Any, text: str, is_error: bool) -> None:
    (result,) = read_parts({"functionResponse": {"id": "c", "name": "f", "response": response}})
    expected = (Text(text=text),) if text else ()
    assert result == ToolResult(call_id="c", name="f", content=expected, is_error=is_error)


def test_results_without_ids_belong_to_the_calls_of_their_name_in_order() -> None:
    calls = [{"functionCall": {"name": name}} for name in ("f", "g", "f")]
    results = [{"functionResponse": {"name": name, "response": {"output": out}}} for name, out in ("g1", "f1", "f2")]
    prompt = read({"contents": [{"role": "model", "parts": calls}, {"parts": [{"text": "so"}, *results]}]})
    assert [block.id for block in prompt.messages[0].blocks if isinstance(block, ToolCall)] == [
        "call_0",
        "call_1",
        "call_2",
    ]
    assert [getattr(block, "call_id", "text") for block in prompt.messages[1].blocks] == [
        "call_1",
        "call_0",
        "call_2",
        "text",
    ]


def test_a_carrier_brings_back_the_thinking_that_a_client_threw_away() -> None:
    thinking = Thinking(text="hm", signature=CLAUDE)
    held = signatures.write_call(ToolCall(id="c", name="f"), [thinking])
    call = {"functionCall": {"id": "c", "name": "f"}, "thoughtSignature": held}
    expected = (thinking, ToolCall(id="c", name="f"))
    assert read_parts(call, role="model") == expected
    own = {"text": "", "thought": True, "thoughtSignature": signatures.write(CLAUDE)}
    thought = {"text": "hm", "thought": True}
    assert read_parts(thought, own, call, role="model") == expected
    assert read_parts(thought, call, role="model") == expected


def test_a_stream_that_is_replayed_chunk_by_chunk_is_one_turn() -> None:
    thinking = Thinking(text="Let me think.", signature=CLAUDE)
    held = signatures.write_call(ToolCall(id="a", name="f"), [thinking])
    parts: list[dict[str, Any]] = [
        {"text": "Let me", "thought": True},
        {"text": " think.", "thought": True},
        {"text": "", "thought": True, "thoughtSignature": signatures.write(CLAUDE)},
        {"text": "I "},
        {"text": "look."},
        {"functionCall": {"id": "a", "name": "f"}, "thoughtSignature": held},
        {"functionCall": {"id": "b", "name": "f"}},
        {"text": ""},
    ]
    results = [{"functionResponse": {"id": name, "name": "f", "response": {"output": name}}} for name in "ab"]
    contents = [{"role": "model", "parts": [part]} for part in parts] + [{"parts": [result]} for result in results]
    turn, answer = read({"contents": [*contents, {"parts": [{"text": "and?"}]}]}).messages
    calls = (ToolCall(id="a", name="f"), ToolCall(id="b", name="f"))
    assert turn.blocks == (thinking, Text(text="I look."), *calls)
    assert [getattr(block, "call_id", "text") for block in answer.blocks] == ["a", "b", "text"]


def test_two_turns_of_the_user_stay_two() -> None:
    contents = [{"parts": [{"text": "a"}]}, {"parts": [{"text": "b"}, {"text": "c"}]}]
    assert [len(message.blocks) for message in read({"contents": contents}).messages] == [1, 2]


def test_empty_signatures_of_two_thoughts_are_not_the_same_thought() -> None:
    opaque = Opaque("other", "reasoning_content", "")
    thoughts = [Thinking(text=text, signature=opaque) for text in "ab"]
    held = signatures.write_call(ToolCall(id="a", name="f"), thoughts)
    assert read_parts({"functionCall": {"id": "a", "name": "f"}, "thoughtSignature": held}, role="model")[:2] == tuple(
        thoughts
    )


def test_a_carrier_survives_the_alphabet_of_googles_python_package() -> None:
    opaque = Opaque("g", "signature", "".join(map(chr, range(32, 1000))))
    held = signatures.write(opaque)
    for text in (held, held.replace("+", "-").replace("/", "_"), held.rstrip("="), carrier.pack(opaque)):
        assert signatures.read(text) == signatures.Read(own=opaque)


@pytest.mark.parametrize(
    ("signature", "hinted"),
    [
        (signatures.DUMMY, False),
        ("c2tpcF90aG91Z2h0X3NpZ25hdHVyZV92YWxpZGF0b3I=", False),
        ("context_engineering_is_the_way_to_go", False),
        ("bmF0aXZl", True),
        ("cHN0azEu!!!", True),
    ],
)
def test_a_signature_that_is_no_carrier_stays_behind(signature: str, hinted: bool) -> None:
    part = {"functionCall": {"id": "c", "name": "f"}, "thoughtSignature": signature}
    prompt = read({"contents": [{"role": "model", "parts": [part]}]})
    assert prompt.messages[0].blocks == (ToolCall(id="c", name="f"),)
    assert list(prompt.hints) == (["contents.parts.thoughtSignature"] if hinted else [])


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"tools": [{"functionDeclarations": []}, {"googleSearch": {}}]}, "tools[1].googleSearch"),
        ({"tools": {"code_execution": {}}}, "tools[0].codeExecution"),
        ({"cachedContent": "cachedContents/x"}, "cachedContent"),
        ({"generationConfig": {"candidateCount": 2}}, "generationConfig.candidateCount"),
        ({"generationConfig": {"responseModalities": ["TEXT", "IMAGE"]}}, "generationConfig.responseModalities"),
        ({"generationConfig": {"responseMimeType": "text/x.enum"}}, "generationConfig.responseMimeType"),
        ({"generationConfig": {"speech_config": {}}}, "generationConfig.speechConfig"),
        ({"contents": [{"parts": [{"fileData": {"fileUri": "gs://b/x"}}]}]}, "contents[0].parts[0].fileData"),
        (
            {"contents": [{"parts": [{"inlineData": {"mimeType": "video/mp4", "data": "A"}}]}]},
            "contents[0].parts[0].inlineData",
        ),
        ({"contents": [{"parts": [{"newKind": 1}]}]}, "contents[0].parts[0].newKind"),
        ({"newField": 1}, "newField"),
        ({"contents": [{"parts": [{"text": "a"}], "new": 1}]}, "contents[0].new"),
        ({"contents": [{"parts": [{"text": "a", "new": 1}]}]}, "contents[0].parts[0].new"),
        ({"systemInstruction": {"parts": [{"inlineData": {}}]}}, "systemInstruction.parts[0].inlineData"),
    ],
)
def test_what_other_dialects_cannot_say_is_foreign_by_its_path(body: dict[str, Any], path: str) -> None:
    assert list(read(body).foreign) == [path]


def test_what_may_be_left_out_is_a_hint() -> None:
    prompt = read(
        {"safetySettings": [], "labels": {"a": "b"}, "generationConfig": {"mediaResolution": "MEDIA_RESOLUTION_LOW"}}
    )
    assert set(prompt.hints) == {"safetySettings", "labels", "generationConfig.mediaResolution"}
    assert not prompt.foreign


def test_the_settings_of_a_request_are_read() -> None:
    prompt = read(
        {
            "system_instruction": {"parts": [{"text": "be brief"}, {"text": ""}]},
            "generation_config": {
                "temperature": 0.5,
                "top_p": 0.9,
                "top_k": 3.0,
                "max_output_tokens": 9,
                "stop_sequences": ["x"],
                "seed": 1,
                "presence_penalty": 0.1,
                "frequency_penalty": 0.2,
                "response_logprobs": True,
                "logprobs": 2,
                "response_mime_type": "application/json",
                "response_schema": {"type": "OBJECT", "properties": {"a": {"type": "STRING", "nullable": True}}},
                "thinking_config": {"thinking_budget": 100, "include_thoughts": True},
            },
            "tool_config": {"function_calling_config": {"mode": "any", "allowed_function_names": ["f"]}},
            "tools": [{"function_declarations": [{"name": "f", "parameters": {"type": "OBJECT"}}]}],
            "service_tier": "priority",
        }
    )
    assert prompt.messages[0] == Message(role="system", blocks=(Text(text="be brief"),))
    assert (prompt.temperature, prompt.top_p, prompt.top_k, prompt.max_output_tokens) == (0.5, 0.9, 3, 9)
    assert (prompt.stop, prompt.seed, prompt.top_logprobs, prompt.service_tier) == (("x",), 1, 2, "priority")
    assert (prompt.presence_penalty, prompt.frequency_penalty) == (0.1, 0.2)
    schema = {"type": "object", "properties": {"a": {"type": ["string", "null"]}}}
    assert prompt.format == Format(kind="json_schema", name="response", schema=schema)
    assert prompt.reasoning == Reasoning(budget_tokens=100, show="auto")
    assert prompt.tool_choice == ToolChoice(mode="required", names=("f",))
    assert prompt.tools == (Tool(name="f", schema={"type": "object"}),)
    assert (prompt.hints, prompt.foreign) == ({}, {})


def test_geminis_own_defaults_ask_nothing_of_other_vendors() -> None:
    prompt = read({"generationConfig": {"temperature": 1, "topP": 0.95, "topK": 64}})
    assert (prompt.temperature, prompt.top_p, prompt.top_k) == (None, None, None)
    assert list(prompt.hints) == ["generationConfig.temperature", "generationConfig.topP", "generationConfig.topK"]


@pytest.mark.parametrize(
    ("config", "reasoning"),
    [
        ({"thinkingLevel": "HIGH", "includeThoughts": True}, Reasoning(effort="high", show="auto")),
        ({"thinkingBudget": 0}, Reasoning(effort="none")),
        ({"thinkingBudget": -1, "includeThoughts": False}, Reasoning(adaptive=True, show="")),
        ({"thinkingBudget": 512}, Reasoning(budget_tokens=512)),
        ({}, None),
    ],
)
def test_thinking_is_read(config: dict[str, Any], reasoning: Reasoning | None) -> None:
    assert read({"generationConfig": {"thinkingConfig": config}}).reasoning == reasoning


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"contents": [{"role": "assistant", "parts": []}]}, "contents[0].role"),
        ({"contents": [{"parts": ["x"]}]}, "contents[0].parts[0]"),
        ({"contents": [{"parts": [{"text": ""}]}, {}]}, "contents"),
        ({"contents": [{"parts": [{"functionCall": {}}]}]}, "contents[0].parts[0].functionCall.name"),
        ({"contents": [{"parts": [{"functionCall": "f"}]}]}, "contents[0].parts[0].functionCall"),
        ({"contents": [{"parts": [{"functionResponse": []}]}]}, "contents[0].parts[0].functionResponse"),
        (
            {"contents": [{"parts": [{"text": "a", "thought_signature": "x", "thoughtSignature": "y"}]}]},
            "contents[0].parts[0].thoughtSignature",
        ),
        ({"tools": ["x"]}, "tools[0]"),
        ({"tools": [{"functionDeclarations": [{}]}]}, "tools[0].functionDeclarations[0].name"),
        (
            {"tools": [{"functionDeclarations": [{"name": "f", "parameters": 1}]}]},
            "tools[0].functionDeclarations[0].parameters",
        ),
        ({"toolConfig": {"functionCallingConfig": {"mode": 1}}}, "toolConfig.functionCallingConfig.mode"),
        (
            {"generationConfig": {"thinkingConfig": {"thinkingBudget": "x"}}},
            "generationConfig.thinkingConfig.thinkingBudget",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(body)
    assert caught.value.param == param


# Written for a vendor


def test_turns_are_merged_and_nothing_is_empty() -> None:
    body, _ = write(
        Message(role="system", blocks=(Text(text="be brief"),)),
        Message(role="developer", blocks=(Text(text="and kind"),)),
        user(Text(text="a"), Text(text="")),
        user(Text(text="b")),
        assistant(Text(text="")),
        assistant(Refusal(text="no")),
        Message(role="system", blocks=(Text(text="in between"),)),
        user(Text(text="c")),
    )
    assert body == {
        "systemInstruction": {"parts": [{"text": "be brief"}, {"text": "and kind"}]},
        "contents": [
            {"role": "user", "parts": [{"text": "a"}, {"text": "b"}]},
            {"role": "model", "parts": [{"text": "no"}]},
            {"role": "user", "parts": [{"text": "in between"}, {"text": "c"}]},
        ],
    }


def test_a_prompt_that_is_all_system_is_the_users_turn() -> None:
    body, _ = write(Message(role="system", blocks=(Text(text="be brief"),)))
    assert body == {"contents": [{"role": "user", "parts": [{"text": "be brief"}]}]}


def test_a_prefilled_answer_is_refused_or_dropped() -> None:
    turns = (user(Text(text="a")), assistant(Text(text="{")))
    with pytest.raises(Untranslatable) as caught:
        write(*turns)
    assert caught.value.param == "messages[1]"
    body, dropped = write(*turns, drop=frozenset({"messages"}))
    assert len(body["contents"]) == 1
    assert dropped == ["messages[1]"]


def test_calls_and_results_keep_their_pairs() -> None:
    body, _ = write(
        user(Text(text="go")),
        assistant(ToolCall(id="functions.Bash:0", name="f", arguments='{"x": 1.50}'), ToolCall(id="", name="g")),
        user(
            ToolResult(call_id="functions.Bash:0", content=(Text(text='{"$ref": "#/x"}'),)),
            ToolResult(call_id="", content=(Text(text="bad"),), is_error=True),
            Text(text="and?"),
        ),
    )
    model, answer = body["contents"][1:]
    first, second = (part["functionCall"] for part in model["parts"])
    assert first["args"] == {"x": 1.5}
    assert second["args"] == {}
    assert first["id"] != second["id"]
    assert [part.get("functionResponse") for part in answer["parts"]] == [
        {"id": first["id"], "name": "f", "response": {"output": '{"$ref": "#/x"}'}},
        {"id": second["id"], "name": "g", "response": {"error": "bad"}},
        None,
    ]


def test_a_result_without_its_call_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        write(user(ToolResult(call_id="x", content=(Text(text="a"),))))


def step(*blocks: Block, model: str = "gemini-3-pro") -> list[dict[str, Any]]:
    body, _ = write(user(Text(text="a")), assistant(*blocks), user(Text(text="b")), model=model)
    parts: list[dict[str, Any]] = body["contents"][1]["parts"]
    return parts


def test_the_first_call_of_a_foreign_step_gets_the_dummy_signature() -> None:
    calls = (ToolCall(id="a", name="f"), ToolCall(id="b", name="f", signature=CLAUDE))
    assert [part.get("thoughtSignature") for part in step(*calls)] == [signatures.DUMMY, None]
    assert [part.get("thoughtSignature") for part in step(*calls, model="gemini-2.5-pro")] == [None, None]


def test_the_providers_own_signatures_are_sent_back() -> None:
    parts = step(
        Thinking(text="hm", signature=GOOGLE), ToolCall(id="a", name="f", signature=GOOGLE), ToolCall(id="b", name="f")
    )
    assert parts[0] == {"text": "hm", "thought": True, "thoughtSignature": "c2ln"}
    assert [part.get("thoughtSignature") for part in parts[1:]] == ["c2ln", None]
    assert step(Text(text="x"), Thinking(signature=GOOGLE)) == [{"text": "x", "thoughtSignature": "c2ln"}]
    assert step(Thinking(signature=GOOGLE)) == [{"text": "", "thoughtSignature": "c2ln"}]


def test_thinking_of_another_provider_is_left_out_and_noted() -> None:
    _, dropped = write(
        user(Text(text="a")), assistant(Thinking(text="hm", signature=CLAUDE), Text(text="b")), user(Text(text="c"))
    )
    assert dropped == ["thinking"]


PICTURE = Image(source=Source(media_type="image/png", data="AAAA"))


@pytest.mark.parametrize(
    ("block", "part"),
    [
        (PICTURE, {"inlineData": PNG}),
        (Document(source=Source(data="AA")), {"inlineData": {"mimeType": "application/pdf", "data": "AA"}}),
        (Document(source=Source(text="words"), title="t"), {"text": "t\nwords"}),
        (
            Audio(source=Source(media_type="audio/mp3", data="AA")),
            {"inlineData": {"mimeType": "audio/mp3", "data": "AA"}},
        ),
        (
            Image(source=Source(url="https://generativelanguage.googleapis.com/v1beta/files/x")),
            {"fileData": {"fileUri": "https://generativelanguage.googleapis.com/v1beta/files/x"}},
        ),
        (Image(source=Source(url="gs://b/x", media_type="video/mp4")), {"fileData": {"fileUri": "gs://b/x"}}),
        (
            Image(source=Source(url="gs://b/x", media_type="image/png")),
            {"fileData": {"fileUri": "gs://b/x", "mimeType": "image/png"}},
        ),
    ],
)
def test_media_are_written(block: Block, part: dict[str, Any]) -> None:
    body, _ = write(user(block))
    assert body["contents"][0]["parts"] == [part]


@pytest.mark.parametrize(
    ("block", "path"),
    [
        (Image(source=Source(url="https://example.com/a.png")), "messages[0].content[0].image"),
        (Image(source=Source(url="http://169.254.169.254/")), "messages[0].content[0].image"),
        (Image(source=Source(media_type="video/mp4", data="AA")), "messages[0].content[0].image"),
        (Document(source=Source(file_id="file-1")), "messages[0].content[0].document"),
        (ServerTool(dialect="messages", value={"type": "server_tool_use"}), "messages[0].content[0].server_tool_use"),
    ],
)
def test_what_google_would_have_to_fetch_or_run_is_refused(block: Block, path: str) -> None:
    with pytest.raises(Untranslatable) as caught:
        write(user(block, Text(text="x")))
    assert caught.value.param == path
    body, dropped = write(user(block, Text(text="x")), drop=frozenset({path.replace("[0]", "")}))
    assert body["contents"][0]["parts"] == [{"text": "x"}]
    assert dropped == [path]


def refused_under_a_budget(block: Block) -> str | None:
    outgoing = Outgoing(origin="google", model="gemini-3-pro", stream=False, max_output_tokens=9)
    with pytest.raises(Untranslatable) as caught:
        DIALECT.encode_request(Prompt(model="m", messages=(user(block),)), outgoing)
    return caught.value.param


@pytest.mark.parametrize("url", ["gs://b/x", "https://generativelanguage.googleapis.com/v1beta/files/x"])
@pytest.mark.parametrize("kind", [Image, Document, Audio])
def test_a_budget_refuses_files_that_google_keeps(kind: type[Image | Document | Audio], url: str) -> None:
    block = kind(source=Source(url=url, media_type="image/png"))
    assert refused_under_a_budget(block) == f"messages[0].content[0].{kind.__name__.lower()}"


@pytest.mark.parametrize("source", [("audio/flac", "AAAA"), ("audio/wav", "ZkxhQwAAACI=")])
def test_a_budget_refuses_lossless_sound(source: tuple[str, str]) -> None:
    block = Audio(source=Source(media_type=source[0], data=source[1]))
    assert refused_under_a_budget(block) == "messages[0].content[0].audio"
    assert "inlineData" in write(user(block))[0]["contents"][0]["parts"][0]


@pytest.mark.parametrize(("model", "inside"), [("gemini-3-pro", True), ("gemini-2.5-flash", False)])
def test_a_picture_in_a_result_stands_in_it_or_beside_it(model: str, inside: bool) -> None:
    turns = (
        user(Text(text="a")),
        assistant(ToolCall(id="a", name="f")),
        user(ToolResult(call_id="a", content=(Text(text="see"), PICTURE)), Text(text="?")),
    )
    parts = write(*turns, model=model)[0]["contents"][2]["parts"]
    response = {"id": "a", "name": "f", "response": {"output": "see"}}
    if inside:
        assert parts == [{"functionResponse": {**response, "parts": [{"inlineData": PNG}]}}, {"text": "?"}]
    else:
        assert parts == [{"functionResponse": response}, {"inlineData": PNG}, {"text": "?"}]


@pytest.mark.parametrize(
    ("choice", "calling"),
    [
        (ToolChoice(mode="auto"), {"mode": "AUTO"}),
        (ToolChoice(mode="none"), {"mode": "NONE"}),
        (ToolChoice(mode="required"), {"mode": "ANY"}),
        (ToolChoice(mode="required", names=("f",)), {"mode": "ANY", "allowedFunctionNames": ["f"]}),
        (ToolChoice(mode="auto", names=("f",)), {"mode": "VALIDATED", "allowedFunctionNames": ["f"]}),
    ],
)
def test_a_tool_choice_is_written(choice: ToolChoice, calling: dict[str, Any]) -> None:
    body, _ = write(tools=(Tool(name="f"),), tool_choice=choice)
    assert body["toolConfig"] == {"functionCallingConfig": calling}
    assert body["tools"] == [{"functionDeclarations": [{"name": "f"}]}]


def test_a_tool_of_free_text_is_wrapped() -> None:
    tool = Tool(name="patch", description="Edits.", custom=True, grammar={"syntax": "lark", "definition": "start: X"})
    call = ToolCall(id="a", name="patch", arguments="*** Begin", custom=True)
    body, _ = write(user(Text(text="a")), assistant(call), user(ToolResult(call_id="a")), tools=(tool,))
    (declared,) = body["tools"][0]["functionDeclarations"]
    assert declared["parametersJsonSchema"]["required"] == ["input"]
    assert "start: X" in declared["description"]
    assert body["contents"][1]["parts"][0]["functionCall"]["args"] == {"input": "*** Begin"}


@pytest.mark.parametrize(
    ("model", "reasoning", "config"),
    [
        ("gemini-3-pro", Reasoning(effort="none"), {"thinkingLevel": "LOW"}),
        ("gemini-3-flash", Reasoning(effort="minimal"), {"thinkingLevel": "MINIMAL"}),
        ("gemini-3-pro", Reasoning(effort="max", show="detailed"), {"thinkingLevel": "HIGH", "includeThoughts": True}),
        ("gemini-3-pro", Reasoning(budget_tokens=1024), {"thinkingLevel": "LOW", "includeThoughts": True}),
        ("gemini-3-pro", Reasoning(budget_tokens=10_000, show=""), {"thinkingLevel": "MEDIUM"}),
        ("gemini-3-pro", Reasoning(budget_tokens=32_000, show=""), {"thinkingLevel": "HIGH"}),
        ("gemini-3-pro", Reasoning(adaptive=True), {"includeThoughts": True}),
        ("gemini-2.5-flash", Reasoning(effort="none"), {"thinkingBudget": 0}),
        ("gemini-2.5-pro", Reasoning(effort="none"), {"thinkingBudget": 128}),
        ("gemini-2.5-flash", Reasoning(budget_tokens=64_000, show=""), {"thinkingBudget": 24_576}),
        ("gemini-2.5-pro", Reasoning(adaptive=True, show=""), {"thinkingBudget": -1}),
    ],
)
def test_thinking_is_written_as_the_model_takes_it(model: str, reasoning: Reasoning, config: dict[str, Any]) -> None:
    body, dropped = write(model=model, reasoning=reasoning)
    assert body["generationConfig"]["thinkingConfig"] == config
    assert dropped == []


def test_a_model_that_does_not_think_is_not_told_to() -> None:
    body, dropped = write(model="gemini-2.0-flash", reasoning=Reasoning(adaptive=True))
    assert "generationConfig" not in body
    assert dropped == ["reasoning"]


def test_settings_are_written() -> None:
    body, dropped = write(
        max_output_tokens=9,
        temperature=0.5,
        top_p=0.9,
        top_k=3,
        stop=("x",),
        seed=1,
        presence_penalty=0.1,
        frequency_penalty=0.2,
        top_logprobs=0,
        format=Format(kind="json_schema", schema={"type": "object"}, strict=True),
        service_tier="flex",
        verbosity="low",
        cache_key="k",
    )
    assert body["generationConfig"] == {
        "maxOutputTokens": 9,
        "temperature": 0.5,
        "topP": 0.9,
        "topK": 3,
        "stopSequences": ["x"],
        "seed": 1,
        "presencePenalty": 0.1,
        "frequencyPenalty": 0.2,
        "responseLogprobs": True,
        "responseMimeType": "application/json",
        "responseJsonSchema": {"type": "object"},
    }
    assert body["serviceTier"] == "flex"
    assert dropped == ["verbosity", "prompt_cache_key"]


def test_a_foreign_field_is_refused_by_its_name() -> None:
    with pytest.raises(Untranslatable) as caught:
        write(foreign={"logit_bias": {}})
    assert caught.value.param == "logit_bias"
