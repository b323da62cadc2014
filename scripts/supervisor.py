"""Supervisor: starts programs, shows what they print, starts again what ends by itself, and stops all of them in order.

Each program is the leader of a session of its own: what a terminal sends to its foreground processes (Ctrl-C, SIGHUP
when it is closed) reaches the supervisor alone, which decides who stops when. No program outlives its supervisor.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, cast

from scripts.console import Console, Printed
from scripts.session import STOPPING, adopt_orphans, end_with_parent

_AGAIN_MOST, _AGAIN_S = 3, 60.0  # so many times in so long is a program started again
_GATHER_S = 0.03  # output is read that often at most: a hundred lines cost little more than one
_HURRY_S = 5.0
_READ = 65536


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """`stage`: programs of a stage are stopped when those of the stages before have ended.

    `stop` asks it to end when its work is done; whatever is left of it after `patience_s` is killed. `hurry` asks it to
    leave its work (None: it has none that takes long). `quiet`: what it prints is shown only when it failed.
    `defers_stop`: SIGTERM waits until the program unblocks it, so that one which is still starting does its work first.
    """

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    stage: int = 0
    stop: signal.Signals = signal.SIGTERM
    hurry: signal.Signals | None = None
    patience_s: float = 15.0
    quiet: bool = False
    defers_stop: bool = False


class _Child:
    """A program that was started, perhaps not for the first time. `group` is where its own children are, too."""

    def __init__(self, program: Program, printed: Printed | None) -> None:
        self.program = program
        self.printed = printed
        self.process: subprocess.Popen[bytes] | None = None
        self.groups: set[int] = set()
        self.ended: deque[float] = deque(maxlen=_AGAIN_MOST)

    def signal(self, number: signal.Signals) -> None:
        """To the program, which tells its own children; where it is gone, to what it left."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, number)
        for group in self.groups:
            if self.process is None or group != self.process.pid:
                _kill_group(group, number)

    def kill(self) -> None:
        for group in self.groups:
            _kill_group(group, signal.SIGKILL)

    def is_alive(self) -> bool:
        self.groups = {group for group in self.groups if _kill_group(group, 0)}
        return bool(self.groups)


