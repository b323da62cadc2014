"""Gemini requests: bodies of Google's generateContent, parsed and validated once, at the edge, then trusted.

The model and whether the answer is streamed stand in the path. As with chat, validation covers what the gateway acts
on, and every other value is kept as raw bytes. Google's parser takes lowerCamelCase and snake_case, and a single object
where a list is expected; so does this one.

Source of names and ranges: Google's API reference, "models.generateContent", and the types of the google-genai package.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Self

import msgspec

from app.domain.body import decode_body, decode_fields, encode
from app.domain.gemini_names import (
    BLOB_FIELDS,
    CONFIG_FIELDS,
    CONTENT_FIELDS,
    PART_FIELDS,
    REQUEST_FIELDS,
    camel,
    check_spelling,
    with_camel_names,
)
from app.domain.generation import DialectName, GenerationRequest
from app.errors import InvalidRequest

_MAX_MODEL_CHARS = 256
_MAX_CANDIDATES = 128
_OutputTokens = Annotated[int, msgspec.Meta(ge=1, le=10_000_000)]
_Temperature = Annotated[float, msgspec.Meta(ge=0, le=2)]
_Candidates = Annotated[int, msgspec.Meta(ge=1, le=_MAX_CANDIDATES)]
# What is billed by its bytes at most: text, and sound, of which a second is 32 tokens.
_BOUNDED_MEDIA = ("image/", "audio/", "text/")
# Counted as a picture or as pages. Any other type may be text to the vendor, and is bounded by its base64 instead.
_PICTURES = ("image/", "video/", "application/pdf")
_DRAWN = "image/svg"  # text, whatever its type says
# Losslessly, hours of silence are a few bytes. The second one is how a file of it begins, in base64.
_LOSSLESS, _LOSSLESS_MAGIC = "flac", "ZkxhQ"
_UNBOUNDED_FIELDS = ("cachedContent", "continuationToken")  # what the vendor keeps
_UNBOUNDED_PARTS = ("fileData", "videoMetadata", "toolCall", "toolResponse")


class _Blob(msgspec.Struct, frozen=True, rename="camel"):
    data: str = ""
    mime_type: str = ""
    mime_type_snake: str = msgspec.field(default="", name="mime_type")

    @property
    def is_sound(self) -> bool:
        return self._type.startswith("audio/")

    @property
    def is_picture(self) -> bool:
        return self._type.startswith(_PICTURES) and not self._type.startswith(_DRAWN)

    @property
    def _type(self) -> str:
        return (self.mime_type or self.mime_type_snake).lower()


class _Part(msgspec.Struct, frozen=True, rename="camel"):
    text: str | None = None
    inline_data: _Blob | None = None
    inline_data_snake: _Blob | None = msgspec.field(default=None, name="inline_data")
    file_data: msgspec.Raw = msgspec.Raw(b"")
    file_data_snake: msgspec.Raw = msgspec.field(default=msgspec.Raw(b""), name="file_data")


class _Content(msgspec.Struct, frozen=True):
    parts: list[_Part] | _Part | None = None
    role: str | None = None

    def each_part(self) -> list[_Part]:
        return self.parts if type(self.parts) is list else [self.parts] if isinstance(self.parts, _Part) else []


class _Config(msgspec.Struct, frozen=True, rename="camel"):
    temperature: _Temperature | None = None
    candidate_count: _Candidates | None = None
    candidate_count_snake: _Candidates | None = msgspec.field(default=None, name="candidate_count")
    max_output_tokens: _OutputTokens | None = None
    max_output_tokens_snake: _OutputTokens | None = msgspec.field(default=None, name="max_output_tokens")


class _Body(msgspec.Struct, frozen=True, rename="camel"):
    contents: Annotated[list[_Content], msgspec.Meta(min_length=1)] | _Content
    system_instruction: _Content | None = None
    system_instruction_snake: _Content | None = msgspec.field(default=None, name="system_instruction")
    generation_config: _Config | None = None
    generation_config_snake: _Config | None = msgspec.field(default=None, name="generation_config")
    service_tier: str | None = None
    service_tier_snake: str | None = msgspec.field(default=None, name="service_tier")

    def each_content(self) -> Iterator[_Content]:
        system = self.system_instruction or self.system_instruction_snake
        if system is not None:
            yield system
        yield from self.contents if isinstance(self.contents, list) else [self.contents]


class GeminiRequest(GenerationRequest, frozen=True, kw_only=True):
    """A generateContent request. `fields` have their names in lowerCamelCase.

    `files` counts the parts that name a file, whose tokens are unknown; `sound_bytes` is the length of base64 sound.
    """

    dialect: ClassVar[DialectName] = "gemini"

    candidates: int = 1
    bound: int | None = None
    sound_bytes: int = 0
    body: _Body

    @classmethod
    def parse(cls, raw: bytes, model: str, stream: bool) -> GeminiRequest:
        """Returns the request in the body `raw` for `model`, without `models/` before it. Raises `InvalidRequest`."""
        if not model or len(model) > _MAX_MODEL_CHARS or "\x00" in model:
            raise InvalidRequest(
                "The path must name a model, as in `/v1beta/models/NAME:generateContent`.", param="model"
            )
        body = decode_body(_BODY, raw)
        fields = _camel_fields(decode_fields(raw))
        config = body.generation_config or body.generation_config_snake or _NO_CONFIG
        media, inline_bytes, sound_bytes = _count_media(body)
        return cls(
            model=model,
            stream=stream,
            temperature=config.temperature,
            service_tier=(body.service_tier or body.service_tier_snake or "").lower() or None,
            tools=fields.get("tools", _NOTHING),
            raw=raw,
            fields=fields,
            images=media,
            inline_bytes=inline_bytes,
            sound_bytes=sound_bytes,
            candidates=config.candidate_count or config.candidate_count_snake or 1,
            bound=config.max_output_tokens or config.max_output_tokens_snake,
            body=body,
        )

    @property
    def message_count(self) -> int:
        return sum(1 for _ in self.body.each_content())

    @property
    def texts(self) -> list[str]:
        return [part.text for content in self.body.each_content() for part in content.each_part() if part.text]

    @property
    def choices(self) -> int:
        return self.candidates

    @property
    def max_output_tokens(self) -> int | None:
        """The caller's bound on each candidate, its thoughts included."""
        return self.bound

    def with_model(self, model: str) -> Self:
        return msgspec.structs.replace(self, model=model)

    def canonical(self) -> Self:
        plain = with_camel_names(decode_body(_OBJECT, self.raw))
        _check_bounded(plain)
        raw = encode(plain)
        # Read again, so that what was counted is what goes out.
        again = GeminiRequest.parse(raw, self.model, bool(self.stream))
        return msgspec.structs.replace(
            self,
            raw=raw,
            fields=again.fields,
            tools=again.tools,
            images=again.images,
            inline_bytes=again.inline_bytes,
            sound_bytes=again.sound_bytes,
            candidates=again.candidates,
            bound=again.bound,
            body=again.body,
        )

    def prompt_tokens_upper_bound(self) -> int:
        return super().prompt_tokens_upper_bound() + self.sound_bytes


