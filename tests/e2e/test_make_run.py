"""First steps of a new user: `make run`, then the lines it prints and the README's snippets."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from app.settings import load_settings
from app.store.sql.database import Database
from scripts.executables import find_redis
from scripts.run import find_leftover_redis, redis_command, schema_is_current
from tests.support.servers import ROOT, free_port, need, wait_for
from tests.support.small_disk import SmallDisk


def environment(directory: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME") or name.startswith("COV")}
    return {**kept, "DATA_DIR": str(directory / "data"), "PORT": str(free_port()), "TLS_PORT": str(free_port()), **more}


@contextmanager
def started(directory: Path, env: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    output = directory / "output.txt"
    with output.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "scripts.run"],
            cwd=ROOT,
            env=env,
            stdout=file,
            stderr=file,
            text=True,
            start_new_session=True,
        )
    try:
        wait_for(
            lambda: "Penstock is ready" in output.read_text() or process.poll() is not None,
            timeout_s=60,
            message=output.read_text(),
        )
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(30)


def beside(env: dict[str, str], *command: str) -> str:
    """Returns the output of one of our commands in another terminal, which has no more than DATA_DIR."""
    env = {name: value for name, value in env.items() if name not in ("PORT", "TLS_PORT", "DEV_API_KEY")}
    flask = [str(Path(sys.executable).parent / "flask"), "--app", "app", *command]
    return subprocess.run(flask, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=True).stdout


def test_a_first_answer_with_the_lines_it_prints_and_nothing_left_behind(tmp_path: Path) -> None:
    need("curl", "curl")
    need("openssl", "openssl")  # without it there is no TLS
    env = environment(tmp_path)
    with started(tmp_path, env) as process:
        output = (tmp_path / "output.txt").read_text()
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) >= 8, (
            "redis; gunicorn and two workers; Dramatiq and its worker; the ledger; nginx and its worker"
        )
        curl = next(line for line in output.splitlines() if line.strip().startswith("curl "))
        answer = subprocess.run(curl, shell=True, capture_output=True, text=True, timeout=20, check=True).stdout
        assert '"object":"chat.completion"' in answer
        secure = curl.replace(f"http://127.0.0.1:{env['PORT']}", f"-k https://127.0.0.1:{env['TLS_PORT']}")
        answer = subprocess.run(secure, shell=True, capture_output=True, text=True, timeout=20, check=True).stdout
        assert '"object":"chat.completion"' in answer
        snippet = "\n".join(line.strip() for line in output[output.index("from openai") :].splitlines()[:3])
        said = subprocess.run([sys.executable, "-c", snippet], capture_output=True, text=True, timeout=60, check=True)
        assert "Hello" in said.stdout
        assert (tmp_path / "data" / "dev-key").stat().st_mode & 0o077 == 0
        assert (tmp_path / "data" / "run").stat().st_mode & 0o077 == 0
        assert "Hello" in beside(env, "chat", "Hello")
        assert beside(env, "jobs", "list").startswith("id ")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        psutil.wait_procs(family, timeout=10)
        assert (tmp_path / "data" / "run").read_bytes() == b""
        assert [child for child in family if child.is_running() and child.status() != psutil.STATUS_ZOMBIE] == []


def test_the_readmes_snippets_run(tmp_path: Path) -> None:
    need("curl", "curl")
    need("ab", "apache2-utils")
    readme = (ROOT / "README.md").read_text()
    env = environment(tmp_path, DEV_API_KEY="pstk-readme-key")
    with started(tmp_path, env):
        blocks = re.findall(r"```(?:bash|sh|python)\n(.*?)```", readme, re.DOTALL)
        runnable = [block for block in blocks if "/v1/chat" in block or "from openai" in block]
        assert len(runnable) >= 3, "two curls and one SDK snippet"
        for block in runnable:
            text = block.replace(":8000", f":{env['PORT']}").replace("$(cat data/dev-key)", "pstk-readme-key")
            text = re.sub(r"open\([^)]*dev-key[^)]*\)\.read\(\)(\.strip\(\))?", '"pstk-readme-key"', text)
            text = re.sub(r"Path\([^)]*dev-key[^)]*\)\.read_text\(\)(\.strip\(\))?", '"pstk-readme-key"', text)
            command = [sys.executable, "-c", text] if "from openai" in block else ["bash", "-c", text]
            result = subprocess.run(command, capture_output=True, text=True, timeout=60)
            assert result.returncode == 0, result.stderr
            if block.startswith("ab "):
                assert re.search(r"^Failed requests: +0$", result.stdout, re.MULTILINE), result.stdout
                assert "Non-2xx" not in result.stdout
            else:
                assert "Penstock" in result.stdout or '"status":"queued"' in result.stdout


def test_commands_beside_it_find_its_key_despite_one_of_the_environment(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dev-key").write_text("pstk_of-another-run\n")
    env = environment(tmp_path, DEV_API_KEY="pstk_of-this-run")
    with started(tmp_path, env):
        assert "Hello" in beside(env, "chat", "Hello")


def test_a_second_one_on_the_same_data_dir_is_refused(tmp_path: Path) -> None:
    env = environment(tmp_path)
    with started(tmp_path, env) as process:
        other_ports = environment(tmp_path)
        line = refusal(tmp_path, other_ports)
        assert line == (
            f"DATA_DIR: {tmp_path / 'data'} is in use by another `make run` (pid {process.pid}); "
            "stop it, or set another DATA_DIR"
        )
        assert "Hello" in beside(env, "chat", "Hello")


def test_a_redis_that_an_earlier_one_has_left_is_named(tmp_path: Path) -> None:
    config = tmp_path / "data" / "redis" / "redis.conf"
    redis = subprocess.Popen(redis_command(find_redis(), free_port(), config, "secret"), stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: find_leftover_redis(config) == redis.pid)
        line = refusal(tmp_path, environment(tmp_path))
    finally:
        redis.terminate()
        redis.wait(10)
    assert line.startswith(
        f"DATA_DIR: {tmp_path / 'data'} is in use by a Redis that an earlier `make run` has left (pid "
    )
    assert f"(pid {redis.pid})" in line


@pytest.mark.parametrize("below", ["a-file", "a-file/data", "/proc/penstock"])
def test_an_impossible_data_dir_is_one_clear_line(tmp_path: Path, below: str) -> None:
    (tmp_path / "a-file").write_text("")
    line = refusal(tmp_path, {**environment(tmp_path), "DATA_DIR": str(tmp_path / below)})
    assert line.startswith(f"DATA_DIR: {tmp_path / below}: ")


def test_a_full_disk_is_one_clear_line(tmp_path: Path) -> None:
    with SmallDisk(tmp_path / "disk", megabytes=1) as disk:
        if not disk.mounted:
            pytest.skip("only root may mount a file system")
        with suppress(OSError), (disk.path / "filler").open("wb") as filler:
            filler.write(bytes(2_000_000))
        line = refusal(tmp_path, {**environment(tmp_path), "DATA_DIR": str(disk.path / "data")})
    assert line.startswith("DATA_DIR: ")
    assert line.endswith("No space left on device")


def test_a_line_of_the_log_has_one_time_and_the_name_of_who_said_it(tmp_path: Path) -> None:
    with started(tmp_path, environment(tmp_path)) as process:
        output = tmp_path / "output.txt"
        wait_for(lambda: "worker_started" in output.read_text() and "ledger_started" in output.read_text())
        process.send_signal(signal.SIGINT)
        process.wait(30)
    lines = output.read_text().splitlines()
    for event, name in (("worker_started", "worker"), ("ledger_started", "ledger")):
        [line] = [line for line in lines if event in line]
        assert re.match(rf"{name} +\| \d\d:\d\d:\d\d\.\d\d\dZ info  {event}", line), line
        assert len(re.findall(r"\d\d:\d\d:\d\d", line)) == 1


def refusal(tmp_path: Path, env: dict[str, str]) -> str:
    result = subprocess.run(
        [sys.executable, "-m", "scripts.run"], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("variable", ["PORT", "TLS_PORT"])
def test_a_busy_port_is_one_clear_line(tmp_path: Path, variable: str) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        line = refusal(tmp_path, environment(tmp_path, **{variable: str(busy.getsockname()[1])}))
    assert line.startswith(f"{variable}: 127.0.0.1:")


def test_no_redis_anywhere_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from scripts import executables

    monkeypatch.setattr("scripts.executables.shutil.which", lambda name: None)
    monkeypatch.setattr(executables, "find_spec", lambda name: None)
    with pytest.raises(executables.CannotStart, match="install redis-server or valkey-server"):
        executables.find_redis()


def test_no_nginx_anywhere_is_no_tls_and_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from scripts import executables

    settings = load_settings(environment(tmp_path))
    assert executables.nginx_environment(settings) is not None
    monkeypatch.setattr("scripts.executables.shutil.which", lambda name: None)
    monkeypatch.setattr(executables, "find_spec", lambda name: None)
    assert executables.nginx_environment(settings) is None
    assert capsys.readouterr().err == "TLS is off: there is no nginx.\n"


def test_a_wrong_file_is_one_clear_line(tmp_path: Path) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text("providers: {demo: {kind: demo}}\nmodels: {demo: {targets: [{provider: demo, wieght: 2}]}}\n")
    line = refusal(tmp_path, environment(tmp_path, GATEWAY_CONFIG=str(config)))
    assert line == f"{config}: models.demo.targets.0.wieght: unknown field"


def test_config_check_says_what_is_wrong(tmp_path: Path) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text("providers: {demo: {kind: fax}}\nmodels: {demo: {targets: [{provider: demo}]}}\n")
    env = environment(tmp_path, GATEWAY_CONFIG=str(config))
    flask = str(Path(sys.executable).parent / "flask")
    started_at = time.monotonic()
    result = subprocess.run(
        [flask, "--app", "app", "config", "check"], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert f"{config}: providers.demo.kind: expected one of: anthropic, demo, gemini, openai" in result.stderr
    assert "Traceback" not in result.stderr
    assert time.monotonic() - started_at < 30


def test_only_a_schema_that_is_not_the_newest_is_migrated_before_the_start(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    assert not schema_is_current(url)
    database = Database(url)
    database.migrate()
    assert schema_is_current(url)
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as ledger, ledger:
        ledger.execute("UPDATE alembic_version SET version_num = '0001'")
    assert not schema_is_current(url)
    assert not schema_is_current("postgresql://127.0.0.1/penstock")


@pytest.mark.parametrize(
    ("version", "options", "anew"),
    [
        ("Python 3.99.0", ["PYTHON={directory}/python"], True),
        ("Python 3.11.1", ["PYTHON={directory}/python"], False),
        ("Python 3.99.0", [], False),
    ],
)
def test_another_python_makes_the_virtualenv_anew(tmp_path: Path, version: str, options: list[str], anew: bool) -> None:
    """Played: the one on the command line has `version`, that of .venv is 3.11.1."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for name in ("requirements.txt", "requirements-run.txt", ".venv/stamp"):
        (tmp_path / name).touch()
    log = tmp_path / "log"
    for path, told in ((tmp_path / "python", version), (tmp_path / ".venv/bin/python", "Python 3.11.1")):
        path.write_text(f'#!/bin/sh\n[ "$1" != -V ] || echo "{told}"\necho "$@" >> {log}\n')
        path.chmod(0o755)
    wanted = [option.format(directory=tmp_path) for option in options]
    subprocess.run(
        ["make", "-s", "run", *wanted], cwd=tmp_path, check=True, timeout=30, env={"PATH": os.environ["PATH"]}
    )
    assert ("scripts/install.py run" in log.read_text()) == anew
    assert log.read_text().splitlines()[-1] == "-m scripts.run"
