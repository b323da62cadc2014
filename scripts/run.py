"""Development server, `make run`: Redis, gateway, worker, ledger and nginx, started and stopped together.

Everything it writes goes below DATA_DIR. Every failure to start is one clear line and exit code 1.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import secrets
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from threading import Thread
from urllib.parse import quote

import psutil

from app.config.serving import default_model
from app.domain.identity import new_key
from app.errors import ConfigError
from app.runfile import RunFile, RunFileLocked, RunningGateway
from app.settings import Settings, load_settings
from scripts.console import Console
from scripts.executables import CannotStart, find_redis, nginx_environment
from scripts.process_lifetime import run_in_session
from scripts.supervisor import Program, Supervisor

_START_TIMEOUT_S = 60.0
_SHUTDOWN_S = 15  # after the time that running calls get: to settle those that are left, and to end
_CONSOLE_CLOSE_S = 2.0
_BIN = Path(sys.executable).parent
_REDIS_CONFIG = Path("redis/redis.conf")  # below DATA_DIR


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def check_port(variable: str, host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as exc:
            raise CannotStart(f"{variable}: {host}:{port} cannot be used: {exc.strerror}") from None


def ensure_dev_key(settings: Settings) -> str:
    """Returns the development key: DEV_API_KEY, or a new one, written to DATA_DIR/dev-key."""
    if settings.dev_api_key:
        return settings.dev_api_key
    key = new_key()
    write_secret(settings.data_dir / "dev-key", key)
    return key


def write_secret(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text + "\n")


def redis_command(executable: str, port: int, config: Path, password: str) -> list[str]:
    config.parent.mkdir(parents=True, exist_ok=True)
    config.touch(mode=0o600)
    directory = json.dumps(str(config.parent.absolute()), ensure_ascii=False)  # Redis quotes alike
    config.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {directory}\nrequirepass {password}\n"
        'appendonly yes\nappendfsync everysec\nsave ""\nloglevel warning\n'
    )
    return [executable, str(config.absolute())]


def banner(settings: Settings, key: str, *, tls: bool) -> str:
    url = f"http://{settings.host}:{settings.port}"
    secure = f"https://{settings.host}:{settings.tls_port}/v1 (self-signed, as in production behind nginx)"
    model = default_model(settings.config)
    return f"""
Penstock is ready.

  URL   {url}/v1
  TLS   {secure if tls else "off"}
  Key   {key}
  Docs  {url}/docs

Try it:

  curl {url}/v1/chat/completions -H "Authorization: Bearer {key}" -H "Content-Type: application/json" -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}]}}'

or, with the official SDK:

  from openai import OpenAI
  client = OpenAI(base_url="{url}/v1", api_key="{key}")
  print(client.chat.completions.create(model="{model}", messages=[{{"role": "user", "content": "Hello"}}]).choices[0].message.content)

Ctrl-C stops everything.
"""  # noqa: E501


def wait_until_ready(settings: Settings, supervisor: Supervisor) -> bool:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and not supervisor.is_stopping:
        connection = http.client.HTTPConnection(settings.host, settings.port, timeout=2)
        try:
            connection.request("GET", "/ready")
            if connection.getresponse().status == 200:
                return True
        except (http.client.HTTPException, OSError):
            pass
        finally:
            connection.close()
        time.sleep(0.03)
    return False


def lock_data_dir(data_dir: Path) -> RunFile:
    """Takes DATA_DIR for this run alone. Raises `CannotStart`."""
    data_dir.mkdir(parents=True, exist_ok=True)
    user = None
    try:
        run_file = RunFile(data_dir)
        pid = find_leftover_redis(data_dir / _REDIS_CONFIG)
        user = pid and f"a Redis that an earlier `make run` has left (pid {pid})"
    except RunFileLocked as exc:
        user = "another process"
        if exc.run is not None:
            user = f"another `make run` (pid {exc.run.pid})"
            if not psutil.pid_exists(exc.run.pid):
                user = f"what a `make run` that has ended (pid {exc.run.pid}) has left running"
    if user:
        raise CannotStart(f"DATA_DIR: {data_dir.absolute()} is in use by {user}; stop it, or set another DATA_DIR")
    run_file.write(RunningGateway(os.getppid()))
    return run_file


def find_leftover_redis(config: Path) -> int | None:
    """Returns the pid of the Redis that was started with `config`, if it runs: two would spoil each other's file."""
    try:
        options = dict(line.split(" ", 1) for line in config.read_text(encoding="utf-8").splitlines())
        with socket.create_connection(("127.0.0.1", int(options["port"])), 2) as connection:
            connection.sendall(f"AUTH {options['requirepass']}\r\nINFO server\r\nQUIT\r\n".encode())
            found = re.search(rb"process_id:(\d+)", b"".join(iter(lambda: connection.recv(4096), b"")))
            return int(found[1]) if found else None
    except (OSError, ValueError, KeyError):
        return None


