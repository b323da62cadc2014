"""Responses requests: parsed and validated once, at the edge, then trusted.

Validation covers what the gateway acts on, as in `domain.chat`: each top-level value is kept as raw bytes.

Source of names and ranges: OpenAI API reference, "Create a model response".
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import msgspec

from app.domain.body import check_field_names, decode_body, decode_fields, encode, missing_field
from app.domain.generation import DialectName, GenerationRequest
from app.domain.responses_bounds import check_items, check_tools
from app.domain.suggestions import closest_match
from app.errors import InvalidRequest

_MAX_OUTPUT_TOKENS = 10_000_000  # as in `domain.chat`
_ROLES = frozenset({"system", "developer", "user", "assistant"})
_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class _Part(msgspec.Struct, frozen=True):
    """A part of an item's content or output. Some outputs are objects without a type (a shell's)."""

    type: str = ""
    text: str | None = None
    image_url: str | None = None
    file_data: str | None = None


class Item(msgspec.Struct, frozen=True):
    """An item of the input, as far as the gateway looks into it."""

    type: str = ""
    role: str = ""
    id: str | None = None
    content: str | list[_Part] | None = None
    output: str | list[_Part] | _Part | None = None

    @property
    def parts(self) -> list[_Part]:
        """The parts of its content and output, where those are not plain text."""
        parts = list(self.content) if type(self.content) is list else []
        if type(self.output) is list:
            parts += self.output
        elif type(self.output) is _Part:
            parts.append(self.output)
        return parts

    @property
    def texts(self) -> list[str]:
        """The texts of its content and output."""
        whole = [text for text in (self.content, self.output) if isinstance(text, str)]
        return whole + [part.text for part in self.parts if part.text]


class ResponsesRequest(GenerationRequest, frozen=True, kw_only=True):
    """A request of OpenAI's Responses API. `input` is the text or the items of the conversation."""

    dialect: ClassVar[DialectName] = "responses"

    input: str | Annotated[list[Item], msgspec.Meta(min_length=1)] = ""
    instructions: str | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    # `max_tokens` is not the API's: what a vendor does with it is unknown, so that the larger one is the bound.
    output_tokens: Annotated[int, msgspec.Meta(ge=1, le=_MAX_OUTPUT_TOKENS)] | None = msgspec.field(
        default=None, name="max_output_tokens"
    )
    user: Annotated[str, msgspec.Meta(max_length=512)] | None = None
    background: bool | None = None
    store: bool | None = None
    previous_response_id: _Id | None = None
    conversation: msgspec.Raw = msgspec.Raw(b"")
    prompt: msgspec.Raw = msgspec.Raw(b"")
    # Never read from the body. The conversation up to `previous_response_id` stands in `input` already.
    continued: bool = msgspec.field(default=False, name="(continued)")

    @classmethod
    def parse(cls, raw: bytes) -> ResponsesRequest:
        """Returns the request in the body `raw`. Raises `InvalidRequest` whose `param` is as in `input[0].role`."""
        request = decode_body(_DECODER, raw)
        fields = decode_fields(raw)
        check_field_names(fields, _FIELDS)
        _check(request, fields)
        images, inline_bytes = _pictures(request.input)
        return msgspec.structs.replace(
            request,
            model=request.model or "",
            input=request.input or "",
            raw=raw,
            fields=fields,
            images=images,
            inline_bytes=inline_bytes,
            continued=False,
        )

    @property
    def message_count(self) -> int:
        return (len(self.input) if isinstance(self.input, list) else 1) + (self.instructions is not None)

    @property
    def texts(self) -> list[str]:
        first = [self.instructions] if self.instructions else []
        if isinstance(self.input, str):
            return [*first, self.input]
        return first + [text for item in self.input for text in item.texts]

    @property
    def max_output_tokens(self) -> int | None:
        return self.output_tokens

    def with_model(self, model: str) -> ResponsesRequest:
        return self.with_fields(model=model)

    def with_fields(self, **changes: Any) -> ResponsesRequest:
        """Returns the same request with some top-level fields set, or left out where the value is None."""
        fields = {name: value for name, value in self.fields.items() if name not in changes}
        fields |= {name: msgspec.Raw(encode(value)) for name, value in changes.items() if value is not None}
        return msgspec.structs.replace(ResponsesRequest.parse(encode(fields)), continued=self.continued)

    def with_conversation(self, items: list[Any]) -> ResponsesRequest:
        """Returns the same request with `items` as its whole input, earlier turns of the conversation included."""
        return msgspec.structs.replace(self.with_fields(input=items), continued=True)

    @property
    def items(self) -> list[msgspec.Raw]:
        """The items of the input as they came; plain text as a user's message."""
        raw = self.fields.get("input")
        if raw is None or isinstance(self.input, str):
            text = self.input if isinstance(self.input, str) else ""
            return [msgspec.Raw(encode({"type": "message", "role": "user", "content": text}))] if text else []
        return _RAW_ITEMS.decode(raw)

    @property
    def references(self) -> list[str]:
        """The ids of the items that the input refers to instead of repeating them."""
        items = self.input if isinstance(self.input, list) else ()
        return [
            item.id for item in items if item.id and (item.type or item.role or "item_reference") == "item_reference"
        ]

    def canonical(self) -> ResponsesRequest:
        for name in _UNBOUNDED_FIELDS:
            if given(self.fields.get(name, _ABSENT)):
                raise InvalidRequest(
                    f"Your plan has a budget, and what `{name}` adds to the request cannot be known before it is "
                    f"spent.",
                    param=name,
                )
        changed = dict(self.fields)
        if isinstance(self.input, list):
            items = decode_body(_OBJECTS, bytes(self.fields["input"]))
            check_items(items)
            changed["input"] = msgspec.Raw(encode(items))
        if given(self.tools):
            tools = decode_body(_OBJECTS, bytes(self.tools))
            check_tools(tools)
            changed["tools"] = msgspec.Raw(encode(tools))
        # What goes out may be longer than what came (1e15 becomes 1000000000000000.0), and bounds the prompt's tokens.
        raw = max(self.raw, encode(changed), key=len)
        return msgspec.structs.replace(self, raw=raw, fields=changed, tools=changed.get("tools", self.tools))


