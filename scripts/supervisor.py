"""Supervisor: starts programs, shows their output, restarts those that end by themselves, and stops all in order.

Each program is the leader of a session of its own: signals that a terminal sends to its foreground processes (Ctrl-C,
SIGHUP when it is closed) reach the supervisor alone, which decides when each program stops. No program outlives its
supervisor.
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

from scripts.console import Console, ProcessOutput
from scripts.process_lifetime import STOP_SIGNALS, adopt_orphans, end_with_parent

_MAX_RESTARTS, _RESTART_WINDOW_S = 3, 60.0
_OUTPUT_INTERVAL_S = 0.03  # output is read that often at most: a hundred lines cost little more than one
_HURRY_TIMEOUT_S = 5.0
_READ_BYTES = 65536


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A program to run. Programs of a `stage` are stopped when those of the stages before have ended.

    `stop_signal` asks it to end when its work is done; whatever is left of it after `stop_timeout_s` is killed.
    `hurry_signal` asks it to leave its work (None: it has none that takes long). `quiet`: its output is shown only if
    it failed. `defers_stop`: SIGTERM waits until the program unblocks it, so that one which is still starting does its
    work first.
    """

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    stage: int = 0
    stop_signal: signal.Signals = signal.SIGTERM
    hurry_signal: signal.Signals | None = None
    stop_timeout_s: float = 15.0
    quiet: bool = False
    defers_stop: bool = False


class _Child:
    """A started program. `groups` are the process groups of all its starts, in which its own children are, too."""

    def __init__(self, program: Program, output: ProcessOutput | None) -> None:
        self.program = program
        self.output = output
        self.process: subprocess.Popen[bytes] | None = None
        self.groups: set[int] = set()
        self.exit_times: deque[float] = deque(maxlen=_MAX_RESTARTS)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the program, which tells its own children; if it is gone, to the processes it left."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, number)
        for group in self.groups:
            if self.process is None or group != self.process.pid:
                _kill_group(group, number)

    def kill(self) -> None:
        """Kills the program and the processes it left."""
        for group in self.groups:
            _kill_group(group, signal.SIGKILL)

    def is_alive(self) -> bool:
        """Returns True while the program or a process of its groups lives."""
        self.groups = {group for group in self.groups if _kill_group(group, 0)}
        return bool(self.groups)


