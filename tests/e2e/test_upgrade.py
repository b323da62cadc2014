"""An upgrade with everything in flight: what the version before has left in Redis, SQLite and on disk is carried on.

The old version is taken from the project's history. It is killed whole, with calls, a stream, queued and running jobs
and a batch on their way, rows not yet in the ledger and settlements on disk; the new one is started on what it left.
"""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from openai import OpenAI

from app.store.spool_files import backlog
from tests.support.client import ask, chat, post
from tests.support.deployment import Deployment
from tests.support.servers import ROOT, RedisServer, wait_for
from tests.support.upstream import Upstream

# The version that is upgraded: the last commit that knew one dialect of callers and vendors.
BEFORE = "d4476fb2499f6c5b2b77577f440783acf030c176"
LINES = 12
CONFIG = """
providers:
  up: {{kind: openai, base_url: {url}}}
models:
  usage-10-5: {{targets: [{{provider: up}}]}}
  slow-300: {{targets: [{{provider: up}}]}}
  slow-1000: {{targets: [{{provider: up}}]}}
  slow-2000: {{targets: [{{provider: up}}]}}
  slow-60000: {{targets: [{{provider: up}}]}}
  stream-500-100: {{targets: [{{provider: up}}]}}
plans:
  default: {{requests_per_day: 1000, tokens_per_day: 1000000, budget_usd_per_month: 1000, concurrency: 50}}
queue: {{lease_s: 3}}
reserve: {{worker_timeout_s: 3}}
"""
PRICES = 'up: {"*": {prompt: 1, completion: 2}}'


@pytest.fixture(scope="module")
def old_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    archive = subprocess.run(["git", "archive", BEFORE], cwd=ROOT, capture_output=True, timeout=60)
    if archive.returncode:
        pytest.skip(f"the history of this copy does not reach back to {BEFORE}")
    tree = tmp_path_factory.mktemp("before")
    subprocess.run(["tar", "-x", "-C", tree], input=archive.stdout, check=True, timeout=60)
    return tree


def statuses(deployment: Deployment, key: str, jobs: list[str]) -> Counter[str]:
    return Counter(ask(deployment.port, f"/v1/requests/{job}", key).json["status"] for job in jobs)


def done_lines(client: OpenAI, batch_id: str) -> int:
    counts = client.batches.retrieve(batch_id).request_counts
    return counts.completed if counts else 0


def test_what_the_version_before_had_in_flight_is_carried_on(
    old_tree: Path, tmp_path: Path, own_redis: RedisServer, upstream: Upstream
) -> None:
    config = CONFIG.format(url=upstream.url)
    start = partial(Deployment, tmp_path / "penstock", config, redis_url=own_redis.url, prices=PRICES)
    pool = ThreadPoolExecutor(20)
    with start(tree=old_tree) as old:
        key = old.server.create_key()
        assert [post(old.port, chat("usage-10-5"), key).status for _ in range(3)] == [200, 200, 200]
        assert post(old.port, chat("usage-10-5", temperature=0), key).headers["x-penstock-cache"] == "miss"
        client = OpenAI(base_url=f"{old.server.url}/v1", api_key=key, max_retries=0)
        lines = [
            {
                "custom_id": f"line-{n}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": chat("slow-300", str(n)),
            }
            for n in range(LINES)
        ]
        file = client.files.create(file=("in.jsonl", "\n".join(map(json.dumps, lines)).encode()), purpose="batch")
        batch_id = client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        ).id
        wait_for(lambda: done_lines(client, batch_id), timeout_s=60)
        old.suspend("ledger")
        assert post(old.port, chat("usage-10-5"), key).status == 200
        assert old.services.outbox.depth(), "its row stays in the outbox"
        submitted = [
            post(old.port, chat("slow-1000", f"job {n}"), key, path="/v1/chat/async").json["request_id"]
            for n in range(30)
        ]
        in_flight = Counter({"slow-1000": 1, "slow-60000": 1, "stream-500-100": 1, "slow-2000": 4})
        asked = [
            pool.submit(post, old.port, chat("slow-60000"), key),
            pool.submit(post, old.port, chat("stream-500-100", stream=True), key),
            *(pool.submit(post, old.port, chat("slow-2000", f"call {n}"), key) for n in range(4)),
        ]
        wait_for(lambda: in_flight <= Counter(upstream.served()["by_model"]))
        depth = old.services.queue.depth()
        assert depth.waiting, "jobs that nobody has begun"
        assert depth.running, "jobs whose worker is about to die"
        # From here on Redis takes nothing: settlements go to the disk.
        old.services.redis.execute("CONFIG", "SET", "min-replicas-to-write", "1")
        wait_for(lambda: backlog(old.data_dir / "spool").bytes)
        old.power_off()
    own_redis.stop()  # what it was told to refuse goes with it, its data stays
    own_redis.start()

    with start() as new:
        assert post(new.port, chat("usage-10-5", temperature=0), key).headers["x-penstock-cache"] == "hit"
        client = OpenAI(base_url=f"{new.server.url}/v1", api_key=key, max_retries=0)
        wait_for(lambda: client.batches.retrieve(batch_id).status == "completed", timeout_s=60)
        wait_for(lambda: statuses(new, key, submitted) == {"completed": 30}, timeout_s=60)
        new.quiet(60)
        output = client.files.content(client.batches.retrieve(batch_id).output_file_id or "").text.splitlines()
        assert sorted(json.loads(line)["custom_id"] for line in output) == sorted(f"line-{n}" for n in range(LINES))
        rows = new.server.rows()
        assert Counter(row["model"] for row in rows) == {
            "usage-10-5": 6,
            "slow-300": LINES,
            "slow-1000": 30,
            "slow-2000": 4,
            "slow-60000": 1,
            "stream-500-100": 1,
        }
        assert {row["status"] for row in rows if row["model"] in ("slow-60000", "stream-500-100")} == {"lost"}
        assert new.mismatches() == []
        assert new.tracebacks() == []
    assert all(call.done() for call in asked)
