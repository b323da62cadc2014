"""Requests for messages, Anthropic's dialect: parsed and validated once, at the edge, then trusted.

Validation covers what the gateway acts on. Each top-level value is kept as the bytes it came in, as in `domain.chat`.

Source of names and ranges: Anthropic API reference, "Create a Message", and the types of its Python library.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, Self, cast

import msgspec

from app.domain.body import check_field_names, decode_body, decode_fields, encode, missing_field
from app.domain.generation import DialectName, GenerationRequest
from app.domain.message_costs import check_fields, checked_messages, checked_system, checked_tools
from app.domain.suggestions import closest_match
from app.errors import InvalidRequest

_MAX_OUTPUT_TOKENS = 10_000_000  # as in `domain.chat`
# A page of a PDF is billed as its text and a picture of it. The pages of a file are guessed from its length.
_BASE64_BYTES_PER_PAGE = 100_000
# Tokens of the vendor's own system prompt about tools, which stand in no body, and of each of its predefined tools.
_TOOLS_CEILING_TOKENS = 1_024
_PREDEFINED_TOOL_CEILING_TOKENS = 2_048
_PREDEFINED_TOOL = b"_20"  # their types end in the date of their version


class _Source(msgspec.Struct, frozen=True):
    type: str = ""
    data: str | None = None


class _Block(msgspec.Struct, frozen=True):
    """A block of content. `content` is that of a tool's result."""

    type: str
    text: str | None = None
    source: _Source | str | None = None  # of a search result it is an address
    content: str | list[_Block] | dict[str, Any] | None = None


class _Message(msgspec.Struct, frozen=True):
    role: Literal["user", "assistant", "system"]
    content: str | list[_Block]


class _Metadata(msgspec.Struct, frozen=True):
    user_id: Annotated[str, msgspec.Meta(max_length=512)] | None = None


class MessagesRequest(GenerationRequest, frozen=True, kw_only=True):
    """A request for a message. `service_tier` is "fast" where the body says `speed: fast`, at prices of its own."""

    dialect: ClassVar[DialectName] = "messages"

    messages: Annotated[list[_Message], msgspec.Meta(min_length=1)]
    system: str | list[_Block] | None = None
    model: Annotated[str, msgspec.Meta(min_length=1, max_length=256)] = ""
    # 0 writes the vendor's cache and answers nothing.
    max_tokens: Annotated[int, msgspec.Meta(ge=0, le=_MAX_OUTPUT_TOKENS)] | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    stop_sequences: list[str] | None = None
    metadata: _Metadata | None = None
    speed: str | None = None

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Returns the request in the body `raw`. Raises `InvalidRequest` whose `param` is as in `messages[0].role`."""
        request = cls.parse_count(raw)
        if request.max_tokens is None:
            raise missing_field("max_tokens")
        return request

    @classmethod
    def parse_count(cls, raw: bytes) -> Self:
        """Returns the request in a body that asks only for its number of tokens, and so needs no `max_tokens`."""
        request = decode_body(_DECODER, raw)
        fields = decode_fields(raw)
        check_field_names(fields, _FIELDS)
        if not request.model:
            similar = closest_match("model", (name for name in fields if name not in _FIELDS))
            if similar:
                raise missing_field("model", similar)
        user = request.metadata.user_id if request.metadata else None
        for name, value in (("model", request.model), ("metadata.user_id", user)):
            if value and "\x00" in value:
                raise InvalidRequest(f"`{name}` must not contain NUL characters.", param=name)
        images, inline_bytes = _count_inline(request.messages)
        return cast(
            Self,
            msgspec.structs.replace(
                request,
                model=request.model or "",
                user=user,
                service_tier="fast" if request.speed == "fast" else request.service_tier,
                raw=raw,
                fields=fields,
                images=images,
                inline_bytes=inline_bytes,
            ),
        )

    @property
    def message_count(self) -> int:
        return len(self.messages)

    @property
    def texts(self) -> list[str]:
        contents = [self.system or "", *(message.content for message in self.messages)]
        return [text for content in contents for text in _texts(content)]

    @property
    def max_output_tokens(self) -> int | None:
        return self.max_tokens

    def with_model(self, model: str) -> Self:
        fields = {**self.fields, "model": msgspec.Raw(encode(model))}
        return msgspec.structs.replace(self, model=model, raw=encode(fields), fields=fields)

    def canonical(self) -> Self:
        check_fields(self.fields)
        fields = {**self.fields, "messages": msgspec.Raw(encode(checked_messages(self.fields["messages"])))}
        if "system" in fields:
            fields["system"] = msgspec.Raw(encode(checked_system(fields["system"])))
        if "tools" in fields:
            fields["tools"] = msgspec.Raw(encode(checked_tools(fields["tools"])))
        # What goes out may be longer than what came (1e15 becomes 1000000000000000.0), and bounds the prompt's tokens.
        raw = max(self.raw, encode(fields), key=len)
        return msgspec.structs.replace(self, raw=raw, fields=fields, tools=fields.get("tools", self.tools))

    def prompt_tokens_upper_bound(self) -> int:
        bound = super().prompt_tokens_upper_bound()
        if self.tools:
            predefined = bytes(self.tools).count(_PREDEFINED_TOOL)
            bound += _TOOLS_CEILING_TOKENS + predefined * _PREDEFINED_TOOL_CEILING_TOKENS
        return bound


class _Body(MessagesRequest, frozen=True, kw_only=True):
    """The body as it came, in which `model` may be null, and whose `user` is in `metadata`."""

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=256)] | None = None  # type: ignore[assignment]
    user: str | None = msgspec.field(default=None, name="(user)")


_DECODER = cast("msgspec.json.Decoder[MessagesRequest]", msgspec.json.Decoder(_Body))
# The fields that the gateway acts on, and others that change the cost of a call.
_FIELDS = frozenset(
    {
        "model",
        "messages",
        "system",
        "max_tokens",
        "stream",
        "temperature",
        "top_p",
        "top_k",
        "stop_sequences",
        "metadata",
        "service_tier",
        "speed",
        "tools",
        "tool_choice",
        "thinking",
        "output_config",
        "inference_geo",
        "container",
        "mcp_servers",
        "context_management",
        "compaction",
        "fallbacks",
        "thread",
    }
)


def _blocks(content: str | list[_Block] | dict[str, Any] | None) -> Iterator[_Block]:
    """Returns the blocks of `content` and those in them."""
    for block in content if isinstance(content, list) else ():
        yield block
        yield from _blocks(block.content)


def _texts(content: str | list[_Block]) -> list[str]:
    if isinstance(content, str):
        return [content] if content else []
    return [block.text for block in _blocks(content) if block.text]


def _count_inline(messages: list[_Message]) -> tuple[int, int]:
    """Returns the number of pictures and pages, and the length of their base64."""
    images = inline_bytes = 0
    for message in messages:
        if type(message.content) is list:
            for block in _blocks(message.content):
                if block.source is None or block.type not in ("image", "document"):
                    continue
                size = len(block.source.data or "") if isinstance(block.source, _Source) else 0
                if block.type == "image":
                    images += 1
                    inline_bytes += size
                elif isinstance(block.source, _Source) and block.source.type == "base64":
                    images += 1 + size // _BASE64_BYTES_PER_PAGE
                    inline_bytes += size
    return images, inline_bytes
