"""Settlements that Redis could not take are kept on disk and replayed once it is back, whoever replays them."""

from __future__ import annotations

import itertools
import multiprocessing
import resource
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from redis import ResponseError
from structlog.testing import capture_logs

from app.errors import StoreUnavailable
from app.store.redis.client import Arg, Redis, Script
from app.store.spool import Spool
from app.store.spool_files import Writer
from tests.support.servers import ROOT, wait_for

KEYS = [f"penstock:{name}" for name in ("reservation", "open", "cache", "flight", "running", "outbox", "limit")]


class FakeSettleScript(Script):
    """A fake settle script: unavailable until `away` is cleared, and records the calls it settled."""

    def __init__(self) -> None:
        self.away = True
        self.settled: list[str] = []
        self.before: Callable[[str], None] = lambda _: None

    def __call__(self, keys: Any, args: Any) -> int:
        if self.away:
            raise StoreUnavailable("away")
        call_id = args[0].decode() if isinstance(args[0], bytes) else str(args[0])
        self.before(call_id)
        self.settled.append(call_id)
        return 1


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("*"))


def spooled(directory: Path, name: str, *call_ids: str) -> Spool:
    """A spool whose own replaying is too slow to matter, with these settlements in it."""
    spool = Spool(directory, name=name, retry_s=3600)
    for call_id in call_ids:
        spool.settle(FakeSettleScript(), KEYS, [call_id])
    return spool


def test_a_settlement_that_redis_takes_never_touches_the_disk(tmp_path: Path) -> None:
    settle_script = FakeSettleScript()
    settle_script.away = False
    Spool(tmp_path / "spool", name="a").settle(settle_script, KEYS, ["one"])
    assert settle_script.settled == ["one"]
    assert not (tmp_path / "spool").exists()


def test_what_redis_could_not_take_is_replayed_when_it_is_back(tmp_path: Path) -> None:
    settle_script = FakeSettleScript()
    spool = Spool(tmp_path, name="a", retry_s=0.01)
    for call_id in ("one", "two", "three"):
        spool.settle(settle_script, KEYS, [call_id])
    assert settle_script.settled == []
    settle_script.away = False
    wait_for(lambda: files(tmp_path) == [])
    assert settle_script.settled == ["one", "two", "three"]
    settle_script.away = True
    spool.settle(settle_script, KEYS, ["four"])
    settle_script.away = False
    wait_for(lambda: settle_script.settled[3:] == ["four"], message="the second outage")


def test_what_is_being_written_while_the_last_replay_ends_is_replayed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle_script = FakeSettleScript()
    settle_script.away = False
    spool = Spool(tmp_path, name="a", retry_s=0.01)
    second = threading.Thread(target=spool.keep, args=(settle_script, KEYS, ["two"]))
    at_the_disk = threading.Event()
    append = Writer.append

    def slow(writer: Writer, data: bytes) -> None:
        if threading.current_thread() is second:
            at_the_disk.set()
            threading.Event().wait(0.3)  # a slow disk: the replay has ended by then
        append(writer, data)

    def meanwhile(call_id: str) -> None:
        if call_id == "one":
            second.start()
            assert at_the_disk.wait(10)

    monkeypatch.setattr(Writer, "append", slow)
    settle_script.before = meanwhile
    spool.keep(settle_script, KEYS, ["one"])
    wait_for(lambda: settle_script.settled == ["one", "two"], timeout_s=5)


def test_every_argument_round_trips_and_settles_on_a_real_redis(tmp_path: Path, redis: Redis) -> None:
    row = '{"request_id": "ü\n\u2028"}'.encode()
    args: list[Arg] = ["call_1", "settled", row, b"\x00\xff\n", 60_000, 60_000, "window", 0, 7, 10, 60_000]
    spool = Spool(tmp_path, name="a", retry_s=3600)
    spool.settle(FakeSettleScript(), KEYS, args)
    script = redis.script("settle")
    assert spool.replay(script) == 1
    assert redis.execute("GET", "penstock:cache") == b"\x00\xff\n"
    assert redis.execute("GET", "penstock:limit") == b"7"
    ((_, entry),) = redis.execute("XRANGE", "penstock:outbox", "-", "+")
    assert entry == [b"row", row]
    assert script(KEYS, args) == 0, "settled is settled"


