"""Requests in the neutral form, written for Gemini: the conversation.

Turns of one role follow each other as one content, no part is empty, and a function's response names its function.
Source: Google's API reference, "Content" and "Part", its guides "Function calling" and "Thought signatures".
"""

from __future__ import annotations

import re
from typing import Any

from app.domain.content import (
    Audio,
    Block,
    Document,
    Image,
    Message,
    Prompt,
    Refusal,
    ServerTool,
    Source,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from app.errors import InvalidRequest, Untranslatable
from app.providers.dialects.dialect import Outgoing
from app.providers.dialects.gemini import signatures
from app.providers.dialects.gemini.arguments import to_args
from app.providers.dialects.gemini.settings_writing import write_settings
from app.providers.dialects.tool_ids import IdRule, with_valid_ids

TITLE = "Gemini generateContent"
# The versions whose function responses take no parts of their own, and that check no thought signature.
_OLDER = re.compile(r"(?:^|/)gemini-(?:1|2)\b|(?:^|/)gemini-(?:pro|flash)\b")
_REACHABLE = ("https://generativelanguage.googleapis.com/", "gs://")


def is_older(model: str) -> bool:
    """Tells if `model` is of a generation before Gemini 3."""
    return _OLDER.search(model) is not None


def encode_request(prompt: Prompt, outgoing: Outgoing) -> dict[str, Any]:
    """Returns the body. Raises `Untranslatable` for what Gemini cannot say, `InvalidRequest` for a stray result."""
    outgoing.check(prompt, TITLE)
    prompt = with_valid_ids(prompt, IdRule())
    return {**_Writer(prompt, outgoing).conversation(), **write_settings(prompt, outgoing)}


class _Writer:
    def __init__(self, prompt: Prompt, outgoing: Outgoing) -> None:
        self._prompt = prompt
        self._outgoing = outgoing
        self._older = is_older(outgoing.model)
        self._names: dict[str, str] = {}  # of the called tools, by the id of the call

    def conversation(self) -> dict[str, Any]:
        system: list[dict[str, Any]] = []
        contents: list[dict[str, Any]] = []
        for i, message in enumerate(self._prompt.messages):
            leads = message.role in ("system", "developer") and not contents
            parts = self._parts(message, f"messages[{i}]")
            if not parts:
                continue
            if leads:
                system += parts
                continue
            # An instruction in the middle keeps its place, for which Gemini knows the user's role only.
            role = "model" if message.role == "assistant" else "user"
            if contents and contents[-1]["role"] == role:
                contents[-1]["parts"] += parts
            else:
                contents.append({"role": role, "parts": parts})
        if contents and contents[-1]["role"] == "model":
            self._outgoing.refuse(f"messages[{len(self._prompt.messages) - 1}]", TITLE)  # a prefill
            contents.pop()
        if not contents:
            contents, system = [{"role": "user", "parts": system}], []
        for content in contents:
            if content["role"] == "model" and not self._older:
                _sign_first_call(content["parts"])
        body: dict[str, Any] = {"contents": contents}
        if system:
            body["systemInstruction"] = {"parts": system}
        return body

    def _parts(self, message: Message, path: str) -> list[dict[str, Any]]:
        parts: list[dict[str, Any]] = []
        aside: list[dict[str, Any]] = []  # pictures of results, for models whose results have none
        for j, block in enumerate(message.blocks):
            if isinstance(block, ToolResult):
                parts.append(self._result(block, f"{path}.content[{j}]", aside))
            elif isinstance(block, Thinking):
                self._think(block, parts)
            else:
                part = self._part(block, f"{path}.content[{j}]")
                if part is not None:
                    parts.append(part)
        results = sum("functionResponse" in part for part in parts)
        return [*parts[:results], *aside, *parts[results:]] if aside else parts

    def _part(self, block: Block, path: str) -> dict[str, Any] | None:
        if isinstance(block, Text | Refusal):
            return {"text": block.text} if block.text else None
        if isinstance(block, ToolCall):
            return self._call(block)
        if isinstance(block, Image | Document | Audio):
            return self._media(block, path)
        if isinstance(block, ServerTool):
            kind = block.value.get("type")
            self._outgoing.refuse(f"{path}.{kind}" if isinstance(kind, str) else path, TITLE)
        return None

    def _think(self, block: Thinking, parts: list[dict[str, Any]]) -> None:
        """Adds thinking of this provider's. What has no text is the signature of the text before it."""
        opaque = block.signature
        if opaque is None or opaque.origin != self._outgoing.origin or opaque.kind != signatures.KIND:
            self._outgoing.leave_out("thinking")
        elif block.text:
            parts.append({"text": block.text, "thought": True, "thoughtSignature": opaque.data})
        elif parts and "text" in parts[-1] and "thoughtSignature" not in parts[-1]:
            parts[-1]["thoughtSignature"] = opaque.data
        else:
            parts.append({"text": "", "thoughtSignature": opaque.data})

    def _call(self, call: ToolCall) -> dict[str, Any]:
        self._names[call.id] = call.name
        args = {"input": call.arguments} if call.custom else to_args(call.arguments)
        part: dict[str, Any] = {
            "functionCall": {
                "id": call.id,
                "name": call.name,
                "args": {"input": call.arguments} if args is None else args,
            }
        }
        opaque = call.signature
        if opaque is not None and opaque.origin == self._outgoing.origin:
            part["thoughtSignature"] = opaque.data
        return part

    def _result(self, result: ToolResult, path: str, aside: list[dict[str, Any]]) -> dict[str, Any]:
        name = self._names.get(result.call_id) or result.name
        if not name:
            raise InvalidRequest(f"`{path}` is the result of a call that is not in the conversation.", param=path)
        texts = [block.text for block in result.content if isinstance(block, Text)]
        # As text, and never as the object that it may be: Gemini takes a `$ref` in it for one of its own.
        output = "\n".join(texts)
        response: dict[str, Any] = {
            "id": result.call_id,
            "name": name,
            "response": {"error" if result.is_error else "output": output},
        }
        media = [
            part
            for block in result.content
            if not isinstance(block, Text) and (part := self._media(block, path)) is not None
        ]
        if self._older:
            aside += media
        elif media:
            response["parts"] = media
        return {"functionResponse": response}

    def _media(self, block: Image | Document | Audio, path: str) -> dict[str, Any] | None:
        source = block.source
        if source.text is not None:
            return {
                "text": f"{block.title}\n{source.text}" if isinstance(block, Document) and block.title else source.text
            }
        kind = _media_type(block, source)
        if source.data is not None and kind:
            # A second is 32 tokens, and losslessly hours of silence are a few bytes.
            lossless = "flac" in kind.lower() or source.data.lstrip().startswith("ZkxhQ")  # how such a file begins
            if lossless and self._outgoing.max_output_tokens is not None:
                raise _unbounded(f"{path}.{type(block).__name__.lower()}", "sound in another format")
            return {"inlineData": {"mimeType": kind, "data": source.data}}
        if source.url is not None and source.url.startswith(_REACHABLE):
            # The caller has a budget if the bound is given: whatever it is called, the file may be a film of hours.
            if self._outgoing.max_output_tokens is not None:
                raise _unbounded(f"{path}.{type(block).__name__.lower()}", "its bytes in the request itself")
            return {"fileData": {"fileUri": source.url, **({"mimeType": kind} if kind else {})}}
        # The gateway fetches nothing that a caller names, and Google fetches no page.
        self._outgoing.refuse(f"{path}.{type(block).__name__.lower()}", TITLE)
        return None


def _unbounded(path: str, expected: str) -> Untranslatable:
    return Untranslatable(
        f"Your plan has a budget, and what `{path}` costs cannot be known before it is spent: expected {expected}.",
        param=path,
    )


def _media_type(block: Image | Document | Audio, source: Source) -> str:
    """Returns the type to tell, "" if it is unknown. A picture that is said to be of another type would be read so."""
    if isinstance(block, Image) and not (source.media_type or "").lower().startswith("image/"):
        return ""
    if source.media_type and "/" in source.media_type:
        return source.media_type
    return "application/pdf" if isinstance(block, Document) else ""


def _sign_first_call(parts: list[dict[str, Any]]) -> None:
    """Gives the first call of a step a signature, without which Gemini 3 refuses the step."""
    calls = [part for part in parts if "functionCall" in part]
    if calls and not any("thoughtSignature" in part for part in calls):
        calls[0]["thoughtSignature"] = signatures.DUMMY
