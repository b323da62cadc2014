"""The output of processes is shown with their names, whatever becomes of the standard output."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from scripts.console import Console, ProcessOutput
from tests.support.servers import wait_for


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        with suppress(OSError):
            os.close(end)


def test_each_line_is_shown_with_its_process_and_a_partial_one_waits(pipe: tuple[int, int]) -> None:
    console = Console(pipe[1])
    printed = ProcessOutput(console, "worker", width=7, number=0)
    printed.feed(b"one\ntw")
    printed.feed(b"o\n\nth")
    printed.feed(b"ree")
    printed.flush()
    console.close(5)
    assert os.read(pipe[0], 1000) == b"worker  | one\nworker  | two\nworker  | \nworker  | three\n"
    assert printed.last_lines().endswith(b"worker  | two\nworker  | \nworker  | three\n")


def test_a_block_of_lines_is_one_write(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(pipe[1])
    sizes: list[int] = []
    write = os.write

    def counted(fd: int, data: bytes) -> int:
        sizes.append(len(data))
        return write(fd, data)

    monkeypatch.setattr(os, "write", counted)
    ProcessOutput(console, "gateway", width=7, number=0).feed(b"line\n" * 1000)
    console.close(5)
    assert sizes == [1000 * len("gateway | line\n")]


def test_a_line_without_end_is_shown_in_pieces_and_not_kept(pipe: tuple[int, int]) -> None:
    console = Console(pipe[1])
    printed = ProcessOutput(console, "nginx", width=5, number=0)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.extend(iter(lambda: os.read(pipe[0], 65536), b"")))
    reader.start()
    for _ in range(40):
        printed.feed(b"x" * 10_000)
    console.close(5)
    os.close(pipe[1])
    reader.join(10)
    assert b"".join(read).count(b"\n") == 5, "after each 65,536 bytes or a little more"


def test_a_reader_that_pauses_stops_nobody_and_learns_how_much_it_missed(pipe: tuple[int, int]) -> None:
    console = Console(pipe[1])
    printed = ProcessOutput(console, "gateway", width=7, number=0)
    for _ in range(300):  # three megabytes; a pipe holds 64 KB
        printed.feed(b"a line of a hundred bytes".ljust(99, b".") + b"\n")
        for _ in range(99):
            printed.feed(b"a line of a hundred bytes".ljust(99, b".") + b"\n")
    read = bytearray()

    def told() -> bool:
        read.extend(os.read(pipe[0], 65536))
        printed.feed(b"later\n")
        return b"lines left out: the output is read too slowly\n" in read

    wait_for(told)
    assert len(read) < 2_000_000


def test_a_reader_that_is_gone_stops_nobody(pipe: tuple[int, int]) -> None:
    console = Console(pipe[1])
    os.close(pipe[0])
    printed = ProcessOutput(console, "gateway", width=7, number=0)
    for _ in range(100):
        printed.feed(b"line\n" * 1000)
    console.close(10)
    assert not console._thread.is_alive()


def test_what_a_quiet_one_said_is_kept_for_when_it_fails(pipe: tuple[int, int]) -> None:
    console = Console(pipe[1])
    printed = ProcessOutput(console, "redis", width=5, number=0, quiet=True)
    printed.feed(b"It does not start.\n")
    console.close(5)
    os.set_blocking(pipe[0], False)
    with pytest.raises(BlockingIOError):
        os.read(pipe[0], 1)
    assert printed.last_lines() == b"redis | It does not start.\n"
