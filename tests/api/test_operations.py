"""An operator's questions: readiness, health and internals; no secret in an answer, and no call to a vendor."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import gevent
import pytest

from app.domain.identity import Role
from tests.api.conftest import AppClient
from tests.support.providers import scripted_server
from tests.support.servers import RedisServer

DEMO = """
providers: {demo: {kind: demo}}
models: {m: {targets: [{provider: demo}]}}
"""
# Nothing listens there.
DOWN = """
providers:
  demo: {kind: demo}
  vendor: {kind: openai, base_url: "http://127.0.0.1:1/v1", api_key: sk-vendor-secret-1}
models:
  toy: {targets: [{provider: demo}]}
  m: {targets: [{provider: vendor}]}
  n: {targets: [{provider: vendor}]}
retry: {max_attempts: 1, breaker_threshold: 2, breaker_cooldown_s: 30}
"""
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class Operator:
    def __init__(self, client: AppClient) -> None:
        self.edge = client
        self.key, _ = client.services.keys.create("boss", role=Role.ADMIN)

    def get(self, path: str, expected: int = 200) -> dict[str, Any]:
        answer = self.edge.get(path, key=self.key)
        assert answer.status_code == expected, answer.text
        assert isinstance(answer.json, dict)
        return answer.json

    def checks(self, expected: int = 200) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = self.get("/health/detailed", expected)["checks"]
        return found


def fail(client: AppClient, *models: str, key: str | None = None) -> None:
    for model in models:
        for _ in range(2):
            assert client.chat(model, key=key).status_code == 503


def test_a_gateway_with_its_vendor_down_is_not_ready_despite_a_demo_model(
    client_with: Callable[[str], AppClient],
) -> None:
    opened = client_with(DOWN)
    ready = opened.get("/ready")
    assert ready.status_code == 200
    assert ready.json is not None
    assert ready.json["status"] == "ready"
    assert ready.json["response_time"] < 2
    fail(opened, "m")
    assert opened.get("/ready").status_code == 200, "another model may still be served"
    fail(opened, "n")
    for path in ("/ready", "/v1/ready", "/api/v1/ready"):
        answer = opened.get(path)
        assert answer.status_code == 503
        assert answer.json is not None
        assert answer.json["code"] == "NOT_READY"
        assert answer.json["error"]["message"] == "Not ready: every provider keeps failing."
        assert (answer.json["status"], answer.json["reason"]) == ("not_ready", "every provider keeps failing")
        assert answer.headers["Retry-After"] == "1"
    assert opened.chat("toy").status_code == 200
    assert opened.get("/ready").status_code == 503, "that is not what callers want"
    opened.clock_offset_s[0] = 31
    assert opened.get("/ready").status_code == 200, "a probe must be able to come"


def test_one_caller_among_several_does_not_make_the_gateway_unready(client_with: Callable[[str], AppClient]) -> None:
    opened = client_with(DOWN)
    other, _ = opened.services.keys.create("other")
    assert opened.chat("toy", key=other).status_code == 200
    fail(opened, "m", "n")
    assert set(opened.services.router.states().values()) == {"closed", "open"}
    assert opened.get("/ready").status_code == 200


def test_where_there_is_only_the_demo_model_it_is_what_counts(client_with: Callable[[str], AppClient]) -> None:
    script = "{kind: demo, script: {fail_status: 500}}"
    opened = client_with(DEMO.replace("{kind: demo}", script) + "retry: {max_attempts: 1, breaker_threshold: 1}\n")
    assert opened.get("/ready").status_code == 200
    assert opened.chat().status_code == 502
    assert opened.get("/ready").status_code == 503


def test_a_gateway_without_any_key_is_not_ready_and_says_why(client_with: Callable[[str], AppClient]) -> None:
    without = 'providers: {up: {kind: openai, base_url: "http://127.0.0.1:1/v1", api_key: "${NOT_SET_AT_ALL:-}"}}\n'
    opened = client_with(without + "models: {m: {targets: [{provider: up}]}}\n")
    assert (opened.get("/ready").json or {})["reason"] == "no provider has its key"


def test_a_database_that_is_too_slow_is_a_503_with_the_reason(
    client_with: Callable[[str], AppClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = client_with(DEMO)
    monkeypatch.setattr("app.api.ops._CHECK_TIMEOUT_S", -0.9)
    monkeypatch.setattr(opened.services.database, "ping", lambda _: gevent.sleep(5))
    assert (opened.get("/ready").json or {})["reason"] == "database: no answer within 0.1 s"


def test_a_redis_that_hangs_is_a_503_with_the_reason(
    client_with: Callable[[str], AppClient], redis_server: RedisServer
) -> None:
    opened = client_with(DEMO)
    redis_server.suspend()
    try:
        assert (opened.get("/ready").json or {})["reason"] == "redis: The limits store is not answering"
    finally:
        redis_server.resume()


def test_a_queue_that_is_four_fifths_full_is_degraded_and_answers_200(client_with: Callable[[str], AppClient]) -> None:
    operator = Operator(client_with(DEMO + "queue: {max_jobs: 5}\n"))
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hello"}]})
    for waiting, status in ((3, "healthy"), (4, "degraded")):
        while operator.checks()["queue"]["current_size"] < waiting:
            assert operator.edge.post(body, path="/v1/chat/async").status_code == 202
        found = operator.get("/health/detailed")
        queue = found["checks"]["queue"]
        assert queue["duration_ms"] >= 0
        assert queue["response_time_seconds"] >= 0
        assert {name: queue[name] for name in ("status", "current_size", "max_size", "utilization_percent")} == {
            "status": status,
            "current_size": waiting,
            "max_size": 5,
            "utilization_percent": 20.0 * waiting,
        }
        assert found["status"] == status


def vendor_config(url: str) -> str:
    return DOWN.replace("http://127.0.0.1:1/v1", url) + "cache: {enabled: false}\n"


@pytest.mark.parametrize(
    ("answer", "healthy", "told"),
    [
        ("200 OK", True, ""),
        ("404 Not Found", True, ""),
        ("429 Too Many", True, ""),
        ("401 Unauthorized", False, "The provider vendor did not accept the gateway's credentials."),
        ("403 Forbidden", False, "did not accept the gateway's credentials"),
        ("500 Oh", False, "failed"),
        ("503 Busy", False, "is overloaded"),
        ("301 Moved", False, "failed"),
    ],
)
def test_a_wrong_key_is_noticed_before_a_call_is_made(
    client_with: Callable[[str], AppClient], answer: str, healthy: bool, told: str
) -> None:
    requests: list[bytes] = []
    said = f"HTTP/1.1 {answer}\r\nContent-Length: 24\r\n\r\nsecret-detail of vendors".encode()
    with scripted_server(lambda sock: sock.sendall(said), requests) as url:
        operator = Operator(client_with(vendor_config(url)))
        found = operator.get("/health/detailed")
    check = found["checks"]["provider:vendor"]
    assert check["status"] == ("healthy" if healthy else "unhealthy")
    assert told in check.get("error", "")
    assert found["status"] == ("healthy" if healthy else "degraded"), "a call may still be served"
    assert "secret" not in json.dumps(found)
    line, _, head = requests[0].partition(b"\r\n")
    assert line == b"GET /v1/models HTTP/1.1"
    assert b"\r\nAuthorization: Bearer sk-vendor-secret-1\r\n" in b"\r\n" + head
    assert head.endswith(b"\r\n\r\n")


def test_vendors_are_asked_once_however_often_admins_look(
    client_with: Callable[[str], AppClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[bytes] = []
    with scripted_server(lambda sock: sock.sendall(OK), requests) as url:
        operator = Operator(client_with(vendor_config(url)))
        checks = operator.edge.services.provider_health
        assert [operator.checks()["provider:vendor"]["status"] for _ in range(3)] == 3 * ["healthy"]
        assert len(requests) == 1
        at_once = [gevent.spawn(checks.check, "vendor", 2) for _ in range(20)]
        gevent.joinall(at_once, raise_error=True)
        monkeypatch.setattr(checks, "_clock", lambda now=checks._clock: now() + 15)
        at_once = [gevent.spawn(checks.check, "vendor", 2) for _ in range(20)]
        gevent.joinall(at_once, raise_error=True)
        assert len(requests) == 2, "and once more when it is old"


def test_a_vendor_that_does_not_answer_takes_two_seconds_and_is_unhealthy(
    client_with: Callable[[str], AppClient],
) -> None:
    with scripted_server(lambda sock: gevent.sleep(5)) as url:
        check = Operator(client_with(vendor_config(url))).checks()["provider:vendor"]
    assert check["status"] == "unhealthy"
    assert 1.5 < check["response_time_seconds"] < 2.9


def test_a_provider_without_its_key_is_not_configured_and_no_failure(client_with: Callable[[str], AppClient]) -> None:
    opened = client_with(DOWN.replace("sk-vendor-secret-1", '"${NOT_SET_AT_ALL:-}"'))
    found = Operator(opened).get("/health/detailed")
    assert found["status"] == "healthy"
    assert found["checks"]["provider:vendor"]["status"] == "not_configured"
    assert found["checks"]["provider:vendor"]["reason"] == "its key is not set"
    assert found["checks"]["provider:demo"]["status"] == "healthy"


@pytest.mark.parametrize("path", ["/debug", "/v1/debug", "/api/v1/debug"])
def test_debug_tells_memory_cpu_disk_and_what_goes_on(client_with: Callable[[str], AppClient], path: str) -> None:
    operator = Operator(client_with(DOWN))
    found = operator.get(path)
    environment, system, application = (found[part] for part in ("environment", "system", "application"))
    assert environment["python_version"] == environment["python"]
    assert environment["providers"] == {
        "demo": {"kind": "demo", "key_set": False},
        "vendor": {"kind": "openai", "key_set": True},
    }
    assert environment["openai_key_set"] is False
    assert environment["redis_url"].startswith("redis://127.0.0.1:")
    assert system["memory_usage_mb"] > 10
    for name in ("memory_percent", "cpu_percent", "disk_usage_percent"):
        assert 0 <= system[name] <= 100, name
    assert application["active_conversations"] == application["queue_size"] == 0
    assert application["redis"]["reachable"] is True
    assert "sk-vendor-secret-1" not in json.dumps(found)


def test_debug_answers_without_redis(client_with: Callable[[str], AppClient], redis_server: RedisServer) -> None:
    operator = Operator(client_with(DOWN))
    operator.get("/debug")
    redis_server.kill()
    try:
        application = operator.get("/debug")["application"]
    finally:
        redis_server.start()
    assert application["active_conversations"] is None
    assert application["queue_size"] is None
    assert application["redis"]["reachable"] is False


def test_open_conversations_are_counted_until_they_end(client_with: Callable[[str], AppClient]) -> None:
    operator = Operator(client_with(DEMO + "support: {history_ttl_s: 1000}\n"))

    def say(user: str) -> None:
        body = json.dumps({"message": "Hello", "user_id": user})
        assert operator.edge.post(body, path="/v1/chat").status_code == 200

    def conversations() -> int:
        found: int = operator.get("/debug")["application"]["active_conversations"]
        return found

    for user in ("ann", "bob", "ann"):
        say(user)
    assert conversations() == 2
    operator.edge._client.delete("/v1/chat/history/bob", headers={"Authorization": f"Bearer {operator.edge.key}"})
    assert conversations() == 1
    redis = operator.edge.services.redis
    [member] = redis.execute("ZRANGE", "penstock:conversations", 0, -1)
    assert redis.execute("EXISTS", member) == 1
    assert redis.execute("TTL", "penstock:conversations") > 900, "what nobody talks to any more goes away"
    redis.execute("ZADD", "penstock:conversations", 1, member)
    assert conversations() == 0, "forgotten ones do not count"
    say("cid")
    assert redis.execute("ZCARD", "penstock:conversations") == 1, "and are removed"
