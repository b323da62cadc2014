"""Attribution: the session, agent and user that a call belongs to, as its ledger row names them.

A caller says so in headers (`api.attribution`) or in the body of the request; a header wins. Both are labels for
reports, cut and made printable: nothing is decided by them.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import msgspec

from app.domain.generation import GenerationRequest
from app.domain.printable import printable
from app.domain.requests import CallRequest

_MAX_CHARS = 200
_MAX_JSON_BYTES = 4096
_BODY_FIELDS = frozenset({"safety_identifier", "prompt_cache_key", "conversation"})
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
# Claude Code up to 2.1.7x; later ones write the same facts as a JSON object.
_CLAUDE_CODE_USER = re.compile(
    r"user_(?P<device>[0-9a-f]+)_account_(?P<account>[0-9a-f-]*)_session_(?P<session>[0-9a-f-]+)"
)


class Attribution(NamedTuple):
    """The session, agent and user that a call is put down to; "" for what nobody said."""

    session: str = ""
    agent: str = ""
    user: str = ""


NOBODY = Attribution()


def label(text: str) -> str:
    """Returns `text` as it may stand in the ledger: one line, at most 200 characters."""
    text = text[: _MAX_CHARS + 1].strip()
    return printable(text)[:_MAX_CHARS]


def attributed(request: CallRequest, in_headers: Attribution) -> Attribution:
    """Returns what a call is put down to, by its headers and its body."""
    in_body = (
        _stated_in_body(request) if isinstance(request, GenerationRequest) else Attribution(user=request.user or "")
    )
    if in_headers is NOBODY:
        return in_body
    return Attribution(*(header or field for header, field in zip(in_headers, in_body, strict=True)))


def _stated_in_body(request: GenerationRequest) -> Attribution:
    """Returns what the body says of the call.

    The session is Codex's thread (`prompt_cache_key`, where it is a UUID: other applications share one key between
    all their calls), a Responses conversation, or Claude Code's in `metadata.user_id`.
    """
    fields = request.fields
    if request.dialect == "messages":
        metadata = fields.get("metadata")
        return NOBODY if metadata is None else _of_user_id(_member(metadata, "user_id"))
    if request.user is None and _BODY_FIELDS.isdisjoint(fields):
        return NOBODY
    user = request.user or label(_text(fields.get("safety_identifier")))
    session = ""
    if "prompt_cache_key" in fields:
        key = _text(fields["prompt_cache_key"])
        session = key if _UUID.fullmatch(key) else ""
    if not session and "conversation" in fields:
        session = _text(fields["conversation"]) or _member(fields["conversation"], "id")
    return Attribution(label(session), "", user) if user or session else NOBODY


def _of_user_id(user_id: str) -> Attribution:
    """Reads Anthropic's `metadata.user_id`: a name, or what Claude Code writes there."""
    if user_id.startswith("{"):
        value = _decoded(user_id.encode())
        if isinstance(value, dict):
            told = {name: text for name, text in value.items() if isinstance(text, str)}
            user = told.get("account_uuid") or told.get("device_id") or ""
            return Attribution(label(told.get("session_id", "")), "", label(user))
    compound = _CLAUDE_CODE_USER.fullmatch(user_id)
    if compound is not None:
        return Attribution(label(compound["session"]), "", label(compound["account"] or compound["device"]))
    return Attribution("", "", label(user_id))


def _member(raw: msgspec.Raw, name: str) -> str:
    value = _decoded(bytes(raw))
    text = value.get(name) if isinstance(value, dict) else None
    return text if isinstance(text, str) else ""


def _text(raw: msgspec.Raw | None) -> str:
    value = None if raw is None else _decoded(bytes(raw))
    return value if isinstance(value, str) else ""


def _decoded(data: bytes) -> Any:
    """Returns the JSON value; None for what is no JSON, or too long to be a label."""
    if len(data) > _MAX_JSON_BYTES:
        return None
    try:
        return msgspec.json.decode(data)
    except (ValueError, RecursionError):
        return None
