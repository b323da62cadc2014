"""Features of requests: each as the caller of each dialect writes it, and as it is meant.

A dialect that has no word for a feature has no request in its row.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from app.domain.content import Prompt

PNG = "iVBORw0KGgo="
PDF = "JVBERi0xLjQ="
WAV = "UklGRg=="
URL = "https://example.com/a.png"
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
HI: dict[str, Any] = {
    "chat": {"messages": [{"role": "user", "content": "hi"}]},
    "messages": {"max_tokens": 4000, "messages": [{"role": "user", "content": "hi"}]},
    "responses": {"input": "hi"},
    "gemini": {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]},
}
TOOLS: dict[str, Any] = {
    "chat": {
        "tools": [
            {"type": "function", "function": {"name": "weather", "description": "Looks out.", "parameters": SCHEMA}},
            {"type": "function", "function": {"name": "now"}},
        ]
    },
    "messages": {
        "tools": [
            {"name": "weather", "description": "Looks out.", "input_schema": SCHEMA},
            {"name": "now", "input_schema": {"type": "object"}},
        ]
    },
    "responses": {
        "tools": [
            {
                "type": "function",
                "name": "weather",
                "description": "Looks out.",
                "parameters": SCHEMA,
                "strict": False,
            },
            {"type": "function", "name": "now", "parameters": None, "strict": False},
        ]
    },
    "gemini": {
        "tools": [
            {
                "functionDeclarations": [
                    {"name": "weather", "description": "Looks out.", "parametersJsonSchema": SCHEMA},
                    {"name": "now"},
                ]
            }
        ]
    },
}


@dataclass(frozen=True)
class Feature:
    """`written`: the request by dialect. `turns`: its turns, as `meaning.turns` reads them; None for a plain one.
    `settings`: fields of the prompt that mean the same in every dialect that can say them."""

    written: dict[str, dict[str, Any]]
    turns: list[Any] | None = None
    settings: dict[str, Any] = field(default_factory=dict)


def _said(**more: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns plain requests with more fields, by dialect."""
    return {dialect: {**HI[dialect], **fields} for dialect, fields in more.items()}


