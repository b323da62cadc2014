"""Resource usage: memory, CPU and disk of this process and its siblings, and of the container or machine they run in.

A container's figures are measured against the container's limits (cgroup v2): how full the machine is says nothing of
a process that is about to be killed for its own limit.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import psutil

_CGROUP_ROOT = Path("/sys/fs/cgroup")
_MAX_READS = 5


class Memory(NamedTuple):
    """Bytes; `used` without what the kernel would give up at once."""

    used: int
    limit: int


class Cpu(NamedTuple):
    """Seconds of CPU time used so far, and how many cores there are to use."""

    seconds: float
    cores: float


class System:
    """The container, or machine, in which these processes run.

    `cgroup` is the directory of the container's figures, by default that of this process; None if there is none.
    """

    def __init__(self, *, data_dir: Path, cgroup: Path | None = None) -> None:
        self._data_dir = data_dir
        self._cgroup = cgroup or _own_cgroup()

    def memory(self) -> Memory:
        """Returns the container's memory if it is limited, else the machine's."""
        limit, used = self._read_int("memory.max"), self._read_int("memory.current")
        machine = psutil.virtual_memory()
        if limit is None or used is None or limit >= machine.total:
            return Memory(machine.total - machine.available, machine.total)
        return Memory(max(used - int(self._read_fields("memory.stat").get("inactive_file", 0)), 0), limit)

    def cpu(self) -> Cpu:
        """Returns the container's CPU if it is limited, else the machine's."""
        quota, _, period = self._read("cpu.max").partition(" ")
        cores = float(os.cpu_count() or 1)
        used = self._read_fields("cpu.stat").get("usage_usec")
        if used is not None and quota.isdigit() and period.isdigit() and int(quota) < cores * int(period):
            return Cpu(used / 1e6, int(quota) / int(period))
        times = psutil.cpu_times()
        # Added up, and nothing taken away: a difference may be a hair less than before, and a counter must not. What
        # guests take is in `user` already.
        busy = (getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))
        return Cpu(round(sum(busy), 2), cores)

    def disk(self) -> tuple[int, int] | None:
        """Returns the used bytes of DATA_DIR's disk, and all of them but root's reserve; None if it is not there."""
        try:
            disk = psutil.disk_usage(str(self._data_dir))
        except OSError:
            return None
        return disk.used, disk.used + disk.free

    def figures(self) -> dict[str, float]:
        """Returns the values for a scrape, by the names of OpenTelemetry's conventions."""
        memory, cpu, disk = self.memory(), self.cpu(), self.disk()
        values = {
            "system_memory_usage_bytes": memory.used,
            "system_memory_limit_bytes": memory.limit,
            "system_cpu_time_seconds_total": cpu.seconds,
            "system_cpu_limit_cores": cpu.cores,
        }
        if disk is not None:
            values |= {"system_filesystem_usage_bytes": disk[0], "system_filesystem_limit_bytes": disk[1]}
        return values

    def _read(self, name: str) -> str:
        try:
            return (self._cgroup / name).read_text().strip() if self._cgroup is not None else ""
        except OSError:
            return ""

    def _read_int(self, name: str) -> int | None:
        text = self._read(name)
        return int(text) if text.isdigit() else None

    def _read_fields(self, name: str) -> dict[str, int]:
        rows = (line.split(" ", 1) for line in self._read(name).splitlines() if " " in line)
        return {key: int(value) for key, value in rows if value.isdigit()}


def process_figures(*, siblings: bool) -> dict[str, float]:
    """Returns the values for a scrape of this process, with `siblings` of it, its parent and all its siblings.

    The names are Prometheus' usual ones. Memory that forked processes share is counted in each. CPU time includes that
    of processes that have ended.
    """
    try:
        parent = psutil.Process(os.getppid()) if siblings else psutil.Process()
        processes, seconds = _cpu_time(parent, siblings=siblings)
    except psutil.Error:  # the parent ends, or children do again and again: the next scrape will show it
        return {}
    resident, descriptors = 0, 0
    for process in processes:
        try:
            resident += process.memory_info().rss
            descriptors += process.num_fds()
        except psutil.Error:
            continue
    return {
        "process_resident_memory_bytes": resident,
        "process_cpu_seconds_total": seconds,
        "process_open_fds": descriptors,
    }


def _cpu_time(parent: psutil.Process, *, siblings: bool) -> tuple[list[psutil.Process], float]:
    """Returns the processes, and the CPU time of them and of the parent's dead children. Raises `psutil.NoSuchProcess`.

    A child that ends during the reading would be counted twice or not at all, and a counter must not run backwards:
    the reading is then repeated.
    """
    if not siblings:
        return [parent], _own_time(parent)
    for _ in range(_MAX_READS):
        times = parent.cpu_times()
        of_dead = times.children_user + times.children_system
        try:
            children = _children(parent.pid)
            seconds = times.user + times.system + of_dead + sum(_own_time(child) for child in children)
        except psutil.NoSuchProcess:
            continue
        after = parent.cpu_times()
        if after.children_user + after.children_system == of_dead:
            return [parent, *children], round(seconds, 2)
    raise psutil.NoSuchProcess(parent.pid)


def _children(pid: int) -> list[psutil.Process]:
    """Returns the live children. Raises `psutil.NoSuchProcess`."""
    try:
        pids = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # this kernel does not list them: then every process is looked at
        return psutil.Process(pid).children()
    return [psutil.Process(int(child)) for child in pids]


def _own_time(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _own_cgroup(listed: Iterable[str] | None = None) -> Path | None:
    """Returns this process's cgroup directory; None without cgroup v2. `listed` replaces the kernel's list."""
    try:
        lines = list(listed) if listed is not None else Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    own = next((line[3:] for line in lines if line.startswith("0::/")), None)
    return None if own is None else _CGROUP_ROOT / own.lstrip("/")
