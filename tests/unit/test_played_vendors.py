"""The played vendors: they know the fields that the official SDKs know, and refuse what the real ones refuse."""

from __future__ import annotations

import json
from typing import Any, get_type_hints

import pytest
from anthropic.types.beta.message_create_params import MessageCreateParamsBase as MessagesParams
from google.genai import types as google
from openai.types.chat.completion_create_params import CompletionCreateParamsBase as ChatParams
from openai.types.responses.response_create_params import ResponseCreateParamsBase as ResponsesParams

from tests.support.vendors import chat_rules, gemini_rules, messages_rules, responses_rules
from tests.support.vendors.chat import ChatWire
from tests.support.vendors.gemini import GeminiWire
from tests.support.vendors.messages import MessagesWire
from tests.support.vendors.play import Asked, Offered, Play, Refused, compose
from tests.support.vendors.responses import ResponsesWire

HEADERS = {"authorization": "Bearer k", "anthropic-version": "2023-06-01", "x-goog-api-key": "k"}
WIRES: dict[str, type] = {"chat": ChatWire, "responses": ResponsesWire, "messages": MessagesWire, "gemini": GeminiWire}
# Sent in a header, or of another service than the API that is played.
ELSEWHERE = {"betas", "billing_policy", "compaction", "fallback_credit_token", "thread"}
OLDER = {"temperature", "top_k", "top_p"}  # Anthropic's older models take them, and its SDK names them no more
USER = {"role": "user", "content": "Hi"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
USE = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "x"}
FUNCTION_CALL = {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "call_1", "output": "x"}
GEMINI_CALL = {"functionCall": {"name": "f", "args": {}}, "thoughtSignature": "skip_thought_signature_validator"}
GEMINI_RESULT = {"functionResponse": {"name": "f", "response": {"output": "x"}}}


def said(role: str, *content: Any) -> dict[str, Any]:
    return {"role": role, "content": list(content)}


def parts(role: str, *parts: Any) -> dict[str, Any]:
    return {"role": role, "parts": list(parts)}


OPENED = parts("user", {"text": "Hi"})


def read(dialect: str, fields: dict[str, Any]) -> Asked:
    minimal: dict[str, dict[str, Any]] = {
        "chat": {"model": "plain", "messages": [USER]},
        "responses": {"model": "plain", "input": "Hi"},
        "messages": {"model": "plain", "max_tokens": 100, "messages": [USER]},
        "gemini": {"contents": [OPENED]},
    }
    body = json.dumps({**minimal[dialect], **fields}).encode()
    asked: Asked = WIRES[dialect]().read(body, HEADERS, model="plain", stream=False)
    return asked


@pytest.mark.parametrize(
    ("known", "named"),
    [
        (chat_rules.Request, set(get_type_hints(ChatParams)) | {"stream"}),
        (responses_rules.Request, set(get_type_hints(ResponsesParams)) | {"stream", "client_metadata"}),
        (messages_rules.Request, set(get_type_hints(MessagesParams)) - ELSEWHERE | {"stream"} | OLDER),
    ],
)
def test_a_vendor_knows_the_fields_that_its_sdk_knows(known: Any, named: set[str]) -> None:
    assert set(known.__struct_fields__) == named


def test_google_knows_the_options_that_its_sdk_sends() -> None:
    fields = {field.alias or name for name, field in google.GenerationConfig.model_fields.items()}
    of_vertex = {
        "audioTimestamp",
        "modelSelectionConfig",
        "routingConfig",
        "enableAffectiveDialog",
        "translationConfig",
    }
    assert set(gemini_rules.Options.__struct_fields__) - {"imageConfig"} == fields - of_vertex - {
        "audioTranscriptionConfig"
    }


@pytest.mark.parametrize(
    ("dialect", "fields"),
    [
        (
            "chat",
            {
                "messages": [
                    USER,
                    {"role": "assistant", "tool_calls": [CALL]},
                    {"role": "tool", "tool_call_id": "call_1", "content": "x"},
                ]
            },
        ),
        ("responses", {"input": [{"role": "user", "content": "Hi"}, FUNCTION_CALL, OUTPUT]}),
        ("messages", {"messages": [USER, said("assistant", USE), said("user", RESULT)]}),
        ("gemini", {"contents": [OPENED, parts("model", GEMINI_CALL), parts("user", GEMINI_RESULT)]}),
    ],
)
def test_a_paired_call_is_taken(dialect: str, fields: dict[str, Any]) -> None:
    assert read(dialect, fields).results == ("x",)


