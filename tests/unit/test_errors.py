"""The error tree: what every class of it answers with, and that no class of it stands in another module."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import app
from app import errors
from app.api.errors import error_response
from app.errors import (
    BudgetExceeded,
    GatewayError,
    QueueTimeout,
    RateLimited,
    Remaining,
    UpstreamRejected,
    UpstreamTimeout,
)

# OpenAI's SDKs know these; `server_error` is what they show of anything else.
TYPES = {
    "authentication_error",
    "insufficient_quota",
    "invalid_request_error",
    "permission_error",
    "rate_limit_error",
    "server_error",
}


def tree(error: type[GatewayError] = GatewayError) -> Iterator[type[GatewayError]]:
    yield error
    for child in error.__subclasses__():
        yield from tree(child)


TREE = sorted({error for error in tree() if error.__module__ == "app.errors"}, key=lambda error: error.__name__)


@pytest.mark.parametrize("error", TREE, ids=lambda error: error.__name__)
def test_every_error_has_a_status_a_type_and_a_code(error: type[GatewayError]) -> None:
    assert 400 <= error.status <= 599
    assert error.type in TYPES
    assert re.fullmatch("[A-Z]+(_[A-Z]+)*", error.code)


def test_the_tree_is_drawn_as_it_is() -> None:
    rows = re.findall(r"^ {4}([│├└─ ]*)(\w+) +(\d{3}) ([A-Z_]+)", errors.__doc__ or "", re.MULTILINE)
    drawn = [(len(indent) // 4, name, int(status), code) for indent, name, status, code in rows]
    depths = {error: len(error.__mro__) - len(GatewayError.__mro__) for error in TREE}
    assert sorted(drawn) == sorted((depths[error], error.__name__, error.status, error.code) for error in TREE)
    parents = {}
    path: list[str] = []
    for depth, name, _, _ in drawn:
        path = [*path[:depth], name]
        parents[name] = path[-2] if depth else "Exception"
    assert parents == {error.__name__: error.__base__.__name__ for error in TREE if error.__base__}


def test_every_error_of_the_gateway_stands_in_one_module() -> None:
    names = {error.__name__ for error in TREE}
    elsewhere = [
        f"{path}:{node.lineno} {node.name}"
        for path in sorted(Path(app.__file__).parent.rglob("*.py"))
        if path.name != "errors.py" or path.parent.name != "app"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        if names & {base.id if isinstance(base, ast.Name) else getattr(base, "attr", "") for base in node.bases}
    ]
    assert elsewhere == []


def test_a_refusal_carries_what_is_left_of_each_limit() -> None:
    left = (Remaining("requests_per_minute", "requests", 60, 0, 12.5),)
    for error in (RateLimited, BudgetExceeded):
        assert error("No.", limit="requests_per_minute", retry_after_s=1.0, remaining=left).remaining == left
        assert error("No.", limit="requests_per_minute", retry_after_s=1.0).remaining == ()


def test_a_job_that_waited_too_long_is_tried_nowhere_else() -> None:
    assert issubclass(QueueTimeout, UpstreamTimeout)
    assert not QueueTimeout.retry_here
    assert not QueueTimeout.fall_back


@pytest.mark.parametrize("wrap", ["%s", "[%s]"])
def test_a_vendors_code_and_fields_reach_callers_of_its_dialect(wrap: str) -> None:
    error = UpstreamRejected("No.", provider="up", kind="rejected", upstream_status=422, param="messages")
    vendors = '{"error":{"message":"No.","type":"bad","param":null,"code":"content_policy_violation","inner":{"a":1}}}'
    error.native, error.native_dialect = (wrap % vendors).encode(), "chat"
    told = error_response(error, "req_1")
    assert isinstance(told.body, bytes)
    body = json.loads(told.body)
    assert told.status == 422
    assert body["error"] == {
        "message": "No.",
        "type": "bad",
        "param": "messages",
        "code": "content_policy_violation",
        "inner": {"a": 1},
    }
    assert (body["code"], body["request_id"]) == ("INVALID_REQUEST", "req_1")
    other = error_response(error, "req_1", "messages")
    assert (other.status, json.loads(bytes(other.body))["type"]) == (400, "error")  # type: ignore[arg-type]
