"""Before anything else starts: passwords that nobody needs to choose, made once and kept in volumes.

Redis's is REDIS_PASSWORD (or what is in REDIS_PASSWORD_FILE) when that is set, else a random one. REDIS_URL, when
set, is some other Redis, and goes to the clients as it is.
"""

import os
import secrets
import sys
from pathlib import Path
from urllib.parse import quote

_REDIS = Path("/run/penstock")  # mounted by Redis and its clients
_GRAFANA = Path("/run/grafana")  # mounted by Grafana
_CERTIFICATES = Path("/run/tls")  # mounted by nginx


def given(name: str) -> str:
    file = os.environ.get(f"{name}_FILE")
    return Path(file).read_text(encoding="utf-8").strip() if file else os.environ.get(name, "")


def keep(path: Path, value: str) -> None:
    """Readable for every user of the containers that mount the volume: each runs as another one."""
    path.parent.chmod(0o755)
    unfinished = path.with_suffix(".new")
    unfinished.write_text(value + "\n", encoding="utf-8")
    unfinished.chmod(0o444)
    unfinished.replace(path)


def kept_or_new(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip() if path.exists() else secrets.token_urlsafe(32)


def main() -> str:
    password = given("REDIS_PASSWORD") or kept_or_new(_REDIS / "redis-password")
    if len(password.split()) != 1 or '"' in password or "\\" in password:
        return "REDIS_PASSWORD: must not hold spaces, quotes or backslashes"
    keep(_REDIS / "redis-password", password)
    keep(_REDIS / "redis-url", given("REDIS_URL") or f"redis://:{quote(password, safe='')}@redis:6379/0")
    keep(_GRAFANA / "admin-password", given("GRAFANA_PASSWORD") or kept_or_new(_GRAFANA / "admin-password"))
    # nginx, another user, makes its first certificate there.
    _CERTIFICATES.chmod(0o1777)
    return ""


if __name__ == "__main__":
    sys.exit(main() or 0)
