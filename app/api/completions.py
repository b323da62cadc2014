"""OpenAI's older text completions over HTTP: a chat completion in every respect but the shape of body and answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from app.api.hangup import watch
from app.api.headers import call_headers
from app.api.http import HttpRequest, HttpResponse
from app.api.sse import Stream, stream_answer
from app.domain.completion import CompletionRequest
from app.domain.identity import Caller
from app.errors import UpstreamError
from app.gateway.call import Report
from app.gateway.pipeline import Pipeline
from app.providers.base import CancelToken

_KEPT = ("created", "model", "system_fingerprint", "service_tier", "usage", "cached")
_encode = msgspec.json.Encoder().encode


def complete(pipeline: Pipeline, caller: Caller, body: bytes, http_request: HttpRequest) -> HttpResponse:
    """Completes a prompt, whole or as a stream."""
    asked = CompletionRequest.parse(body)
    cancel = CancelToken()
    context = http_request.call_context(cancel)
    context.endpoint = "completions"
    stop_watching = watch(http_request.environ, cancel)
    if asked.chat.stream:
        try:
            stream = pipeline.stream(caller, asked.chat, context)
        except BaseException:
            stop_watching()
            raise
        return stream_answer(TextStream(stream, asked.echoed), stop_watching, http_request.request_id)
    try:
        reply = pipeline.chat(caller, asked.chat, context)
    finally:
        stop_watching()
    headers = [("Content-Type", "application/json"), *call_headers(reply.report)]
    return HttpResponse(200, headers, text_completion(reply.body, asked.echoed, reply.report.provider))


def text_completion(answer: bytes, echoed: str, provider: str) -> bytes:
    """A chat completion as the text completion that says the same. Raises `UpstreamError` for an odd one."""
    try:
        whole: dict[str, Any] = msgspec.json.decode(answer)
        choices = [_choice(choice, echoed + _said(choice["message"])) for choice in whole["choices"]]
        return _encode({**_head(whole), "choices": choices})
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        raise _odd(provider) from None


class TextStream:
    """The chunks of a chat completion as those of a text completion. See `api.sse.Stream`."""

    def __init__(self, chunks: Stream, echoed: str) -> None:
        self.report: Report = chunks.report
        self._chunks = chunks
        self._echoed = echoed
        self._begun: set[Any] = set()  # choices, by their index

    def __iter__(self) -> Iterator[bytes]:
        for block in self._chunks:
            if not block:
                yield block
                continue
            try:
                events = b"".join([self._event(line[5:]) for line in block.split(b"\n") if line.startswith(b"data:")])
            except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
                raise _odd(self.report.provider) from None
            if events:
                yield events

    def close(self) -> None:
        self._chunks.close()

    def _event(self, data: bytes) -> bytes:
        """The event for a chunk; nothing for one that has nothing to say, such as a role."""
        chunk: dict[str, Any] = msgspec.json.decode(data)
        choices = []
        for choice in chunk.get("choices") or ():
            text = _said(choice.get("delta") or {})
            if choice.get("index") not in self._begun:
                self._begun.add(choice.get("index"))
                text = self._echoed + text
            if text or choice.get("finish_reason") is not None:
                choices.append(_choice(choice, text))
        if not choices and chunk.get("usage") is None:
            return b""
        return b"data: " + _encode({**_head(chunk), "choices": choices}) + b"\n\n"


def _head(chat: dict[str, Any]) -> dict[str, Any]:
    name = "cmpl-" + str(chat.get("id", "")).removeprefix("chatcmpl-")
    return {"id": name, "object": "text_completion", **{key: chat[key] for key in _KEPT if key in chat}}


def _choice(choice: dict[str, Any], text: str) -> dict[str, Any]:
    return {
        "text": text,
        "index": choice.get("index", 0),
        "logprobs": None,
        "finish_reason": choice.get("finish_reason"),
    }


def _said(message: dict[str, Any]) -> str:
    """The text of a message or a delta, which some vendors send in parts; a refusal is what the model said, too."""
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(part.get("text") or "" for part in content)
    text: str = "".join((content or "", message.get("refusal") or ""))
    return text


def _odd(provider: str) -> UpstreamError:
    return UpstreamError(f"The provider {provider} sent no valid answer.", provider=provider, kind="bad_body")
