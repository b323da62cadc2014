"""The support assistant: one message of a user in, an answer that knows the conversation so far.

What is remembered is what the user was shown. A whole answer is kept with its message; of a stream that broke off or
was hung up on, as much as had been streamed; nothing of a call that failed before its first word, so that the user can
simply ask again. An answer that comes after the history was deleted begins a new one.

A message without a user's id is `anonymous`, and nothing of it is remembered: one conversation of all who come without
a name would tell each what the others had said.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import msgspec
import structlog

from app.config.features import SupportConfig
from app.domain.body import decode_body, decode_fields
from app.domain.chat import ChatRequest
from app.domain.identity import Caller
from app.errors import GatewayError, InvalidRequest, StoreUnavailable
from app.features.answer_text import streamed_text, text_and_usage
from app.gateway.call import CallContext, Report
from app.gateway.pipeline import Pipeline
from app.gateway.stream import CachedStream, LiveStream
from app.store.history import ConversationTurn, History

log = structlog.get_logger()
DEFAULT_PROMPT = (
    "You are a friendly and competent support assistant. Answer briefly, in the language of the question. "
    "Say so when you do not know something, and never invent facts. Never ask for passwords or card numbers."
)
ANONYMOUS = "anonymous"
_MOST_USER_ID_CHARS = 256
# A user id is a part of a path: no slashes, no control characters, nothing that a path's decoding would replace.
_UNFIT_FOR_A_PATH = re.compile("[\x00-\x1f\x7f-\x9f/\ud800-\udfff\ufffd]")
_encode = msgspec.json.Encoder().encode


class _Body(msgspec.Struct):
    """What a caller sends."""

    message: str
    user_id: str | None = None
    stream: bool | None = None


class SupportMessage(NamedTuple):
    """A message of a user, who may be `ANONYMOUS`."""

    message: str
    user_id: str
    stream: bool = False


class SupportAnswer(NamedTuple):
    """A whole answer. `usage` is OpenAI's object; None when the provider sent none."""

    text: str
    usage: dict[str, Any] | None
    report: Report


class SupportAssistant:
    def __init__(self, *, pipeline: Pipeline, history: History, config: SupportConfig, prompt: str = "") -> None:
        self._pipeline = pipeline
        self._history = history
        self._config = config
        self._system = {"role": "system", "content": prompt or DEFAULT_PROMPT}
        self._fields: dict[str, Any] = {"model": config.model, "max_tokens": config.max_tokens}  # null: the default one
        if config.temperature is not None:
            self._fields["temperature"] = config.temperature

    def parse(self, raw: bytes) -> SupportMessage:
        """A request's body. Raises `InvalidRequest` with `param`."""
        body = decode_body(_BODY, raw)
        most = self._config.max_message_chars
        if not body.message.strip() or len(body.message) > most:
            raise InvalidRequest(f"A message is 1 to {most} characters, not only spaces: `message`.", param="message")
        if body.user_id is None:
            _check_not_misspelt(decode_fields(raw))
            return SupportMessage(body.message, ANONYMOUS, bool(body.stream))
        check_user_id(body.user_id)
        return SupportMessage(body.message, body.user_id, bool(body.stream))

    def answer(self, caller: Caller, ask: SupportMessage, context: CallContext) -> SupportAnswer:
        """The whole answer. Raises what the pipeline raises, and `StoreUnavailable`."""
        reply = self._pipeline.chat(caller, self._request(caller, ask), context)
        text, usage = text_and_usage(reply.body)
        self._keep(caller, ask, context, text)
        return SupportAnswer(text, usage, reply.report)

    def stream(self, caller: Caller, ask: SupportMessage, context: CallContext) -> SupportStream:
        """The answer in OpenAI's chunks, returned when its first one is there. Its `close` must be called."""
        stream = self._pipeline.stream(caller, self._request(caller, ask), context)
        return SupportStream(
            stream, keep=lambda text: self._keep(caller, ask, context, text), most_chars=self._config.history_bytes
        )

    def messages(self, caller: Caller, user_id: str) -> list[dict[str, str]]:
        """The conversation so far, without the system prompt."""
        check_user_id(user_id)
        return self._past(caller, user_id)

    def forget(self, caller: Caller, user_id: str) -> None:
        check_user_id(user_id)
        self._history.clear(caller.key_id, user_id)

    def open_conversations(self) -> int:
        return self._history.count()

    def _request(self, caller: Caller, ask: SupportMessage) -> ChatRequest:
        # The caller may be one that a worker only remembers: nothing of this is sent unless admission lets it in.
        messages = [self._system, *self._past(caller, ask.user_id), {"role": "user", "content": ask.message}]
        request = ChatRequest.parse(_encode({**self._fields, "messages": messages, "stream": ask.stream}))
        # For the ledger's row only: no vendor needs to know who the user is.
        return msgspec.structs.replace(request, user=ask.user_id)

    def _past(self, caller: Caller, user_id: str) -> list[dict[str, str]]:
        return [] if user_id == ANONYMOUS else _messages(self._history.read(caller.key_id, user_id))

    def _keep(self, caller: Caller, ask: SupportMessage, context: CallContext, answer: str) -> None:
        if ask.user_id == ANONYMOUS:
            return
        try:
            self._history.append(caller.key_id, ask.user_id, ConversationTurn(context.call_id, ask.message, answer))
        except StoreUnavailable:
            # The answer is there and paid for: it is worth more to the user than the memory of it.
            log.warning("history_not_kept", request_id=context.request_id, key_id=caller.key_id)


