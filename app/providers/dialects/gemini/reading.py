"""Requests of Gemini's callers, read into the neutral form: the conversation.

Source: Google's API reference, "Content" and "Part", and the google-genai package.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from app.domain.body import decode_body
from app.domain.content import (
    Audio,
    Block,
    Document,
    Image,
    Message,
    Prompt,
    ServerTool,
    Source,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from app.domain.gemini_names import with_camel_names
from app.domain.generation import GenerationRequest
from app.errors import InvalidRequest
from app.providers.dialects.gemini import signatures
from app.providers.dialects.gemini.settings_reading import read_settings

_OBJECT = msgspec.json.Decoder(dict[str, Any])
_SERVER_PARTS = ("executableCode", "codeExecutionResult", "toolCall", "toolResponse")
_HARMLESS = frozenset({"mediaResolution", "partMetadata", "videoMetadata", "thought", "thoughtSignature"})
_CONTENT_FIELDS = frozenset({"role", "parts"})
_TEXT_FIELDS = frozenset({"text", "partMetadata"})
_KNOWN_PARTS = frozenset(
    {"text", "inlineData", "fileData", "functionCall", "functionResponse", *_SERVER_PARTS, *_HARMLESS}
)
_RESULT_FIELDS = frozenset({"id", "name", "response", "parts"})
_ROLES = {None: "user", "": "user", "user": "user", "function": "user", "tool": "user", "model": "assistant"}
# Google's own stores: no other vendor can read what stands there.
_GOOGLE_FILES = ("https://generativelanguage.googleapis.com/", "gs://", "files/")


def decode_request(request: GenerationRequest) -> Prompt:
    """Returns what `request` asks. Raises `InvalidRequest` for what is no request of this dialect."""
    body = with_camel_names(decode_body(_OBJECT, request.raw))
    reader = _Reader()
    system = list(reader.system(body.get("systemInstruction")))
    turns = list(reader.messages(_listed(body.get("contents"))))
    if not turns and not reader.foreign:
        raise InvalidRequest("Expected parts with something in them: `contents`.", param="contents")
    settings = read_settings(body, reader.hints, reader.foreign)
    return Prompt(
        model=request.model,
        messages=(*system, *turns),
        stream=bool(request.stream),
        hints=reader.hints,
        foreign=reader.foreign,
        **settings,
    )


class _Reader:
    """Reads a conversation: remembers the calls that have no result yet, for results that name no id."""

    def __init__(self) -> None:
        self.hints: dict[str, Any] = {}
        self.foreign: dict[str, Any] = {}
        self._calls = 0
        self._open: list[tuple[str, str]] = []  # id and name

    def system(self, content: Any) -> Iterator[Message]:
        """Yields the system's message, if there is one."""
        if content is None:
            return
        texts: list[str] = []
        content = _object(content, "systemInstruction")
        self._note_others(content, _CONTENT_FIELDS, "systemInstruction")
        for j, part in enumerate(_objects(content.get("parts"), "systemInstruction.parts")):
            self._note_others(part, _TEXT_FIELDS, f"systemInstruction.parts[{j}]")
            if isinstance(part.get("text"), str) and part["text"]:
                texts.append(part["text"])
        if texts:
            yield Message(role="system", blocks=tuple(Text(text=text) for text in texts))

    def _note_others(self, fields: dict[str, Any], known: frozenset[str], path: str) -> None:
        for name in fields.keys() - known:
            self.foreign[f"{path}.{name}"] = fields[name]

    def messages(self, contents: list[Any]) -> Iterator[Message]:
        """Yields the turns. Google's clients replay a streamed answer as a content for each chunk: one turn here."""
        role, blocks = "", list[Block]()
        for i, content in enumerate(contents):
            path = f"contents[{i}]"
            content = _object(content, path)
            self._note_others(content, _CONTENT_FIELDS, path)
            given = content.get("role")
            now = _ROLES.get(given) if isinstance(given, str | None) else None
            if now is None:
                raise InvalidRequest(f"Expected `user` or `model`: `{path}.role`.", param=f"{path}.role")
            parts = _objects(content.get("parts"), f"{path}.parts")
            if now != role or not (now == "assistant" or _has_results(blocks) or _answers(parts)):
                yield from _turn(role, blocks)
                role, blocks = now, []
            for j, part in enumerate(parts):
                self._read(part, f"{path}.parts[{j}]", blocks)
        yield from _turn(role, blocks)

    def _read(self, part: dict[str, Any], path: str, blocks: list[Block]) -> None:
        """Adds what the part stands for to `blocks`."""
        self._note_others(part, _KNOWN_PARTS, path)
        carried = signatures.read(part.get("thoughtSignature"))
        if carried is not None:
            _add_thinking(carried.thinking, blocks)
        elif part.get("thoughtSignature") and not signatures.is_dummy(part["thoughtSignature"]):
            self.hints["contents.parts.thoughtSignature"] = None
        own = carried.own if carried is not None else None
        block: Block | None = None
        if part.get("functionCall") is not None:
            block = self._call(_object(part["functionCall"], f"{path}.functionCall"), path, own)
        elif part.get("functionResponse") is not None:
            block = self._result(_object(part["functionResponse"], f"{path}.functionResponse"), path)
        elif isinstance(part.get("text"), str):
            if part.get("thought") is True:
                block = Thinking(text=part["text"], signature=own) if part["text"] or own else None
                if isinstance(block, Thinking) and own is not None:
                    _add_thinking((block,), blocks)
                    return
            elif part["text"]:
                block = Text(text=part["text"])
        else:
            block = self._media_or_tool(part, path)
        if block is not None:
            _add(block, blocks)

    def _media_or_tool(self, part: dict[str, Any], path: str) -> Block | None:
        for name in ("inlineData", "fileData"):
            if part.get(name) is not None:
                for each in part.keys() & {"videoMetadata", "mediaResolution"}:
                    self.hints[f"{path}.{each}"] = part[each]
                block = read_media(_object(part[name], f"{path}.{name}"))
                if block is None:
                    self.foreign[f"{path}.{name}"] = None
                return block
        for name in _SERVER_PARTS:
            if part.get(name) is not None:
                return ServerTool(dialect="gemini", value=part)
        return None

    def _call(self, call: dict[str, Any], path: str, own: Any) -> ToolCall:
        name, args = call.get("name"), call.get("args")
        if not isinstance(name, str) or not name:
            raise InvalidRequest(f"Expected a name: `{path}.functionCall.name`.", param=f"{path}.functionCall.name")
        given = call.get("id")
        tool_id = given if isinstance(given, str) and given else f"call_{self._calls}"
        self._calls += 1
        self._open.append((tool_id, name))
        return ToolCall(id=tool_id, name=name, arguments=_json(args) if args is not None else "", signature=own)

    def _result(self, result: dict[str, Any], path: str) -> ToolResult:
        given = result.get("id")
        name = result.get("name") if isinstance(result.get("name"), str) else ""
        for each in result.keys() - _RESULT_FIELDS:
            self.hints[f"{path}.functionResponse.{each}"] = result[each]
        text, is_error = read_response(result.get("response"))
        content: list[Text | Image | Document | Audio] = [Text(text=text)] if text else []
        for j, part in enumerate(_objects(result.get("parts"), f"{path}.functionResponse.parts")):
            media = part.get("inlineData") or part.get("fileData")
            block = read_media(media) if isinstance(media, dict) else None
            if block is not None:
                content.append(block)
            else:
                self.foreign[f"{path}.functionResponse.parts[{j}]"] = None
        return ToolResult(
            call_id=self._match(given if isinstance(given, str) else "", name or ""),
            name=name or "",
            content=tuple(content),
            is_error=is_error,
        )

    def _match(self, given: str, name: str) -> str:
        """Returns the id of the call that a result belongs to: the one it names, else the next of its name."""
        by_id = next((call for call in self._open if given and call[0] == given), None)
        call = by_id or next((call for call in self._open if call[1] == name), None)
        if call is not None:
            self._open.remove(call)
            return call[0]
        return given or name or "call_unknown"


