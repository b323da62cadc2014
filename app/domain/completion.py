"""OpenAI's older text completions, as the chat requests that are made of them.

Source of names and ranges: OpenAI API reference, "Create completion (legacy)". The answer to a prompt is that to a
message that says the same. What a chat cannot do is refused by name, never left out.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from app.domain.body import check_field_names, decode_body, decode_fields, encode_fields
from app.domain.chat import ChatRequest
from app.errors import InvalidRequest

_FIELDS = frozenset({"prompt", "echo", "suffix", "best_of", "logprobs"})
_OF_CHATS = ("messages", "tools", "functions", "modalities", "audio")


class _Body(msgspec.Struct, frozen=True, kw_only=True):
    prompt: str | list[Any]
    echo: bool | None = None
    suffix: str | None = None
    best_of: Annotated[int, msgspec.Meta(ge=1)] | None = None
    logprobs: int | bool | None = None
    n: int | None = None


class CompletionRequest(msgspec.Struct, frozen=True):
    """A text completion request: the chat request made of it, and the text that each of its answers begins with."""

    chat: ChatRequest
    echoed: str

    @classmethod
    def parse(cls, raw: bytes) -> CompletionRequest:
        """Raises `InvalidRequest` with `param` naming the field."""
        body = decode_body(_BODY, raw)
        fields = decode_fields(raw)
        check_field_names(fields, _FIELDS)
        for name in _OF_CHATS:
            if bytes(fields.get(name, msgspec.Raw(b"null"))) != b"null":
                raise InvalidRequest(f"Only `/v1/chat/completions` knows `{name}`.", param=name)
        _check(body)
        prompt = _text(body.prompt)
        message = {"role": "user", "content": prompt}
        chat = ChatRequest.parse(encode_fields(fields, {"messages": [message]}, drop=_FIELDS))
        return cls(chat, prompt if body.echo else "")


_BODY = msgspec.json.Decoder(_Body)


def _text(prompt: str | list[Any]) -> str:
    texts = [prompt] if isinstance(prompt, str) else prompt
    if texts and not any(isinstance(text, str) for text in texts):
        raise InvalidRequest("Token ids are not taken here, as models differ in them: `prompt`.", param="prompt")
    if len(texts) != 1:
        raise InvalidRequest(
            "Expected one text, or a list of one: `prompt`. Send each prompt by itself.", param="prompt"
        )
    return str(texts[0])


def _check(body: _Body) -> None:
    if body.suffix:
        raise InvalidRequest("Text cannot be inserted before a suffix: leave out `suffix`.", param="suffix")
    if body.logprobs is not None and body.logprobs is not False:
        raise InvalidRequest("Log probabilities are not reported here: leave out `logprobs`.", param="logprobs")
    if body.best_of is not None and body.best_of > (body.n or 1):
        raise InvalidRequest("More answers than are returned are not made: leave out `best_of`.", param="best_of")
