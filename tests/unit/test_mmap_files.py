"""prometheus_client's files take their room before it is written to."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from prometheus_client.mmap_dict import MmapedDict
from structlog.testing import capture_logs

from app.telemetry.mmap_files import PreallocatedDict


class Disk:
    """`os.posix_fallocate`, as a disk with so much room answers it."""

    def __init__(self, room: int) -> None:
        self.room = room
        self._really = os.posix_fallocate

    def allocate(self, fd: int, offset: int, length: int) -> None:
        if length > self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        self._really(fd, offset, length)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk(1 << 30)
    monkeypatch.setattr(os, "posix_fallocate", disk.allocate)
    return disk


def kept(file: Path) -> dict[str, float]:
    return {key: value for key, value, _, _ in MmapedDict.read_all_values_from_file(str(file))}  # type: ignore[no-untyped-call]


def test_every_page_that_can_be_written_to_has_its_block(tmp_path: Path) -> None:
    file = tmp_path / "counter_1.db"
    series = PreallocatedDict(str(file))
    for number in range(3000):
        assert series.read_value(f"a series with a longish name, number {number}") == (0.0, 0.0)
        used = file.stat()
        assert used.st_blocks * 512 >= used.st_size, "a sparse file's pages are a SIGBUS on a full disk"
    assert len(kept(file)) == 3000


def test_a_series_that_finds_no_room_is_shown_whole_once_there_is_some(tmp_path: Path, disk: Disk) -> None:
    file = tmp_path / "counter_1.db"
    disk.room = 0
    with capture_logs() as logs:
        series = PreallocatedDict(str(file))
        assert series.read_value("a") == (0.0, 0.0)
        series.write_value("a", 1.0, 0.0)
        series.write_value("b", 1.0, 0.0)
    assert [line["event"] for line in logs] == ["metrics_incomplete"], "said once"
    assert list(tmp_path.iterdir()) == [], "a scrape cannot read past an empty file"
    disk.room = 1 << 16
    series.write_value("a", 5.0, 0.0)
    assert kept(file) == {"a": 5.0}
    series.close()  # type: ignore[no-untyped-call]


def test_a_file_that_cannot_grow_keeps_what_it_has(tmp_path: Path, disk: Disk) -> None:
    file = tmp_path / "counter_1.db"
    disk.room = 1 << 16
    series = PreallocatedDict(str(file))
    names = [f"a series with a longish name, number {number}" for number in range(2000)]
    for name in names:
        series.write_value(name, 1.0, 0.0)
    fitted = kept(file)
    assert 500 < len(fitted) < 2000
    series.write_value(names[0], 2.0, 0.0)
    assert kept(file)[names[0]] == 2.0
    disk.room = 1 << 20
    for name in names:
        series.write_value(name, 3.0, 0.0)
    assert kept(file) == dict.fromkeys(names, 3.0)


def test_the_next_process_of_that_number_finds_what_is_there(tmp_path: Path) -> None:
    file = str(tmp_path / "counter_1.db")
    first = PreallocatedDict(file)
    first.write_value("a", 7.0, 0.0)
    first.close()  # type: ignore[no-untyped-call]
    second = PreallocatedDict(file)
    second.write_value("b", 1.0, 0.0)
    second.write_value("a", 8.0, 0.0)
    assert kept(Path(file)) == {"a": 8.0, "b": 1.0}