def _turn(role: str, blocks: list[Block]) -> Iterator[Message]:
    """Yields the turn that `blocks` are, its results first; nothing for an empty one."""
    ordered = sorted(blocks, key=lambda block: not isinstance(block, ToolResult))
    if role == "assistant":
        ordered = _joined_texts(blocks)
    if ordered:
        yield Message(role="assistant" if role == "assistant" else "user", blocks=tuple(ordered))


def _joined_texts(blocks: list[Block]) -> list[Block]:
    joined: list[Block] = []
    for block in blocks:
        last = joined[-1] if joined else None
        if isinstance(block, Text) and isinstance(last, Text):
            joined[-1] = Text(text=last.text + block.text)
        else:
            joined.append(block)
    return joined


def _has_results(blocks: list[Block]) -> bool:
    return any(isinstance(block, ToolResult) for block in blocks)


def _answers(parts: list[dict[str, Any]]) -> bool:
    return any(part.get("functionResponse") is not None for part in parts)


def _add(block: Block, blocks: list[Block]) -> None:
    """Adds a block; a thought without a signature is the next piece of the one before it."""
    last = blocks[-1] if blocks else None
    if isinstance(block, Thinking) and isinstance(last, Thinking) and block.signature is None is last.signature:
        blocks[-1] = Thinking(text=last.text + block.text)
    else:
        blocks.append(block)


