from __future__ import annotations

import csv
import io
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import Result
from flask import Flask

from app.cli import one_line_errors, register
from app.cli.rendering import moment_option
from app.domain.identity import Role, hash_key, is_well_formed
from app.errors import ConfigError
from app.settings import load_settings
from app.stop_signal import StopSignal
from app.store.installation import Installation
from app.store.keys import Keys
from app.store.ledger import Ledger
from app.store.outbox import Outbox
from app.store.redis.client import Redis
from app.store.redis.keys import OUTBOX
from app.store.sql.database import Database

CONFIG = """
providers: {demo: {kind: demo}}
models: {fast: {targets: [{provider: demo}]}, smart: {targets: [{provider: demo}]}}
plans: {free: {requests_per_minute: 10}}
"""
NOON = 1_793_534_400.0  # 2026-11-01T12:00:00Z
DAY = 86_400


@pytest.fixture
def services(tmp_path: Path, database: Database, redis: Redis) -> SimpleNamespace:
    (tmp_path / "gateway.yaml").write_text(CONFIG)
    ledger = Ledger(database=database)
    return SimpleNamespace(
        settings=load_settings({"GATEWAY_CONFIG": str(tmp_path / "gateway.yaml"), "DATA_DIR": str(tmp_path)}),
        database=database,
        keys=Keys(database=database, redis=redis),
        ledger=ledger,
        outbox=Outbox(redis=redis, ledger=ledger),
        reaper=SimpleNamespace(run_once=lambda: None),
        redis=redis,
        spool=SimpleNamespace(replay=lambda script, most: 0),
    )


class Shell:
    def __init__(self, services: SimpleNamespace) -> None:
        app = Flask(__name__)
        app.extensions["penstock"] = services
        register(app)
        self._runner = app.test_cli_runner()

    def __call__(self, *args: str) -> Result:
        return self._runner.invoke(args=args)

    def fails(self, *args: str) -> str:
        """The one line on stderr of a command that must fail."""
        result = self(*args)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith("Error: ")
        assert result.stderr.count("\n") == 1
        return result.stderr


@pytest.fixture
def shell(services: SimpleNamespace) -> Shell:
    return Shell(services)


def test_a_created_key_is_alone_on_the_last_line_and_works(shell: Shell, services: SimpleNamespace) -> None:
    options = ["--name", "billing", "--plan", "free", "--role", "admin", "--models", "fast, smart"]
    result = shell("keys", "create", *options)
    assert result.exit_code == 0
    key = result.output.splitlines()[-1]
    assert result.stdout == f"{key}\n"
    assert result.output.count(key) == 1
    assert is_well_formed(key)
    caller = services.keys.authenticate(hash_key(key))
    assert (caller.name, caller.plan, caller.role, caller.models, caller.expires_at) == (
        "billing",
        "free",
        Role.ADMIN,
        frozenset({"fast", "smart"}),
        None,
    )


@pytest.mark.parametrize(("expires", "at"), [("30d", None), ("2199-01-01", 7226582400.0)])
def test_a_key_can_expire(shell: Shell, services: SimpleNamespace, expires: str, at: float | None) -> None:
    before = time.time()
    assert shell("keys", "create", "--name", "a", "--expires", expires).exit_code == 0
    found = services.keys.list()[0].expires_at
    assert found == at if at else before + 30 * DAY <= found <= time.time() + 30 * DAY


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--plan", "gold"], "--plan: no plan 'gold'; expected one of: default, free"),
        (["--models", "fast,slow"], "--models: no model 'slow'; expected some of: fast, smart"),
        (["--models", ""], "--models: no model ''"),
        (["--expires", "2020-01-01"], "--expires: 2020-01-01 is in the past"),
        (["--expires", "soon"], "--expires: expected 2026-11-01, 2026-11-01T12:00:00Z, 7d or 24h, not 'soon'"),
        (["--expires", "999999999w"], "--expires: 999999999w is out of range"),
        (["--name", "a\nb"], "`name` must be"),
    ],
)
def test_a_key_with_a_wrong_option_is_not_created(
    shell: Shell, services: SimpleNamespace, options: list[str], reason: str
) -> None:
    assert reason in shell.fails("keys", "create", "--name", "a", *options)
    assert services.keys.list() == ()


def test_keys_are_listed_with_what_they_may_do_and_without_themselves(shell: Shell, services: SimpleNamespace) -> None:
    active, _ = services.keys.create("billing", models=["fast", "smart"])
    services.keys.create("old", expires_at=NOON)
    services.keys.revoke(services.keys.create("gone")[1].key_id)
    listed = json.loads(shell("keys", "list", "--format", "json").stdout)
    assert [(entry["name"], entry["status"], entry["models"]) for entry in listed] == [
        ("billing", "active", "fast,smart"),
        ("old", "expired", ""),
        ("gone", "revoked", ""),
    ]
    assert listed[1]["expires"] == "2026-11-01T12:00:00Z"
    table = shell("keys", "list").stdout
    assert len(table.splitlines()) == 4
    assert active[:11] in table
    assert active not in table
    assert hash_key(active) not in table