@pytest.mark.server
def test_a_dead_processes_file_is_adopted_by_the_next(tmp_path: Path) -> None:
    child = multiprocessing.get_context("spawn").Process(target=spooled, args=(tmp_path, "dead", "one", "two"))
    child.start()
    child.join(20)
    assert files(tmp_path) == ["dead.spool"]
    settle_script = FakeSettleScript()
    settle_script.away = False
    Spool(tmp_path, name="next", retry_s=0.01).adopt(settle_script)
    wait_for(lambda: files(tmp_path) == [])
    assert settle_script.settled == ["one", "two"]


def test_a_living_processes_file_is_left_to_it(tmp_path: Path) -> None:
    owner = spooled(tmp_path, "living", "one")
    settle_script = FakeSettleScript()
    settle_script.away = False
    assert Spool(tmp_path, name="other").replay(settle_script) == 0
    assert owner.replay(settle_script) == 1
    assert settle_script.settled == ["one"]


def test_a_redis_that_goes_away_in_the_middle_of_a_replay_loses_nothing(tmp_path: Path) -> None:
    spool = spooled(tmp_path, "a", "one", "two", "three")
    settle_script = FakeSettleScript()
    settle_script.away = False
    settle_script.before = lambda call_id: setattr(settle_script, "away", call_id == "two")
    with pytest.raises(StoreUnavailable):
        spool.replay(settle_script)
    settle_script.away, settle_script.before = False, lambda _: None
    spool.replay(settle_script)
    assert settle_script.settled == ["one", "two", "three"], "what was sent is not sent again"
    assert files(tmp_path) == []


def test_what_comes_during_a_replay_goes_into_a_new_file(tmp_path: Path) -> None:
    spool = spooled(tmp_path, "a", "one")
    settle_script = FakeSettleScript()
    settle_script.away = False
    late = iter(["late"])

    def another(_: str) -> None:
        for call_id in late:
            spool.settle(FakeSettleScript(), KEYS, [call_id])

    settle_script.before = another
    assert spool.replay(settle_script) == 1
    assert files(tmp_path) == ["a.spool"]
    assert spool.replay(settle_script) == 1
    assert settle_script.settled == ["one", "late"]


