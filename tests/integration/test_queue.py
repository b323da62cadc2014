"""The queue with everything real: gunicorn, Dramatiq, Redis, a played vendor and a server that gets callbacks."""

from __future__ import annotations

import http.server
import json
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from tests.support.client import Answer, ask, chat, in_parallel, post
from tests.support.servers import ADMIN_KEY, DEV_KEY, Gateway, RedisServer, free_port, wait_for
from tests.support.upstream import Upstream
from tests.support.workers import QueueWorker

CONFIG = """
providers:
  up: {{kind: openai, base_url: {url}}}
models:
  plain: {{targets: [{{provider: up}}]}}
  slow-200: {{targets: [{{provider: up}}]}}
  slow-1500: {{targets: [{{provider: up}}]}}
  silent: {{targets: [{{provider: up}}]}}
queue: {{lease_s: 2, max_jobs: {max_jobs}, retry_backoff_s: 0.1, callback_allow: [127.0.0.1]}}
"""


@pytest.fixture
def server(gateway: Callable[..., Gateway], upstream: Upstream) -> Gateway:
    return gateway(CONFIG.format(url=upstream.url, max_jobs=500))


def submit(server: Gateway, model: str = "plain", *, key: str = DEV_KEY, **more: Any) -> Answer:
    return post(server.port, chat(model, **more), key, path="/v1/chat/async")


def submitted(server: Gateway, model: str = "plain", **more: Any) -> str:
    answer = submit(server, model, **more)
    assert answer.status == 202, answer.body
    return str(answer.json["request_id"])


def job(server: Gateway, job_id: str, key: str = DEV_KEY) -> Any:
    return ask(server.port, f"/v1/requests/{job_id}", key).json


def finished_job(server: Gateway, job_id: str, key: str = DEV_KEY, timeout_s: float = 20) -> Any:
    """The job once it has ended."""
    final = ("completed", "failed", "cancelled")
    return wait_for(
        lambda: found if (found := job(server, job_id, key))["status"] in final else None, timeout_s=timeout_s
    )


def test_a_job_runs_and_a_running_one_is_cancelled_within_a_second(server: Gateway) -> None:
    with QueueWorker(server):
        done = finished_job(server, submitted(server))
        assert done["response"]["choices"][0]["message"]["content"] == "Hello there."
        job_id = submitted(server, "silent")
        wait_for(lambda: job(server, job_id)["status"] == "processing")
        began = time.monotonic()
        assert ask(server.port, f"/v1/requests/{job_id}", DEV_KEY, method="DELETE").status == 202
        assert finished_job(server, job_id)["status"] == "cancelled"
        assert time.monotonic() - began < 1.5
    server.drained()
    assert sorted(row["status"] for row in server.rows()) == ["aborted", "ok"]


def test_a_killed_workers_jobs_run_again_and_are_charged_once(server: Gateway, upstream: Upstream) -> None:
    worker = QueueWorker(server, threads=50).start()
    ids = [submitted(server, "slow-1500") for _ in range(50)]
    wait_for(lambda: upstream.served().get("calls") == 50)
    worker.kill()
    began = time.monotonic()
    with QueueWorker(server, threads=50):
        done = [finished_job(server, job_id, timeout_s=40) for job_id in ids]
    assert {found["status"] for found in done} == {"completed"}
    assert {found["attempts"] for found in done} == {2}
    assert time.monotonic() - began < 30
    server.drained()
    rows = server.rows()
    assert sorted(row["call_id"] for row in rows) == sorted(ids)
    assert {row["status"] for row in rows} == {"ok"}


def test_a_worker_told_to_stop_ends_what_it_runs_and_takes_no_more(server: Gateway, upstream: Upstream) -> None:
    worker = QueueWorker(server, threads=2).start()
    ids = [submitted(server, "slow-1500") for _ in range(4)]
    wait_for(lambda: upstream.served().get("calls") == 2)
    assert worker.stop() == 0
    states = [job(server, job_id)["status"] for job_id in ids]
    assert states == ["completed", "completed", "queued", "queued"]
    with QueueWorker(server):
        assert [finished_job(server, job_id)["attempts"] for job_id in ids] == [1, 1, 1, 1]


def test_a_full_queue_outlives_a_restart_of_redis(
    gateway: Callable[..., Gateway], upstream: Upstream, redis_server: RedisServer
) -> None:
    server = gateway(CONFIG.format(url=upstream.url, max_jobs=40))
    with QueueWorker(server, threads=4):
        answers = in_parallel([lambda: submit(server, "slow-200")] * 80, threads=8)
        taken = [answer.json["request_id"] for answer in answers if answer.status == 202]
        assert {answer.status for answer in answers} == {202, 503}
        assert len(taken) >= 40
        redis_server.stop()
        redis_server.start()
        wait_for(server.ready)
        done = [finished_job(server, job_id, timeout_s=40) for job_id in taken]
        assert {found["status"] for found in done} == {"completed"}
    server.drained()
    assert sorted(row["call_id"] for row in server.rows()) == sorted(taken)


