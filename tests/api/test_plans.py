"""A key on a plan that the gateway does not know is refused: nobody can say what its limits are."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from app.domain.identity import hash_key
from app.store.sql.tables import api_keys
from tests.api.batching import BatchWorker, build_client, created, failures, line  # noqa: F401 - a fixture
from tests.api.batching import call as asked
from tests.api.conftest import AppClient
from tests.support.response import AppResponse

PLANS = "smart: {rules: [{name: short, max_prompt_tokens: 9, plans: [default], model: m}]}\nplans: {paid: {}}\n"


@pytest.fixture
def known(build_client: Callable[..., AppClient]) -> AppClient:  # noqa: F811
    return build_client(more=PLANS)


def without_plan(client: AppClient) -> str:
    """A key on a plan that was removed from the file, or that this gateway has not loaded yet."""
    key, _ = client.services.keys.create("gone", plan="gone")
    return key


def answers(client: AppClient, key: str) -> list[AppResponse]:
    """The answers that the key gets from each endpoint that calls a model."""
    message = {"messages": [{"role": "user", "content": "Hi"}]}
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("/v1/chat/completions", {"model": "m", **message}),
        ("/v1/chat/completions", {"model": "m", **message, "stream": True}),
        ("/v1/chat/completions", {"model": "auto", **message}),
        ("/v1/chat/smart", message),
        ("/v1/chat/async", {"model": "m", **message}),
        ("/v1/embeddings", {"model": "m", "input": "Hi"}),
        ("/v1/chat", {"message": "Hi", "user_id": "u"}),
        ("/v1/tickets/extract", {"text": "Hi"}),
    ]
    found = [client.post(json.dumps(body), key=key, path=path) for path, body in bodies]
    return [answer for answer in found if answer.status_code != 404]


def test_a_key_on_an_unknown_plan_is_refused_whatever_it_asks(known: AppClient) -> None:
    key = without_plan(known)
    found = answers(known, key)
    assert len(found) >= 7
    assert {(answer.status_code, answer.json["code"]) for answer in found} == {(403, "FORBIDDEN")}
    assert known.asked == []
    assert known.rows() == []
    assert known.keys("penstock:reservation*") == known.keys("penstock:limit:*") == []


def test_an_unknown_plan_is_logged_with_its_key_but_not_with_every_call(known: AppClient) -> None:
    key = without_plan(known)
    with capture_logs() as logs:
        answers(known, key)
        answers(known, key)
    told = [entry for entry in logs if entry["event"] == "plan_unknown"]
    [info] = known.services.keys.list()
    assert [(entry["key_id"], entry["plan"]) for entry in told] == [(info.key_id, "gone")]


def test_a_key_moved_from_an_unknown_plan_to_a_known_one_works_at_once(known: AppClient) -> None:
    key = without_plan(known)
    assert known.chat(key=key).status_code == 403
    with known.services.database.write() as connection:
        connection.execute(api_keys.update().where(api_keys.c.key_hash == hash_key(key)).values(plan="paid"))
        assert connection.scalar(sa.select(api_keys.c.plan)) == "paid"
    known.services.redis.execute("DEL", f"penstock:key:{hash_key(key)}")
    assert known.chat(key=key).status_code == 200


def test_a_revoked_key_on_an_unknown_plan_is_a_revoked_key(known: AppClient) -> None:
    key = without_plan(known)
    assert known.chat(key=key).status_code == 403
    known.services.keys.revoke(known.services.keys.list()[0].key_id)
    assert known.chat(key=key).status_code == 401


def test_a_batch_whose_key_is_on_an_unknown_plan_runs_none_of_its_lines(known: AppClient) -> None:
    key = without_plan(known)
    batch_id = created(known, [line(1), line(2)], key=key)
    BatchWorker(known).work()
    found = asked(known, "GET", f"/v1/batches/{batch_id}", key=key).json
    errors = asked(known, "GET", f"/v1/files/{found['error_file_id']}/content", key=key)
    assert failures([json.loads(text) for text in errors.text.splitlines()]) == {"n1": "FORBIDDEN", "n2": "FORBIDDEN"}
    assert (known.asked, known.rows()) == ([], [])


def test_the_keys_from_the_environment_are_on_a_plan_that_is_always_there(known: AppClient) -> None:
    assert known.chat().status_code == 200