def test_a_line_cut_off_by_a_crash_spoils_no_other(tmp_path: Path) -> None:
    living = spooled(tmp_path, "living", "one")
    whole = (tmp_path / "living.spool").read_bytes()
    (tmp_path / "dead.spool").write_bytes(whole + whole[: len(whole) // 2] + b"\n" + b'{"keys": ["!"], "args": []}\n')
    settle_script = FakeSettleScript()
    settle_script.away = False
    with capture_logs() as logs:
        assert Spool(tmp_path, name="b").replay(settle_script) == 1
    assert [entry["event"] for entry in logs] == ["spool_line_broken"] * 2
    assert living.replay(settle_script) == 1


def test_a_settlement_that_redis_will_never_take_holds_up_no_other(tmp_path: Path, redis: Redis) -> None:
    script = redis.script("settle")
    redis.execute("SET", "penstock:wrong", "not a stream")
    spool = Spool(tmp_path, name="a", retry_s=3600)
    rest: list[Arg] = ["settled", "{}", "", 1, 60_000, "window", 0, 7, 10, 60_000]
    spool.settle(FakeSettleScript(), [*KEYS[:5], "penstock:wrong", KEYS[6]], ["poison", *rest])
    spool.settle(FakeSettleScript(), KEYS, ["good", *rest])
    with capture_logs() as logs:
        assert spool.replay(script) == 1
    assert [entry["call_id"] for entry in logs if entry["event"] == "settlement_refused"] == ["poison"]
    assert redis.execute("XLEN", "penstock:outbox") == 1
    (kept,) = tmp_path.iterdir()
    assert kept.name == "a.1.refused", "it is left to a human"
    assert [line[:1] for line in kept.read_text().splitlines()] == ["!", "#"]
    assert spool.backlog() == (0, 0, 1)


def test_workers_that_replay_the_same_directory_do_not_trip_each_other(tmp_path: Path) -> None:
    """After an outage every worker replays at the same moment: a file may be gone before it can be opened."""
    for number in range(3):
        spooled(tmp_path, f"dead-{number}", f"call-{number}")
        (tmp_path / f"dead-{number}.spool").rename(tmp_path / f"orphan-{number}.spool")
    orphans = {path.name: path.read_bytes() for path in tmp_path.glob("orphan-*")}
    for name, content in orphans.items():  # copies that no process holds locked
        (tmp_path / name).unlink()
        (tmp_path / name).write_bytes(content)
    second = FakeSettleScript()
    second.away = False
    first = FakeSettleScript()
    first.away = False
    turns = itertools.count()

    def meanwhile(_: str) -> None:
        if next(turns) == 0:
            Spool(tmp_path, name="second").replay(second)

    first.before = meanwhile
    Spool(tmp_path, name="first").replay(first)
    assert sorted({*first.settled, *second.settled}) == ["call-0", "call-1", "call-2"]
    assert files(tmp_path) == []


def test_no_replay_can_steal_a_file_while_it_is_being_opened(tmp_path: Path) -> None:
    """The file is locked before it has the name that replays look for."""
    stop = threading.Event()
    settle_script = FakeSettleScript()
    settle_script.away = False

    def thief() -> None:
        other = Spool(tmp_path, name="thief")
        while not stop.is_set():
            other.replay(settle_script)

    thread = threading.Thread(target=thief)
    thread.start()
    try:
        for number in range(100):
            owner = spooled(tmp_path, f"owner-{number}", f"call-{number}")
            owner.replay(settle_script)
    finally:
        stop.set()
        thread.join()
    Spool(tmp_path, name="last").replay(settle_script)
    assert set(settle_script.settled) == {f"call-{number}" for number in range(100)}


def test_a_replay_survives_what_nobody_thought_of(tmp_path: Path) -> None:
    settle_script = FakeSettleScript()
    spool = Spool(tmp_path, name="a", retry_s=0.01)
    spool.settle(settle_script, KEYS, ["one"])
    failures = iter([OSError("disk trouble")])

    def trouble(_: str) -> None:
        for failure in failures:
            raise failure

    settle_script.before = trouble
    settle_script.away = False
    wait_for(lambda: settle_script.settled == ["one"], timeout_s=5, message="the replaying thread died")


@pytest.mark.parametrize("failure", [StoreUnavailable("BUSY"), ResponseError("Error running script: a bug of ours")])
def test_whatever_redis_says_the_settlement_is_kept(tmp_path: Path, failure: Exception) -> None:
    settle_script = FakeSettleScript()
    settle_script.away = False
    failures = iter([failure])

    def trouble(_: str) -> None:
        for one in failures:
            raise one

    settle_script.before = trouble
    spool = Spool(tmp_path, name="a", retry_s=3600)
    with capture_logs() as logs:
        spool.settle(settle_script, KEYS, ["one"])
    expected = (
        ("settlement_spooled", "warning") if isinstance(failure, StoreUnavailable) else ("settlement_failed", "error")
    )
    told = [(entry["event"], entry["log_level"]) for entry in logs if entry.get("call_id") == "one"]
    assert told == [expected], "and nothing of an earlier test's thread"
    assert spool.replay(settle_script) == 1
    assert settle_script.settled == ["one"]


class Figures:
    def __init__(self) -> None:
        self.held = 0
        self.dropped = 0

    def add_settlements_held(self, delta: int) -> None:
        self.held += delta

    def count_settlements_dropped(self, count: int) -> None:
        self.dropped += count


@contextmanager
def disk_with_room_until(size: int) -> Iterator[None]:
    """Files of this process grow to `size` bytes and no further: as on a full disk, what fits is still written."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_holds_up_no_answer_and_spoils_no_line(tmp_path: Path) -> None:
    figures = Figures()
    spool = Spool(
        tmp_path,
        name="a",
        retry_s=0,
        count_held=figures.add_settlements_held,
        count_dropped=figures.count_settlements_dropped,
    )
    spool._replaying = True  # the test replays itself
    away, settle_script = FakeSettleScript(), FakeSettleScript()
    settle_script.away = False
    spool.settle(away, KEYS, ["one"])
    file = tmp_path / "a.spool"
    first = file.read_bytes()
    with disk_with_room_until(len(first) + 10), capture_logs() as logs:
        spool.settle(away, KEYS, ["two"])
        spool.settle(away, KEYS, ["three"])
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == ["spool_not_written"] * 2
    assert file.read_bytes() == first, "no part of a line is left"
    assert figures.held == 2
    spool.settle(away, KEYS, ["four"])
    assert figures.held == 0, "there is room again"
    assert len(file.read_bytes().splitlines()) == 4
    assert spool.replay(settle_script) == 4
    assert settle_script.settled == ["one", "two", "three", "four"]


def test_what_no_disk_takes_goes_to_redis_from_memory(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("no directory can be made here")
    figures = Figures()
    spool = Spool(
        tmp_path / "spool",
        name="a",
        retry_s=0.01,
        count_held=figures.add_settlements_held,
        count_dropped=figures.count_settlements_dropped,
    )
    settle_script = FakeSettleScript()
    for call_id in ("one", "two", "three"):
        spool.settle(settle_script, KEYS, [call_id])
    assert figures.held == 3
    settle_script.before = lambda call_id: setattr(settle_script, "away", call_id == "two")
    settle_script.away = False
    wait_for(lambda: settle_script.settled == ["one", "two"], message="and then Redis goes away again")
    settle_script.before = lambda _: None
    settle_script.away = False
    wait_for(lambda: figures.held == 0)
    assert settle_script.settled == ["one", "two", "three"]
    assert figures.dropped == 0


def test_what_memory_has_no_room_for_is_dropped_loudly(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("no directory can be made here")
    figures, settle_script = Figures(), FakeSettleScript()
    spool = Spool(
        tmp_path / "spool",
        name="a",
        retry_s=3600,
        count_held=figures.add_settlements_held,
        count_dropped=figures.count_settlements_dropped,
        held_bytes=1000,
    )
    with capture_logs() as logs:
        for number in range(20):
            spool.settle(settle_script, KEYS, [f"call-{number}"])
    dropped = [entry for entry in logs if entry["event"] == "settlements_dropped"]
    assert sum(entry["count"] for entry in dropped) == figures.dropped == 20 - figures.held
    assert {entry["log_level"] for entry in dropped} == {"error"}
    assert 0 < figures.held < 20
    settle_script.away = False
    assert spool.replay(settle_script) == len(settle_script.settled)
    assert settle_script.settled == [f"call-{number}" for number in range(20 - figures.dropped)]
    assert figures.held == 0


def test_nobody_else_can_read_what_waits_on_disk(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir(mode=0o755)  # as an older version made it
    Spool(tmp_path / "spool", name="a", retry_s=3600).settle(FakeSettleScript(), KEYS, ["one"])
    assert stat.S_IMODE((tmp_path / "spool").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "spool" / "a.spool").stat().st_mode) == 0o600


def test_a_line_of_a_newer_version_waits_for_that_version(tmp_path: Path) -> None:
    (tmp_path / "later.spool").write_text('{"keys":[],"args":["b25l"],"v":3}\n')
    settle_script = FakeSettleScript()
    settle_script.away = False
    with capture_logs() as logs:
        assert Spool(tmp_path, name="a").replay(settle_script) == 0
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == ["spool_line_of_a_newer_version"]
    assert files(tmp_path) == ["later.spool"]


def test_a_part_of_a_large_file_can_be_replayed_at_a_time(tmp_path: Path) -> None:
    spool = spooled(tmp_path, "a", *[f"call-{number}" for number in range(5)])
    settle_script = FakeSettleScript()
    settle_script.away = False
    assert [spool.replay(settle_script, 2) for _ in range(4)] == [2, 2, 1, 0]
    assert settle_script.settled == [f"call-{number}" for number in range(5)]
    assert files(tmp_path) == []


_SLOW_DISK = """
from gevent import monkey, get_hub, sleep, spawn
monkey.patch_all()
import os, sys, time
from pathlib import Path
from app.errors import StoreUnavailable
from app.store.spool import Spool
syncs = []
really_sleep = monkey.get_original("time", "sleep")
def slow(fileno):
    syncs.append(fileno)
    really_sleep(0.5)
os.fsync = slow
def away(keys, args):
    raise StoreUnavailable("away")
spool = Spool(Path(sys.argv[1]), name="a", retry_s=3600)
spool.settle(away, ["k"], ["warm up: the file is made"])
turns, order, syncs[:] = [], [], []
def call(number):
    spool.settle(away, ["k"], [f"call-{number}"])
    order.append(number)
def ticks():
    while len(order) < 20:
        turns.append(time.monotonic())
        sleep(0.01)
calls = [spawn(call, number) for number in range(20)]
ticks()
longest = max(after - before for before, after in zip(turns, turns[1:]))
kept = Path(sys.argv[1], "a.spool").read_bytes().count(b"\\n")
print("found", longest < 0.25, len(syncs), kept, flush=True)
os._exit(0)
"""


@pytest.mark.slow
def test_a_slow_disk_stops_no_other_call_and_one_sync_serves_many(tmp_path: Path) -> None:
    """In a process of its own, patched as a worker is."""
    command = [sys.executable, "-c", _SLOW_DISK, str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=ROOT, check=True)
    found = [line for line in ran.stdout.splitlines() if line.startswith("found ")]  # among what is logged
    assert found == ["found True 2 21"], "the first call's sync, then one for all that came meanwhile"
