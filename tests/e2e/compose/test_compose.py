"""`docker-compose up` for real: what an operator starts, what callers get through the published TLS port, what is left
after restarts, and how the containers are locked in.
"""

from __future__ import annotations

import json
import re
import sqlite3
import time
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.compose.installation import IMAGE, SERVICES, VENDOR_KEY, Installation, chat_body, headers
from tests.support.servers import wait_for

pytestmark = [pytest.mark.compose, pytest.mark.timeout(900)]


def test_everything_is_healthy_with_only_a_vendors_key_in_the_shell(built: Installation, first_start_s: float) -> None:
    assert not (built.directory / ".env").exists()
    assert {service: built.health(service) for service in SERVICES} == {service: {"healthy"} for service in SERVICES}
    [setup] = built.inspect("setup")
    assert (setup["State"]["Status"], setup["State"]["ExitCode"]) == ("exited", 0)
    assert first_start_s < 90


def test_the_shells_vendor_key_and_the_first_admin_key_make_an_answer(
    penstock: Installation,
) -> None:
    with penstock.played_vendor():
        status, _, body = penstock.chat(penstock.admin_key, model="gpt-4.1-mini")
    assert (status, body["choices"][0]["message"]["content"]) == (200, "gpt-4.1-mini answers"), body


def test_the_admin_key_is_one_of_its_own_and_nobody_elses_to_read(penstock: Installation) -> None:
    key = penstock.admin_key
    assert len(key) >= 32
    with penstock.connection() as connection:
        connection.request("GET", "/health/detailed", headers=headers(key))
        assert connection.getresponse().status == 200
    with pytest.raises(AssertionError, match="Permission denied"):
        penstock.compose("exec", "-T", "redis", "cat", "/run/penstock/admin-key")
    assert key not in penstock.compose("logs", "--no-color")
    for service in SERVICES:
        assert key not in json.dumps(penstock.inspect(service)), "docker does not know it"


def test_an_admin_key_of_the_environment_takes_the_place_of_the_made_one(penstock: Installation) -> None:
    made = penstock.admin_key
    own = "an-admin-key-of-my-own"
    (penstock.directory / ".env").write_text(f"ADMIN_KEY={own}\nPENSTOCK_ENV_FILE=.env\nSOME_VENDORS_KEY=as it is\n")
    try:
        penstock.up()
        assert penstock.admin_key == own
        assert [penstock.chat(key)[0] for key in (own, made)] == [200, 401]
        told = penstock.compose("exec", "-T", "gateway", "printenv", "SOME_VENDORS_KEY", "OPENAI_API_KEY")
        assert told.splitlines() == ["as it is", VENDOR_KEY], "also a variable that docker-compose.yml does not know"
    finally:
        (penstock.directory / ".env").unlink()
        penstock.up()
    assert penstock.chat(own)[0] == 200, "what was given stays, as Redis's password does"


def test_the_image_speaks_to_postgresql(penstock: Installation) -> None:
    said = penstock.compose("exec", "-T", "ledger", "python", "-c", "import psycopg; print(psycopg.pq.__impl__)")
    assert said.strip() == "binary"


def test_a_completion_ends_in_one_row_of_the_ledger(penstock: Installation) -> None:
    key = penstock.create_key("completion")
    status, got, body = penstock.chat(key, "Hello from outside")
    assert status == 200, body
    assert "Hello from outside" in body["choices"][0]["message"]["content"]
    assert got["x-request-id"]
    penstock.wait_for_calls("completion", 1)


def test_a_stream_arrives_chunk_by_chunk(penstock: Installation) -> None:
    key = penstock.create_key("stream")
    events = penstock.stream(key, " ".join(f"word{number}" for number in range(60)))
    assert events[-1][1] == b"[DONE]"
    first, last = events[0][0], events[-1][0]
    assert last > 1.0, "the demo model takes 20 ms a word"
    assert first < last / 4, "the first word is there long before the last"
    gaps = [later - earlier for (earlier, _), (later, _) in pairwise(events)]
    assert max(gaps) < last / 4, "nobody holds chunks back on the way"
    penstock.wait_for_calls("stream", 1)