def test_a_key_is_revoked_by_its_id(shell: Shell, services: SimpleNamespace) -> None:
    key, info = services.keys.create("billing")
    assert shell("keys", "revoke", info.key_id).stdout == f"Revoked {info.key_id} (billing).\n"
    assert services.keys.authenticate(hash_key(key)) is None


def test_revoking_says_what_could_not_be_done(
    shell: Shell, services: SimpleNamespace, database: Database, dead_redis: Redis
) -> None:
    assert "There is no key with the id 'key_%'" in shell.fails("keys", "revoke", "key_%")
    _, info = services.keys.create("billing")
    services.keys = Keys(database=database, redis=dead_redis)
    assert "is revoked in the database, but Redis does not answer" in shell.fails("keys", "revoke", info.key_id)


def call(request_id: str, **changes: Any) -> dict[str, Any]:
    return {
        "request_id": request_id,
        "ts": NOON,
        "key_id": "dev",
        "model": "fast",
        "status": "ok",
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "cost_nanousd": 1500,
        **changes,
    }


@pytest.fixture
def used(services: SimpleNamespace) -> SimpleNamespace:
    _, info = services.keys.create("=HYPERLINK(1)")
    services.ledger.write(
        [
            call("a"),
            call("b", ts=NOON + DAY, model="smart", cost_nanousd=2_000_000_000, status="error"),
            call("c", ts=NOON + DAY, key_id=info.key_id),
        ]
    )
    return services


def test_usage_is_shown_by_model_key_or_day_with_exact_costs(used: SimpleNamespace) -> None:
    shell = Shell(used)
    by_model = json.loads(shell("usage", "--by", "model", "--format", "json").stdout)
    assert by_model[0] == {
        "model": "smart",
        "calls": 1,
        "errors": 1,
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "cached_tokens": 0,
        "reasoning_tokens": 0,
        "cost_usd": "2",
    }
    assert [(line["model"], line["cost_usd"]) for line in by_model] == [("smart", "2"), ("fast", "0.000003")]
    by_day = json.loads(shell("usage", "--by", "day", "--format", "json").stdout)
    assert [(line["day"], line["calls"]) for line in by_day] == [("2026-11-01", 1), ("2026-11-02", 2)]
    by_key = json.loads(shell("usage", "--by", "key", "--format", "json").stdout)
    assert [line["name"] for line in by_key] == ["", "=HYPERLINK(1)"]


@pytest.mark.parametrize(
    ("by", "groups"),
    [
        ("user", ["ann", ""]),
        ("endpoint", ["embeddings", "chat.completions"]),
        ("tenant", ["shop", ""]),
        ("session", ["ses_1", ""]),
        ("agent", ["planner", ""]),
        ("provider", ["openai", ""]),
    ],
)
def test_usage_is_shown_by_what_only_the_rows_know(
    services: SimpleNamespace, shell: Shell, by: str, groups: list[str]
) -> None:
    about = {"user": "ann", "endpoint": "embeddings", "tenant": "shop", "provider": "openai"}
    about |= {"session": "ses_1", "agent": "planner"}
    services.ledger.write([call("a", cost_nanousd=2_000_000_000, **about), call("b"), call("c", ts=NOON - 9 * DAY)])
    since = "2026-11-01"
    lines = json.loads(shell("usage", "--by", by, "--since", since, "--format", "json").stdout)
    assert [(line[by], line["calls"], line["cost_usd"]) for line in lines] == [
        (groups[0], 1, "2"),
        (groups[1], 1, "0.0000015"),
    ]
    table = shell("usage", "--by", by, "--since", since).stdout.splitlines()
    assert table[2].split()[0] == (groups[1] or "-")
    assert table[-1].split() == ["total", "2", "0", "20", "10", "0", "0", "2.0000015"]


def test_a_table_lines_its_columns_up_and_ends_with_the_total(used: SimpleNamespace) -> None:
    lines = Shell(used)("usage", "--by", "model").stdout.splitlines()
    assert lines[0].split()[:2] == ["model", "calls"]
    assert lines[-1].split() == ["total", "3", "1", "30", "15", "0", "0", "2.000003"]
    assert len({len(line) for line in lines}) == 1


def test_a_report_of_nothing_is_only_its_header(shell: Shell) -> None:
    assert len(shell("usage").stdout.splitlines()) == 1
    assert shell("usage", "--format", "json").stdout == "[]\n"


@pytest.mark.parametrize(
    ("options", "days"),
    [
        (["--since", "2026-11-02"], ["2026-11-02"]),
        (["--until", "2026-11-02"], ["2026-11-01"]),
        (["--since", "2026-11-01T12:00:01Z"], ["2026-11-02"]),
        (["--since", "2026-11-01T13:00:00+01:00", "--until", "2026-11-01T12:00:01"], ["2026-11-01"]),
        (["--since", "2026-11-02", "--until", "2026-11-02"], []),
    ],
)
def test_usage_of_a_range_of_time(used: SimpleNamespace, options: list[str], days: list[str]) -> None:
    result = Shell(used)("usage", "--by", "day", "--format", "json", *options)
    assert [line["day"] for line in json.loads(result.stdout)] == days


