"""Chat and embeddings requests: parsed and validated once, at the edge, then trusted.

Validation covers what the gateway acts on (model, messages, limits on tokens, streaming). Everything else of
the OpenAI body is the provider's business: each value is kept as raw bytes and forwarded untouched. The object around
them is encoded anew, so that no parser can find another field in it than we did: one of each name, and none in a
spelling that a parser which ignores case would take for it.

Source of names and ranges: OpenAI API reference, "Create chat completion" and "Create embeddings".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal, TypeVar, cast

import msgspec

from app.domain.body import check_field_names, decode_body, decode_fields, encode, missing_field
from app.domain.cost_bounds import check_message
from app.domain.generation import IMAGE_ESTIMATE_TOKENS, DialectName, GenerationRequest
from app.domain.suggestions import closest_match, suggest_field
from app.domain.tokens import BYTES_PER_TOKEN, estimate_tokens
from app.errors import InvalidRequest

# No model's longest answer comes near; the ledger's numbers have room for 128 of them.
_MAX_OUTPUT_TOKENS = 10_000_000
_Role = Literal["system", "developer", "user", "assistant", "tool", "function"]
_OutputTokens = Annotated[int, msgspec.Meta(ge=1, le=_MAX_OUTPUT_TOKENS)]


class _Url(msgspec.Struct, frozen=True):
    url: str


class _Part(msgspec.Struct, frozen=True):
    type: str
    text: str | None = None
    image_url: _Url | None = None


class Message(msgspec.Struct, frozen=True):
    """A message of a conversation, as far as the gateway looks into it."""

    role: _Role
    content: str | list[_Part] | None = None

    @property
    def texts(self) -> list[str]:
        """The texts of the message: its content, or those of its parts that are text."""
        if isinstance(self.content, str):
            return [self.content]
        return [part.text for part in self.content or () if part.text]

    def estimate_tokens(self, size: int) -> int:
        """Returns a likely count of prompt tokens of the message, which is `size` bytes long in the body."""
        parts = self.content if isinstance(self.content, list) else ()
        images = [part.image_url.url for part in parts if part.image_url is not None]
        inline = sum(len(url) for url in images if url.startswith("data:"))
        return (size - inline) // BYTES_PER_TOKEN + len(images) * IMAGE_ESTIMATE_TOKENS + 1


class _StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None


class ChatRequest(GenerationRequest, frozen=True, kw_only=True):
    """A chat completion request. See `GenerationRequest`."""

    dialect: ClassVar[DialectName] = "chat"

    messages: Annotated[list[Message], msgspec.Meta(min_length=1)]
    model: Annotated[str, msgspec.Meta(min_length=1, max_length=256)] = ""
    stream_options: _StreamOptions | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=128)] | None = None
    max_tokens: _OutputTokens | None = None
    max_completion_tokens: _OutputTokens | None = None
    user: Annotated[str, msgspec.Meta(max_length=512)] | None = None
    prediction: msgspec.Raw = msgspec.Raw(b"")

    @classmethod
    def parse(cls, raw: bytes) -> ChatRequest:
        """Returns the request in the body `raw`. Raises `InvalidRequest` whose `param` is as in `messages[0].role`."""
        request, fields = _parse(_CHAT, raw, _CHAT_FIELDS)
        if not request.model:
            _check_model(fields)
        _check_contents(request, raw)
        images, inline_bytes = _measure_images(request.messages)
        return msgspec.structs.replace(
            request, model=request.model or "", raw=raw, fields=fields, images=images, inline_bytes=inline_bytes
        )

    @property
    def message_count(self) -> int:
        return len(self.messages)

    @property
    def texts(self) -> list[str]:
        return [text for message in self.messages for text in message.texts]

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def choices(self) -> int:
        return self.n or 1

    @property
    def max_output_tokens(self) -> int | None:
        """The caller's bound on each choice, the larger one of two; None when the caller set none."""
        if self.max_tokens is None:
            return self.max_completion_tokens
        return max(self.max_tokens, self.max_completion_tokens or 0)

    def with_model(self, model: str) -> ChatRequest:
        draft = Draft(self)
        draft.set("model", model)
        return draft.request

    def canonical(self) -> ChatRequest:
        messages = decode_body(_OBJECTS, bytes(self.fields["messages"]))
        for i, message in enumerate(messages):
            check_message(message, f"messages[{i}]")
        fields = {**self.fields, "messages": msgspec.Raw(encode(messages))}
        # What goes out may be longer than what came (1e15 becomes 1000000000000000.0), and bounds the prompt's tokens.
        return msgspec.structs.replace(self, raw=max(self.raw, encode(fields), key=len), fields=fields)

    def completion_tokens_upper_bound(self, bound: int) -> int:
        """Returns the most completion tokens that are billed when each choice is bounded by `bound`.

        Rejected tokens of a prediction are billed besides (OpenAI, "Predicted Outputs").
        """
        return (bound + len(bytes(self.prediction))) * self.choices


class _ChatBody(ChatRequest, frozen=True, kw_only=True):
    """The body as it came, in which `model` may be null."""

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=256)] | None = None  # type: ignore[assignment]


class EmbedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """An embeddings request: texts, or token ids."""

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    input: (
        Annotated[str, msgspec.Meta(min_length=1)]
        | Annotated[list[str | int | list[int]], msgspec.Meta(min_length=1, max_length=2048)]
    )
    user: Annotated[str, msgspec.Meta(max_length=512)] | None = None
    # As in `ChatRequest`.
    raw: bytes = msgspec.field(default=b"", name="(raw)")
    fields: dict[str, msgspec.Raw] = msgspec.field(default_factory=dict, name="(fields)")

    @classmethod
    def parse(cls, raw: bytes) -> EmbedRequest:
        """Returns the request in the body `raw`. Raises `InvalidRequest` whose `param` names the field."""
        request, fields = _parse(_EMBED, raw, _EMBED_FIELDS)
        return msgspec.structs.replace(request, raw=raw, fields=fields)

    def estimate_prompt_tokens(self) -> int:
        return len(self.raw) // BYTES_PER_TOKEN + 1

    def estimate_prompt_tokens_closely(self) -> int:
        return max(estimate_tokens(self.raw), self.estimate_prompt_tokens())

    def prompt_tokens_upper_bound(self) -> int:
        return len(self.raw)


_CHAT = cast("msgspec.json.Decoder[ChatRequest]", msgspec.json.Decoder(_ChatBody))
_EMBED = msgspec.json.Decoder(EmbedRequest)
_OBJECTS = msgspec.json.Decoder(list[dict[str, Any]])
# The fields that the gateway acts on, and others that change the cost of a call.
_CHAT_FIELDS = frozenset(
    {
        "model",
        "messages",
        "stream",
        "stream_options",
        "temperature",
        "top_p",
        "n",
        "max_tokens",
        "max_completion_tokens",
        "user",
        "service_tier",
        "prediction",
        "modalities",
        "web_search_options",
        "search_parameters",
        "plugins",
        "reasoning_effort",
        "tools",
        "functions",
    }
)
_EMBED_FIELDS = frozenset({"model", "input", "user", "dimensions", "encoding_format"})
_CONTENT_ONLY_ROLES = frozenset({"system", "developer", "user"})  # their messages are nothing but content
_R = TypeVar("_R", ChatRequest, EmbedRequest)


def _parse(decoder: msgspec.json.Decoder[_R], raw: bytes, known: frozenset[str]) -> tuple[_R, dict[str, msgspec.Raw]]:
    request = decode_body(decoder, raw)
    for name in ("model", "user"):
        if "\x00" in (getattr(request, name) or ""):
            raise InvalidRequest(f"`{name}` must not contain NUL characters.", param=name)
    fields = decode_fields(raw)
    check_field_names(fields, known)
    return request, fields


def _check_model(fields: Iterable[str]) -> None:
    """Raises `InvalidRequest` for a misspelt `model`: the default one would answer, at its own price."""
    similar = closest_match("model", (name for name in fields if name not in _CHAT_FIELDS))
    if similar:
        raise missing_field("model", similar)


def _check_contents(request: ChatRequest, raw: bytes) -> None:
    """Raises `InvalidRequest` for a message with its content under another name; one without content may be meant."""
    for i, message in enumerate(request.messages):
        if message.content is None and message.role in _CONTENT_ONLY_ROLES:
            similar = suggest_field("content", raw, f"messages[{i}]")
            if similar and similar != "content":
                raise missing_field(f"messages[{i}].content", similar)
            return  # the first one is telling enough: each costs another look at the body


def _measure_images(messages: list[Message]) -> tuple[int, int]:
    """Returns the number of pictures, and the length of those that are in the body itself."""
    images = inline_bytes = 0
    for message in messages:
        if type(message.content) is list:
            for part in message.content:
                if part.image_url is not None:
                    images += 1
                    if part.image_url.url.startswith("data:"):
                        inline_bytes += len(part.image_url.url)
    return images, inline_bytes


class Draft:
    """A chat request under change: holds the current frozen `ChatRequest`, and replaces it at each change."""

    __slots__ = ("request",)

    def __init__(self, request: ChatRequest) -> None:
        self.request = request

    @property
    def fields(self) -> dict[str, msgspec.Raw]:
        """The body's top-level fields, each value as the bytes it came in."""
        return self.request.fields

    def set(self, name: str, value: str | int) -> None:
        """Sets a top-level field."""
        self._change(name, value, value)

    def keep_messages(self, kept: list[int], raw: list[msgspec.Raw]) -> None:
        """Drops all messages but those at the positions `kept`; `raw` are all of them as they came."""
        self._change("messages", [self.request.messages[i] for i in kept], [raw[i] for i in kept])

    def _change(self, name: str, value: Any, encodable: Any) -> None:
        fields = {**self.request.fields, name: msgspec.Raw(encode(encodable))}
        changed = msgspec.structs.replace(self.request, **{name: value}, raw=encode(fields), fields=fields)
        images, inline_bytes = _measure_images(changed.messages)
        self.request = msgspec.structs.replace(changed, images=images, inline_bytes=inline_bytes)