def test_a_queued_completion_is_run_by_the_worker(penstock: Installation) -> None:
    key = penstock.create_key("queued")
    with penstock.connection() as connection:
        connection.request("POST", "/v1/chat/async", chat_body("Hello from the queue"), headers(key))
        answer = connection.getresponse()
        job = json.loads(answer.read())
        assert answer.status == 202, job

        def completed() -> dict[str, Any] | None:
            connection.request("GET", job["status_url"], headers=headers(key))
            found: dict[str, Any] = json.loads(connection.getresponse().read())
            return found if found["status"] == "completed" else None

        done = wait_for(completed, message="the worker did not run it")
    assert "Hello from the queue" in done["response"]["choices"][0]["message"]["content"]
    penstock.wait_for_calls("queued", 1)


def test_the_plans_limit_is_a_429_that_says_when_to_come_back(penstock: Installation) -> None:
    key = penstock.create_key("limited", "--plan", "free")
    answers = [penstock.chat(key, f"call {number}") for number in range(11)]
    assert [status for status, _, _ in answers] == [200] * 10 + [429]
    _, got, body = answers[-1]
    assert body["code"] == body["error"]["code"] == "RATE_LIMIT_EXCEEDED"
    assert 1 <= int(got["retry-after"]) <= 60
    assert int(got["retry-after-ms"]) > 0, "the gateway's, not nginx's"
    penstock.wait_for_calls("limited", 10)


