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
from tests.support.nginx import Nginx
from tests.support.servers import ADMIN_KEY, DEV_KEY, ROOT, RedisServer, flushed, need, wait_for

_LOAD = re.search(r"^## Load test$.*?^```bash$(.*?)^```$", (ROOT / "docs/performance.md").read_text(), re.M | re.S)
LOAD_TESTS = _LOAD[1].strip().splitlines()[1:] if _LOAD else []
HELLO = {"messages": [{"role": "user", "content": "Hello"}]}


class CurlResult(NamedTuple):
    """An answer that curl got. `location` is empty without a redirect."""

    status: int
    body: str
    location: str

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Installation(NamedTuple):
    """Gateway, worker and ledger, and nginx in front, with the configuration that is shipped."""

    deployment: Deployment
    nginx: Nginx

    def curl(self, where: str, path: str, *options: str, key: str = DEV_KEY) -> CurlResult:
        """`where`: gateway, https, or plain for nginx's port of plain HTTP, where no key is sent."""
        urls = {
            "gateway": f"http://127.0.0.1:{self.deployment.port}",
            "https": f"https://127.0.0.1:{self.nginx.tls_port}",
            "plain": f"http://127.0.0.1:{self.nginx.http_port}",
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
        return CurlResult(int(status), body, location)

    def post(self, where: str, path: str, body: Any, *options: str) -> CurlResult:
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
            Nginx(
                directory / "edge", deployment.port, PER_IP_REQUESTS_PER_SECOND="100000", PER_IP_BURST="100000"
            ) as nginx,
        ):
            yield Installation(deployment, nginx)


both = pytest.mark.parametrize("where", ["gateway", "https"])


@both
def test_a_completion_needs_no_more_than_messages(guide: Installation, where: str) -> None:
    curl_result = guide.post(where, "/api/v1/chat/completions", HELLO)
    assert (curl_result.status, curl_result.json["object"], curl_result.json["choices"][0]["finish_reason"]) == (
        200,
        "chat.completion",
        "stop",
    )
    assert curl_result.json["choices"][0]["message"]["content"]
    assert set(curl_result.json["usage"]) >= {"prompt_tokens", "completion_tokens", "total_tokens"}


@both
def test_a_completion_with_all_that_the_guide_sends_streams_to_its_end(guide: Installation, where: str) -> None:
    body = {**HELLO, "model": "demo", "temperature": 0.7, "max_tokens": 150, "stream": True}
    curl_result = guide.post(where, "/api/v1/chat/completions", body, "-N")
    *events, done = curl_result.body.strip().split("\n\n")
    assert (curl_result.status, done) == (200, "data: [DONE]")
    assert {json.loads(event[6:])["object"] for event in events if event.startswith("data: ")} == {
        "chat.completion.chunk"
    }


@both
def test_the_models_have_a_name_a_description_and_their_longest_answer(guide: Installation, where: str) -> None:
    curl_result = guide.curl(where, "/api/v1/models")
    assert (curl_result.status, curl_result.json["object"]) == (200, "list")
    for model in curl_result.json["data"]:
        assert set(model) >= {"id", "object", "created", "owned_by", "name", "description", "max_tokens"}
    assert {"demo", "gpt-3.5-turbo", "gpt-4"} <= {model["id"] for model in curl_result.json["data"]}


@both
def test_a_request_is_submitted_and_polled_until_it_is_completed(guide: Installation, where: str) -> None:
    submitted = guide.post(where, "/api/v1/chat/async", HELLO)
    assert (submitted.status, submitted.json["status"]) == (202, "queued")
    curl_result = wait_for(lambda: finished_job(guide.curl(where, submitted.json["status_url"])))
    assert (curl_result["status"], curl_result["request_id"]) == ("completed", submitted.json["request_id"])
    assert curl_result["response"]["choices"][0]["message"]["content"]


def finished_job(curl_result: CurlResult) -> Any:
    assert curl_result.status == 200
    return curl_result.json if curl_result.json["status"] not in ("queued", "processing") else None


