"""Content parts of messages, to and from the neutral form."""

from __future__ import annotations

import re
from typing import Any

from app.domain.content import Audio, Block, CacheMark, Document, Image, Refusal, Source, Text
from app.providers.dialects.dialect import Outgoing
from app.providers.dialects.fields import Fields

TITLE = "chat completions"
_DATA_URL = re.compile(r"data:(?P<type>[\w.+-]+/[\w.+-]+)?;base64,")
_SOUNDS = {"mp3": "audio/mpeg", "wav": "audio/wav", "pcm16": "audio/pcm"}
_FORMATS = {"audio/mpeg": "mp3", "audio/mp3": "mp3", "audio/wav": "wav", "audio/x-wav": "wav", "audio/pcm": "pcm16"}
_PDF = "application/pdf"


def decode_content(message: Fields, name: str = "content") -> list[Block]:
    """Returns the blocks of a message's content: a string, or parts."""
    content = message.any(name)
    if content is None:
        return []
    if isinstance(content, str):
        return [Text(text=content)]
    message = Fields({name: content}, message.path, message.notes)
    return [block for part in message.objects(name) for block in _decode_part(part)]


def _decode_part(part: Fields) -> list[Block]:
    kind = part.require("type", str)
    decode = _PARTS.get(kind)
    if decode is None:
        part.is_foreign(kind)
        return []
    cache = _cache_mark(part)
    block = decode(part, cache)
    part.rest_is_hint()
    return [] if block is None else [block]


def _cache_mark(part: Fields) -> CacheMark | None:
    """Returns the mark in `cache_control` (OpenRouter's and LiteLLM's) or in `prompt_cache_breakpoint` (OpenAI's)."""
    mark = part.object("cache_control")
    if mark is not None:
        ttl = mark.text("ttl")
        mark.any("type")
        mark.rest_is_hint()
        return CacheMark(ttl=ttl if ttl in ("5m", "1h") else "")
    breakpoint_ = part.object("prompt_cache_breakpoint")
    if breakpoint_ is None:
        return None
    breakpoint_.any("mode")
    breakpoint_.rest_is_hint()
    return CacheMark()


def _text(part: Fields, cache: CacheMark | None) -> Block:
    return Text(text=part.text("text"), cache=cache)


def _refusal(part: Fields, cache: CacheMark | None) -> Block:
    return Refusal(text=part.text("refusal"), cache=cache)


def _image(part: Fields, cache: CacheMark | None) -> Block:
    image = Fields(part.require("image_url", dict), part.at("image_url"), part.notes)
    block = Image(source=url_source(image.require("url", str)), detail=image.text("detail"), cache=cache)
    image.rest_is_hint()
    return block


def _sound(part: Fields, cache: CacheMark | None) -> Block:
    sound = Fields(part.require("input_audio", dict), part.at("input_audio"), part.notes)
    form = sound.text("format")
    block = Audio(
        source=Source(media_type=_SOUNDS.get(form, f"audio/{form or 'wav'}"), data=sound.require("data", str)),
        cache=cache,
    )
    sound.rest_is_hint()
    return block


def _file(part: Fields, cache: CacheMark | None) -> Block | None:
    file = Fields(part.require("file", dict), part.at("file"), part.notes)
    data, file_id, title = file.take("file_data", str), file.take("file_id", str), file.text("filename")
    file.rest_is_hint()
    if file_id is not None:
        source = Source(file_id=file_id)
    else:
        source = url_source(data if data is not None else file.require("file_data", str))
        if source.url is not None and not source.url.startswith(("http://", "https://")):
            source = Source(media_type=_PDF, data=source.url)  # base64 alone
    if source.media_type.startswith("image/"):
        return Image(source=source, cache=cache)
    return Document(source=source, title=title, cache=cache)


_PARTS = {"text": _text, "refusal": _refusal, "image_url": _image, "input_audio": _sound, "file": _file}


def url_source(url: str) -> Source:
    """Returns what a URL stands for: the data that it holds, or itself."""
    found = _DATA_URL.match(url)
    if found is None:
        return Source(url=url)
    return Source(media_type=found["type"] or "", data=url[found.end() :])


def encode_parts(blocks: list[Block], outgoing: Outgoing) -> list[dict[str, Any]]:
    """Returns the parts of a user's or system's message. What the dialect cannot say is refused, or left out."""
    return [part for block in blocks if (part := _encode_part(block, outgoing)) is not None]


def _encode_part(block: Block, outgoing: Outgoing) -> dict[str, Any] | None:
    if block.cache is not None:
        # OpenAI refuses the field, and caches by itself.
        outgoing.leave_out("cache_control")
    match block:
        case Text():
            return {"type": "text", "text": block.text}
        case Refusal():
            return {"type": "refusal", "refusal": block.text}
        case Image():
            return _encode_image(block, outgoing)
        case Document():
            return _encode_document(block, outgoing)
        case Audio():
            return _encode_sound(block, outgoing)
        case _:
            outgoing.refuse(f"messages.{type(block).__name__.lower()}", TITLE)
            return None


def _encode_image(image: Image, outgoing: Outgoing) -> dict[str, Any] | None:
    url = source_url(image.source)
    if url is None:
        outgoing.refuse("messages.image.file_id", TITLE)
        return None
    return {"type": "image_url", "image_url": {"url": url, **({"detail": image.detail} if image.detail else {})}}


def _encode_document(document: Document, outgoing: Outgoing) -> dict[str, Any] | None:
    if document.cites:
        outgoing.leave_out("citations")
    if document.context:
        outgoing.leave_out("document.context")
    source = document.source
    if source.text is not None:
        return {"type": "text", "text": f"{document.title}\n\n{source.text}" if document.title else source.text}
    if source.file_id is not None:
        return {"type": "file", "file": {"file_id": source.file_id}}
    if source.data is None:
        outgoing.refuse("messages.document.url", TITLE)
        return None
    media_type = source.media_type or _PDF
    name = document.title or f"document.{media_type.rpartition('/')[2]}"
    return {"type": "file", "file": {"filename": name, "file_data": f"data:{media_type};base64,{source.data}"}}


def _encode_sound(sound: Audio, outgoing: Outgoing) -> dict[str, Any] | None:
    if sound.source.data is None:
        outgoing.refuse("messages.audio.url", TITLE)
        return None
    media_type = sound.source.media_type
    form = _FORMATS.get(media_type, media_type.rpartition("/")[2] or "wav")
    return {"type": "input_audio", "input_audio": {"data": sound.source.data, "format": form}}


def source_url(source: Source) -> str | None:
    """Returns a URL that holds the source's data, or its own URL; None for a stored file."""
    if source.data is not None:
        return f"data:{source.media_type or 'image/png'};base64,{source.data}"
    return source.url