class _Body(ResponsesRequest, frozen=True, kw_only=True):
    """The body as it came, in which `model` may be null and `input` must be there or be null."""

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=256)] | None = None  # type: ignore[assignment]
    input: str | Annotated[list[Item], msgspec.Meta(min_length=1)] | None = None  # type: ignore[assignment]


_DECODER: msgspec.json.Decoder[ResponsesRequest] = msgspec.json.Decoder(_Body)
_REFERENCE = "item_reference"
_ABSENT = msgspec.Raw(b"")
# Fields by which the vendor adds what it keeps, or bills a summary of the conversation besides the answer.
_UNBOUNDED_FIELDS = ("conversation", "prompt", "context_management")
_RAW_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])
_OBJECTS = msgspec.json.Decoder(list[dict[str, Any]])
# The fields that the gateway acts on, and others that change the cost of a call.
_FIELDS = frozenset(
    {
        "model",
        "input",
        "instructions",
        "stream",
        "temperature",
        "top_p",
        "max_output_tokens",
        "user",
        "background",
        "store",
        "previous_response_id",
        "conversation",
        "prompt",
        "service_tier",
        "reasoning",
        "tools",
        "text",
        "include",
        "web_search_options",
        "search_parameters",
        "plugins",
        "context_management",
    }
)


def given(value: msgspec.Raw) -> bool:
    """Tells if a field is in the body and not null."""
    return bytes(value) not in (b"", b"null")


def _check(request: ResponsesRequest, fields: dict[str, msgspec.Raw]) -> None:
    for name in ("model", "user"):
        if "\x00" in (getattr(request, name) or ""):
            raise InvalidRequest(f"`{name}` must not contain NUL characters.", param=name)
    if not request.model:
        similar = closest_match("model", (name for name in fields if name not in _FIELDS))
        if similar:  # the default model would answer, at its own price
            raise missing_field("model", similar)
    if request.background:
        raise InvalidRequest("`background` is not supported: send the request without it.", param="background")
    if request.input is None and not given(request.prompt):
        similar = next((name for name in ("messages", "prompt", "contents") if name in fields), "")
        raise missing_field("input", similar)
    if isinstance(request.input, list):
        for i, item in enumerate(request.input):
            if item.type in ("message", "") and item.role not in _ROLES:
                _check_reference(item, i)


def _check_reference(item: Item, i: int) -> None:
    """Raises `InvalidRequest` unless an item without a type and a role is a reference to another one."""
    if item.type == "message" or item.role:
        raise InvalidRequest(
            f"Invalid value: `input[{i}].role`: expected one of {', '.join(sorted(_ROLES))}.", param=f"input[{i}].role"
        )
    if not item.id:
        raise missing_field(f"input[{i}].type", "")


def _pictures(items: str | list[Item] | None) -> tuple[int, int]:
    """Returns the number of pictures in the input, and the bytes of what stands in it as base64."""
    images = inline = 0
    if not isinstance(items, list):
        return 0, 0
    for item in items:
        if type(item.content) is not list and (item.output is None or type(item.output) is str):
            continue
        for part in item.parts:
            if part.image_url is not None or part.type in ("input_image", "computer_screenshot"):
                images += 1
                if part.image_url is not None and part.image_url.startswith("data:"):
                    inline += len(part.image_url)
            if part.file_data is not None:
                inline += len(part.file_data)
    return images, inline
