"""Before anything else starts: keys and passwords that nobody needs to choose, made once and kept in volumes.

The key with the role admin is ADMIN_KEY when that is set, Redis's password is REDIS_PASSWORD; each may be what is in
the file of NAME_FILE, else it is a random one. REDIS_URL, when set, is some other Redis, and goes to its clients as is.
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


def keep(path: Path, value: str, mode: int = 0o444) -> None:
    """Readable for every user of the containers that mount the volume: each runs as another one."""
    path.parent.chmod(0o755)
    unfinished = path.with_suffix(".new")
    unfinished.unlink(missing_ok=True)
    unfinished.touch(mode=0o600)
    unfinished.write_text(value + "\n", encoding="utf-8")
    unfinished.chmod(mode)
    unfinished.replace(path)


def kept_or_new(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip() if path.exists() else secrets.token_urlsafe(32)


def main() -> str:
    password = given("REDIS_PASSWORD") or kept_or_new(_REDIS / "redis-password")
    if len(password.split()) != 1 or '"' in password or "\\" in password:
        return "REDIS_PASSWORD: must not hold spaces, quotes or backslashes"
    # For our own user: Redis, which mounts the volume as well, cannot read it.
    keep(_REDIS / "admin-key", given("ADMIN_KEY") or kept_or_new(_REDIS / "admin-key"), 0o400)
    keep(_REDIS / "redis-password", password)
    keep(_REDIS / "redis-url", given("REDIS_URL") or f"redis://:{quote(password, safe='')}@redis:6379/0")
    keep(_GRAFANA / "admin-password", given("GRAFANA_PASSWORD") or kept_or_new(_GRAFANA / "admin-password"))
    # nginx, another user, makes its first certificate there.
    _CERTIFICATES.chmod(0o1777)
    return ""


if __name__ == "__main__":
    sys.exit(main() or 0)