def schema_is_current(database_url: str) -> bool:
    """Returns True if nothing is to be migrated. False may be wrong: migrating takes two seconds, and finds out."""
    newest = max(path.name.partition("_")[0] for path in Path("app/store/sql/migrations/versions").glob("[0-9]*.py"))
    path = database_url.removeprefix("sqlite:///")
    if path == database_url or not Path(path).exists():
        return False
    try:
        with closing(sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True, timeout=2)) as database:
            return database.execute("SELECT version_num FROM alembic_version").fetchall() == [(newest,)]
    except sqlite3.Error:
        return False


def migrate(env: dict[str, str]) -> None:
    """Prepares the database. Raises `CannotStart`."""
    done = subprocess.run(
        [_BIN / "flask", "--app", "app", "ledger", "migrate"], env=env, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        reason = (done.stderr.strip() or done.stdout.strip()).rpartition("\n")[2]
        raise CannotStart(f"The database could not be prepared: {reason.removeprefix('Error: ')}")


def build_programs(settings: Settings, env: dict[str, str], edge: dict[str, str] | None) -> list[Program]:
    """Returns all but Redis. The ledger writes the rows that gateway and worker leave: it ends after them."""
    stop_timeout_s = settings.config.server.drain_s + _SHUTDOWN_S
    gateway = [f"{_BIN}/gunicorn", "-c", "gunicorn.conf.py", "app:create_app()"]
    worker = [f"{_BIN}/dramatiq-gevent", "app.jobs.worker", "--processes", "1", "--threads", "50"]
    ledger = [f"{_BIN}/flask", "--app", "app", "ledger", "run"]
    programs = [
        Program(name="gateway", command=gateway, env=env, hurry_signal=signal.SIGINT, stop_timeout_s=stop_timeout_s),
        Program(name="worker", command=worker, env=env, hurry_signal=signal.SIGTERM, stop_timeout_s=stop_timeout_s),
        Program(name="ledger", command=ledger, env=env, stage=1, defers_stop=True),
    ]
    if edge is not None:
        programs.append(
            Program(
                name="nginx",
                command=["sh", "nginx/start.sh"],
                env={**env, **edge},
                stop_signal=signal.SIGQUIT,
                hurry_signal=signal.SIGTERM,
                stop_timeout_s=stop_timeout_s,
            )
        )
    return programs


def start() -> int:
    settings = load_settings()
    try:
        run_file = lock_data_dir(settings.data_dir)
        try:
            return run_all(settings, run_file)
        finally:
            run_file.write(None)
    except OSError as exc:
        where = exc.filename or settings.data_dir.absolute()
        raise CannotStart(f"DATA_DIR: {where}: {exc.strerror}") from None


def run_all(settings: Settings, run_file: RunFile) -> int:
    """Runs everything until it is told to stop. Returns the exit code."""
    check_port("PORT", settings.host, settings.port)
    edge = nginx_environment(settings)
    if edge is not None:
        check_port("TLS_PORT", settings.host, settings.tls_port)
    key = ensure_dev_key(settings)
    console = Console()
    env = {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "DEV_API_KEY": key,
        **({"FORCE_COLOR": "1"} if console.is_coloured else {}),
    }
    own_redis = not (os.environ.get("REDIS_URL") or os.environ.get("REDIS_URL_FILE"))
    programs = []
    if own_redis:
        port, password = free_port(), secrets.token_urlsafe(24)
        env["REDIS_URL"] = f"redis://:{password}@127.0.0.1:{port}/0"
        command = redis_command(find_redis(), port, settings.data_dir / _REDIS_CONFIG, password)
        programs.append(Program(name="redis", command=command, env=env, stage=2, quiet=True))
    if not schema_is_current(settings.database_url):
        migrate(env)
    run_file.write(
        RunningGateway(os.getppid(), settings.host, settings.port, key, env.get("REDIS_URL") or settings.redis_url)
    )

    def report(text: str) -> None:
        console.write(text.encode() + b"\n")

    programs += build_programs(settings, env, edge)
    supervisor = Supervisor(programs, console=console, report=report, inherited=[run_file.fd])

    def announce() -> None:
        if wait_until_ready(settings, supervisor):
            supervisor.is_ready = True
            report(banner(settings, key, tls=edge is not None))
        elif not supervisor.is_stopping:
            supervisor.fail(f"Penstock did not become ready within {_START_TIMEOUT_S:.0f} seconds.")

    Thread(target=announce, daemon=True).start()
    try:
        return supervisor.run()
    finally:
        console.close(_CONSOLE_CLOSE_S)


def main() -> int:
    try:
        return start()
    except (ConfigError, CannotStart) as exc:
        print(exc, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(run_in_session(main))