def _with_tools(**more: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {dialect: {**HI[dialect], **TOOLS[dialect], **fields} for dialect, fields in more.items()}


def _user(**content: Any) -> dict[str, dict[str, Any]]:
    """Returns requests whose user says what is given, in each dialect's parts."""
    bodies: dict[str, Any] = {
        "chat": lambda parts: {"messages": [{"role": "user", "content": parts}]},
        "messages": lambda parts: {"max_tokens": 4000, "messages": [{"role": "user", "content": parts}]},
        "responses": lambda parts: {"input": [{"role": "user", "content": parts}]},
        "gemini": lambda parts: {"contents": [{"role": "user", "parts": parts}]},
    }
    return {dialect: bodies[dialect](parts) for dialect, parts in content.items()}


def _tool_turns(calls: list[tuple[str, str, str]], results: dict[str, list[Any]]) -> dict[str, dict[str, Any]]:
    """Returns requests of a turn of tools. `calls` are ids, names and arguments; `results` are by dialect."""

    chat_calls = [{"id": i, "type": "function", "function": {"name": n, "arguments": a}} for i, n, a in calls]
    uses = [{"type": "tool_use", "id": i, "name": n, "input": json.loads(a)} for i, n, a in calls]
    items = [{"type": "function_call", "call_id": i, "name": n, "arguments": a} for i, n, a in calls]
    parts = [{"functionCall": {"id": i, "name": n, "args": json.loads(a)}} for i, n, a in calls]
    every: dict[str, Any] = {
        "chat": lambda found: {
            "messages": [
                *HI["chat"]["messages"],
                {"role": "assistant", "content": None, "tool_calls": chat_calls},
                *found,
            ]
        },
        "messages": lambda found: {
            "max_tokens": 4000,
            "messages": [
                *HI["messages"]["messages"],
                {"role": "assistant", "content": uses},
                {"role": "user", "content": found},
            ],
        },
        "responses": lambda found: {"input": [{"role": "user", "content": "hi"}, *items, *found]},
        "gemini": lambda found: {
            "contents": [
                *HI["gemini"]["contents"],
                {"role": "model", "parts": parts},
                {"role": "user", "parts": found},
            ]
        },
    }
    return {dialect: {**TOOLS[dialect], **every[dialect](found)} for dialect, found in results.items()}


_ASKED = ("user", [("text", "hi")])
_CALL = ("call", 0, "weather", '{"city": "Ulm"}')
_ULM = '{"city":"Ulm"}'

FEATURES: dict[str, Feature] = {
    "plain": Feature(HI, [_ASKED]),
    "system": Feature(
        {
            "chat": {"messages": [{"role": "system", "content": "Be brief."}, *HI["chat"]["messages"]]},
            "messages": {**HI["messages"], "system": "Be brief."},
            "responses": {**HI["responses"], "instructions": "Be brief."},
            "gemini": {**HI["gemini"], "systemInstruction": {"parts": [{"text": "Be brief."}]}},
        },
        [("system", [("text", "Be brief.")]), _ASKED],
    ),
    "several turns": Feature(
        {
            "chat": {
                "messages": [
                    {"role": "user", "content": "one"},
                    {"role": "user", "content": "two"},
                    {"role": "assistant", "content": "three"},
                    {"role": "user", "content": "four"},
                ]
            },
            "messages": {
                "max_tokens": 10,
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
                    {"role": "assistant", "content": "three"},
                    {"role": "user", "content": "four"},
                ],
            },
            "responses": {
                "input": [
                    {"role": "user", "content": "one"},
                    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "two"}]},
                    {
                        "type": "message",
                        "role": "assistant",
                        "content": [{"type": "output_text", "text": "three", "annotations": []}],
                    },
                    {"role": "user", "content": "four"},
                ]
            },
            "gemini": {
                "contents": [
                    {"role": "user", "parts": [{"text": "one"}, {"text": "two"}]},
                    {"role": "model", "parts": [{"text": "three"}]},
                    {"role": "user", "parts": [{"text": "four"}]},
                ]
            },
        },
        [("user", [("text", "onetwo")]), ("assistant", [("text", "three")]), ("user", [("text", "four")])],
    ),
    "image": Feature(
        _user(
            chat=[
                {"type": "text", "text": "see"},
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
            ],
            messages=[
                {"type": "text", "text": "see"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
            ],
            responses=[
                {"type": "input_text", "text": "see"},
                {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}", "detail": "auto"},
            ],
            gemini=[{"text": "see"}, {"inlineData": {"mimeType": "image/png", "data": PNG}}],
        ),
        [("user", [("text", "see"), ("image", PNG)])],
    ),
    "image by URL": Feature(
        _user(
            chat=[{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": URL}}],
            messages=[{"type": "text", "text": "see"}, {"type": "image", "source": {"type": "url", "url": URL}}],
            responses=[{"type": "input_text", "text": "see"}, {"type": "input_image", "image_url": URL}],
            gemini=[{"text": "see"}, {"fileData": {"mimeType": "image/png", "fileUri": URL}}],
        ),
        [("user", [("text", "see"), ("image", URL)])],
    ),
    "document": Feature(
        _user(
            chat=[
                {"type": "text", "text": "read"},
                {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PDF}"}},
            ],
            messages=[
                {"type": "text", "text": "read"},
                {
                    "type": "document",
                    "title": "a.pdf",
                    "source": {"type": "base64", "media_type": "application/pdf", "data": PDF},
                },
            ],
            responses=[
                {"type": "input_text", "text": "read"},
                {"type": "input_file", "filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PDF}"},
            ],
            gemini=[{"text": "read"}, {"inlineData": {"mimeType": "application/pdf", "data": PDF}}],
        ),
        [("user", [("text", "read"), ("document", PDF)])],
    ),
    "document by URL": Feature(
        _user(
            messages=[
                {"type": "text", "text": "read"},
                {"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}},
            ],
            responses=[
                {"type": "input_text", "text": "read"},
                {"type": "input_file", "file_url": "https://example.com/a.pdf"},
            ],
            gemini=[
                {"text": "read"},
                {"fileData": {"mimeType": "application/pdf", "fileUri": "https://example.com/a.pdf"}},
            ],
        ),
        [("user", [("text", "read"), ("document", "https://example.com/a.pdf")])],
    ),
    "audio": Feature(
        _user(
            chat=[
                {"type": "text", "text": "hear"},
                {"type": "input_audio", "input_audio": {"data": WAV, "format": "wav"}},
            ],
            gemini=[{"text": "hear"}, {"inlineData": {"mimeType": "audio/wav", "data": WAV}}],
        ),
        [("user", [("text", "hear"), ("audio", WAV)])],
    ),
    "tools": Feature(_with_tools(chat={}, messages={}, responses={}, gemini={}), [_ASKED]),
    "tool choice: one": Feature(
        _with_tools(
            chat={"tool_choice": {"type": "function", "function": {"name": "now"}}},
            messages={"tool_choice": {"type": "tool", "name": "now"}},
            responses={"tool_choice": {"type": "function", "name": "now"}},
            gemini={"toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["now"]}}},
        ),
        [_ASKED],
    ),
    "tool choice: required": Feature(
        _with_tools(
            chat={"tool_choice": "required"},
            messages={"tool_choice": {"type": "any"}},
            responses={"tool_choice": "required"},
            gemini={"toolConfig": {"functionCallingConfig": {"mode": "ANY"}}},
        ),
        [_ASKED],
    ),
    "tool choice: none": Feature(
        _with_tools(
            chat={"tool_choice": "none"},
            messages={"tool_choice": {"type": "none"}},
            responses={"tool_choice": "none"},
            gemini={"toolConfig": {"functionCallingConfig": {"mode": "NONE"}}},
        ),
        [_ASKED],
    ),
    "no parallel calls": Feature(
        _with_tools(
            chat={"parallel_tool_calls": False},
            messages={"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
            responses={"parallel_tool_calls": False},
        ),
        [_ASKED],
    ),
    "tool result": Feature(
        _tool_turns(
            [("call_a", "weather", _ULM)],
            {
                "chat": [{"role": "tool", "tool_call_id": "call_a", "content": "fog"}],
                "messages": [{"type": "tool_result", "tool_use_id": "call_a", "content": "fog"}],
                "responses": [{"type": "function_call_output", "call_id": "call_a", "output": "fog"}],
                "gemini": [{"functionResponse": {"id": "call_a", "name": "weather", "response": {"output": "fog"}}}],
            },
        ),
        [_ASKED, ("assistant", [_CALL]), ("user", [("result", 0, (("text", "fog"),))])],
    ),
    "parallel tool results": Feature(
        _tool_turns(
            [("call_a", "weather", _ULM), ("call_b", "weather", '{"city":"Bonn"}'), ("call_c", "now", "{}")],
            {
                "chat": [
                    {"role": "tool", "tool_call_id": "call_b", "content": "sun"},
                    {"role": "tool", "tool_call_id": "call_a", "content": "fog"},
                    {"role": "tool", "tool_call_id": "call_c", "content": "noon"},
                    {"role": "user", "content": "and?"},
                ],
                "messages": [
                    {"type": "tool_result", "tool_use_id": "call_b", "content": "sun"},
                    {"type": "tool_result", "tool_use_id": "call_a", "content": "fog"},
                    {"type": "tool_result", "tool_use_id": "call_c", "content": "noon"},
                    {"type": "text", "text": "and?"},
                ],
                "responses": [
                    {"type": "function_call_output", "call_id": "call_b", "output": "sun"},
                    {"type": "function_call_output", "call_id": "call_a", "output": "fog"},
                    {"type": "function_call_output", "call_id": "call_c", "output": "noon"},
                    {"role": "user", "content": "and?"},
                ],
                "gemini": [
                    {"functionResponse": {"id": "call_b", "name": "weather", "response": {"output": "sun"}}},
                    {"functionResponse": {"id": "call_a", "name": "weather", "response": {"output": "fog"}}},
                    {"functionResponse": {"id": "call_c", "name": "now", "response": {"output": "noon"}}},
                    {"text": "and?"},
                ],
            },
        ),
        [
            _ASKED,
            ("assistant", [_CALL, ("call", 1, "weather", '{"city": "Bonn"}'), ("call", 2, "now", "{}")]),
            (
                "user",
                [
                    ("result", 1, (("text", "sun"),)),
                    ("result", 0, (("text", "fog"),)),
                    ("result", 2, (("text", "noon"),)),
                    ("text", "and?"),
                ],
            ),
        ],
    ),
    "image in a tool result": Feature(
        _tool_turns(
            [("call_a", "weather", _ULM)],
            {
                "messages": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "call_a",
                        "content": [
                            {"type": "text", "text": "fog"},
                            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
                        ],
                    }
                ],
                "responses": [
                    {
                        "type": "function_call_output",
                        "call_id": "call_a",
                        "output": [
                            {"type": "input_text", "text": "fog"},
                            {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"},
                        ],
                    }
                ],
                "gemini": [
                    {
                        "functionResponse": {
                            "id": "call_a",
                            "name": "weather",
                            "response": {"output": "fog"},
                            "parts": [{"inlineData": {"mimeType": "image/png", "data": PNG}}],
                        }
                    }
                ],
            },
        ),
        [_ASKED, ("assistant", [_CALL]), ("user", [("result", 0, (("text", "fog"), ("image", PNG)))])],
    ),
    "failed tool": Feature(
        _tool_turns(
            [("call_a", "weather", _ULM)],
            {
                "messages": [
                    {"type": "tool_result", "tool_use_id": "call_a", "content": "no window", "is_error": True}
                ],
                "gemini": [
                    {"functionResponse": {"id": "call_a", "name": "weather", "response": {"error": "no window"}}}
                ],
            },
        ),
        [_ASKED, ("assistant", [_CALL]), ("user", [("result", 0, (("text", "no window"),))])],
    ),
    "JSON by schema": Feature(
        _said(
            chat={
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "place", "schema": SCHEMA, "strict": True},
                }
            },
            messages={"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
            responses={"text": {"format": {"type": "json_schema", "name": "place", "schema": SCHEMA, "strict": True}}},
            gemini={"generationConfig": {"responseMimeType": "application/json", "responseJsonSchema": SCHEMA}},
        ),
        [_ASKED],
    ),
    "JSON of any kind": Feature(
        _said(
            chat={"response_format": {"type": "json_object"}},
            responses={"text": {"format": {"type": "json_object"}}},
            gemini={"generationConfig": {"responseMimeType": "application/json"}},
        ),
        [_ASKED],
    ),
    "effort": Feature(
        _said(
            chat={"reasoning_effort": "high"},
            messages={"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}},
            responses={"reasoning": {"effort": "high"}},
            gemini={"generationConfig": {"thinkingConfig": {"thinkingLevel": "HIGH"}}},
        ),
        [_ASKED],
    ),
    "budget of thinking": Feature(
        _said(
            messages={"thinking": {"type": "enabled", "budget_tokens": 2048}},
            gemini={"generationConfig": {"thinkingConfig": {"thinkingBudget": 2048}}},
        ),
        [_ASKED],
    ),
    "bounds and sampling": Feature(
        _said(
            chat={"max_completion_tokens": 99, "temperature": 0.5, "top_p": 0.25},
            messages={"max_tokens": 99, "temperature": 0.5, "top_p": 0.25},
            responses={"max_output_tokens": 99, "temperature": 0.5, "top_p": 0.25},
            gemini={"generationConfig": {"maxOutputTokens": 99, "temperature": 0.5, "topP": 0.25}},
        ),
        [_ASKED],
        {"max_output_tokens": 99, "temperature": 0.5, "top_p": 0.25},
    ),
    "stop sequences": Feature(
        _said(
            chat={"stop": ["END", "##"]},
            messages={"stop_sequences": ["END", "##"]},
            gemini={"generationConfig": {"stopSequences": ["END", "##"]}},
        ),
        [_ASKED],
        {"stop": ("END", "##")},
    ),
    "seed": Feature(_said(chat={"seed": 7}, gemini={"generationConfig": {"seed": 7}}), [_ASKED], {"seed": 7}),
    "penalties": Feature(
        _said(
            chat={"presence_penalty": 0.5, "frequency_penalty": 0.25},
            gemini={"generationConfig": {"presencePenalty": 0.5, "frequencyPenalty": 0.25}},
        ),
        [_ASKED],
        {"presence_penalty": 0.5, "frequency_penalty": 0.25},
    ),
    "log probabilities": Feature(
        _said(
            chat={"logprobs": True, "top_logprobs": 2},
            responses={"include": ["message.output_text.logprobs"], "top_logprobs": 2},
            gemini={"generationConfig": {"responseLogprobs": True, "logprobs": 2}},
        ),
        [_ASKED],
        {"top_logprobs": 2},
    ),
    "top k": Feature(_said(messages={"top_k": 5}, gemini={"generationConfig": {"topK": 5}}), [_ASKED], {}),
    "several choices": Feature(_said(chat={"n": 2}, gemini={"generationConfig": {"candidateCount": 2}}), [_ASKED]),
    "bias": Feature(_said(chat={"logit_bias": {"50256": -100}}), [_ASKED]),
    "web search": Feature(
        _said(
            chat={"web_search_options": {}},
            messages={"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
            responses={"tools": [{"type": "web_search"}]},
            gemini={"tools": [{"googleSearch": {}}]},
        ),
        [_ASKED],
    ),
    "custom tool": Feature(
        {
            "chat": {
                "messages": [
                    {"role": "user", "content": "hi"},
                    {
                        "role": "assistant",
                        "tool_calls": [{"id": "call_a", "type": "custom", "custom": {"name": "patch", "input": "+ a"}}],
                    },
                    {"role": "tool", "tool_call_id": "call_a", "content": "done"},
                ],
                "tools": [{"type": "custom", "custom": {"name": "patch", "description": "Patches."}}],
            },
            "responses": {
                "input": [
                    {"role": "user", "content": "hi"},
                    {"type": "custom_tool_call", "call_id": "call_a", "name": "patch", "input": "+ a"},
                    {"type": "custom_tool_call_output", "call_id": "call_a", "output": "done"},
                ],
                "tools": [{"type": "custom", "name": "patch", "description": "Patches."}],
            },
        },
        [_ASKED, ("assistant", [("call", 0, "patch", "+ a")]), ("user", [("result", 0, (("text", "done"),))])],
    ),
    "answer begun": Feature(
        {
            "messages": {
                "max_tokens": 10,
                "messages": [*HI["messages"]["messages"], {"role": "assistant", "content": "Once"}],
            },
        },
        [_ASKED, ("assistant", [("text", "Once")])],
    ),
    "cache marks": Feature(
        {
            "chat": {
                "messages": [
                    {
                        "role": "system",
                        "content": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
                    },
                    *HI["chat"]["messages"],
                ]
            },
            "messages": {
                **HI["messages"],
                "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
            },
        },
        [("system", [("text", "Be brief.")]), _ASKED],
    ),
    "labels": Feature(
        _said(
            chat={"user": "u1", "metadata": {"a": "b"}, "prompt_cache_key": "k"},
            messages={"metadata": {"user_id": "u1"}},
            responses={"user": "u1", "metadata": {"a": "b"}, "prompt_cache_key": "k", "store": False},
            gemini={"labels": {"a": "b"}},
        ),
        [_ASKED],
    ),
}


def settings_of(prompt: Prompt, names: dict[str, Any]) -> dict[str, Any]:
    """Returns the prompt's fields of these names."""
    return {name: getattr(prompt, name) for name in names}