class Supervisor:
    """`run` starts `programs` and returns the exit code once all have ended; from then on nothing of them is left.

    Until `settled` is set, a program that ends is a failure to start, and stops everything. `inherited`: descriptors
    that programs keep open. Without a `console` they write to the standard output themselves.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        *,
        console: Console | None,
        tell: Callable[[str], None],
        inherited: Sequence[int] = (),
        settled: bool = False,
    ) -> None:
        width = max(len(program.name) for program in programs)
        self._children = [
            _Child(each, Printed(console, each.name, width=width, number=i, quiet=each.quiet) if console else None)
            for i, each in enumerate(programs)
        ]
        self._tell = tell
        self._inherited = inherited
        self._selector = selectors.DefaultSelector()
        self._signals: list[int] = []
        self._code: int | None = None  # set when everything is to stop
        self._hurried = False
        self.settled = settled

    @property
    def stopping(self) -> bool:
        return self._code is not None

    def run(self) -> int:
        wake, self._wake = socket.socketpair()
        for end in (wake, self._wake):
            end.setblocking(False)
        self._selector.register(wake, selectors.EVENT_READ)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in STOPPING:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                signal.signal(number, lambda number, _: self._signals.append(number))
        adopt_orphans()
        try:
            for child in self._children:
                self._start(child)
            while self._code is None:
                self._turn(None)
            self._stop_all()
            return self._code
        finally:
            for child in self._children:  # only after an error of ours is there anything left
                child.kill()

    def fail(self, reason: str) -> None:
        """From another thread: stops everything, with exit code 1."""
        self._tell(reason)
        self._code = 1 if self._code is None else self._code
        with suppress(BlockingIOError):
            self._wake.send(b"\0")

    def _start(self, child: _Child) -> None:
        program = child.program
        pipe = subprocess.PIPE if child.printed is not None else None
        try:
            child.process = subprocess.Popen(
                program.command,
                env=dict(program.env),
                stdin=subprocess.DEVNULL,
                stdout=pipe,
                stderr=subprocess.STDOUT if pipe else None,
                start_new_session=True,
                pass_fds=self._inherited,
                preexec_fn=end_with_parent(os.getpid(), block=program.defers_stop),
                bufsize=0,
            )
        except OSError as exc:
            self._tell(f"{program.name} could not be started: {program.command[0]}: {exc.strerror}")
            self._code = 1
            return
        child.groups.add(child.process.pid)
        if child.process.stdout is not None:
            os.set_blocking(child.process.stdout.fileno(), False)
            self._selector.register(child.process.stdout, selectors.EVENT_READ, child.printed)

    def _turn(self, timeout_s: float | None) -> None:
        """Waits for something to happen, for at most `timeout_s`, and deals with it."""
        printed = False
        for key, _ in self._selector.select(timeout_s):
            if key.data is None:
                with suppress(BlockingIOError):
                    os.read(key.fd, _READ)
            else:
                printed = True
                self._read(key.data, cast("IO[bytes]", key.fileobj))
        self._reap()
        while self._signals:
            self._asked_to_stop(signal.Signals(self._signals.pop(0)))
        if printed:
            time.sleep(_GATHER_S)

    def _read(self, printed: Printed, pipe: IO[bytes]) -> None:
        """One block, unless the pipe is at its end."""
        data = pipe.read(_READ)
        if data:
            printed.feed(data)
        elif data is not None:
            printed.end()
            self._selector.unregister(pipe)
            pipe.close()

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                for child in self._children:
                    if child.process is not None and child.process.pid == pid:
                        child.process.returncode = os.waitstatus_to_exitcode(status)
                        self._ended(child, child.process)

    def _ended(self, child: _Child, process: subprocess.Popen[bytes]) -> None:
        child.process = None
        if self.stopping:
            return
        name, how = child.program.name, _how(process.returncode)
        if child.is_alive():
            child.signal(signal.SIGTERM)  # to what it left
        now = time.monotonic()
        if not self.settled:
            self._fail_with(child, process, f"{name} {how}.", show=child.program.quiet)
        elif len(child.ended) == _AGAIN_MOST and now - child.ended[0] < _AGAIN_S:
            self._fail_with(child, process, f"{name} {how}, and has ended too often in a minute.")
        else:
            child.ended.append(now)
            self._tell(f"{name} {how}; it is started again.")
            self._start(child)

    def _fail_with(self, child: _Child, process: subprocess.Popen[bytes], reason: str, *, show: bool = True) -> None:
        """Stops everything. `show`: with what the program said at last."""
        if child.printed is not None and process.stdout is not None and not process.stdout.closed:
            self._read(child.printed, process.stdout)
        self._tell(reason)
        if show and child.printed is not None and child.printed.tail:
            self._tell("Its last lines:\n" + child.printed.last_lines().decode(errors="replace").rstrip("\n"))
        self._code = 1

    def _asked_to_stop(self, number: signal.Signals) -> None:
        if self._code is None:
            self._code = 128 + number
            waits = max(child.program.patience_s for child in self._children)
            self._tell(f"Stopping. What runs gets up to {waits:.0f} s to end; Ctrl-C again stops at once.")
        elif number == signal.SIGINT and not self._hurried:  # others come twice: a shell repeats a terminal's SIGHUP
            self._hurried = True
            self._tell("Stopping at once.")

    def _stop_all(self) -> None:
        for stage in sorted({child.program.stage for child in self._children}):
            self._stop([child for child in self._children if child.program.stage == stage])
        until = time.monotonic() + 1
        while any(key.data for key in self._selector.get_map().values()) and time.monotonic() < until:
            self._turn(0.1)  # what they said at last

    def _stop(self, children: list[_Child]) -> None:
        """Returns when nothing of them is left."""
        begun, hurried_at = time.monotonic(), float("inf")
        killed = set[str]()
        for child in children:
            child.signal(child.program.stop)
        while left := [child for child in children if child.is_alive()]:
            now = time.monotonic()
            if self._hurried and hurried_at > now:
                hurried_at = now
                for child in left:
                    if child.program.hurry is not None:
                        child.signal(child.program.hurry)
            for child in left:
                name, patience_s = child.program.name, child.program.patience_s
                hurry_s = _HURRY_S if child.program.hurry is not None else patience_s
                if now >= min(begun + patience_s, hurried_at + hurry_s) and name not in killed:
                    killed.add(name)
                    self._tell(f"{name} does not end, and is killed.")
                    child.kill()
            self._turn(0.1)


def _how(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _kill_group(group: int, number: int) -> bool:
    """Whether there is anybody in the group."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # the second is what macOS says of dead ones
        return False
    return True
