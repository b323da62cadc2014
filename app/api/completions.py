"""`POST /completions`, OpenAI's older text completions: a chat completion in all but the shape of body and answer."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import msgspec

from app.api.hangup import cancelled_on_hangup
from app.api.headers import call_headers
from app.api.http import HttpRequest, HttpResponse, json_response
from app.api.sse import ReplyStream, stream_response
from app.domain.completion import CompletionRequest
from app.domain.identity import Caller
from app.errors import UpstreamError
from app.gateway.call import Report
from app.providers.base import CancelToken
from app.providers.dialects.dialect import MALFORMED
from app.services import Services

_COPIED_FIELDS = ("created", "model", "system_fingerprint", "service_tier", "usage", "cached")
_encode = msgspec.json.Encoder().encode


def create(services: Services, caller: Caller, http_request: HttpRequest, body: bytes) -> HttpResponse:
    """Completes a prompt, whole or as a stream."""
    parsed = CompletionRequest.parse(body)
    cancel = CancelToken()
    context = http_request.call_context(cancel, endpoint="completions")
    pipeline = services.pipeline
    if parsed.chat.stream:

        def start() -> TextStream:
            return TextStream(pipeline.stream(caller, parsed.chat, context), parsed.echoed)

        return stream_response(http_request, cancel, start)
    reply = cancelled_on_hangup(http_request, cancel, partial(pipeline.chat, caller, parsed.chat, context))
    answer = text_completion(reply.body, parsed.echoed, reply.report.provider)
    return json_response(answer, call_headers(reply.report))


def text_completion(chat_completion: bytes, echoed: str, provider: str) -> bytes:
    """Returns a chat completion as a text completion. Raises `UpstreamError` for a malformed one."""
    try:
        chat: dict[str, Any] = msgspec.json.decode(chat_completion)
        choices = [_choice(choice, echoed + _text(choice["message"])) for choice in chat["choices"]]
        return _encode({**_copied_fields(chat), "choices": choices})
    except MALFORMED:
        raise _bad_body(provider) from None


class TextStream:
    """The chunks of a chat completion as those of a text completion. See `api.sse.ReplyStream`."""

    def __init__(self, chunks: ReplyStream, echoed: str) -> None:
        self.report: Report = chunks.report
        self.heartbeat = chunks.heartbeat
        self.error_event = chunks.error_event
        self._chunks = chunks
        self._echoed = echoed
        self._started_choices: set[Any] = set()  # by their index

    def __iter__(self) -> Iterator[bytes]:
        for block in self._chunks:
            if not block:
                yield block
                continue
            try:
                events = b"".join([self._event(line[5:]) for line in block.split(b"\n") if line.startswith(b"data:")])
            except MALFORMED:
                raise _bad_body(self.report.provider) from None
            if events:
                yield events

    @property
    def ending(self) -> bytes:
        return self._chunks.ending

    def close(self) -> None:
        self._chunks.close()

    def _event(self, data: bytes) -> bytes:
        """Returns the event for a chunk; nothing for one without text, such as a role."""
        chunk: dict[str, Any] = msgspec.json.decode(data)
        choices = []
        for choice in chunk.get("choices") or ():
            text = _text(choice.get("delta") or {})
            if choice.get("index") not in self._started_choices:
                self._started_choices.add(choice.get("index"))
                text = self._echoed + text
            if text or choice.get("finish_reason") is not None:
                choices.append(_choice(choice, text))
        if not choices and chunk.get("usage") is None:
            return b""
        return b"data: " + _encode({**_copied_fields(chunk), "choices": choices}) + b"\n\n"


def _copied_fields(chat: dict[str, Any]) -> dict[str, Any]:
    completion_id = "cmpl-" + str(chat.get("id", "")).removeprefix("chatcmpl-")
    copied = {name: chat[name] for name in _COPIED_FIELDS if name in chat}
    return {"id": completion_id, "object": "text_completion", **copied}


def _choice(choice: dict[str, Any], text: str) -> dict[str, Any]:
    return {
        "text": text,
        "index": choice.get("index", 0),
        "logprobs": None,
        "finish_reason": choice.get("finish_reason"),
    }


def _text(message: dict[str, Any]) -> str:
    """Returns the text of a message or a delta, which some vendors send in parts; a refusal is text, too."""
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(part.get("text") or "" for part in content)
    text: str = "".join((content or "", message.get("refusal") or ""))
    return text


def _bad_body(provider: str) -> UpstreamError:
    return UpstreamError(f"The provider {provider} sent no valid answer.", provider=provider, kind="bad_body")