def test_a_body_that_is_too_long_is_refused_by_nginx_in_our_shape(penstock: Installation) -> None:
    key = penstock.create_key("long")
    with penstock.connection() as connection:
        connection.putrequest("POST", "/v1/chat/completions")
        for name, value in {**headers(key), "Content-Length": str(64 * 1024 * 1024)}.items():
            connection.putheader(name, value)
        connection.endheaders()  # nginx refuses what is announced, so that nobody needs to send it
        answer = connection.getresponse()
        body = json.loads(answer.read())
    assert answer.status == 413
    assert set(body) == {"error", "code", "request_id", "timestamp"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert (body["code"], body["error"]["type"]) == ("REQUEST_TOO_LARGE", "invalid_request_error")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", body["timestamp"])
    assert answer.getheader("X-Request-ID") == body["request_id"]
    assert body["request_id"] not in penstock.compose("logs", "--no-color", "gateway"), "it never got there"


def test_metrics_are_for_the_inside_only(penstock: Installation) -> None:
    penstock.chat(penstock.create_key("metrics"))
    status, body = penstock.get("/metrics")
    assert status in (403, 404)
    assert b"llm_" not in body
    assert json.loads(body)["code"] in ("FORBIDDEN", "NOT_FOUND")
    scrape = "import urllib.request as r; print(r.urlopen('http://gateway:8000/metrics', timeout=5).read().decode())"
    scraped = penstock.compose("exec", "-T", "ledger", "python", "-c", scrape)
    assert re.search(r'^llm_requests_total\{.*status="ok".*\} [1-9]', scraped, re.MULTILINE)
    assert "http_request_duration_seconds_bucket" in scraped


def test_only_nginx_is_published_and_the_networks_keep_the_others_apart(penstock: Installation) -> None:
    def networks(service: str) -> set[str]:
        [container] = penstock.inspect(service)
        return {name.removeprefix("penstock-test_") for name in container["NetworkSettings"]["Networks"]}

    published = {
        service: {port for port, hosts in container["NetworkSettings"]["Ports"].items() if hosts}
        for service in (*SERVICES, "setup")
        for container in penstock.inspect(service)
    }
    assert published.pop("nginx") == {"8080/tcp", "8443/tcp"}
    assert set().union(*published.values()) == set()
    assert networks("nginx") == {"public", "edge"}
    assert networks("gateway") == {"edge", "data", "egress", "monitoring"}
    assert networks("redis") == {"data"}
    inside = penstock.run(
        "docker", "network", "inspect", *(f"penstock-test_{name}" for name in ("edge", "data", "monitoring"))
    )
    assert [network["Internal"] for network in json.loads(inside)] == [True] * 3


def test_every_container_is_read_only_without_privileges_and_bounded(penstock: Installation) -> None:
    for service in (*SERVICES, "setup"):
        [container] = penstock.inspect(service)
        host = container["HostConfig"]
        assert host["ReadonlyRootfs"], service
        assert not host["Privileged"], service
        assert host["CapDrop"] == ["ALL"], service
        assert not host["CapAdd"], service
        assert "no-new-privileges:true" in host["SecurityOpt"], service
        assert host["Memory"] > 0, service
        assert host["PidsLimit"] > 0, service
        assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-file": "5", "max-size": "10m"}}, service
        restart = "no" if service == "setup" else "unless-stopped"
        assert host["RestartPolicy"]["Name"] == restart, service
        if service != "setup":
            users = set(penstock.run("docker", "top", container["Id"], "-eo", "pid,uid").decode().split()[3::2])
            assert users, service
            assert "0" not in users, service


def test_monitoring_is_there_only_when_asked_for(penstock: Installation) -> None:
    assert penstock.inspect("prometheus") == penstock.inspect("grafana") == []
    config = yaml.safe_load(penstock.compose("--profile", "monitoring", "config"))
    assert config["services"]["prometheus"]["profiles"] == config["services"]["grafana"]["profiles"] == ["monitoring"]
    assert "ports" not in config["services"]["prometheus"]
    [published] = config["services"]["grafana"]["ports"]
    assert str(published).startswith("127.0.0.1:"), "for this machine's own users, through ssh"


def test_the_image_has_no_compiler_and_says_what_it_is(penstock: Installation) -> None:
    look = (
        "command -v gcc cc g++ make; ls /opt/venv/bin | grep pip; touch app/x /opt/venv/x 2> /dev/null && echo w; id -u"
    )
    found = penstock.run("docker", "run", "--rm", "--network", "none", IMAGE, "sh", "-c", look)
    assert found.decode().split() == ["10001"]
    [image] = json.loads(penstock.run("docker", "image", "inspect", IMAGE))
    assert image["Config"]["User"] == "10001:10001"
    assert image["Config"]["Healthcheck"]["Test"][:2] == ["CMD", "python"]
    assert image["Config"]["Labels"]["org.opencontainers.image.title"] == "Penstock"


def test_redis_wants_its_password_keeps_a_log_and_never_evicts(penstock: Installation) -> None:
    def redis_cli(command: str, password: str) -> str:
        return penstock.compose("exec", "-T", "redis", "sh", "-c", f"{password} redis-cli {command}")

    assert "NOAUTH" in redis_cli("dbsize", "")
    known = "REDISCLI_AUTH=$(cat /run/penstock/redis-password)"
    settings = redis_cli("config get '*' | paste - -", known)
    found = dict(line.split("\t", 1) for line in settings.splitlines() if "\t" in line)
    assert found["maxmemory-policy"] == "noeviction"
    assert int(found["maxmemory"]) == 512 * 1024 * 1024
    assert (found["appendonly"], found["appendfsync"]) == ("yes", "everysec")
    [container] = penstock.inspect("redis")
    assert found["requirepass"] not in json.dumps(container), "docker does not know it"
    assert len(found["requirepass"]) >= 32


def test_three_gateways_share_the_work_behind_nginx(penstock: Installation) -> None:
    key = penstock.create_key("scaled")
    penstock.up("--scale", "gateway=3", "--no-recreate")
    gateways = penstock.inspect("gateway")
    assert len(gateways) == 3

    def served() -> set[str]:
        status, _, body = penstock.chat(key)
        assert status == 200, body
        return {gateway["Id"][:12] for gateway in gateways if _calls(penstock, gateway["Id"]) > before[gateway["Id"]]}

    before = {gateway["Id"]: _calls(penstock, gateway["Id"]) for gateway in gateways}
    wait_for(lambda: len(served()) == 3, timeout_s=60, message="nginx does not use every gateway")
    assert penstock.up("--scale", "gateway=1", "--no-recreate") < 90
    assert len(penstock.inspect("gateway")) == 1
    for number in range(10):
        assert penstock.chat(key, f"again {number}")[0] == 200, "nobody is sent to a gateway that is gone"


def _calls(penstock: Installation, container: str) -> int:
    """The calls that one gateway has served, by its own metrics: each counts for itself."""
    scrape = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8000/metrics', timeout=5).read().decode())"
    text = penstock.run("docker", "exec", container, "python", "-c", scrape).decode()
    return sum(int(float(count)) for count in re.findall(r"^llm_requests_total\{[^}]*\} (\S+)", text, re.MULTILINE))


@pytest.mark.parametrize("how", ["restart", "down and up"])
def test_keys_rows_and_spent_limits_survive(penstock: Installation, how: str) -> None:
    name = f"survivor {how}"
    key = penstock.create_key(name, "--plan", "free")
    for number in range(9):
        assert penstock.chat(key, f"{how} {number}")[0] == 200
    penstock.wait_for_calls(name, 9)
    password = penstock.compose("exec", "-T", "redis", "cat", "/run/penstock/redis-password")
    spent = _spent(penstock)
    assert len(spent) >= 2, "requests and tokens of the day"
    if how == "restart":
        penstock.compose("restart", "-t", "30")
        penstock.wait_until_healthy()
    else:
        penstock.down()
        assert penstock.inspect("gateway") == []
        penstock.up()
    assert penstock.compose("exec", "-T", "redis", "cat", "/run/penstock/redis-password") == password
    assert penstock.calls_of(name) == 9
    assert spent <= _spent(penstock), "counters of the day and month"
    assert penstock.chat(key, "and after")[0] == 200
    penstock.wait_for_calls(name, 10)


def _spent(penstock: Installation) -> set[str]:
    """The windows' counters in Redis, as `key value`."""
    list_them = "for key in $(redis-cli --scan --pattern 'penstock:*'); do case $(redis-cli type $key) in string) echo $key $(redis-cli get $key);; esac; done"  # noqa: E501
    command = f"export REDISCLI_AUTH=$(cat /run/penstock/redis-password); {list_them}"
    lines = penstock.compose("exec", "-T", "redis", "sh", "-c", command).splitlines()
    return {line for line in lines if re.fullmatch(r"penstock:\S+ \d{1,12}", line)}


def test_a_backup_through_a_pipe_comes_back_the_same_way(penstock: Installation, tmp_path: Path) -> None:
    key = penstock.create_key("backup")
    assert penstock.chat(key)[0] == 200
    penstock.wait_for_calls("backup", 1)
    in_use = ("docker-compose", "exec", "-T", "ledger", "flask", "--app", "app", "ledger")
    copy = penstock.run(*in_use, "backup", "-")
    (tmp_path / "copy.db").write_bytes(copy)
    with closing(sqlite3.connect(tmp_path / "copy.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert penstock.chat(key, "after the backup")[0] == 200
    penstock.wait_for_calls("backup", 2)
    with pytest.raises(AssertionError, match="a ledger process runs on it; stop that first"):
        penstock.run(*in_use, "restore", "-", stdin=copy)
    penstock.compose("stop", "ledger")
    alone = ("docker-compose", "run", "--rm", "--no-deps", "-T", "ledger", "flask", "--app", "app", "ledger")
    penstock.run(*alone, "restore", "-", stdin=copy)
    penstock.up()
    assert penstock.calls_of("backup") == 1
    assert penstock.chat(key, "after the restore")[0] == 200
    penstock.wait_for_calls("backup", 2)


def test_figures_for_the_operators_note(penstock: Installation, first_start_s: float) -> None:
    """Sizes and memory, printed with `pytest -rP`; bounds that catch a slip, not a promise."""
    size_mib = {
        name: json.loads(penstock.run("docker", "image", "inspect", name))[0]["Size"] / 2**20
        for name in (IMAGE, "penstock-test/python")
    }
    added_mib = size_mib[IMAGE] - size_mib["penstock-test/python"]
    print(f"image: {added_mib:.0f} MiB on its base; first start until all is healthy: {first_start_s:.0f} s")
    assert added_mib < 240  # the tables of the tokenizer are 75, and zstandard is 24
    ids = penstock.compose("ps", "-q").split()
    shown = "{{.Name}} {{.MemUsage}}"
    print(penstock.run("docker", "stats", "--no-stream", "--format", shown, *ids).decode())
    started = time.monotonic()
    penstock.compose("restart", "-t", "30", "gateway")
    wait_for(lambda: penstock.get("/ready")[0] == 200, timeout_s=60, message="the gateway did not come back")
    print(f"a gateway's restart until ready again: {time.monotonic() - started:.1f} s")
