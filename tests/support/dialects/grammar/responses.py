"""Events of responses, numbered from 0.

stream := created in_progress item* (completed | incomplete | failed)
item   := output_item.added inner* output_item.done, with output_index 0, 1, 2 …
"""

from __future__ import annotations

import json
from typing import Any

_PREFIXES = {"message": "msg_", "reasoning": "rs_", "function_call": "fc_", "custom_tool_call": "ctc_"}
_ENDS = {"completed", "incomplete", "failed"}
# Of each kind of text: the field of its `.done`, and of the part or item that holds it.
_TEXTS = {
    "output_text": "text",
    "refusal": "refusal",
    "reasoning_summary_text": "text",
    "function_call_arguments": "arguments",
    "custom_tool_call_input": "input",
}


class ResponsesGrammar:
    def __init__(self) -> None:
        self.ended = False
        self._number = 0
        self._state = "created"
        self._id = ""
        self._items: list[dict[str, Any]] = []  # those that are done
        self._item: dict[str, Any] | None = None
        self._parts: list[dict[str, Any]] = []
        self._part: dict[str, Any] | None = None
        self._text: str | None = None  # of the open part or call; None if it is done

    def feed(self, name: str, payload: bytes) -> None:
        event = json.loads(payload)
        kind = event.pop("type")
        assert name == kind
        assert event.pop("sequence_number") == self._number
        self._number += 1
        group, _, what = kind.removeprefix("response.").rpartition(".")
        if not group:
            self._response(what, event["response"])
            return
        assert self._state == "items"
        assert event["output_index"] == len(self._items)
        if group == "output_item":
            self._output_item(what, event["item"])
            return
        assert self._item is not None
        assert event["item_id"] == self._item["id"]
        if group in ("content_part", "reasoning_summary_part"):
            field = "content_index" if group == "content_part" else "summary_index"
            assert event[field] == len(self._parts)
            self._content_part(what, event["part"])
        elif (group, what) == ("output_text.annotation", "added"):
            assert self._text is not None
        else:
            self._piece(group, what, event)

    def _response(self, what: str, response: dict[str, Any]) -> None:
        assert response["object"] == "response"
        self._id = self._id or response["id"]
        assert response["id"] == self._id
        assert self._id.startswith("resp_")
        if what in ("created", "in_progress"):
            assert self._state == what
            assert response["status"] == "in_progress"
            assert response["output"] == []
            self._state = "in_progress" if what == "created" else "items"
            return
        assert what in _ENDS
        assert self._state == "items"
        assert self._item is None
        assert response["status"] == what
        assert (response["incomplete_details"] is not None) == (what == "incomplete")
        assert (response["error"] is not None) == (what == "failed")
        if what != "failed":
            assert response["output"] == self._items
        self.ended = True

    def _output_item(self, what: str, item: dict[str, Any]) -> None:
        if what == "added":
            assert self._item is None
            assert item["id"].startswith(_PREFIXES[item["type"]])
            self._item, self._parts = item, []
            if item["type"] == "message":
                assert (item["content"], item["status"], item["role"]) == ([], "in_progress", "assistant")
            elif item["type"] == "reasoning":
                assert item["summary"] == []
            else:
                assert item["call_id"]
                assert item["name"]
                field = "arguments" if item["type"] == "function_call" else "input"
                assert item[field] == ""
                self._text = ""
            return
        assert what == "done"
        assert self._item is not None
        assert self._part is None
        assert (item["id"], item["type"]) == (self._item["id"], self._item["type"])
        if item["type"] in ("message", "reasoning"):
            assert item["content" if item["type"] == "message" else "summary"] == self._parts
        else:
            field = "arguments" if item["type"] == "function_call" else "input"
            assert self._text is None, "a call is done before its item"
            assert item[field] == self._item[field]
            assert field == "input" or isinstance(json.loads(item[field]), dict)
        self._items.append(item)
        self._item = None

    def _content_part(self, what: str, part: dict[str, Any]) -> None:
        if what == "added":
            assert self._part is None
            assert part[_field_of(part)] == ""
            self._part, self._text = part, ""
            return
        assert what == "done"
        assert self._part is not None
        assert self._text is None
        assert part["type"] == self._part["type"]
        assert part[_field_of(part)] == self._part[_field_of(part)]
        self._parts.append(part)
        self._part = None

    def _piece(self, group: str, what: str, event: dict[str, Any]) -> None:
        field = _TEXTS[group]
        assert self._text is not None
        if what == "delta":
            self._text += event["delta"]
            return
        assert what == "done"
        assert event[field] == self._text
        holder = self._part if self._part is not None else self._item
        assert holder is not None
        holder[field] = self._text
        self._text = None


def _field_of(part: dict[str, Any]) -> str:
    return {"output_text": "text", "refusal": "refusal", "summary_text": "text"}[part["type"]]
