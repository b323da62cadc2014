"""Next turn of a conversation, as clients of each dialect send it: the answer as it came, and the results."""

from __future__ import annotations

from typing import Any

from tests.support.dialects.prompts import HI, TOOLS


def calls_of(dialect: str, answer: dict[str, Any]) -> list[tuple[str, str]]:
    """Returns the id and name of each call in a whole answer."""
    if dialect == "chat":
        calls = answer["choices"][0]["message"].get("tool_calls", ())
        return [(call["id"], call["function"]["name"]) for call in calls]
    if dialect == "messages":
        return [(block["id"], block["name"]) for block in answer["content"] if block["type"] == "tool_use"]
    if dialect == "responses":
        return [(item["call_id"], item["name"]) for item in answer["output"] if item["type"] == "function_call"]
    parts = answer["candidates"][0]["content"]["parts"]
    calls = [part["functionCall"] for part in parts if "functionCall" in part]
    return [(call.get("id", ""), call["name"]) for call in calls]


def next_turn(dialect: str, answer: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """Returns the request after `answer`, whose calls had these results. They come in another order than the calls."""
    found = [
        (call_id, name, result) for (call_id, name), result in zip(calls_of(dialect, answer), results, strict=True)
    ]
    found.reverse()
    body = {**HI[dialect], **TOOLS[dialect]}
    if dialect == "chat":
        said = [{"role": "tool", "tool_call_id": call_id, "content": result} for call_id, _, result in found]
        body["messages"] = [*body["messages"], answer["choices"][0]["message"], *said]
    elif dialect == "messages":
        said = [{"type": "tool_result", "tool_use_id": call_id, "content": result} for call_id, _, result in found]
        turn = {"role": "assistant", "content": answer["content"]}
        body["messages"] = [*body["messages"], turn, {"role": "user", "content": said}]
    elif dialect == "responses":
        said = [{"type": "function_call_output", "call_id": call_id, "output": result} for call_id, _, result in found]
        body["input"] = [{"role": "user", "content": body["input"]}, *answer["output"], *said]
    else:
        parts = [
            {"functionResponse": {**({"id": i} if i else {}), "name": name, "response": {"output": result}}}
            for i, name, result in found
        ]
        body["contents"] = [*body["contents"], answer["candidates"][0]["content"], {"role": "user", "parts": parts}]
    return body
