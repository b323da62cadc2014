"""Attribution: what coding agents and chat front ends say in headers and bodies fills session, agent and user."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import msgspec
import pytest

from app.api.attribution import stated_in_headers
from app.api.http import HttpRequest
from app.domain.attribution import NOBODY, Attribution, attributed
from app.domain.body import decode_fields
from app.domain.chat import EmbedRequest
from app.domain.generation import DialectName, GenerationRequest
from app.providers.base import CancelToken

SESSION = "127109e3-9296-4c62-a873-cf46a6739b00"
ACCOUNT = "5c1b6f2e-0f5a-4a57-9d1c-0d6c1a2b3c4d"


class ChatBody(GenerationRequest, frozen=True, kw_only=True):
    dialect: ClassVar[DialectName] = "chat"


class MessagesBody(GenerationRequest, frozen=True, kw_only=True):
    dialect: ClassVar[DialectName] = "messages"


class ResponsesBody(GenerationRequest, frozen=True, kw_only=True):
    dialect: ClassVar[DialectName] = "responses"


def body(kind: type[GenerationRequest], **fields: Any) -> GenerationRequest:
    raw = json.dumps(fields).encode()
    return msgspec.structs.replace(msgspec.json.decode(raw, type=kind), raw=raw, fields=decode_fields(raw))


def environ(**headers: str) -> dict[str, Any]:
    return {"REQUEST_METHOD": "POST"} | {f"HTTP_{name.upper()}": value for name, value in headers.items()}


@pytest.mark.parametrize(
    ("headers", "session", "agent", "user"),
    [
        ({}, "", "", ""),
        ({"x_claude_code_session_id": SESSION}, SESSION, "", ""),
        ({"x_claude_code_session_id": SESSION, "x_claude_code_agent_id": "a1"}, SESSION, "a1", ""),
        ({"x_claude_code_agent_id": "a1", "x_claude_code_parent_agent_id": "a0"}, "", "a0/a1", ""),
        ({"session_id": SESSION, "thread_id": SESSION}, SESSION, "", ""),
        ({"session_id": SESSION, "thread_id": ACCOUNT}, SESSION, ACCOUNT, ""),
        ({"x_session_id": "ses_1", "x_session_affinity": "ses_1"}, "ses_1", "", ""),
        ({"x_session_affinity": "ses_2"}, "ses_2", "", ""),
        (
            {"x_openwebui_user_id": "u1", "x_openwebui_user_email": "ann@acme.test", "x_openwebui_chat_id": "c1"},
            "c1",
            "",
            "ann@acme.test",
        ),
        ({"x_openwebui_user_id": "u1", "x_openwebui_user_name": "Ann"}, "", "", "u1"),
        ({"x_openwebui_user_name": "Ann%20%C3%96zil"}, "", "", "Ann Özil"),
        ({"x_openwebui_user_name": "Özil".encode().decode("latin-1")}, "", "", "Özil"),
        ({"x_openwebui_user_name": "\xd6zil"}, "", "", "Özil"),
        ({"x_penstock_session": "mine", "x_session_id": "theirs"}, "mine", "", ""),
        (
            {"x_penstock_agent": "planner", "x_claude_code_agent_id": "a1", "x_penstock_user": "bob"},
            "",
            "planner",
            "bob",
        ),
        ({"x_penstock_session": "  "}, "", "", ""),
    ],
)
def test_headers_of_coding_agents_and_chats_are_read(
    headers: dict[str, str], session: str, agent: str, user: str
) -> None:
    assert stated_in_headers(environ(**headers)) == Attribution(session, agent, user)


def test_a_label_is_one_printable_line_of_bounded_length() -> None:
    found = stated_in_headers(environ(x_penstock_session="a\x1b[31m\x00%0Ab", x_penstock_user="é" * 5000))
    assert found.session == r"a\x1b[31m\x00\nb"
    assert found.user == "é" * 200
    assert len(stated_in_headers(environ(x_penstock_agent="\x00" * 5000)).agent) == 200


def test_a_request_without_such_headers_shares_one_attribution() -> None:
    assert stated_in_headers(environ(user_agent="curl")) is NOBODY
    assert HttpRequest(environ(user_agent="curl")).call_context(CancelToken()).attribution is NOBODY


@pytest.mark.parametrize(
    ("request_body", "session", "user"),
    [
        (body(ChatBody, model="m"), "", ""),
        (body(ChatBody, user="ann"), "", "ann"),
        (body(ChatBody, safety_identifier="ann"), "", "ann"),
        (body(ChatBody, user="ann", safety_identifier="hash"), "", "ann"),
        (body(ResponsesBody, prompt_cache_key=SESSION), SESSION, ""),
        (body(ResponsesBody, prompt_cache_key="support-bot-v3"), "", ""),
        (body(ResponsesBody, prompt_cache_key=7, conversation="conv_1"), "conv_1", ""),
        (body(ResponsesBody, conversation={"id": "conv_2"}), "conv_2", ""),
        (body(ResponsesBody, conversation=[{}], safety_identifier={}), "", ""),
        (body(MessagesBody, metadata={"user_id": "ann"}), "", "ann"),
        (
            body(MessagesBody, metadata={"user_id": f"user_{'0a' * 32}_account_{ACCOUNT}_session_{SESSION}"}),
            SESSION,
            ACCOUNT,
        ),
        (body(MessagesBody, metadata={"user_id": f"user_0a_account__session_{SESSION}"}), SESSION, "0a"),
        (
            body(
                MessagesBody,
                metadata={"user_id": json.dumps({"device_id": "d", "account_uuid": "", "session_id": SESSION})},
            ),
            SESSION,
            "d",
        ),
        (body(MessagesBody, metadata={"user_id": json.dumps({"account_uuid": ACCOUNT})}), "", ACCOUNT),
        (body(MessagesBody, metadata={"user_id": json.dumps({"session_id": ["x"]})}), "", ""),
        (body(MessagesBody, metadata={"user_id": "{not json"}), "", "{not json"),
        (body(MessagesBody, metadata=None), "", ""),
        (body(MessagesBody, metadata={"user_id": 7}), "", ""),
        (body(MessagesBody, metadata={"user_id": "x" * 100_000}), "", ""),
    ],
)
def test_bodies_of_each_dialect_are_read(request_body: GenerationRequest, session: str, user: str) -> None:
    assert attributed(request_body, NOBODY) == Attribution(session, "", user)


def test_a_header_wins_over_the_body() -> None:
    request = body(ResponsesBody, prompt_cache_key=SESSION, user="ann")
    assert attributed(request, Attribution("header", "a1", "")) == Attribution("header", "a1", "ann")
    assert attributed(request, Attribution("", "", "bob")) == Attribution(SESSION, "", "bob")


def test_embeddings_are_put_down_to_their_user() -> None:
    request = EmbedRequest.parse(b'{"model":"m","input":"Hi","user":"ann"}')
    assert attributed(request, NOBODY) == Attribution(user="ann")
    assert attributed(request, Attribution("s", "", "bob")) == Attribution("s", "", "bob")