def test_submits_against_a_full_queue_are_refused_cheaply_and_keep_nothing(
    gateway: Callable[..., Gateway], upstream: Upstream
) -> None:
    server = gateway(CONFIG.format(url=upstream.url, max_jobs=500))
    body = json.dumps(chat("plain")).encode()
    answers = in_parallel([lambda: _many_submits(server, body, 1250)] * 8, threads=8)
    statuses = [status for part in answers for status in part]
    assert len(statuses) == 10_000
    assert (statuses.count(202), statuses.count(503)) == (500, 9_500)
    assert server.services.queue.depth().waiting == 500
    with QueueWorker(server, threads=50):
        wait_for(lambda: server.services.queue.depth().waiting == 0, timeout_s=60)
        server.drained()
    assert len(server.rows()) == 500


def _many_submits(server: Gateway, body: bytes, count: int) -> list[int]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    headers = {"Authorization": f"Bearer {DEV_KEY}", "Content-Type": "application/json"}
    statuses = []
    for _ in range(count):
        connection.request("POST", "/v1/chat/async", body, headers)
        answer = connection.getresponse()
        answer.read()
        statuses.append(answer.status)
    connection.close()
    return statuses


def test_a_flood_of_one_key_leaves_another_its_turn(gateway: Callable[..., Gateway], upstream: Upstream) -> None:
    server = gateway(CONFIG.format(url=upstream.url, max_jobs=2000))
    quiet, flooding = server.create_key("quiet"), server.create_key("flooding")

    def ten() -> float:
        began = time.monotonic()
        for job_id in [submitted(server, "slow-200", key=quiet) for _ in range(10)]:
            assert finished_job(server, job_id, key=quiet)["status"] == "completed"
        return time.monotonic() - began

    with QueueWorker(server, threads=10):
        alone = ten()
        in_parallel([lambda: submitted(server, "slow-200", key=flooding)] * 1000, threads=8)
        beside = ten()
        assert server.services.queue.depth().waiting > 50, "the flood was over too early to tell"
    print(f"ten alone {alone:.2f} s, beside 1,000 of another key {beside:.2f} s")
    assert beside < 3 * alone, f"alone {alone:.2f} s, beside a flood {beside:.2f} s"


@pytest.fixture
def hook() -> Iterator[Any]:
    """A server that is told of jobs; its first answer is a 500."""
    told: list[tuple[dict[str, str], bytes]] = []

    class CallbackReceiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            told.append(({k.lower(): v for k, v in self.headers.items()}, body))
            self.send_response(500 if len(told) == 1 else 204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), CallbackReceiver)
    listening.told = told  # type: ignore[attr-defined]
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    yield listening
    listening.shutdown()
    thread.join()
    listening.server_close()


def test_a_callback_is_delivered_signed_and_again_when_it_failed(
    gateway: Callable[..., Gateway], upstream: Upstream, hook: Any
) -> None:
    secret = "whsec_c2VjcmV0IGZvciB0aGUgdGVzdHMgb2YgY2FsbGJhY2tz"
    server = gateway(CONFIG.format(url=upstream.url, max_jobs=10), env={"CALLBACK_SECRET": secret})
    url = f"http://127.0.0.1:{hook.server_port}/done"
    refused = submit(server, callback_url="http://169.254.169.254/latest/meta-data/")
    assert (refused.status, refused.json["error"]["param"]) == (400, "callback_url")
    with QueueWorker(server):
        job_id = submitted(server, callback_url=url)
        wait_for(lambda: len(hook.told) == 2)
    (first, body), (second, again) = hook.told
    assert body == again
    assert first["webhook-id"] == second["webhook-id"]
    openai.OpenAI(api_key="unused").webhooks.verify_signature(again, second, secret=secret)
    event = json.loads(body)
    assert event["type"] == "request.completed"
    assert event["data"]["request_id"] == job_id
    assert event["data"]["response"]["choices"][0]["message"]["content"] == "Hello there."
    # The vendor is not told of the callback.
    assert b"callback_url" not in json.dumps(event["data"]["response"]).encode()


def test_operators_see_the_queue_in_figures(server: Gateway) -> None:
    port = free_port()
    with QueueWorker(server, threads=3, WORKER_PORT=str(port)):
        finished_job(server, submitted(server))
        held = submitted(server, "silent")
        wait_for(lambda: job(server, held)["status"] == "processing")
        figures = ask(server.port, "/v1/queue/metrics", ADMIN_KEY).json
        assert figures["redis_memory_usage"] > 0
        assert figures["redis_connected_clients"] > 0
        del figures["redis_memory_usage"], figures["redis_connected_clients"]
        assert figures == {
            "queue_size": 0,
            "max_queue_size": 500,
            "active_workers": 1,
            "active_requests": 1,
            "oldest_seconds": 0.0,
        }
        assert ask(server.port, "/v1/queue/metrics", DEV_KEY).status == 403
        gateways = ask(server.port, "/metrics", "").body.decode()
        for line in (
            "llm_queue_capacity 500.0",
            "llm_queue_active_requests 1.0",
            "llm_queue_slots 3.0",
            "llm_queue_size 0.0",
        ):
            assert line in gateways
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            workers = answer.read().decode()
        assert 'llm_requests_total{model="plain",provider="up",status="ok"} 1.0' in workers
        assert "llm_active_requests 1.0" in workers
        for name in ("process_resident_memory_bytes", "system_memory_limit_bytes", "system_filesystem_usage_bytes"):
            assert f"\n{name} " in workers, "its container is another one than the gateway's"
        ask(server.port, f"/v1/requests/{held}", DEV_KEY, method="DELETE")
