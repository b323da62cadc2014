"""Console: shows what processes print, each line with the process's name, in few large writes.

Standard output may be slow, paused (Ctrl-S, a pager) or gone (the `tee` behind it was the first to end). None of that
may stop the processes or their supervisor, so writing is a thread's; what it cannot keep up with is left out, counted.
"""

from __future__ import annotations

import os
import select
import time
from threading import Condition, Thread

_MOST = 1024 * 1024  # bytes that wait to be written
_LONGEST = 65536  # a longer line is shown in pieces
_TAIL = 4000
_COLOURS = (b"36", b"33", b"32", b"35", b"34", b"31")


class Console:
    """`say` never blocks and never fails."""

    def __init__(self, fd: int = 1) -> None:
        self._fd = fd
        self.colour = os.isatty(fd) and not os.environ.get("NO_COLOR")
        self._waiting: list[bytes] = []
        self._bytes = 0
        self._left_out = 0
        self._closing = False
        self._changed = Condition()
        self._thread = Thread(target=self._write_all, name="console", daemon=True)
        self._thread.start()

    def say(self, text: bytes) -> None:
        """Shows whole lines."""
        with self._changed:
            if self._bytes + len(text) > _MOST:
                self._left_out += text.count(b"\n")
                return
            if self._left_out:
                text = b"... %d lines left out: the output is read too slowly\n" % self._left_out + text
                self._left_out = 0
            self._waiting.append(text)
            self._bytes += len(text)
            self._changed.notify()

    def close(self, timeout_s: float) -> None:
        """What was said is shown, unless that takes longer than `timeout_s`."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout_s)

    def _write_all(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closing:
                    self._changed.wait()
                if not self._waiting:
                    return
                text = b"".join(self._waiting)
                self._waiting.clear()
            self._write(text)
            with self._changed:
                self._bytes -= len(text)

    def _write(self, text: bytes) -> None:
        rest = memoryview(text)
        while rest:
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:  # another process made it non-blocking
                select.select([], [self._fd], [], 1)
            except OSError:
                time.sleep(0.1)  # nobody reads any more; a full disk may have room later
                return


class Printed:
    """What one process prints: whole lines go to the console with `name` in front, or nowhere when `quiet`."""

    def __init__(self, console: Console, name: str, *, width: int, number: int, quiet: bool = False) -> None:
        label = name.ljust(width).encode() + b" | "
        if console.colour:
            label = b"\x1b[%bm%b\x1b[0m" % (_COLOURS[number % len(_COLOURS)], label)
        self._console = console
        self._label = label
        self._quiet = quiet
        self._rest = b""
        self.tail = b""

    def feed(self, data: bytes) -> None:
        lines, newline, rest = (self._rest + data).rpartition(b"\n")
        if newline:
            self._show(lines)
        self._rest = rest
        if len(rest) > _LONGEST:
            self.end()

    def end(self) -> None:
        """A last line without a line break."""
        if self._rest:
            self._show(self._rest)
            self._rest = b""

    def last_lines(self) -> bytes:
        """The last 20 of them, as they were shown."""
        lines = self.tail.splitlines()[-20:]
        return b"".join(self._label + line + b"\n" for line in lines)

    def _show(self, lines: bytes) -> None:
        self.tail = (self.tail + lines[-_TAIL:] + b"\n")[-_TAIL:]
        if not self._quiet:
            self._console.say(self._label + lines.replace(b"\n", b"\n" + self._label) + b"\n")
