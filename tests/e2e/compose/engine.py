"""A container engine for the tests: the one that already runs, else one of our own, stopped again afterwards."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.servers import ROOT, wait_for

# Kept between runs, so that base images are made once (`make clean` removes it).
_STORE = ROOT / "data" / "test-engine"
_TOOLS = ("docker", "docker-compose", "dockerd", "debootstrap", "iptables-save", "ip")
# What a table is that nobody has used yet: `iptables-save` leaves it out, and restoring would not touch it.
_NO_RULES = {
    "filter": "*filter\n:INPUT ACCEPT\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\nCOMMIT\n",
    "nat": "*nat\n:PREROUTING ACCEPT\n:INPUT ACCEPT\n:OUTPUT ACCEPT\n:POSTROUTING ACCEPT\nCOMMIT\n",
}


class NoEngine(Exception):
    """One line for the person at the terminal."""


@contextmanager
def engine() -> Iterator[str]:
    """The address of a running engine. Raises `NoEngine`: these tests are asked for by name, so never a skip."""
    if missing := [tool for tool in _TOOLS if shutil.which(tool) is None]:
        packages = "docker.io docker-compose debootstrap iptables iproute2"
        raise NoEngine(
            f"The compose tests need {', '.join(missing)}: apt-get install --no-install-recommends {packages}"
        )
    running = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    if _answers(running):
        yield running
        return
    if os.geteuid() != 0:
        raise NoEngine("The compose tests need a running container engine (DOCKER_HOST), or root to start one.")
    with _started() as address:
        yield address


@contextmanager
def _started() -> Iterator[str]:
    _STORE.mkdir(parents=True, exist_ok=True)
    rules = subprocess.run(["iptables-save"], capture_output=True, text=True, check=True, timeout=30).stdout
    rules += "".join(empty for table, empty in _NO_RULES.items() if f"*{table}\n" not in rules)
    # Below /tmp: the path of a socket has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="penstock-engine-") as home:
        address = f"unix://{home}/docker.sock"
        command = [
            "dockerd",
            "--host",
            address,
            "--data-root",
            str(_STORE),
            "--exec-root",
            f"{home}/exec",
            "--pidfile",
            f"{home}/pid",
        ]
        log = Path(home) / "log"
        # In a session of its own: Ctrl-C must reach the tests, which then take the containers down, and not the engine.
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        try:
            wait_for(
                lambda: process.poll() is not None or _answers(address), timeout_s=60, message="dockerd does not answer"
            )
            if process.poll() is not None:
                reason = log.read_text(errors="replace").strip().splitlines()[-1:]
                raise NoEngine(f"No container engine can be started here: {' '.join(reason)}")
            yield address
        finally:
            process.terminate()
            process.wait(60)
            _tidy(home, rules)


def _tidy(home: str, rules: str) -> None:
    """dockerd leaves its mounts, its bridge and its firewall rules, one of which drops all forwarding, behind."""
    mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for path in (path for path in mounted if path.startswith(f"{home}/")):
        subprocess.run(["umount", path], check=True, timeout=30)
    subprocess.run(["ip", "link", "delete", "docker0"], capture_output=True, check=False, timeout=30)
    subprocess.run(["iptables-restore"], input=rules, text=True, check=True, timeout=30)


def _answers(address: str) -> bool:
    command = ["docker", "--host", address, "version", "--format", "{{.Server.Version}}"]
    return subprocess.run(command, capture_output=True, timeout=30).returncode == 0
