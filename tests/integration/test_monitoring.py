"""A real Prometheus scrapes a real gateway under load: rules hold, and every panel of the dashboard shows something."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.client import chat, in_parallel, post
from tests.support.servers import DEV_KEY, ROOT, Gateway, RedisServer, flushed, free_port, wait_for
from tests.support.upstream import Upstream

DEPLOY = ROOT / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboards" / "penstock.json").read_text())
QUERIES = {(panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel.get("targets", ())}
CONFIG = """
providers:
  up: {{kind: openai, base_url: {url}}}
  down: {{kind: openai, base_url: {url}}}
models:
  usage-10-5: {{targets: [{{provider: up}}]}}
  stream-5-0: {{targets: [{{provider: up}}]}}
  status-500: {{targets: [{{provider: down}}]}}
plans:
  little: {{budget_usd_per_day: 0.00014}}  # for one call at a time, and two in all
retry: {{max_attempts: 1, breaker_threshold: 2}}
"""
PRICES = '{up: {"*": {prompt: 1, completion: 2}}, down: {"*": {prompt: 1, completion: 2}}}'

if not shutil.which("promtool") and os.environ.get("CI") != "true":
    pytest.skip("Debian's prometheus is not installed", allow_module_level=True)


def promtool(*arguments: str, said: str = "") -> str:
    result = subprocess.run(
        ["promtool", *arguments], cwd=DEPLOY / "prometheus", input=said, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_the_rules_are_sound_and_fire_when_they_must_and_only_then() -> None:
    promtool("check", "config", "prometheus.yml")
    promtool("test", "rules", "tests/alerts.yml")


def test_every_alert_is_tested_and_leads_to_a_page_of_the_runbook() -> None:
    rules = yaml.safe_load((DEPLOY / "prometheus" / "rules" / "alerts.yml").read_text())
    alerts = {rule["alert"]: rule for group in rules["groups"] for rule in group["rules"]}
    assert len(alerts) >= 12
    fires, is_silent = told_by_the_rule_tests()
    assert fires == is_silent == set(alerts)
    operations = (ROOT / "docs" / "operations.md").read_text().lower()
    for name, alert in alerts.items():
        assert alert["labels"]["severity"] in ("warning", "critical")
        assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}, name
        page, _, anchor = alert["annotations"]["runbook_url"].partition("#")
        assert page == "docs/operations.md"
        assert f"### {anchor}\n" in operations, f"docs/operations.md has nothing on {name}"


def told_by_the_rule_tests() -> tuple[set[str], set[str]]:
    """The alerts that a rule test sees firing, and those that one sees silent."""
    fires: set[str] = set()
    is_silent: set[str] = set()
    for case in yaml.safe_load((DEPLOY / "prometheus" / "tests" / "alerts.yml").read_text())["tests"]:
        for check in case.get("alert_rule_test", ()):
            (fires if check["exp_alerts"] else is_silent).add(check["alertname"])
        for check in case.get("promql_expr_test", ()):
            named = re.search(r'ALERTS{alertname="(\w+)"', check["expr"])
            assert named, check["expr"]
            (fires if check["exp_samples"] else is_silent).add(named[1])
    return fires, is_silent


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer, vendor: Upstream) -> Iterator[Gateway]:
    flushed(redis_server.url)
    directory = tmp_path_factory.mktemp("scraped")
    with Gateway(directory, CONFIG.format(url=vendor.url), redis_url=redis_server.url, prices=PRICES) as gateway:
        gateway.services.redis.execute("CONFIG", "SET", "maxmemory", "1gb")
        yield gateway
        gateway.services.redis.execute("CONFIG", "SET", "maxmemory", "0")


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory, server: Gateway) -> Iterator[str]:
    """Scrapes once a second, with our rules, while calls of every kind are made. Its URL."""
    directory = tmp_path_factory.mktemp("prometheus")
    (directory / "prometheus.yml").write_text(
        f"global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: ['{DEPLOY}/prometheus/rules/*.yml']\n"
        f"scrape_configs: [{{job_name: gateway, static_configs: [{{targets: ['127.0.0.1:{server.port}']}}]}}]\n"
    )
    port = free_port()
    process = subprocess.Popen(
        [
            "prometheus",
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=data",
            "--log.level=warn",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        cwd=directory,
    )
    url = f"http://127.0.0.1:{port}"
    wait_for(lambda: _ready(url), message="prometheus did not start")
    for scrapes in (3, 6):
        little = server.create_key(plan="little")
        for body, key in (
            (chat("usage-10-5"), DEV_KEY),
            (chat("usage-10-5", temperature=0), DEV_KEY),
            (chat("status-500"), DEV_KEY),
            (chat("stream-5-0", stream=True), DEV_KEY),
        ):
            in_parallel([partial(post, server.port, body, key)] * 10)
        # One after another: while the first is out, its reservation leaves no room for a second.
        spent = [post(server.port, chat("usage-10-5", max_tokens=5), little).status for _ in range(3)]
        assert spent == [200, 200, 429]
        # What a rate is made of: values before and after.
        wait_for(lambda scrapes=scrapes: _value(url, "count_over_time(up[1m])") >= scrapes)
    yield url
    process.terminate()
    process.wait(10)


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/-/ready", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _query(url: str, expr: str) -> list[Any]:
    with urllib.request.urlopen(f"{url}/api/v1/query?{urllib.parse.urlencode({'query': expr})}", timeout=10) as answer:
        found: list[Any] = json.load(answer)["data"]["result"]
        return found


def _value(url: str, expr: str) -> float:
    found = _query(url, expr)
    return float(found[0]["value"][1]) if found else 0.0


@pytest.mark.parametrize(("title", "expr"), sorted(QUERIES))
def test_every_panel_of_the_dashboard_shows_something(prometheus: str, title: str, expr: str) -> None:
    known = expr.replace("$__rate_interval", "1m").replace("$__range", "1m")
    found = _query(prometheus, known)
    assert found, f"{title}: {known}"


def test_every_recorded_series_is_there_and_no_rule_fails(prometheus: str) -> None:
    with urllib.request.urlopen(f"{prometheus}/api/v1/rules", timeout=10) as answer:
        rules = [rule for group in json.load(answer)["data"]["groups"] for rule in group["rules"]]
    assert {rule["name"]: rule["health"] for rule in rules if rule["health"] != "ok"} == {}
    for rule in rules:
        if rule["type"] == "recording":
            assert wait_for(lambda rule=rule: _query(prometheus, rule["name"])), rule["name"]


def test_the_breaker_and_the_budget_are_seen_by_their_alerts(prometheus: str) -> None:
    wait_for(
        lambda: _query(prometheus, 'ALERTS{alertname="BreakerOpen"}'),
        timeout_s=60,
        message="BreakerOpen does not even wait",
    )
    wait_for(lambda: _query(prometheus, 'ALERTS{alertname="BudgetNear", alertstate="firing"}'), timeout_s=60)


def test_no_counter_runs_backwards_while_workers_are_killed(prometheus: str, server: Gateway) -> None:
    victims = server.worker_pids()
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda victim=victim: victim not in server.worker_pids() and len(server.worker_pids()) == 2)
        wait_for(server.ready)
        in_parallel([partial(post, server.port, chat("usage-10-5"), DEV_KEY)] * 10)
    at = time.time()
    wait_for(lambda: _value(prometheus, "min(timestamp(up))") > at + 1)
    named = 'count by (__name__) ({__name__=~"(llm|http)_.+_(total|count|sum|bucket)"})'
    counters = [found["metric"]["__name__"] for found in _query(prometheus, named)]
    assert len(counters) >= 15, counters
    assert [name for name in counters if _query(prometheus, f"resets({name}[5m]) > 0")] == []
    files = os.listdir(f"{server.env['DATA_DIR']}/prometheus")
    assert not [name for name in files for victim in victims if f"_{victim}." in name], "they would pile up"


def test_promtool_finds_nothing_wrong_with_the_metrics(server: Gateway) -> None:
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=10) as answer:
        promtool("check", "metrics", said=answer.read().decode())


def test_the_certificates_end_is_told(server: Gateway, tmp_path: Path) -> None:
    from app.api.shared_metrics import certificate_expiry

    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-noenc",
            "-days",
            "3",
            "-subj",
            "/CN=x",
            "-keyout",
            key,
            "-out",
            certificate,
        ],
        check=True,
        capture_output=True,
    )
    expires = certificate_expiry(certificate)
    assert expires is not None
    assert 2.9 < (expires - time.time()) / 86400 < 3.1
    assert certificate_expiry(tmp_path / "missing.pem") is None
