"""Prometheus' view of two workers, through load and a restart."""

from __future__ import annotations

import os
import re
import signal
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import partial

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.client import chat, in_parallel, post
from tests.support.servers import DEV_KEY, Gateway, wait_for
from tests.support.upstream import Upstream

CONFIG = """
providers:
  up: {{kind: openai, base_url: {url}}}
models: {{usage-10-5: {{targets: [{{provider: up}}]}}, stream-200-20: {{targets: [{{provider: up}}]}}}}
"""


def scrape(server: Gateway) -> dict[str, dict[str, float]]:
    """Series by name, then by their labels."""
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    series: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))
            series.setdefault(sample.name, {})[labels] = sample.value
    return series


def scraped(server: Gateway, name: str, labels: str, value: float) -> dict[str, dict[str, float]]:
    """A scrape in which the series has that value: workers write their figures four times a second."""

    def look() -> dict[str, dict[str, float]] | None:
        found = scrape(server)
        return found if found.get(name, {}).get(labels) == value else None

    found: dict[str, dict[str, float]] = wait_for(look, timeout_s=5, message=f"{name}{{{labels}}} never was {value}")
    return found


def test_bug_13_counters_never_run_backwards_and_dead_gauges_go(
    gateway: Callable[..., Gateway], upstream: Upstream
) -> None:
    server = gateway(CONFIG.format(url=upstream.url), prices='up: {"*": {prompt: 1, completion: 2}}')
    in_parallel([partial(post, server.port, chat("usage-10-5"), DEV_KEY)] * 60)
    labels = "model=usage-10-5,provider=up,status=ok"
    before = scraped(server, "llm_requests_total", labels, 60)
    assert before["llm_tokens_total"]["kind=prompt,model=usage-10-5"] == 600
    assert abs(before["llm_cost_usd_total"]["model=usage-10-5,provider=up"] - 60 * 0.00002) < 1e-9
    assert before["llm_active_requests"][""] == 0

    victims = set(server.worker_pids())
    in_parallel([partial(post, server.port, chat("stream-200-20", stream=True), DEV_KEY, hang_up_after=1)] * 4)
    for pid in victims:
        os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not victims & set(server.worker_pids()) and server.ready())
    after = scraped(server, "llm_active_requests", "", 0)
    for name in ("llm_requests_total", "llm_tokens_total", "llm_request_duration_seconds_count"):
        for series, value in before[name].items():
            assert after[name][series] >= value, (name, series)
    assert post(server.port, chat("usage-10-5"), DEV_KEY).status == 200
    scraped(server, "llm_requests_total", labels, 61)


def test_processes_and_their_limits_are_reported_for_all_workers_together(
    gateway: Callable[..., Gateway], upstream: Upstream
) -> None:
    server = gateway(CONFIG.format(url=upstream.url))
    pids = [server.master_pid, *server.worker_pids()]

    def figures() -> dict[str, float]:
        found = scrape(server)
        names = [name for name in found if name.startswith(("process_", "system_"))]
        assert {tuple(found[name]) for name in names} == {("",)}, (
            "no label: a pid would be a new series with each worker"
        )
        return {name: found[name][""] for name in names}

    before = figures()
    assert set(before) == {
        "process_resident_memory_bytes",
        "process_cpu_seconds_total",
        "process_open_fds",
        "system_memory_usage_bytes",
        "system_memory_limit_bytes",
        "system_cpu_time_seconds_total",
        "system_cpu_limit_cores",
        "system_filesystem_usage_bytes",
        "system_filesystem_limit_bytes",
    }
    resident = sum(psutil.Process(pid).memory_info().rss for pid in pids)
    assert 0.8 * resident < before["process_resident_memory_bytes"] < 1.2 * resident
    assert before["system_memory_usage_bytes"] < before["system_memory_limit_bytes"]
    seen = [before["process_cpu_seconds_total"]]
    for victim in pids[1:]:
        in_parallel([partial(post, server.port, chat("usage-10-5"), DEV_KEY)] * 30)
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda victim=victim: victim not in server.worker_pids() and server.ready())
        seen.append(figures()["process_cpu_seconds_total"])
    assert seen == sorted(seen), "the time of workers that are no more stays in the sum"
    assert seen[-1] > seen[0]


def test_bug_12_no_label_takes_what_callers_choose(gateway: Callable[..., Gateway], upstream: Upstream) -> None:
    server = gateway(CONFIG.format(url=upstream.url))
    key = server.create_key("a-name")
    for i in range(20):
        post(server.port, chat(f"no-such-model-{i}", user=f"user-{i}"), key)
        post(server.port, chat("usage-10-5", user=f"user-{i}"), key, path=f"/v1/path-{i}")
    routes = "method=POST,route=unmatched,status=404"
    series = scraped(server, "http_request_duration_seconds_count", routes, 20)
    text = repr(series)
    assert not re.search(r"no-such-model|user-\d|path-\d|pstk_|a-name", text)
    assert [labels for labels in series["http_request_duration_seconds_count"] if "unmatched" in labels] == [routes]


def test_what_alerts_ask_the_increase_of_is_there_before_it_happens(
    gateway: Callable[..., Gateway], upstream: Upstream
) -> None:
    series = scrape(gateway(CONFIG.format(url=upstream.url) + "plans: {little: {budget_usd_per_day: 1}}\n"))
    assert series["llm_budget_near_total"]["plan=little"] == 0
    assert series["llm_upstream_errors_total"]["kind=auth,provider=up"] == 0


def test_metrics_are_for_the_inside(gateway: Callable[..., Gateway], upstream: Upstream) -> None:
    server = gateway(CONFIG.format(url=upstream.url) + "server: {metrics_networks: [10.9.8.0/24]}\n", workers=1)
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(f"{server.url}/metrics", timeout=10)
    assert error.value.code == 403
    error.value.close()


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded"])
def test_what_comes_through_a_proxy_comes_from_outside(
    gateway: Callable[..., Gateway], upstream: Upstream, header: str
) -> None:
    server = gateway(CONFIG.format(url=upstream.url), workers=1)
    request = urllib.request.Request(f"{server.url}/metrics", headers={header: "127.0.0.1"})
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request, timeout=10)
    assert error.value.code == 403
    error.value.close()