_BODY = msgspec.json.Decoder(_Body)
_OBJECT = msgspec.json.Decoder(dict[str, Any])
_NO_CONFIG = _Config()
_NOTHING = msgspec.Raw(b"")


def _camel_fields(fields: dict[str, msgspec.Raw]) -> dict[str, msgspec.Raw]:
    """Returns the fields under their names in lowerCamelCase. Raises `InvalidRequest` for one in both spellings."""
    if not any("_" in name for name in fields):
        return fields
    found: dict[str, msgspec.Raw] = {}
    for given, value in fields.items():
        name = camel(given)
        if name in found:
            raise InvalidRequest(f"`{name}` is given twice, in two spellings.", param=name)
        found[name] = value
    return found


def _count_media(body: _Body) -> tuple[int, int, int]:
    """Returns the number of pictures, documents and files, the length of their base64 and sound's, and of sound's."""
    media = inline_bytes = sound_bytes = 0
    for content in body.each_content():
        for part in content.each_part():
            blob = part.inline_data or part.inline_data_snake
            if blob is not None:
                if blob.is_sound:
                    inline_bytes += len(blob.data)
                    sound_bytes += len(blob.data)
                elif blob.is_picture:
                    inline_bytes += len(blob.data)
                    media += 1
            elif part.file_data or part.file_data_snake:
                media += 1
    return media, inline_bytes, sound_bytes


def _check_bounded(body: dict[str, Any]) -> None:
    """Raises `InvalidRequest` for content without a bound on its cost, and for a field name in an odd spelling."""
    check_spelling(body, REQUEST_FIELDS)
    check_spelling(body.get("generationConfig") or {}, CONFIG_FIELDS, "generationConfig.")
    for name in _UNBOUNDED_FIELDS:
        if body.get(name) is not None:
            raise _unbounded(name)
    contents = body["contents"] if isinstance(body["contents"], list) else [body["contents"]]
    for i, content in enumerate(contents):
        _check_content(content, f"contents[{i}]")
    if isinstance(body.get("systemInstruction"), dict):
        _check_content(body["systemInstruction"], "systemInstruction")


def _check_content(content: dict[str, Any], path: str) -> None:
    check_spelling(content, CONTENT_FIELDS, f"{path}.")
    parts = content.get("parts") or []
    for i, part in enumerate(parts if isinstance(parts, list) else [parts]):
        _check_part(part, f"{path}.parts[{i}]")


def _check_part(part: dict[str, Any], path: str) -> None:
    check_spelling(part, PART_FIELDS, f"{path}.")
    for name in _UNBOUNDED_PARTS:
        if part.get(name) is not None:
            raise _unbounded(f"{path}.{name}")
    blob = part.get("inlineData")
    if isinstance(blob, dict):
        check_spelling(blob, BLOB_FIELDS, f"{path}.inlineData.")
        kind = str(blob.get("mimeType", ""))
        lossless = _LOSSLESS in kind.lower() or str(blob.get("data", "")).lstrip().startswith(_LOSSLESS_MAGIC)
        if lossless or not kind.startswith(_BOUNDED_MEDIA):
            raise _unbounded(f"{path}.inlineData")
    result = part.get("functionResponse")
    if isinstance(result, dict) and result.get("parts"):
        inner = result["parts"] if isinstance(result["parts"], list) else [result["parts"]]
        for i, each in enumerate(inner):
            # Not counted as pictures are: a picture in a result is one more than the bound knows of.
            if set(each) - {"text"}:
                raise _unbounded(f"{path}.functionResponse.parts[{i}]")


def _unbounded(param: str) -> InvalidRequest:
    return InvalidRequest(
        f"Your plan has a budget, and what `{param}` costs cannot be known before it is spent: expected text, pictures "
        f"and sound, given in the request itself.",
        param=param,
    )