@pytest.mark.parametrize(
    ("dialect", "fields", "words"),
    [
        ("chat", {"top_k": 1}, "top_k"),
        ("chat", {"messages": [USER, {"role": "assistant", "tool_calls": [CALL]}, USER]}, "did not have response"),
        (
            "chat",
            {"messages": [USER, {"role": "tool", "tool_call_id": "call_1", "content": "x"}]},
            "must be a response",
        ),
        ("chat", {"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ("chat", {"stream_options": {"include_usage": True}}, "stream_options"),
        ("responses", {"messages": []}, "messages"),
        ("responses", {"max_output_tokens": 8}, "max_output_tokens"),
        ("responses", {"input": [FUNCTION_CALL]}, "No tool output"),
        ("responses", {"input": [OUTPUT]}, "No tool call"),
        ("responses", {"input": [{**FUNCTION_CALL, "id": "call_1"}, OUTPUT]}, "begins with 'fc'"),
        (
            "responses",
            {"input": [{"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"}]},
            "encrypted content",
        ),
        ("responses", {"input": [{"type": "reasoning", "id": "rs_1", "summary": []}]}, "required following item"),
        ("responses", {"previous_response_id": "resp_unknown"}, "not found"),
        ("messages", {"max_tokens": 0}, "max_tokens"),
        ("messages", {"logit_bias": {}}, "logit_bias"),
        ("messages", {"context_management": {"edits": []}}, "context_management"),
        ("messages", {"messages": [said("user", {"type": "text", "text": ""})]}, "non-empty"),
        ("messages", {"messages": [USER, said("assistant", USE), USER]}, "without `tool_result` blocks"),
        ("messages", {"messages": [said("user", RESULT)]}, "unexpected `tool_use_id`"),
        (
            "messages",
            {
                "messages": [
                    USER,
                    said("assistant", {**USE, "id": "f:0"}),
                    said("user", {**RESULT, "tool_use_id": "f:0"}),
                ]
            },
            "match pattern",
        ),
        (
            "messages",
            {"messages": [USER, said("assistant", USE), said("user", {"type": "text", "text": "a"}, RESULT)]},
            "immediately after",
        ),
        (
            "messages",
            {"messages": [USER, said("assistant", {"type": "thinking", "thinking": "a", "signature": "b"}), USER]},
            "Invalid `signature`",
        ),
        ("messages", {"thinking": {"type": "enabled", "budget_tokens": 100}}, "budget_tokens"),
        (
            "messages",
            {"system": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}] * 5},
            "maximum of 4",
        ),
        ("gemini", {"messages": []}, "messages"),
        ("gemini", {"contents": [parts("user", {"text": ""})]}, "empty text"),
        (
            "gemini",
            {"contents": [OPENED, parts("model", GEMINI_CALL), parts("user", {"text": "x"})]},
            "equal to the number",
        ),
        (
            "gemini",
            {
                "contents": [
                    OPENED,
                    parts("model", {"functionCall": GEMINI_CALL["functionCall"]}),
                    parts("user", GEMINI_RESULT),
                ]
            },
            "missing a thought_signature",
        ),
        (
            "gemini",
            {
                "contents": [
                    OPENED,
                    parts("model", {**GEMINI_CALL, "thoughtSignature": "b"}),
                    parts("user", GEMINI_RESULT),
                ]
            },
            "Corrupted",
        ),
        (
            "gemini",
            {
                "tools": [
                    {
                        "functionDeclarations": [
                            {"name": "f", "parameters": {"type": "OBJECT", "additionalProperties": False}}
                        ]
                    }
                ]
            },
            "additionalProperties",
        ),
        ("gemini", {"generationConfig": {"thinkingConfig": {"thinkingLevel": "LOW", "thinkingBudget": 1}}}, "together"),
    ],
)
def test_a_request_that_breaks_a_rule_is_refused(dialect: str, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(Refused) as refused:
        read(dialect, fields)
    assert words in refused.value.message


def replayed(dialect: str, whole: dict[str, Any]) -> dict[str, Any]:
    """The next request of a caller that got `whole`, with a result for the call in it."""
    if dialect == "responses":
        call_id = whole["output"][-1]["call_id"]
        return {"input": [USER, *whole["output"], {**OUTPUT, "call_id": call_id}]}
    if dialect == "messages":
        use_id = whole["content"][-1]["id"]
        result = said("user", {**RESULT, "tool_use_id": use_id})
        return {"messages": [USER, {"role": "assistant", "content": whole["content"]}, result]}
    return {"contents": [OPENED, whole["candidates"][0]["content"], parts("user", GEMINI_RESULT)]}


@pytest.mark.parametrize(
    ("dialect", "field"),
    [("responses", "encrypted_content"), ("messages", "signature"), ("gemini", "thoughtSignature")],
)
def test_a_signature_comes_back_as_it_was_or_is_refused(dialect: str, field: str) -> None:
    request = {"include": ["reasoning.encrypted_content"], "input": []}
    asked = Asked(model="tools-think", stream=False, tools=(Offered("f"),), request=request)
    whole = WIRES[dialect]().whole(compose(asked, Play.of("tools-think"), 1, None), asked)
    assert read(dialect, replayed(dialect, whole)).results == ("x",)
    text = json.dumps(whole)
    at = text.index(f'"{field}": "') + len(field) + 10
    changed = text[:at] + ("0" if text[at] != "0" else "1") + text[at + 1 :]
    with pytest.raises(Refused):
        read(dialect, replayed(dialect, json.loads(changed)))