class Supervisor:
    """A supervisor of `programs`, none of which outlives its `run`.

    Until `is_ready` is set, a program that ends is a failure to start, and stops everything. `inherited`: descriptors
    that programs keep open. Without a `console` they write to the standard output themselves. `report` is called with
    messages for the user.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        *,
        console: Console | None,
        report: Callable[[str], None],
        inherited: Sequence[int] = (),
        is_ready: bool = False,
    ) -> None:
        width = max(len(program.name) for program in programs)
        self._children = []
        for number, program in enumerate(programs):
            output = None
            if console is not None:
                output = ProcessOutput(console, program.name, width=width, number=number, quiet=program.quiet)
            self._children.append(_Child(program, output))
        self._report = report
        self._inherited = inherited
        self._selector = selectors.DefaultSelector()
        self._signals: list[int] = []
        self._exit_code: int | None = None  # set when everything is to stop
        self._hurried = False
        self.is_ready = is_ready

    @property
    def is_stopping(self) -> bool:
        return self._exit_code is not None

    def run(self) -> int:
        """Starts the programs. Returns the exit code once all have ended; nothing of them is left then."""
        wake, self._wake = socket.socketpair()
        for end in (wake, self._wake):
            end.setblocking(False)
        self._selector.register(wake, selectors.EVENT_READ)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in STOP_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                signal.signal(number, lambda number, _: self._signals.append(number))
        adopt_orphans()
        try:
            for child in self._children:
                self._start(child)
            while self._exit_code is None:
                self._poll(None)
            self._stop_all()
            return self._exit_code
        finally:
            for child in self._children:  # only after an error of ours is there anything left
                child.kill()

    def fail(self, reason: str) -> None:
        """Stops everything, with exit code 1. For other threads."""
        self._report(reason)
        self._exit_code = 1 if self._exit_code is None else self._exit_code
        with suppress(BlockingIOError):
            self._wake.send(b"\0")

    def _start(self, child: _Child) -> None:
        program = child.program
        pipe = subprocess.PIPE if child.output is not None else None
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
            self._report(f"{program.name} could not be started: {program.command[0]}: {exc.strerror}")
            self._exit_code = 1
            return
        child.groups.add(child.process.pid)
        if child.process.stdout is not None:
            os.set_blocking(child.process.stdout.fileno(), False)
            self._selector.register(child.process.stdout, selectors.EVENT_READ, child.output)

    def _poll(self, timeout_s: float | None) -> None:
        """Waits for output, an exit or a signal, for at most `timeout_s`, and handles it."""
        had_output = False
        for key, _ in self._selector.select(timeout_s):
            if key.data is None:
                with suppress(BlockingIOError):
                    os.read(key.fd, _READ_BYTES)
            else:
                had_output = True
                self._read(key.data, cast("IO[bytes]", key.fileobj))
        self._reap()
        while self._signals:
            self._on_stop_signal(signal.Signals(self._signals.pop(0)))
        if had_output:
            time.sleep(_OUTPUT_INTERVAL_S)

    def _read(self, output: ProcessOutput, pipe: IO[bytes]) -> None:
        """Reads one block, and closes the pipe at its end."""
        data = pipe.read(_READ_BYTES)
        if data:
            output.feed(data)
        elif data is not None:
            output.flush()
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
                        self._on_exit(child, child.process)

    def _on_exit(self, child: _Child, process: subprocess.Popen[bytes]) -> None:
        child.process = None
        if self.is_stopping:
            return
        name, exit_text = child.program.name, _describe_exit(process.returncode)
        if child.is_alive():
            child.signal(signal.SIGTERM)  # to the processes it left
        now = time.monotonic()
        if not self.is_ready:
            self._fail_with(child, process, f"{name} {exit_text}.", show=child.program.quiet)
        elif len(child.exit_times) == _MAX_RESTARTS and now - child.exit_times[0] < _RESTART_WINDOW_S:
            self._fail_with(child, process, f"{name} {exit_text}, and has ended too often in a minute.")
        else:
            child.exit_times.append(now)
            self._report(f"{name} {exit_text}; it is started again.")
            self._start(child)

    def _fail_with(self, child: _Child, process: subprocess.Popen[bytes], reason: str, *, show: bool = True) -> None:
        """Stops everything, and with `show` shows the program's last lines."""
        if child.output is not None and process.stdout is not None and not process.stdout.closed:
            self._read(child.output, process.stdout)
        self._report(reason)
        if show and child.output is not None and child.output.tail:
            self._report("Its last lines:\n" + child.output.last_lines().decode(errors="replace").rstrip("\n"))
        self._exit_code = 1

    def _on_stop_signal(self, number: signal.Signals) -> None:
        if self._exit_code is None:
            self._exit_code = 128 + number
            longest_s = max(child.program.stop_timeout_s for child in self._children)
            self._report(f"Stopping. What runs gets up to {longest_s:.0f} s to end; Ctrl-C again stops at once.")
        elif number == signal.SIGINT and not self._hurried:  # others come twice: a shell repeats a terminal's SIGHUP
            self._hurried = True
            self._report("Stopping at once.")

    def _stop_all(self) -> None:
        for stage in sorted({child.program.stage for child in self._children}):
            self._stop([child for child in self._children if child.program.stage == stage])
        until = time.monotonic() + 1
        while any(key.data for key in self._selector.get_map().values()) and time.monotonic() < until:
            self._poll(0.1)  # their last output

    def _stop(self, children: list[_Child]) -> None:
        """Stops `children`, and returns when nothing of them is left."""
        started, hurried_at = time.monotonic(), float("inf")
        killed = set[str]()
        for child in children:
            child.signal(child.program.stop_signal)
        while left := [child for child in children if child.is_alive()]:
            now = time.monotonic()
            if self._hurried and hurried_at > now:
                hurried_at = now
                for child in left:
                    if child.program.hurry_signal is not None:
                        child.signal(child.program.hurry_signal)
            for child in left:
                name, timeout_s = child.program.name, child.program.stop_timeout_s
                hurry_timeout_s = _HURRY_TIMEOUT_S if child.program.hurry_signal is not None else timeout_s
                if now >= min(started + timeout_s, hurried_at + hurry_timeout_s) and name not in killed:
                    killed.add(name)
                    self._report(f"{name} does not end, and is killed.")
                    child.kill()
            self._poll(0.1)


def _describe_exit(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _kill_group(group: int, number: int) -> bool:
    """Sends a signal to a process group. Returns True if a process is in it."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # the second is what macOS says of dead ones
        return False
    return True