def test_a_wrong_moment_is_one_line(shell: Shell) -> None:
    assert "--since: expected 2026-11-01" in shell.fails("usage", "--since", "yesterday")
    assert "--until: 9999-12-31 is out of range" in shell.fails("usage", "--until", "9999-12-31")


@pytest.mark.parametrize(("text", "seconds"), [("90m", 5400), ("24h", DAY), ("7d", 7 * DAY), ("2w", 14 * DAY)])
def test_a_distance_counts_from_now(text: str, seconds: int) -> None:
    assert moment_option(text, option="--since", now=NOON, direction=-1) == NOON - seconds
    assert moment_option(text, option="--expires", now=NOON, direction=1) == NOON + seconds


def test_csv_never_holds_a_formula(used: SimpleNamespace) -> None:
    rows = list(csv.DictReader(io.StringIO(Shell(used)("usage", "--by", "key", "--format", "csv").stdout)))
    assert [(row["name"], row["calls"], row["cost_usd"]) for row in rows] == [
        ("", "2", "2.0000015"),
        ("'=HYPERLINK(1)", "1", "0.0000015"),
    ]


@pytest.mark.parametrize("start", ["=", "+", "-", "@"])
def test_no_name_is_a_formula_in_the_list_of_keys(shell: Shell, services: SimpleNamespace, start: str) -> None:
    services.keys.create(f"{start}1+1")
    rows = list(csv.DictReader(io.StringIO(shell("keys", "list", "--format", "csv").stdout)))
    assert rows[0]["name"] == f"'{start}1+1"


@pytest.fixture
def _signals_restored() -> Iterator[None]:
    before = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)]
    yield
    for number, handler in before:
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.usefixtures("_signals_restored")
def test_the_ledger_process_migrates_drains_and_ends_well_when_told_to(
    services: SimpleNamespace, redis: Redis, tmp_path: Path, number: signal.Signals
) -> None:
    services.database = Database(f"sqlite:///{tmp_path}/new/ledger.db")
    services.ledger = Ledger(database=services.database)
    services.keys = Keys(database=services.database, redis=redis)
    services.outbox = Outbox(redis=redis, ledger=services.ledger)
    services.installation = Installation(database=services.database, redis=redis, data_dir=tmp_path)

    def told_to_stop() -> None:
        redis.execute("XADD", OUTBOX, "*", "row", json.dumps(call("last")))
        os.kill(os.getpid(), number)

    services.reaper = SimpleNamespace(run_once=told_to_stop)
    services.installation = Installation(database=services.database, redis=redis, data_dir=tmp_path)
    assert Shell(services)("ledger", "run").exit_code == 0
    assert [line.calls for line in services.ledger.usage("day")] == [1]
    assert time.time() - (tmp_path / "ledger-alive").stat().st_mtime < 60, "what a health check looks at"


def test_stopping_ends_a_wait_at_once() -> None:
    stop = StopSignal()
    assert not stop.wait(0.01)
    stop.set(signal.SIGTERM, None)
    started = time.monotonic()
    assert stop.wait(30)
    assert time.monotonic() - started < 1


def test_the_schema_can_be_migrated_alone(services: SimpleNamespace, tmp_path: Path) -> None:
    services.database = Database(f"sqlite:///{tmp_path}/new/ledger.db")
    assert Shell(services)("ledger", "migrate").stdout == "The database is up to date.\n"
    services.database.ping()


def test_a_right_configuration_is_one_line(
    shell: Shell, services: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = services.settings.config_path
    monkeypatch.setenv("GATEWAY_CONFIG", str(path))
    result = shell("config", "check")
    assert (result.exit_code, result.output) == (0, f"OK: {path}: 1 providers, 2 models, 2 plans\n")


def test_the_check_names_the_models_that_cannot_be_served(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "keyed.yaml").write_text("""
providers: {up: {kind: openai, base_url: "http://127.0.0.1/v1", api_key: "${UP_KEY:-}"}}
models: {a: {targets: [up]}, b: {targets: [up]}}
""")
    monkeypatch.setenv("GATEWAY_CONFIG", str(tmp_path / "keyed.yaml"))
    monkeypatch.delenv("UP_KEY", raising=False)
    first, second = shell("config", "check").output.splitlines()
    assert first.startswith("OK: ")
    assert second == "up has no API key: set UP_KEY. Models that cannot be served: a, b"
    monkeypatch.setenv("UP_KEY", "sk-1")
    assert len(shell("config", "check").output.splitlines()) == 1


def test_a_wrong_configuration_is_one_line_too(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wrong.yaml").write_text(CONFIG.replace("kind", "knid"))
    monkeypatch.setenv("GATEWAY_CONFIG", str(tmp_path / "wrong.yaml"))
    assert "wrong.yaml: providers.demo." in shell.fails("config", "check")


def test_an_error_becomes_a_line_only_inside_a_command() -> None:
    with pytest.raises(ConfigError), one_line_errors():
        raise ConfigError("wrong")
    with click.Context(click.Command("flask")), pytest.raises(click.ClickException, match="wrong"), one_line_errors():
        raise ConfigError("wrong")
