"""Content parts: texts, pictures, documents and sounds inside messages and tool outputs."""

from __future__ import annotations

import mimetypes
import re
from typing import Any

from app.domain.content import Audio, Block, CacheMark, Document, Image, Refusal, Source, Text
from app.providers.dialects.dialect import Outgoing

TITLE = "OpenAI responses"
_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)?(?:;[\w-]+=[^;,]*)*;base64,", re.ASCII)
_AUDIO_FORMATS = {"wav": "wav", "x-wav": "wav", "wave": "wav", "mp3": "mp3", "mpeg": "mp3"}
# What the vendor keeps under an annotation's type, and clients know.
ANNOTATIONS = frozenset({"url_citation", "file_citation", "container_file_citation", "file_path"})


def decode_part(part: Any, path: str, hints: dict[str, Any], foreign: dict[str, Any]) -> Block | None:
    """Returns the block that a content part stands for; None for one without, which is then in `foreign`."""
    kind = part.get("type") if isinstance(part, dict) else ""
    read = _READERS.get(kind) if isinstance(kind, str) else None
    if read is None:
        foreign[f"{path}.{kind}"] = part
        return None
    block: Block | None = read(part)
    if block is None:
        foreign[path] = part
        return None
    mark = part.get("prompt_cache_breakpoint")
    if mark is not None and isinstance(block, Text | Image | Document | Audio):
        if isinstance(mark, dict) and mark.get("ttl"):
            hints[f"{path}.prompt_cache_breakpoint.ttl"] = mark["ttl"]
        return _marked(block)
    return block


def encode_part(block: Block, outgoing: Outgoing, path: str) -> dict[str, Any] | None:
    """Returns the input part for `block`; None for one that there is none for, which is then refused or dropped."""
    if isinstance(block, Text | Image | Document | Audio) and block.cache is not None:
        outgoing.leave_out("cache_control")
    if isinstance(block, Text):
        return {"type": "input_text", "text": block.text}
    if isinstance(block, Image):
        return _image_part(block, outgoing, path)
    if isinstance(block, Document):
        return _document_part(block, outgoing, path)
    if isinstance(block, Audio) and block.source.data is not None:
        name = _AUDIO_FORMATS.get(block.source.media_type.partition("/")[2])
        if name:
            return {"type": "input_audio", "input_audio": {"data": block.source.data, "format": name}}
    outgoing.refuse(f"{path}.{type(block).__name__.lower()}", TITLE)
    return None


def encode_output_text(block: Text) -> dict[str, Any]:
    """Returns the part for a text of the model's."""
    return {"type": "output_text", "text": block.text, "annotations": to_annotations(block.citations, len(block.text))}


def to_annotations(citations: tuple[Any, ...], length: int) -> list[dict[str, Any]]:
    """Returns the citations that the dialect has a shape for; `length` is that of the text that they belong to."""
    return [found for found in (to_annotation(citation, length) for citation in citations) if found is not None]


def to_annotation(citation: Any, length: int) -> dict[str, Any] | None:
    """Returns one citation as an annotation; None if it has no counterpart (a place in a document of the prompt)."""
    if not isinstance(citation, dict):
        return None
    nested = citation.get("url_citation")
    if isinstance(nested, dict):  # as in chat completions
        citation = {"type": "url_citation", **nested}
    if citation.get("type") in ANNOTATIONS:
        return dict(citation)
    url = citation.get("url") or citation.get("uri")
    if not isinstance(url, str):
        return None
    title = citation.get("title")
    return {
        "type": "url_citation",
        "url": url,
        "title": title if isinstance(title, str) else "",
        "start_index": 0,
        "end_index": length,
    }


def _marked(block: Text | Image | Document | Audio) -> Block:
    fields = {name: getattr(block, name) for name in block.__struct_fields__}
    return type(block)(**{**fields, "cache": CacheMark()})


def _source(url: str) -> Source:
    found = _DATA_URL.match(url)
    return Source(media_type=found[1] or "", data=url[found.end() :]) if found else Source(url=url)


def data_url(source: Source, default: str) -> str:
    """Returns the bytes of `source` as a data URL."""
    return f"data:{source.media_type or default};base64,{source.data}"


def _read_text(part: dict[str, Any]) -> Block | None:
    text = part.get("text")
    if not isinstance(text, str):
        return None
    cited = part.get("annotations")
    return Text(text=text, citations=tuple(cited) if isinstance(cited, list) else ())


def _read_refusal(part: dict[str, Any]) -> Block | None:
    return Refusal(text=part["refusal"]) if isinstance(part.get("refusal"), str) else None


def _read_image(part: dict[str, Any]) -> Block | None:
    url, file_id, detail = part.get("image_url"), part.get("file_id"), part.get("detail")
    if isinstance(url, str):
        source = _source(url)
    elif isinstance(file_id, str):
        source = Source(file_id=file_id)
    else:
        return None
    return Image(source=source, detail=detail if isinstance(detail, str) else "")


def _read_file(part: dict[str, Any]) -> Block | None:
    name = part.get("filename") if isinstance(part.get("filename"), str) else ""
    data, url, file_id = part.get("file_data"), part.get("file_url"), part.get("file_id")
    if isinstance(data, str):
        source = _source(data)
        if source.url is not None:  # bare base64
            source = Source(media_type=mimetypes.guess_type(name or "")[0] or "application/pdf", data=data)
    elif isinstance(url, str):
        source = Source(url=url)
    elif isinstance(file_id, str):
        source = Source(file_id=file_id)
    else:
        return None
    return Document(source=source, title=name or "")


def _read_audio(part: dict[str, Any]) -> Block | None:
    sound = part.get("input_audio")
    if not isinstance(sound, dict) or not isinstance(sound.get("data"), str):
        return None
    return Audio(source=Source(media_type=f"audio/{sound.get('format') or 'wav'}", data=sound["data"]))


_READERS = {
    "input_text": _read_text,
    "output_text": _read_text,
    "text": _read_text,
    "refusal": _read_refusal,
    "input_image": _read_image,
    "input_file": _read_file,
    "input_audio": _read_audio,
}


def _image_part(block: Image, outgoing: Outgoing, path: str) -> dict[str, Any] | None:
    source = block.source
    part: dict[str, Any] = {"type": "input_image", **({"detail": block.detail} if block.detail else {})}
    if source.data is not None:
        part["image_url"] = data_url(source, "image/png")
    elif source.url is not None:
        part["image_url"] = source.url
    elif source.file_id is not None:
        part["file_id"] = source.file_id
    else:
        outgoing.refuse(f"{path}.image", TITLE)
        return None
    return part


def _document_part(block: Document, outgoing: Outgoing, path: str) -> dict[str, Any] | None:
    source = block.source
    if block.cites:
        outgoing.leave_out("citations")
    if source.text is not None:
        head = "".join(f"{line}\n" for line in (block.title, block.context) if line)
        return {"type": "input_text", "text": f"{head}\n{source.text}" if head else source.text}
    if block.context:
        outgoing.leave_out("context")
    part: dict[str, Any] = {"type": "input_file"}
    if source.data is not None:
        part["filename"] = block.title or "document.pdf"
        part["file_data"] = data_url(source, "application/pdf")
    elif source.url is not None:
        part["file_url"] = source.url
    elif source.file_id is not None:
        part["file_id"] = source.file_id
    else:
        outgoing.refuse(f"{path}.document", TITLE)
        return None
    return part
