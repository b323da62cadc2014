"""Support assistant: answers a user's message with the conversation so far, and appends both to its history.

The history has what the user was shown. A whole answer is kept with its message; of a stream that broke off or was hung
up on, as much as had been streamed; nothing of a call that failed before its first word, so that the user can simply
ask again. An answer that comes after the history was deleted begins a new one.

A message without a user's id is `anonymous`, and nothing of it is remembered: one conversation of all users without an
id would show each what the others had said.
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
_MAX_USER_ID_CHARS = 256
# A user id is a part of a path: no slashes, no control characters, nothing that a path's decoding would replace.
_UNFIT_FOR_A_PATH = re.compile("[\x00-\x1f\x7f-\x9f/\ud800-\udfff\ufffd]")
_encode = msgspec.json.Encoder().encode


class _Body(msgspec.Struct, frozen=True):
    """The body of `POST /chat`."""

    message: str
    user_id: str | None = None
    stream: bool | None = None


class SupportMessage(NamedTuple):
    """A message of a user, who may be `ANONYMOUS`. `stream`: the answer is to be streamed."""

    text: str
    user_id: str
    stream: bool = False


class SupportAnswer(NamedTuple):
    """A whole answer. `usage` is OpenAI's object; None when the provider sent none."""

    text: str
    usage: dict[str, Any] | None
    report: Report


class SupportAssistant:
    """`prompt` is the system prompt; `DEFAULT_PROMPT` in place of an empty one."""

    def __init__(self, *, pipeline: Pipeline, history: History, config: SupportConfig, prompt: str = "") -> None:
        self._pipeline = pipeline
        self._history = history
        self._config = config
        self._system = {"role": "system", "content": prompt or DEFAULT_PROMPT}
        self._fields: dict[str, Any] = {"model": config.model, "max_tokens": config.max_tokens}  # null: the default one
        if config.temperature is not None:
            self._fields["temperature"] = config.temperature

    def parse(self, raw: bytes) -> SupportMessage:
        """Parses a request's body. Raises `InvalidRequest` with `param`."""
        body = decode_body(_BODY, raw)
        longest = self._config.max_message_chars
        if not body.message.strip() or len(body.message) > longest:
            raise InvalidRequest(
                f"A message is 1 to {longest} characters, not only spaces: `message`.", param="message"
            )
        if body.user_id is None:
            _check_spelling(decode_fields(raw))
            return SupportMessage(body.message, ANONYMOUS, bool(body.stream))
        check_user_id(body.user_id)
        return SupportMessage(body.message, body.user_id, bool(body.stream))

    def answer(self, caller: Caller, message: SupportMessage, context: CallContext) -> SupportAnswer:
        """Returns the whole answer. Raises what the pipeline raises, and `StoreUnavailable`."""
        reply = self._pipeline.chat(caller, self._request(caller, message), context)
        text, usage = text_and_usage(reply.body)
        self._remember(caller, message, context, text)
        return SupportAnswer(text, usage, reply.report)

    def stream(self, caller: Caller, message: SupportMessage, context: CallContext) -> SupportStream:
        """Returns the answer in OpenAI's chunks, once its first one is there. Its `close` must be called."""
        stream = self._pipeline.stream(caller, self._request(caller, message), context)
        return SupportStream(
            stream,
            remember=lambda text: self._remember(caller, message, context, text),
            max_chars=self._config.history_bytes,
        )

    def messages(self, caller: Caller, user_id: str) -> list[dict[str, str]]:
        """Returns the conversation so far, without the system prompt."""
        check_user_id(user_id)
        return self._history_messages(caller, user_id)

    def forget(self, caller: Caller, user_id: str) -> None:
        """Deletes the conversation."""
        check_user_id(user_id)
        self._history.clear(caller.key_id, user_id)

    def open_conversations(self) -> int:
        """Returns how many conversations are remembered, of all keys."""
        return self._history.count()

    def _request(self, caller: Caller, message: SupportMessage) -> ChatRequest:
        # The caller may come from a gateway worker's cache of keys: nothing is sent unless admission lets it in.
        past = self._history_messages(caller, message.user_id)
        messages = [self._system, *past, {"role": "user", "content": message.text}]
        request = ChatRequest.parse(_encode({**self._fields, "messages": messages, "stream": message.stream}))
        # For the ledger's row only: no vendor needs to know who the user is.
        return msgspec.structs.replace(request, user=message.user_id)

    def _history_messages(self, caller: Caller, user_id: str) -> list[dict[str, str]]:
        return [] if user_id == ANONYMOUS else _messages(self._history.read(caller.key_id, user_id))

    def _remember(self, caller: Caller, message: SupportMessage, context: CallContext, answer: str) -> None:
        if message.user_id == ANONYMOUS:
            return
        turn = ConversationTurn(context.call_id, message.text, answer)
        try:
            self._history.append(caller.key_id, message.user_id, turn)
        except StoreUnavailable:
            # The answer is there and paid for: it is worth more to the user than its place in the history.
            log.warning("history_not_kept", request_id=context.request_id, key_id=caller.key_id)


class SupportStream:
    """A stream on its way to the client that remembers its text once. As `gateway.stream.LiveStream`."""

    def __init__(self, stream: LiveStream | CachedStream, *, remember: Callable[[str], None], max_chars: int) -> None:
        self.report = stream.report
        self.heartbeat = stream.heartbeat
        self.error_event = stream.error_event
        self._stream = stream
        self._remember = remember
        self._room_chars = max_chars  # the history could not keep more
        self._texts: list[str] = []
        self._remembered = False

    def __iter__(self) -> Iterator[bytes]:
        try:
            for block in self._stream:
                self._collect(block)
                yield block
        except GatewayError:
            self._end(whole=False)
            raise
        # Before the client sees the end: its next message finds this one.
        self._end(whole=True)

    @property
    def ending(self) -> bytes:
        return self._stream.ending

    def close(self) -> None:
        self._stream.close()
        self._end(whole=False)

    def _collect(self, block: bytes) -> None:
        text = streamed_text(block) if self._room_chars > 0 else ""
        if text:
            self._room_chars -= len(text)
            self._texts.append(text)

    def _end(self, *, whole: bool) -> None:
        if not self._remembered and (whole or self._texts):
            self._remembered = True
            self._remember("".join(self._texts))


def check_user_id(user_id: str) -> None:
    """Raises `InvalidRequest` for a text that cannot be a user's id."""
    has_form = user_id.strip(" ") and user_id not in (".", "..") and len(user_id) <= _MAX_USER_ID_CHARS
    if not has_form or _UNFIT_FOR_A_PATH.search(user_id):
        raise InvalidRequest(
            f"A user id is 1 to {_MAX_USER_ID_CHARS} characters without slashes and control characters: `user_id`.",
            param="user_id",
        )


def _check_spelling(names: Iterable[str]) -> None:
    """Raises `InvalidRequest` for `userId` and the like: that user would wonder why nothing is remembered."""
    for name in names:
        if name != "user_id" and name.replace("_", "").replace("-", "").lower() == "userid":
            raise InvalidRequest(f"Unknown field `{name[:64]}`: expected `user_id`.", param=name[:64])


_BODY = msgspec.json.Decoder(_Body)


def _messages(turns: list[ConversationTurn]) -> list[dict[str, str]]:
    """The turns as OpenAI's messages. An empty answer is left out: some vendors refuse one."""
    messages = []
    for turn in turns:
        messages.append({"role": "user", "content": turn.message})
        if turn.answer:
            messages.append({"role": "assistant", "content": turn.answer})
    return messages
