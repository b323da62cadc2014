"""Spool: keeps settlements that Redis could not take on local disk, and replays them when it is back.

One file a process, one line a settlement, synced before the call is answered. A process that dies leaves its file;
another one on the same disk adopts it. A replay marks in the file what it has done, and a call that Redis no longer
remembers is looked for in the ledger first: it may have been settled although the reply was lost.

A full or broken disk does not hold up the answers: settlements then wait in memory, up to a bound.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import gevent
import structlog
from gevent.monkey import is_module_patched
from redis import RedisError

from app.errors import StoreUnavailable
from app.store import spool_files
from app.store.redis.client import Arg, Script
from app.store.reservations import FORGOTTEN, ScriptCall, Settlement
from app.store.spool_files import (
    DONE,
    REFUSED,
    VERSION,
    Backlog,
    WaitingSettlement,
    Writer,
    claimed,
    encoded,
)

log = structlog.get_logger()
_HELD_BYTES = 32 * 1024 * 1024  # some 20,000 settlements


class Spool:
    """The spool directory of one machine, and this process's file in it.

    `never_ran` returns, of settlements whose calls Redis has forgotten, those that are still to be run. `count_held`
    gets the change of the number of settlements held in memory, `count_dropped` the number given up.
    """

    def __init__(
        self,
        directory: Path,
        *,
        name: str,
        retry_s: float = 1.0,
        never_ran: Callable[[Sequence[Settlement]], Sequence[Settlement]] = lambda forgotten: forgotten,
        count_held: Callable[[int], object] = lambda delta: None,
        count_dropped: Callable[[int], object] = lambda count: None,
        held_bytes: int = _HELD_BYTES,
    ) -> None:
        self._directory = directory
        self._writer = Writer(directory, name)
        self._retry_s = retry_s
        self._never_ran = never_ran
        self._count_held, self._count_dropped = count_held, count_dropped
        self._most_held = held_bytes
        self._pending: list[bytes] = []  # on their way to the disk
        self._held: list[bytes] = []  # which it did not take
        self._held_bytes = 0
        self._disk_after = 0.0  # when to try it again
        self._writing = threading.Lock()
        self._starting = threading.Lock()
        self._replaying = False

    def settle(self, script: Script, keys: Sequence[Arg], args: Sequence[Arg]) -> None:
        """Runs `script`, or keeps it for later when that fails. Raises nothing of Redis's nor of the disk's."""
        try:
            script(keys, args)
        except StoreUnavailable as exc:
            log.warning("settlement_spooled", call_id=str(args[0]), reason=exc.message)
            self.keep(script, keys, args)
        except RedisError:  # a bug of ours; the call has happened all the same
            log.exception("settlement_failed", call_id=str(args[0]))
            self.keep(script, keys, args)

    def keep(self, script: Script, keys: Sequence[Arg], args: Sequence[Arg]) -> None:
        """Has `script` run as soon as Redis is there. Returns when that is safe, or known to be impossible."""
        with self._starting:
            self._pending.append(encoded(keys, args))
            self._start_replaying(script)
        self._write()

    def adopt(self, script: Script) -> None:
        """Replays, in the background, what processes that are no more have left."""
        if spool_files.waiting_in(self._directory):
            with self._starting:
                self._start_replaying(script)

    def replay(self, script: Script, most: int | None = None) -> int:
        """Replays every file that no living process owns, and this one's own. Returns the settlements replayed.

        At most about `most` of them. Raises `StoreUnavailable` when Redis is still away; what was not replayed stays.
        """
        self._write()
        with self._writing:
            _in_thread(self._writer.set_aside)
        count = self._replay_held(script)
        for path in spool_files.waiting_in(self._directory):
            if most is not None and count >= most:
                break
            count += self._replay_file(path, script, None if most is None else most - count)
        return count

    def backlog(self) -> Backlog:
        return spool_files.backlog(self._directory)

    def _write(self) -> None:
        """Moves what is pending, and what is held, to the disk: all of it with one sync, whoever it is from."""
        with self._writing:
            lines, self._pending = self._pending, []
            if not (lines or self._held):
                return
            if time.monotonic() < self._disk_after:
                self._hold(lines)
                return
            data = b"".join([*self._held, *lines])
            try:
                _in_thread(lambda: self._writer.append(data))
            except OSError as exc:
                self._disk_after = time.monotonic() + self._retry_s
                self._hold(lines)
                log.error("spool_not_written", reason=exc.strerror, held=len(self._held), held_bytes=self._held_bytes)
            except BaseException:  # killed in mid-write: twice is harmless, not at all is not
                self._pending[:0] = lines
                raise
            else:
                self._release_held()

    def _hold(self, lines: Iterable[bytes]) -> None:
        before, dropped = len(self._held), 0
        for line in lines:
            if self._held_bytes + len(line) > self._most_held:
                dropped += 1
            else:
                self._held.append(line)
                self._held_bytes += len(line)
        self._count_held(len(self._held) - before)
        if dropped:
            self._drop(dropped)

    def _release_held(self) -> list[bytes]:
        released, self._held, self._held_bytes = self._held, [], 0
        if released:
            self._count_held(-len(released))
        return released

    def _drop(self, count: int) -> None:
        """Their reservations stay open until their deadline, and end as lost."""
        log.error("settlements_dropped", count=count, held=len(self._held), held_bytes=self._held_bytes)
        self._count_dropped(count)

    def _replay_held(self, script: Script) -> int:
        with self._writing:
            lines = [WaitingSettlement(data, index) for index, data in enumerate(self._release_held())]
        left = dict.fromkeys(lines)
        refused: list[WaitingSettlement] = []

        def mark(line: WaitingSettlement, became: bytes) -> None:
            left.pop(line)
            if became == REFUSED:
                refused.append(line)

        try:
            return self._run_again(lines, script, mark)
        finally:
            with self._writing:
                self._hold(line.data for line in left)
                if refused:
                    self._drop(len(refused))

    def _replay_file(self, path: Path, script: Script, most: int | None) -> int:
        with claimed(path) as file:
            if file is None:
                return 0

            def mark(line: WaitingSettlement, became: bytes) -> None:
                file.mark(line, became)
                if file.should_sync:
                    _in_thread(file.sync)

            try:
                return self._run_again(islice(file.lines(), most), script, mark, path.name)
            finally:
                file.finish()

    def _run_again(
        self,
        lines: Iterable[WaitingSettlement],
        script: Script,
        mark: Callable[[WaitingSettlement, bytes], None],
        file: str = "",
    ) -> int:
        count = 0
        forgotten: list[tuple[WaitingSettlement, Settlement]] = []
        for line in lines:
            settlement = line.settlement()
            if settlement is None:  # left to the reaper, which has the call's open reservation
                log.warning("spool_line_broken", file=file)
                mark(line, DONE)
            elif settlement.v > VERSION:
                log.error("spool_line_of_a_newer_version", file=file, version=settlement.v)
            else:
                reply = _replay(script, settlement.call_id, settlement.repeated())
                if reply == FORGOTTEN:
                    forgotten.append((line, settlement))
                    continue
                mark(line, REFUSED if reply is None else DONE)
                count += reply is not None
        if forgotten:
            due = {settlement.call_id for settlement in self._never_ran([settlement for _, settlement in forgotten])}
            for line, settlement in forgotten:
                reply = _replay(script, settlement.call_id, settlement.first()) if settlement.call_id in due else 0
                mark(line, REFUSED if reply is None else DONE)
                count += reply is not None
        return count

    def _start_replaying(self, script: Script) -> None:
        if not self._replaying:
            self._replaying = True
            threading.Thread(target=self._keep_replaying, args=(script,), name="spool", daemon=True).start()

    def _keep_replaying(self, script: Script) -> None:
        pause = threading.Event()
        while True:
            pause.wait(self._retry_s)
            try:
                count = self.replay(script)
            except StoreUnavailable:
                continue
            except Exception:  # boundary: whatever it was, what is spooled must still be replayed one day
                log.exception("spool_replay_failed")
                continue
            log.info("settlements_replayed", count=count)
            # What is just being written is in neither place: whoever writes it counts on this thread.
            with self._writing, self._starting:
                if not (self._writer.is_open or self._pending or self._held):
                    self._replaying = False
                    return


def _replay(script: Script, call_id: str, call: ScriptCall) -> int | None:
    """Returns what the script says; None when it will never take this one."""
    try:
        return int(script(*call))
    except RedisError as exc:
        log.error("settlement_refused", call_id=call_id, reason=str(exc))
        return None


def _in_thread(work: Callable[[], Any]) -> None:
    """Runs `work` in a thread of gevent's pool: a slow disk must not stop the event loop."""
    if not is_module_patched("threading"):
        work()
        return
    failure = gevent.get_hub().threadpool.apply(_outcome, (work,))
    if failure is not None:
        raise failure


def _outcome(work: Callable[[], Any]) -> OSError | None:
    """Returns the error of `work` as a value: gevent would print a traceback for one that is raised in its pool."""
    try:
        work()
    except OSError as exc:
        return exc
    return None
