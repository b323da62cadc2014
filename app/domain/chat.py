"""What a caller may ask for: parsed and validated once, at the edge, then trusted.

Validation covers what the gateway acts on (model, messages, limits on tokens, streaming). Everything else of
the OpenAI body is the provider's business: it is kept as raw bytes and forwarded untouched.
Source of names and ranges: OpenAI API reference, "Create chat completion" and "Create embeddings".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal, TypeVar, cast

import msgspec

from app.errors import InvalidRequest

# A prompt token is at least one byte in every byte-level vocabulary, and about four in English text.
_BYTES_PER_TOKEN = 4
# What a picture can cost at most: OpenAI's tile pricing for a high-detail image on the models that count it dearest.
IMAGE_CEILING_TOKENS = 50_000
_IMAGE_ESTIMATE_TOKENS = 1_000
# Chat templates add a few tokens a message ("<|im_start|>role …"); vendors document 3 to 5.
_TOKENS_PER_MESSAGE = 8

_Role = Literal["system", "developer", "user", "assistant", "tool", "function"]
_Positive = Annotated[int, msgspec.Meta(ge=1)]


class _Url(msgspec.Struct, frozen=True):
    url: str


class _Part(msgspec.Struct, frozen=True):
    type: str
    text: str | None = None
    image_url: _Url | None = None


class Message(msgspec.Struct, frozen=True):
    role: _Role
    content: str | list[_Part] | None = None

    @property
    def texts(self) -> list[str]:
        if isinstance(self.content, str):
            return [self.content]
        return [part.text for part in self.content or () if part.text]

    def prompt_estimate(self, size: int) -> int:
        """A likely count of prompt tokens of the message, which is `size` bytes long in the body."""
        parts = self.content if isinstance(self.content, list) else ()
        images = [part.image_url.url for part in parts if part.image_url is not None]
        inline = sum(len(url) for url in images if url.startswith("data:"))
        return (size - inline) // _BYTES_PER_TOKEN + len(images) * _IMAGE_ESTIMATE_TOKENS + 1


class _StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A chat completion request. `raw` is the body as it came; the other fields are what the gateway acts on."""

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    messages: Annotated[list[Message], msgspec.Meta(min_length=1)]
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=128)] | None = None
    max_tokens: _Positive | None = None
    max_completion_tokens: _Positive | None = None
    user: Annotated[str, msgspec.Meta(max_length=512)] | None = None
    service_tier: str | None = None
    # What can have the vendor search the web, which it bills by the search: at OpenAI, xAI, OpenRouter; tools of theirs.
    web_search_options: Any = None
    search_parameters: Any = None
    plugins: Any = None
    tools: msgspec.Raw = msgspec.Raw()
    # Never read from the body: `parse` sets them.
    raw: bytes = msgspec.field(default=b"", name="(raw)")
    images: int = msgspec.field(default=0, name="(images)")

    @classmethod
    def parse(cls, raw: bytes) -> ChatRequest:
        """Raises `InvalidRequest` with `param` naming the field, as in `messages[0].role`."""
        return _parse_chat(_CHAT, raw)

    @classmethod
    def parse_smart(cls, raw: bytes) -> ChatRequest:
        """As `parse`, but the body need not name a model: it is then `auto`."""
        return _parse_chat(_SMART, raw)

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def choices(self) -> int:
        return self.n or 1

    @property
    def max_output_tokens(self) -> int | None:
        """The caller's bound on each choice; None when the caller set none."""
        return self.max_completion_tokens or self.max_tokens

    def prompt_estimate(self) -> int:
        """A likely count of prompt tokens, from the length of the body: good enough to reserve with."""
        size = len(self.raw) - (self._inline_image_bytes() if self.images else 0)
        return size // _BYTES_PER_TOKEN + self.images * _IMAGE_ESTIMATE_TOKENS + 1

    def prompt_ceiling(self) -> int:
        """A count of prompt tokens that no byte-level tokenizer can exceed for this body."""
        size = len(self.raw) - (self._inline_image_bytes() if self.images else 0)
        return size + self.images * IMAGE_CEILING_TOKENS + len(self.messages) * _TOKENS_PER_MESSAGE

    def _inline_image_bytes(self) -> int:
        return sum(
            len(part.image_url.url)
            for message in self.messages
            if isinstance(message.content, list)
            for part in message.content
            if part.image_url is not None and part.image_url.url.startswith("data:")
        )


class _SmartRequest(ChatRequest, frozen=True, kw_only=True):
    model: Annotated[str, msgspec.Meta(min_length=1, max_length=256)] = "auto"


class EmbedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """An embeddings request: texts, or token ids."""

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    input: (
        Annotated[str, msgspec.Meta(min_length=1)]
        | Annotated[list[str | int | list[int]], msgspec.Meta(min_length=1, max_length=2048)]
    )
    user: Annotated[str, msgspec.Meta(max_length=512)] | None = None
    raw: bytes = msgspec.field(default=b"", name="(raw)")  # never read from the body: `parse` sets it

    @classmethod
    def parse(cls, raw: bytes) -> EmbedRequest:
        """Raises `InvalidRequest` with `param` naming the field."""
        return msgspec.structs.replace(_parse(_EMBED, raw), raw=raw)

    def prompt_estimate(self) -> int:
        return len(self.raw) // _BYTES_PER_TOKEN + 1

    def prompt_ceiling(self) -> int:
        return len(self.raw)


_CHAT = msgspec.json.Decoder(ChatRequest)
_SMART = cast("msgspec.json.Decoder[ChatRequest]", msgspec.json.Decoder(_SmartRequest))
_EMBED = msgspec.json.Decoder(EmbedRequest)
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ENCODE = msgspec.json.Encoder().encode
_R = TypeVar("_R", ChatRequest, EmbedRequest)
_S = TypeVar("_S")
_AT = re.compile(r"^(?P<what>.*?)(?: - at `(?P<path>\$[^`]*)`)?$", re.DOTALL)
_MISSING = re.compile(r"missing required field `(\w+)`")


def decoded(decoder: msgspec.json.Decoder[_S], raw: bytes) -> _S:
    """A request body as what `decoder` makes of it. Raises `InvalidRequest`; `param` names the field."""
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as exc:
        raise _invalid(str(exc)) from None
    except (ValueError, RecursionError):
        raise InvalidRequest("The request body is not valid JSON.") from None


def _parse(decoder: msgspec.json.Decoder[_R], raw: bytes) -> _R:
    request = decoded(decoder, raw)
    for name in ("model", "user"):
        if "\x00" in (getattr(request, name) or ""):
            raise InvalidRequest(f"`{name}` must not contain NUL characters.", param=name)
    return request


def _parse_chat(decoder: msgspec.json.Decoder[ChatRequest], raw: bytes) -> ChatRequest:
    request = _parse(decoder, raw)
    return msgspec.structs.replace(request, raw=raw, images=_images(request.messages))


def _images(messages: list[Message]) -> int:
    count = 0
    for message in messages:
        if type(message.content) is list:
            count += sum(part.image_url is not None for part in message.content)
    return count


def _invalid(reason: str) -> InvalidRequest:
    found = _AT.match(reason)
    what, path = (found["what"], found["path"]) if found else (reason, None)
    param = (path or "").removeprefix("$").lstrip(".")
    missing = _MISSING.search(what)
    if missing:
        param = f"{param}.{missing[1]}" if param else missing[1]
        what = "Missing required field"
    if not param:
        return InvalidRequest("The request body must be a JSON object.")
    return InvalidRequest(f"{what}: `{param}`.", param=param)


def with_fields(raw: bytes, changes: dict[str, Any], drop: Iterable[str] = ()) -> bytes:
    """The JSON object `raw` with some top-level fields set or dropped; every other value keeps its very bytes."""
    fields: dict[str, Any] = _FIELDS.decode(raw)
    for name in drop:
        fields.pop(name, None)
    fields.update(changes)
    return _ENCODE(fields)


def field_bytes(raw: bytes) -> dict[str, msgspec.Raw]:
    """The top-level fields of the JSON object `raw`, each value as the bytes it came in."""
    return _FIELDS.decode(raw)


class Draft:
    """A chat request that is being changed: its fields are taken apart at most once, however much is changed."""

    __slots__ = ("_fields", "request")

    def __init__(self, request: ChatRequest) -> None:
        self.request = request
        self._fields: dict[str, msgspec.Raw] | None = None

    @property
    def fields(self) -> dict[str, msgspec.Raw]:
        """The body's top-level fields, each value as the bytes it came in."""
        if self._fields is None:
            self._fields = field_bytes(self.request.raw)
        return self._fields

    def set(self, name: str, value: str | int) -> None:
        self._change(name, value, value)

    def keep_messages(self, kept: list[int], raw: list[msgspec.Raw]) -> None:
        """Keeps the messages at these positions; `raw` are all of them as they came."""
        self._change("messages", [self.request.messages[i] for i in kept], [raw[i] for i in kept])

    def _change(self, name: str, value: Any, wire: Any) -> None:
        fields = self.fields
        fields[name] = msgspec.Raw(_ENCODE(wire))
        changed = msgspec.structs.replace(self.request, **{name: value}, raw=_ENCODE(fields))
        self.request = msgspec.structs.replace(changed, images=_images(changed.messages))
