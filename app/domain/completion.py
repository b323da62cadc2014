"""OpenAI's legacy text completions, converted to chat requests.

Source of names and ranges: OpenAI API reference, "Create completion (legacy)". The answer to a prompt is the answer to
a user's message of the same text. A field that has no counterpart in a chat is refused by name, never ignored.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from app.domain.body import check_field_names, decode_body, decode_fields, encode_fields
from app.domain.chat import ChatRequest
from app.errors import InvalidRequest

_FIELDS = frozenset({"prompt", "echo", "suffix", "best_of", "logprobs"})
_CHAT_ONLY_FIELDS = ("messages", "tools", "functions", "modalities", "audio")


class _Body(msgspec.Struct, frozen=True, kw_only=True):
    prompt: str | list[Any]
    echo: bool | None = None
    suffix: str | None = None
    best_of: Annotated[int, msgspec.Meta(ge=1)] | None = None
    logprobs: int | bool | None = None
    n: int | None = None


class CompletionRequest(msgspec.Struct, frozen=True):
    """A text completion request: the chat request made of it, and the text that each answer starts with (`echo`)."""

    chat: ChatRequest
    echoed: str

    @classmethod
    def parse(cls, raw: bytes) -> CompletionRequest:
        """Returns the request in the body `raw`. Raises `InvalidRequest` whose `param` names the field."""
        body = decode_body(_BODY, raw)
        fields = decode_fields(raw)
        check_field_names(fields, _FIELDS)
        for name in _CHAT_ONLY_FIELDS:
            if bytes(fields.get(name, msgspec.Raw(b"null"))) != b"null":
                raise InvalidRequest(f"Only `/v1/chat/completions` knows `{name}`.", param=name)
        _check_supported(body)
        prompt = _prompt_text(body.prompt)
        message = {"role": "user", "content": prompt}
        chat = ChatRequest.parse(encode_fields(fields, {"messages": [message]}, drop=_FIELDS))
        return cls(chat, prompt if body.echo else "")


_BODY = msgspec.json.Decoder(_Body)


def _prompt_text(prompt: str | list[Any]) -> str:
    texts = [prompt] if isinstance(prompt, str) else prompt
    if texts and not any(isinstance(text, str) for text in texts):
        raise InvalidRequest("Token ids are not taken here, as models differ in them: `prompt`.", param="prompt")
    if len(texts) != 1:
        raise InvalidRequest(
            "Expected one text, or a list of one: `prompt`. Send each prompt by itself.", param="prompt"
        )
    return str(texts[0])


def _check_supported(body: _Body) -> None:
    if body.suffix:
        raise InvalidRequest("Text cannot be inserted before a suffix: leave out `suffix`.", param="suffix")
    if body.logprobs is not None and body.logprobs is not False:
        raise InvalidRequest("Log probabilities are not reported here: leave out `logprobs`.", param="logprobs")
    if body.best_of is not None and body.best_of > (body.n or 1):
        raise InvalidRequest("More answers than are returned are not made: leave out `best_of`.", param="best_of")
