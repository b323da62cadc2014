"""Whole answers, read into the neutral form and written from it."""

from __future__ import annotations

from typing import Any

import msgspec

from app.domain.content import (
    Answer,
    Audio,
    Block,
    Image,
    Opaque,
    Refusal,
    ServerTool,
    Text,
    Thinking,
    ToolCall,
)
from app.providers.dialects.dialect import Framing, Reported
from app.providers.dialects.responses.answer_items import AnswerItems, finished_call
from app.providers.dialects.responses.items_in import read_picture, reasoning_text
from app.providers.dialects.responses.items_out import KIND, output_image
from app.providers.dialects.responses.names import called_name
from app.providers.dialects.responses.parts import decode_part, encode_output_text
from app.providers.dialects.responses.response_object import ended, read_stop, response_object
from app.providers.dialects.responses.signatures import BEFORE, signature_item
from app.providers.dialects.responses.usage import read_usage

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


def decode_answer(body: bytes, origin: str) -> Answer:
    """Returns the answer. Raises `ValueError` for a response that failed, and for what is no response."""
    response = _response(body)
    blocks = [block for item in response["output"] for block in read_item(item, origin)]
    stop, native = read_stop(response, blocks)
    tier = response.get("service_tier")
    created = response.get("created_at")
    return Answer(
        id=str(response.get("id") or ""),
        model=str(response.get("model") or ""),
        blocks=tuple(blocks),
        stop=stop,
        native_stop=native,
        created=int(created) if isinstance(created, int | float) else 0,
        usage=read_usage(response),
        service_tier=tier if isinstance(tier, str) else "",
        logprobs=_logprobs(response["output"]) or None,
    )


def read_answer(body: bytes) -> Reported:
    """Returns what the answer says of its cost. Raises as `decode_answer` does."""
    response = _response(body)
    usage = read_usage(response)
    if usage is not None:
        return Reported(usage)
    return Reported(None, sum(map(_text_bytes, response["output"])))


def read_item(item: Any, origin: str) -> list[Block]:
    """Returns the blocks of one item of the output."""
    if not isinstance(item, dict):
        raise ValueError("an item of the output is no object")
    kind = item.get("type")
    if kind == "message":
        content = item.get("content")
        foreign: dict[str, Any] = {}
        parts = [decode_part(part, "", foreign, foreign) for part in content] if isinstance(content, list) else []
        return [part for part in parts if part is not None]
    if kind == "reasoning":
        signature = read_signature(item, origin)
        text = reasoning_text(item)
        return [Thinking(text=text, signature=signature)] if text or signature else []
    if kind in ("function_call", "custom_tool_call"):
        arguments = item.get("input" if kind == "custom_tool_call" else "arguments")
        call_id = str(item.get("call_id") or "")
        custom = kind == "custom_tool_call"
        return [ToolCall(id=call_id, name=called_name(item), arguments=str(arguments or ""), custom=custom)]
    if kind == "image_generation_call" and isinstance(item.get("result"), str):
        return [read_picture(item)]
    return [ServerTool(dialect="responses", value=item)]


def read_signature(item: dict[str, Any], origin: str) -> Opaque | None:
    """Returns the encrypted content of a reasoning item."""
    encrypted = item.get(KIND)
    return Opaque(origin, KIND, encrypted, str(item.get("id") or "")) if isinstance(encrypted, str) else None


def encode_answer(answer: Answer, framing: Framing) -> bytes:
    """Returns the response object for `answer`."""
    response = response_object(
        framing, answer_id=answer.id, model=answer.model, created=answer.created, tier=answer.service_tier
    )
    output = _Output(AnswerItems(framing), answer.logprobs)
    for block in answer.blocks:
        output.add(block)
    refused = any(isinstance(block, Refusal) for block in answer.blocks)
    return _encode(ended(response, output.items, answer.stop, answer.usage, refused=refused))


class _Output:
    """The items of a whole answer. Texts that follow each other are parts of one message."""

    def __init__(self, items: AnswerItems, logprobs: list[Any] | None) -> None:
        self.items: list[dict[str, Any]] = []
        self._make = items
        self._logprobs = logprobs

    def add(self, block: Block) -> None:
        index = len(self.items)
        if isinstance(block, Text):
            self._add_part({**encode_output_text(block), "logprobs": self._logprobs or []})
            self._logprobs = None  # they are those of the whole answer: the first text has them
        elif isinstance(block, Refusal):
            self._add_part({"type": "refusal", "refusal": block.text})
        elif isinstance(block, Audio) and block.transcript:
            self._add_part(encode_output_text(Text(text=block.transcript)))
        elif isinstance(block, Thinking):
            self.items.append(self._make.reasoning(index, block.text, block.signature))
        elif isinstance(block, ToolCall):
            if block.signature is not None:
                item_id = self._make.item_id("reasoning", index)
                self.items.append(signature_item(block.signature, item_id, place=BEFORE))
            self.items.append(finished_call(self._make.call(len(self.items), block), block.arguments))
        elif isinstance(block, Image) and block.source.data is not None:
            self.items.append(output_image(block, self._make.item_id("image_generation_call", index)))
        elif isinstance(block, ServerTool) and block.dialect == "responses":
            self.items.append(block.value)

    def _add_part(self, part: dict[str, Any]) -> None:
        if self.items and self.items[-1].get("type") == "message":
            self.items[-1]["content"].append(part)
        else:
            self.items.append(self._make.message(len(self.items), [part]))


def _response(body: bytes) -> dict[str, Any]:
    try:
        response = _decode(body)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise ValueError("the answer is no JSON object") from exc
    if response.get("status") == "failed" or response.get("error"):
        raise ValueError("the response failed")
    if not isinstance(response.get("output"), list):
        raise ValueError("the answer has no output")
    return response


def _logprobs(output: list[Any]) -> list[Any]:
    contents = [item.get("content") for item in output if item.get("type") == "message"]
    return [
        logprob
        for content in contents
        if isinstance(content, list)
        for part in content
        if isinstance(part, dict) and isinstance(part.get("logprobs"), list)
        for logprob in part["logprobs"]
    ]


def _text_bytes(item: Any) -> int:
    """Returns the UTF-8 length of what the model wrote in an item."""
    blocks = read_item(item, "")
    texts = (getattr(block, "text", "") or getattr(block, "arguments", "") for block in blocks)
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