def _add_thinking(thinking: tuple[Thinking, ...], blocks: list[Block]) -> None:
    """Adds signed thinking, unless it is there. The pieces of it that came without the signature give way to it."""
    last = blocks[-1] if blocks else None
    pieces = last if isinstance(last, Thinking) and last.signature is None else None
    new = [each for each in thinking if each not in blocks]
    if pieces is not None and new:
        if len(new) == 1 and not new[0].text:
            new[0] = Thinking(text=pieces.text, signature=new[0].signature)
        if pieces.text == "".join(each.text for each in new):
            blocks.pop()
    for each in new:
        if each.text or not any(isinstance(block, Thinking) and block.signature == each.signature for block in blocks):
            blocks.append(each)


def read_media(media: dict[str, Any]) -> Image | Document | Audio | None:
    """Returns a picture, a document or sound, inline or of a URL; None for a film and for a file of Google's."""
    kind = media.get("mimeType") or media.get("mime_type") or ""
    if not isinstance(kind, str):
        return None
    uri = media.get("fileUri") or media.get("file_uri")
    if isinstance(uri, str):
        if uri.startswith(_GOOGLE_FILES) or not uri.startswith(("https://", "http://")):
            return None
        source = Source(media_type=kind, url=uri)
    elif isinstance(media.get("data"), str):
        # Google takes the alphabet for URLs as well, others do not.
        source = Source(media_type=kind, data=media["data"].replace("-", "+").replace("_", "/"))
    else:
        return None
    family = kind.partition("/")[0]
    if family == "image":
        return Image(source=source)
    if family == "audio":
        return Audio(source=source)
    if family == "text" or kind == "application/pdf":
        return Document(source=source, title=str(media.get("displayName") or ""))
    return None


def read_response(response: Any) -> tuple[str, bool]:
    """Returns the text of a function's response, and whether it is an error.

    Google's clients put the result under `output` or `result`, and a failure under `error`.
    """
    if not isinstance(response, dict) or not response:
        return "" if response in (None, {}) else response if isinstance(response, str) else _json(response), False
    if len(response) == 1:
        name, value = next(iter(response.items()))
        if name in ("output", "result", "error"):
            return value if isinstance(value, str) else _json(value), name == "error"
    return _json(response), False


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _objects(value: Any, path: str) -> list[dict[str, Any]]:
    return [_object(each, f"{path}[{i}]") for i, each in enumerate(_listed(value))]


def _object(value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidRequest(f"Expected an object: `{path}`.", param=path)
    return value
