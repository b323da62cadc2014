"""The commands of the guide that this API follows, as a reader types them, to a whole installation behind nginx."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest

from tests.support.deployment import Deployment
from tests.support.edge import Edge
from tests.support.servers import ADMIN_KEY, DEV_KEY, ROOT, RedisServer, flushed, need, wait_for

_LOAD = re.search(r"^## Load test$.*?^```bash$(.*?)^```$", (ROOT / "docs/performance.md").read_text(), re.M | re.S)
LOAD_TESTS = _LOAD[1].strip().splitlines()[1:] if _LOAD else []
HELLO = {"messages": [{"role": "user", "content": "Hello"}]}


class Said(NamedTuple):
    """What curl got. `location` is empty where nobody is sent elsewhere."""

    status: int
    body: str
    location: str

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Installation(NamedTuple):
    """Gateway, worker and ledger, and nginx in front, with the configuration that is shipped."""

    deployment: Deployment
    edge: Edge

    def curl(self, where: str, path: str, *options: str, key: str = DEV_KEY) -> Said:
        """`where`: gateway, https, or plain for nginx's port of plain HTTP, where no key is sent."""
        urls = {
            "gateway": f"http://127.0.0.1:{self.deployment.port}",
            "https": f"https://127.0.0.1:{self.edge.tls_port}",
            "plain": f"http://127.0.0.1:{self.edge.http_port}",
        }
        sent = [] if where == "plain" else ["-H", f"Authorization: Bearer {key}"]
        after = "\n%{http_code} %{redirect_url}"
        result = subprocess.run(
            ["curl", "-sk", "-w", after, urls[where] + path, *sent, *options],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        body, _, last = result.stdout.rpartition("\n")
        status, _, location = last.partition(" ")
        return Said(int(status), body, location)

    def post(self, where: str, path: str, body: Any, *options: str) -> Said:
        return self.curl(where, path, "-H", "Content-Type: application/json", "-d", json.dumps(body), *options)

    def flask(self, *command: str) -> str:
        flask = [str(Path(sys.executable).parent / "flask"), "--app", "app", *command]
        env = self.deployment.server.env
        return subprocess.run(flask, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.fixture(scope="module")
def guide(redis_server: RedisServer) -> Iterator[Installation]:
    need("curl", "curl")
    flushed(redis_server.url)
    with TemporaryDirectory() as name:
        directory = Path(name)
        shutil.copytree(ROOT / "config/prompts", directory / "here/prompts")
        config, prices = ((ROOT / "config" / f"{name}.yaml").read_text() for name in ("gateway", "prices"))
        with (
            Deployment(directory / "here", config, redis_url=redis_server.url, prices=prices) as deployment,
            # wrk has an idle machine make more calls in its two seconds than an address may.
            Edge(
                directory / "edge", deployment.port, PER_IP_REQUESTS_PER_SECOND="100000", PER_IP_BURST="100000"
            ) as edge,
        ):
            yield Installation(deployment, edge)


both = pytest.mark.parametrize("where", ["gateway", "https"])


@both
def test_a_completion_needs_no_more_than_messages(guide: Installation, where: str) -> None:
    said = guide.post(where, "/api/v1/chat/completions", HELLO)
    assert (said.status, said.json["object"], said.json["choices"][0]["finish_reason"]) == (
        200,
        "chat.completion",
        "stop",
    )
    assert said.json["choices"][0]["message"]["content"]
    assert set(said.json["usage"]) >= {"prompt_tokens", "completion_tokens", "total_tokens"}


@both
def test_a_completion_with_all_that_the_guide_sends_streams_to_its_end(guide: Installation, where: str) -> None:
    body = {**HELLO, "model": "demo", "temperature": 0.7, "max_tokens": 150, "stream": True}
    said = guide.post(where, "/api/v1/chat/completions", body, "-N")
    *events, done = said.body.strip().split("\n\n")
    assert (said.status, done) == (200, "data: [DONE]")
    assert {json.loads(event[6:])["object"] for event in events if event.startswith("data: ")} == {
        "chat.completion.chunk"
    }


@both
def test_the_models_have_a_name_a_description_and_their_longest_answer(guide: Installation, where: str) -> None:
    said = guide.curl(where, "/api/v1/models")
    assert (said.status, said.json["object"]) == (200, "list")
    for model in said.json["data"]:
        assert set(model) >= {"id", "object", "created", "owned_by", "name", "description", "max_tokens"}
    assert {"demo", "gpt-3.5-turbo", "gpt-4"} <= {model["id"] for model in said.json["data"]}


@both
def test_a_request_is_submitted_and_polled_until_it_is_completed(guide: Installation, where: str) -> None:
    submitted = guide.post(where, "/api/v1/chat/async", HELLO)
    assert (submitted.status, submitted.json["status"]) == (202, "queued")
    said = wait_for(lambda: ended(guide.curl(where, submitted.json["status_url"])))
    assert (said["status"], said["request_id"]) == ("completed", submitted.json["request_id"])
    assert said["response"]["choices"][0]["message"]["content"]


def ended(said: Said) -> Any:
    assert said.status == 200
    return said.json if said.json["status"] not in ("queued", "processing") else None


def test_the_queues_figures(guide: Installation) -> None:
    said = guide.curl("https", "/api/v1/queue/metrics", key=ADMIN_KEY)
    assert said.status == 200
    assert said.json.keys() >= {
        "queue_size",
        "max_queue_size",
        "active_workers",
        "active_requests",
        "oldest_seconds",
        "redis_memory_usage",
        "redis_connected_clients",
    }
    assert guide.curl("https", "/api/v1/queue/metrics").status == 403


@both
def test_the_support_assistant_remembers_a_user_until_it_is_told_to_forget(guide: Installation, where: str) -> None:
    history = f"/api/v1/chat/history/test-user-{where}"
    said = guide.post(where, "/api/v1/chat", {"message": "How do I return it?", "user_id": f"test-user-{where}"})
    assert (said.status, set(said.json)) == (200, {"response", "user_id", "timestamp", "usage"})
    kept = guide.curl(where, history)
    assert (kept.status, kept.json["message_count"]) == (200, 2)
    assert kept.json["messages"][0] == {"role": "user", "content": "How do I return it?"}
    assert guide.curl(where, history, "-X", "DELETE").json["message_count"] == 0
    assert guide.curl(where, history).json["messages"] == []


def test_the_support_assistant_answers_who_has_no_name(guide: Installation) -> None:
    said = guide.post("https", "/api/v1/chat", {"message": "Hello"})
    assert (said.status, said.json["user_id"]) == (200, "anonymous")
    assert guide.curl("https", "/api/v1/chat/history/anonymous").json["message_count"] == 0


@pytest.mark.parametrize("where", ["gateway", "https", "plain"])
@pytest.mark.parametrize("path", ["/health", "/healthz", "/ready", "/api/v1/health", "/api/v1/ready"])
def test_a_load_balancer_asks_without_a_key_over_http_and_https(guide: Installation, where: str, path: str) -> None:
    said = guide.curl(where, path, key="")
    assert (said.status, said.json["status"]) == (200, "ready" if path.endswith("ready") else "healthy")


def test_plain_http_leads_to_https_and_a_key_in_clear_is_refused(guide: Installation) -> None:
    sent_on = guide.curl("plain", "/api/v1/models")
    assert (sent_on.status, sent_on.location) == (308, "https://127.0.0.1/api/v1/models")
    refused = guide.post("plain", "/api/v1/chat", {"message": "Hello"}, "-H", f"Authorization: Bearer {DEV_KEY}")
    assert (refused.status, refused.json["code"], refused.location) == (403, "FORBIDDEN", "")
    assert "revoke it" in refused.json["error"]["message"]


def test_what_is_used_is_reported_by_user_endpoint_provider_tenant_and_day(guide: Installation) -> None:
    guide.post("https", "/api/v1/chat", {"message": "Hello", "user_id": "reported-user"})
    guide.deployment.quiet(20)
    for by in ("user", "endpoint", "provider", "tenant", "day", "model", "key"):
        said = guide.curl("https", f"/api/v1/admin/usage?by={by}", key=ADMIN_KEY)
        assert (said.status, said.json["by"]) == (200, by)
        rows = json.loads(guide.flask("usage", "--by", by, "--format", "json"))
        assert [row["calls"] for row in rows] == [row["calls"] for row in said.json["data"]] != []
        assert sum(row["calls"] for row in rows) == said.json["total"]["calls"]
        if by == "user":
            assert [row["calls"] for row in rows if row["user"] == "reported-user"] == [1]
    assert guide.curl("https", "/api/v1/admin/usage").status == 403, "only for administrators"


def test_the_health_of_each_part_with_the_queues_fullness(guide: Installation) -> None:
    for path in ("/health/detailed", "/api/v1/health/detailed"):
        said = guide.curl("https", path, key=ADMIN_KEY)
        assert (said.status, said.json["status"]) == (200, "healthy")
        checks = said.json["checks"]
        assert {"redis", "database", "queue", "provider:demo"} <= set(checks)
        assert checks["queue"].items() >= {"status": "healthy", "current_size": 0, "utilization_percent": 0}.items()
        assert checks["queue"]["max_size"] > 0
        assert all(check["response_time_seconds"] >= 0 for check in checks.values())
        assert guide.curl("https", path).status == 403


def test_debug_tells_memory_conversations_and_redis_from_inside_only(guide: Installation) -> None:
    guide.post("gateway", "/api/v1/chat", {"message": "Hello", "user_id": "talking"})
    said = guide.curl("gateway", "/api/v1/debug", key=ADMIN_KEY)
    assert (said.status, set(said.json)) == (200, {"environment", "system", "application"})
    environment, system, application = said.json["environment"], said.json["system"], said.json["application"]
    assert environment.keys() >= {"python_version", "openai_key_set", "redis_url"}
    assert environment["openai_key_set"] is False
    for figure in ("memory_usage_mb", "memory_percent", "cpu_percent", "disk_usage_percent"):
        assert system[figure] >= 0, figure
    assert (application["active_conversations"] >= 1, application["queue_size"]) == (True, 0)
    assert application["redis"]["reachable"] is True
    assert not any(secret in said.body for secret in (DEV_KEY, ADMIN_KEY))
    assert guide.curl("gateway", "/api/v1/debug").status == 403
    assert guide.curl("https", "/api/v1/debug", key=ADMIN_KEY).status == 404
    assert guide.curl("https", "/metrics", key=ADMIN_KEY).status == 404
    assert "llm_requests_total" in guide.curl("gateway", "/metrics").body


@both
@pytest.mark.parametrize("command", LOAD_TESTS, ids=lambda command: command.partition(" ")[0])
def test_the_load_tests_of_the_docs_run_without_one_failure(guide: Installation, where: str, command: str) -> None:
    program = command.partition(" ")[0]
    need(program, "apache2-utils" if program == "ab" else program)
    url = f"http://127.0.0.1:{guide.deployment.port}"
    if where == "https":
        url = f"https://127.0.0.1:{guide.edge.tls_port}"
    told = command.replace("http://127.0.0.1:8000", url)
    assert told != command
    env = {"PATH": os.environ["PATH"], "PENSTOCK_KEY": DEV_KEY}
    result = subprocess.run(told, shell=True, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    said = result.stdout
    assert result.returncode == 0, result.stderr
    assert "Non-2xx" not in said
    if program == "ab":
        assert re.search(r"^Complete requests: +50$", said, re.M), said
        assert re.search(r"^Failed requests: +0$", said, re.M), said
    elif program == "hey":
        assert re.findall(r"^ +\[(\d+)\]\s+(\d+) responses$", said, re.M) == [("200", "50")], said
    else:
        assert int(re.findall(r"^ +(\d+) requests in", said, re.M)[0]) > 20, said
        assert "Socket errors" not in said


def test_the_docs_have_three_load_tests_and_a_message_every_call_can_send() -> None:
    assert [command.partition(" ")[0] for command in LOAD_TESTS] == ["ab", "hey", "wrk"]
    message = json.loads((ROOT / "test_message.json").read_text())
    assert message == {"message": "Hello, how can you help me?", "user_id": "anonymous"}
