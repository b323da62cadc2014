"""A batch's results through torn writes, full disks and changes of worker."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from app.store.batch_results import BatchResults, LineResult, remove_leftovers
from tests.support.disk import AlmostFullFile


def claim(tmp_path: Path, *, begun: bool = True) -> BatchResults:
    found = BatchResults.claim(tmp_path, "batch_1", begun=begun)
    assert found is not None
    return found


def row(line: int, *, ok: bool = True, text: str = "") -> LineResult:
    return LineResult(line, ok, b'{"line":%d,"text":"%b"}' % (line, text.encode()))


def kept_lines(results: BatchResults) -> list[bytes]:
    return list(results.entries(ok=True))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "batch_1.results"


def test_entries_come_in_the_order_of_the_lines_however_they_ended(tmp_path: Path) -> None:
    results = claim(tmp_path, begun=False)
    results.add([row(70), row(3), row(5, ok=False)])
    results.add([row(1)])
    assert kept_lines(results) == [row(line).entry + b"\n" for line in (1, 3, 70)]
    assert list(results.entries(ok=False)) == [row(5).entry + b"\n"]
    assert (results.completed, results.failed, len(results)) == (3, 1, 4)
    assert [line in results for line in (0, 1, 2, 3, 5, 69, 70, 71, 10**6)] == [
        False,
        True,
        False,
        True,
        True,
        False,
        True,
        False,
        False,
    ]


def test_of_two_results_of_a_line_the_first_counts(tmp_path: Path, path: Path) -> None:
    results = claim(tmp_path, begun=False)
    results.add([row(1, text="first")])
    results.add([row(1, text="second"), row(2)])
    first = [row(1, text="first").entry + b"\n", row(2).entry + b"\n"]
    assert kept_lines(results) == first
    results.close()
    # A row that was written but for its newline is there once more.
    path.write_bytes(path.read_bytes() + b"1 - " + row(1, text="second").entry + b"\n")
    again = claim(tmp_path)
    assert (kept_lines(again), again.completed, again.failed) == (first, 2, 0)


def test_one_holds_them_until_it_lets_go(tmp_path: Path) -> None:
    first = claim(tmp_path, begun=False)
    first.add([row(1)])
    assert BatchResults.claim(tmp_path, "batch_1", begun=True) is None
    first.close()
    assert kept_lines(claim(tmp_path)) == [row(1).entry + b"\n"]


def test_removed_results_are_gone_and_those_of_a_begun_batch_not_made_anew(tmp_path: Path) -> None:
    results = claim(tmp_path, begun=False)
    results.remove()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        BatchResults.claim(tmp_path, "batch_1", begun=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("torn", [5, 12, 20])
def test_a_torn_row_is_no_row_and_harms_no_later_one(tmp_path: Path, path: Path, torn: int) -> None:
    first = claim(tmp_path, begun=False)
    first.add([row(1), row(2)])
    first.close()
    path.write_bytes(path.read_bytes()[:-torn])
    second = claim(tmp_path)
    assert (1 in second, 2 in second) == (True, False)
    second.add([row(3), row(2)])
    second.close()
    assert kept_lines(claim(tmp_path)) == [row(line).entry + b"\n" for line in (1, 2, 3)]


def test_blocks_that_a_power_cut_left_empty_are_no_rows(tmp_path: Path, path: Path) -> None:
    first = claim(tmp_path, begun=False)
    first.add([row(1)])
    first.close()
    path.write_bytes(path.read_bytes() + b'2 + {"line":' + bytes(50) + b"\n" + bytes(100))
    second = claim(tmp_path)
    second.add([row(2)])
    second.close()
    assert kept_lines(claim(tmp_path)) == [row(1).entry + b"\n", row(2).entry + b"\n"]


def test_a_write_that_a_full_disk_cut_short_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = claim(tmp_path, begun=False)
    results.add([row(1)])
    with monkeypatch.context() as patch:
        patch.setattr(results, "_file", AlmostFullFile(results._file))
        with pytest.raises(OSError, match="No space left"):
            results.add([row(2), row(3)])
    assert (2 in results, 3 in results) == (False, False)
    results.add([row(2), row(3)])
    everything = [row(line).entry + b"\n" for line in (1, 2, 3)]
    assert kept_lines(results) == everything
    results.close()
    assert kept_lines(claim(tmp_path)) == everything


def test_results_are_synced_before_they_count(tmp_path: Path) -> None:
    seen: list[tuple[int, bool]] = []
    results: Any = BatchResults.claim(
        tmp_path, "batch_1", begun=False, sync=lambda fileno: seen.append((os.fstat(fileno).st_size, 1 in results))
    )
    assert results is not None
    results.add([row(1)])
    assert seen == [((tmp_path / "batch_1.results").stat().st_size, False)]


@pytest.mark.parametrize(
    ("content", "written_out", "stays"),
    [
        (b"1 + {}\n", True, False),
        (b"1 + {}\n", None, True),  # not ended
        (b"1 + {}\n", False, True),  # unknown, or failed without them: they may be all there is
        (b"", False, False),
        (b"", None, True),
    ],
)
def test_only_results_that_are_in_files_or_of_nothing_are_removed(
    tmp_path: Path, content: bytes, written_out: bool | None, stays: bool
) -> None:
    path = tmp_path / "batch_1.results"
    path.write_bytes(content)
    kept_lines = remove_leftovers(tmp_path, lambda batch_id: written_out if batch_id == "batch_1" else True)
    assert (path.exists(), kept_lines) == (stays, int(stays and written_out is False))
