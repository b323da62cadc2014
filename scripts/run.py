"""`make run`: the whole shape on one machine for development — Redis, gateway, worker, ledger, nginx, stopped together.

Everything written goes below DATA_DIR. Every failure to start is one clear line and exit code 1.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from threading import Thread

from honcho.manager import Manager
from honcho.printer import Printer

from app.domain.identity import new_key
from app.domain.serving import default_model
from app.errors import ConfigError
from app.settings import EMBEDDED_REDIS, Settings, load_settings
from scripts.programs import CannotStart, edge_environment, find_redis

_START_TIMEOUT_S = 60.0
_BIN = Path(sys.executable).parent


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
    """The development key: DEV_API_KEY, or one kept in DATA_DIR/dev-key."""
    if settings.dev_api_key:
        return settings.dev_api_key
    key = new_key()
    write_secret(settings.data_dir / "dev-key", key)
    return key


def write_secret(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text + "\n")


def redis_command(executable: str, port: int, directory: Path, password: str) -> list[str]:
    directory.mkdir(parents=True, exist_ok=True)
    config = directory / "redis.conf"
    config.touch(mode=0o600)
    config.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {directory.absolute()}\nrequirepass {password}\n"
        'appendonly yes\nappendfsync everysec\nsave ""\nloglevel warning\n'
    )
    return [executable, str(config)]


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
    check_port("PORT", settings.host, settings.port)
    edge = edge_environment(settings)
    if edge is not None:
        check_port("TLS_PORT", settings.host, settings.tls_port)
    key = ensure_dev_key(settings)
    env = {"PYTHONUNBUFFERED": "1", "DEV_API_KEY": key}
    redis: subprocess.Popen[bytes] | None = None
    if not os.environ.get("REDIS_URL") and not os.environ.get("REDIS_URL_FILE"):
        port, password = free_port(), secrets.token_urlsafe(24)
        env["REDIS_URL"] = f"redis://:{password}@127.0.0.1:{port}/0"
        # In a session of its own, so that Ctrl-C does not reach it: it has to outlive those who write to it.
        command = redis_command(find_redis(), port, settings.data_dir / "redis", password)
        redis = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        write_secret(settings.data_dir / EMBEDDED_REDIS, env["REDIS_URL"])
    try:
        return run_processes(settings, key, env, edge)
    finally:
        if redis is not None:
            (settings.data_dir / EMBEDDED_REDIS).unlink(missing_ok=True)
            redis.terminate()
            redis.wait(10)


def run_processes(settings: Settings, key: str, env: dict[str, str], edge: dict[str, str] | None) -> int:
    """Gateway, worker, ledger and, with an `edge`, nginx, until one ends or is ended. Returns the exit code."""
    flask = f"{_BIN}/flask --app app"
    everything = {**os.environ, **env}
    migrated = subprocess.run([f"{_BIN}/flask", "--app", "app", "ledger", "migrate"], env=everything, check=False)
    if migrated.returncode != 0:
        raise CannotStart("The database could not be prepared (see above).")
    manager = Manager(Printer(sys.stdout, colour=sys.stdout.isatty()))
    manager.add_process("gateway", f"exec {_BIN}/gunicorn -c gunicorn.conf.py 'app:create_app()'", env=everything)
    worker = f"exec {_BIN}/dramatiq-gevent app.jobs.worker --processes 1 --threads 50"
    manager.add_process("worker", worker, env=everything)
    manager.add_process("ledger", f"exec {flask} ledger run", env=everything)
    if edge is not None:
        manager.add_process("nginx", "exec sh nginx/start.sh", env={**everything, **edge})

    def announce() -> None:
        if wait_until_ready(settings, manager):
            print(banner(settings, key, tls=edge is not None), flush=True)
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