class SupportStream:
    """A stream on its way to the client that notes what it says. See `gateway.stream.LiveStream`."""

    def __init__(self, stream: LiveStream | CachedStream, *, keep: Callable[[str], None], most_chars: int) -> None:
        self.report = stream.report
        self._stream = stream
        self._keep = keep
        self._room = most_chars  # for words to note; history could not keep more
        self._words: list[str] = []
        self._kept = False

    def __iter__(self) -> Iterator[bytes]:
        try:
            for block in self._stream:
                self._note(block)
                yield block
        except GatewayError:
            self._end(whole=False)
            raise
        # Before the client sees the end: its next message finds this one.
        self._end(whole=True)

    def close(self) -> None:
        self._stream.close()
        self._end(whole=False)

    def _note(self, block: bytes) -> None:
        words = streamed_text(block) if self._room > 0 else ""
        if words:
            self._room -= len(words)
            self._words.append(words)

    def _end(self, *, whole: bool) -> None:
        if not self._kept and (whole or self._words):
            self._kept = True
            self._keep("".join(self._words))


def check_user_id(user_id: str) -> None:
    """Raises `InvalidRequest` for what cannot be a user's id."""
    fits = user_id.strip(" ") and user_id not in (".", "..") and len(user_id) <= _MOST_USER_ID_CHARS
    if not fits or _UNFIT_FOR_A_PATH.search(user_id):
        raise InvalidRequest(
            f"A user id is 1 to {_MOST_USER_ID_CHARS} characters without slashes and control characters: `user_id`.",
            param="user_id",
        )


def _check_not_misspelt(names: Iterable[str]) -> None:
    """Raises `InvalidRequest` for `userId` and the like: that user would wonder why nothing is remembered."""
    for name in names:
        if name != "user_id" and name.replace("_", "").replace("-", "").lower() == "userid":
            raise InvalidRequest(f"Unknown field `{name[:64]}`: expected `user_id`.", param=name[:64])


_BODY = msgspec.json.Decoder(_Body)


def _messages(exchanges: list[ConversationTurn]) -> list[dict[str, str]]:
    """As a model and a client read them. An answer without words is left out: some vendors refuse an empty one."""
    found = []
    for exchange in exchanges:
        found.append({"role": "user", "content": exchange.message})
        if exchange.answer:
            found.append({"role": "assistant", "content": exchange.answer})
    return found
