"""Google's generateContent, played: signed function calls, as many responses as calls, and no unknown name."""

from __future__ import annotations

import json
from typing import Any

from tests.support.vendors.gemini_rules import (
    Options,
    Request,
    call_signature,
    camel,
    check_options,
    check_signatures,
    check_turns,
    checked,
    merged,
    of,
    tools_of,
)
from tests.support.vendors.play import Asked, Refused, Turn, sign
from tests.support.vendors.rules import Fields, need, parse
from tests.support.vendors.wire import Pieces, sse

_FINISH = {"length": "MAX_TOKENS", "filter": "SAFETY", "refusal": "SAFETY"}


class GeminiWire:
    def read(self, body: bytes, headers: dict[str, str], *, model: str, stream: bool) -> Asked:
        need(
            headers.get("x-goog-api-key"),
            "API key not valid. Please pass a valid API key.",
            status=400,
            code="INVALID_ARGUMENT",
        )
        request = parse(camel(parse(body, dict)), Request)
        options = parse(request.generationConfig or {}, Options, "generation_config")
        check_options(options)
        contents = merged([checked(content, n) for n, content in enumerate(request.contents)])
        need(contents, "* GenerateContentRequest.contents: contents is not specified")
        if request.systemInstruction is not None:
            checked({**request.systemInstruction, "role": "user"}, -1)
        check_turns(contents)
        spoken = max(
            (n for n, c in enumerate(contents) if c["role"] == "user" and not of(c, "functionResponse")), default=-1
        )
        check_signatures(contents[spoken + 1 :])
        responses = [r for content in contents[spoken + 1 :] for r in of(content, "functionResponse")]
        schema = options.responseJsonSchema or options.responseSchema
        as_json = options.responseMimeType == "application/json"
        return Asked(
            model=model,
            stream=stream,
            prompt="\n".join(of(contents[spoken], "text")) if spoken >= 0 else "",
            tools=tuple(tools_of(request)),
            results=tuple(_result(response) for response in responses),
            schema=schema if isinstance(schema, dict) else ({} if as_json else None),
            shows=bool((options.thinkingConfig or {}).get("includeThoughts")),
            request=json.loads(body),
        )

    def parts(self, turn: Turn, asked: Asked) -> list[dict[str, Any]]:
        thoughts = [{"text": turn.thinking, "thought": True}] if turn.thinking and asked.shows else []
        words: list[dict[str, Any]] = [{"text": word} for word in turn.words]
        if words and turn.thinking:
            words[-1]["thoughtSignature"] = sign("text")
        calls: list[dict[str, Any]] = []
        for n, call in enumerate(turn.calls):
            value: dict[str, Any] = {"name": call.tool.name, "args": call.arguments}
            if call.id not in ("", "-"):
                value["id"] = call.id
            calls.append({"functionCall": value, **({} if n else {"thoughtSignature": call_signature(value)})})
        return [*thoughts, *words, *calls]

    def whole(self, turn: Turn, asked: Asked) -> dict[str, Any]:
        parts = self.parts(turn, asked)
        texts = [part for part in parts if "text" in part and "thought" not in part]
        if len(texts) > 1:
            at = parts.index(texts[0])
            parts = [*parts[:at], {**texts[-1], "text": turn.text}, *parts[at + len(texts) :]]
        return _answer(turn, parts, finish=True)

    def pieces(self, turn: Turn, asked: Asked) -> Pieces:
        parts = self.parts(turn, asked)
        calls = [part for part in parts if "functionCall" in part]
        content = [sse(_answer(turn, [part])) for part in parts if part not in calls]
        content += [sse(_answer(turn, calls))] if calls else []
        ending = _answer(turn, [{"text": ""}], finish=True)
        return Pieces([], content, [sse(ending)])

    def error(self, refused: Refused) -> dict[str, Any]:
        words = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND"}
        words |= {429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED"}
        status = refused.code or words.get(refused.status, "UNKNOWN")
        return {"error": {"code": refused.status, "message": refused.message, "status": status}}

    def error_event(self, refused: Refused) -> bytes:
        return sse(self.error(refused))

    def overflow(self) -> Refused:
        return Refused("The input token count (250001) exceeds the maximum number of tokens allowed (200000).")

    def embed(self, body: bytes, headers: dict[str, str]) -> dict[str, Any]:
        """Returns the answer of batchEmbedContents: one token a text."""
        need(headers.get("x-goog-api-key"), "API key not valid. Please pass a valid API key.")
        requests = json.loads(body)["requests"]
        for n, request in enumerate(requests):
            checked({**request["content"], "role": "user"}, n)
            need(request.get("model", "").startswith("models/"), f"requests[{n}].model: unexpected model name format")
        embeddings = [{"values": [1.0, 0.0]} for _ in requests]
        return {"embeddings": embeddings, "usageMetadata": {"promptTokenCount": len(requests)}}

    def count(self, body: bytes, headers: dict[str, str]) -> dict[str, Any]:
        fields = json.loads(body)
        request = fields.get("generateContentRequest", fields)
        need(set(fields) <= {"contents", "generateContentRequest"}, f"Unknown names: {sorted(fields)}")
        self.read(json.dumps(request).encode(), headers, model="", stream=False)
        tokens = len(json.dumps(request)) // 4
        return {"totalTokens": tokens, "promptTokensDetails": [{"modality": "TEXT", "tokenCount": tokens}]}


def _result(response: Fields) -> str:
    value = response["response"]
    return str(next(iter(value.values()))) if len(value) == 1 else json.dumps(value)


def _answer(turn: Turn, parts: list[dict[str, Any]], *, finish: bool = False) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}, "index": 0}
    if finish:
        candidate["finishReason"] = _FINISH.get(turn.stop, "STOP")
    frame = {"modelVersion": turn.model, "responseId": f"g{turn.id}"}
    return {"candidates": [candidate], **_usage(turn), **frame}


def _usage(turn: Turn) -> dict[str, Any]:
    if turn.bill is not None:
        return turn.bill
    usage = {
        "promptTokenCount": turn.prompt_tokens,
        "candidatesTokenCount": turn.completion_tokens - turn.reasoning,
        "totalTokenCount": turn.prompt_tokens + turn.completion_tokens,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": turn.prompt_tokens}],
    }
    extra = {"cachedContentTokenCount": turn.cached, "thoughtsTokenCount": turn.reasoning}
    return {"usageMetadata": {**usage, **{name: count for name, count in extra.items() if count}}}