def test_the_queues_figures(guide: Installation) -> None:
    curl_result = guide.curl("https", "/api/v1/queue/metrics", key=ADMIN_KEY)
    assert curl_result.status == 200
    assert curl_result.json.keys() >= {
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
    curl_result = guide.post(where, "/api/v1/chat", {"message": "How do I return it?", "user_id": f"test-user-{where}"})
    assert (curl_result.status, set(curl_result.json)) == (200, {"response", "user_id", "timestamp", "usage"})
    kept = guide.curl(where, history)
    assert (kept.status, kept.json["message_count"]) == (200, 2)
    assert kept.json["messages"][0] == {"role": "user", "content": "How do I return it?"}
    assert guide.curl(where, history, "-X", "DELETE").json["message_count"] == 0
    assert guide.curl(where, history).json["messages"] == []


def test_the_support_assistant_answers_who_has_no_name(guide: Installation) -> None:
    curl_result = guide.post("https", "/api/v1/chat", {"message": "Hello"})
    assert (curl_result.status, curl_result.json["user_id"]) == (200, "anonymous")
    assert guide.curl("https", "/api/v1/chat/history/anonymous").json["message_count"] == 0


@pytest.mark.parametrize("where", ["gateway", "https", "plain"])
@pytest.mark.parametrize("path", ["/health", "/healthz", "/ready", "/api/v1/health", "/api/v1/ready"])
def test_a_load_balancer_asks_without_a_key_over_http_and_https(guide: Installation, where: str, path: str) -> None:
    curl_result = guide.curl(where, path, key="")
    assert (curl_result.status, curl_result.json["status"]) == (200, "ready" if path.endswith("ready") else "healthy")


def test_plain_http_leads_to_https_and_a_key_in_clear_is_refused(guide: Installation) -> None:
    sent_on = guide.curl("plain", "/api/v1/models")
    assert (sent_on.status, sent_on.location) == (308, "https://127.0.0.1/api/v1/models")
    refused = guide.post("plain", "/api/v1/chat", {"message": "Hello"}, "-H", f"Authorization: Bearer {DEV_KEY}")
    assert (refused.status, refused.json["code"], refused.location) == (403, "FORBIDDEN", "")
    assert "revoke it" in refused.json["error"]["message"]


def test_what_is_used_is_reported_by_user_endpoint_provider_tenant_and_day(guide: Installation) -> None:
    guide.post("https", "/api/v1/chat", {"message": "Hello", "user_id": "reported-user"})
    guide.deployment.quiet(20)
    for by in ("user", "endpoint", "provider", "tenant", "session", "agent", "day", "model", "key"):
        curl_result = guide.curl("https", f"/api/v1/admin/usage?by={by}", key=ADMIN_KEY)
        assert (curl_result.status, curl_result.json["by"]) == (200, by)
        rows = json.loads(guide.flask("usage", "--by", by, "--format", "json"))
        assert [row["calls"] for row in rows] == [row["calls"] for row in curl_result.json["data"]] != []
        assert sum(row["calls"] for row in rows) == curl_result.json["total"]["calls"]
        if by == "user":
            assert [row["calls"] for row in rows if row["user"] == "reported-user"] == [1]
    assert guide.curl("https", "/api/v1/admin/usage").status == 403, "only for administrators"


def test_the_health_of_each_part_with_the_queues_fullness(guide: Installation) -> None:
    for path in ("/health/detailed", "/api/v1/health/detailed"):
        curl_result = guide.curl("https", path, key=ADMIN_KEY)
        assert (curl_result.status, curl_result.json["status"]) == (200, "healthy")
        checks = curl_result.json["checks"]
        assert {"redis", "database", "queue", "provider:demo"} <= set(checks)
        assert checks["queue"].items() >= {"status": "healthy", "current_size": 0, "utilization_percent": 0}.items()
        assert checks["queue"]["max_size"] > 0
        assert all(check["response_time_seconds"] >= 0 for check in checks.values())
        assert guide.curl("https", path).status == 403


def test_debug_tells_memory_conversations_and_redis_from_inside_only(guide: Installation) -> None:
    guide.post("gateway", "/api/v1/chat", {"message": "Hello", "user_id": "talking"})
    curl_result = guide.curl("gateway", "/api/v1/debug", key=ADMIN_KEY)
    assert (curl_result.status, set(curl_result.json)) == (200, {"environment", "system", "application"})
    environment, system, application = (
        curl_result.json["environment"],
        curl_result.json["system"],
        curl_result.json["application"],
    )
    assert environment.keys() >= {"python_version", "openai_key_set", "redis_url"}
    assert environment["openai_key_set"] is False
    for figure in ("memory_usage_mb", "memory_percent", "cpu_percent", "disk_usage_percent"):
        assert system[figure] >= 0, figure
    assert (application["active_conversations"] >= 1, application["queue_size"]) == (True, 0)
    assert application["redis"]["reachable"] is True
    assert not any(secret in curl_result.body for secret in (DEV_KEY, ADMIN_KEY))
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
        url = f"https://127.0.0.1:{guide.nginx.tls_port}"
    told = command.replace("http://127.0.0.1:8000", url)
    assert told != command
    env = {"PATH": os.environ["PATH"], "PENSTOCK_KEY": DEV_KEY}
    result = subprocess.run(told, shell=True, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    curl_result = result.stdout
    assert result.returncode == 0, result.stderr
    assert "Non-2xx" not in curl_result
    if program == "ab":
        assert re.search(r"^Complete requests: +50$", curl_result, re.M), curl_result
        assert re.search(r"^Failed requests: +0$", curl_result, re.M), curl_result
    elif program == "hey":
        assert re.findall(r"^ +\[(\d+)\]\s+(\d+) responses$", curl_result, re.M) == [("200", "50")], curl_result
    else:
        assert int(re.findall(r"^ +(\d+) requests in", curl_result, re.M)[0]) > 20, curl_result
        assert "Socket errors" not in curl_result


def test_the_docs_have_three_load_tests_and_a_message_every_call_can_send() -> None:
    assert [command.partition(" ")[0] for command in LOAD_TESTS] == ["ab", "hey", "wrk"]
    message = json.loads((ROOT / "test_message.json").read_text())
    assert message == {"message": "Hello, how can you help me?", "user_id": "anonymous"}
