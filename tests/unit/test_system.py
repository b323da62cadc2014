"""Memory and CPU are measured against what limits these processes: the container, else the machine."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from app.store.redis.url import without_secrets
from app.telemetry.system import System, _own_cgroup, process_figures

GIB = 2**30


def container(tmp_path: Path, **files: str) -> System:
    for name, text in files.items():
        (tmp_path / name.replace("_", ".", 1)).write_text(text)
    return System(data_dir=tmp_path, cgroup=tmp_path)


def test_a_container_is_full_when_its_own_limit_is_reached(tmp_path: Path) -> None:
    system = container(
        tmp_path, memory_max=f"{2**28}\n", memory_current=f"{2**27}\n", memory_stat=f"anon 5\ninactive_file {2**20}\n"
    )
    assert system.memory() == (2**27 - 2**20, 2**28), "what the kernel gives up at once is not in use"


@pytest.mark.parametrize("limit", ["max\n", f"{2**60}\n", "", "nonsense"])
def test_without_a_limit_of_its_own_the_machines_memory_counts(tmp_path: Path, limit: str) -> None:
    memory = container(tmp_path, memory_max=limit, memory_current="5\n").memory()
    assert memory.limit == psutil.virtual_memory().total
    assert memory.used > 10 * 2**20


def test_a_containers_cores_are_its_quota(tmp_path: Path) -> None:
    system = container(tmp_path, cpu_max="50000 100000\n", cpu_stat="usage_usec 1500000\nuser_usec 1\n")
    assert system.cpu() == (1.5, 0.5)


@pytest.mark.parametrize("quota", ["max 100000\n", "", "100000\n", "90000000 100000\n"])
def test_without_a_quota_the_machines_cores_count(tmp_path: Path, quota: str) -> None:
    cpu = container(tmp_path, cpu_max=quota, cpu_stat="usage_usec 1500000\n").cpu()
    assert cpu.cores == psutil.cpu_count()
    assert cpu.seconds > 1.5


def test_a_disk_that_is_not_there_is_left_out(tmp_path: Path) -> None:
    there = System(data_dir=tmp_path).figures()
    assert 0 < there["system_filesystem_usage_bytes"] < there["system_filesystem_limit_bytes"]
    assert "system_filesystem_usage_bytes" not in System(data_dir=tmp_path / "missing").figures()


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (["0::/"], "/sys/fs/cgroup"),
        (["1:cpu:/x", "0::/system.slice/penstock.service"], "/sys/fs/cgroup/system.slice/penstock.service"),
        (["1:cpu:/x"], None),
        ([], None),
    ],
)
def test_where_the_kernel_tells_of_this_processs_limits(lines: list[str], found: str | None) -> None:
    assert _own_cgroup(lines) == (None if found is None else Path(found))


def test_a_process_tells_of_itself() -> None:
    found = process_figures(siblings=False)
    assert found["process_resident_memory_bytes"] > 10 * 2**20
    assert found["process_cpu_seconds_total"] > 0
    assert found["process_open_fds"] > 2


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("rediss://penstock:hunter2@redis.example:6380/1?password=hunter2", "rediss://redis.example:6380/1"),
        ("redis://:p@ss/wo#rd@host:6379/0", "redis://host:6379/0"),
        ("redis://:p@ss?word@host:6379/0", "redis://***"),
        ("sentinel://:hunter2@a:1,b:2/main/0?sentinel_password=hunter2", "sentinel://a:1,b:2/main/0"),
        ("unix:///run/redis.sock?db=1&password=hunter2", "unix:///run/redis.sock"),
        ("unix://user:hunter2@/run/redis.sock", "unix:///run/redis.sock"),
        ("redis://host/0?password=hun@ter2", "redis://***"),
    ],
)
def test_where_redis_is_can_be_shown(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


def test_a_machine_that_idles_does_not_take_time_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A counter that is a hair less than before has begun anew, to Prometheus: it would add all of it again."""
    real = psutil.cpu_times()
    system = System(data_dir=tmp_path)
    seen = []
    for idle in range(3000):
        times = real._replace(idle=idle * 0.07, iowait=idle * 0.03)
        monkeypatch.setattr("app.telemetry.system.psutil.cpu_times", lambda times=times: times)
        seen.append(system.cpu().seconds)
    assert len(set(seen)) == 1
