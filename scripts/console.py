"""Console: shows the output of processes, each line with the process's name, in few large writes.

Standard output may be slow, paused (Ctrl-S, a pager) or gone (the `tee` behind it was the first to end). None of that
may stop the processes or their supervisor: a thread writes, and lines that it cannot keep up with are dropped and
counted.
"""

from __future__ import annotations

import os
import select
import time
from threading import Condition, Thread

_MAX_PENDING_BYTES = 1024 * 1024
_MAX_LINE_BYTES = 65536  # a longer line is shown in pieces
_TAIL_BYTES = 4000
_COLOURS = (b"36", b"33", b"32", b"35", b"34", b"31")


class Console:
    """A writer to a terminal whose `write` never blocks and never fails."""

    def __init__(self, fd: int = 1) -> None:
        self._fd = fd
        self.is_coloured = os.isatty(fd) and not os.environ.get("NO_COLOR")
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._dropped_lines = 0
        self._closing = False
        self._changed = Condition()
        self._thread = Thread(target=self._run, name="console", daemon=True)
        self._thread.start()

    def write(self, text: bytes) -> None:
        """Shows `text`, which is whole lines."""
        with self._changed:
            if self._pending_bytes + len(text) > _MAX_PENDING_BYTES:
                self._dropped_lines += text.count(b"\n")
                return
            if self._dropped_lines:
                text = b"... %d lines left out: the output is read too slowly\n" % self._dropped_lines + text
                self._dropped_lines = 0
            self._pending.append(text)
            self._pending_bytes += len(text)
            self._changed.notify()

    def close(self, timeout_s: float) -> None:
        """Waits until everything is shown, for at most `timeout_s`."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._pending and not self._closing:
                    self._changed.wait()
                if not self._pending:
                    return
                text = b"".join(self._pending)
                self._pending.clear()
            self._write_out(text)
            with self._changed:
                self._pending_bytes -= len(text)

    def _write_out(self, text: bytes) -> None:
        rest = memoryview(text)
        while rest:
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:  # another process made it non-blocking
                select.select([], [self._fd], [], 1)
            except OSError:
                time.sleep(0.1)  # nobody reads any more; a full disk may have room later
                return


class ProcessOutput:
    """The output of one process: whole lines go to the console with `name` in front, or nowhere when `quiet`."""

    def __init__(self, console: Console, name: str, *, width: int, number: int, quiet: bool = False) -> None:
        label = name.ljust(width).encode() + b" | "
        if console.is_coloured:
            label = b"\x1b[%bm%b\x1b[0m" % (_COLOURS[number % len(_COLOURS)], label)
        self._console = console
        self._label = label
        self._quiet = quiet
        self._partial_line = b""
        self.tail = b""

    def feed(self, data: bytes) -> None:
        """Takes output as it comes, and shows the whole lines in it."""
        lines, newline, rest = (self._partial_line + data).rpartition(b"\n")
        if newline:
            self._show(lines)
        self._partial_line = rest
        if len(rest) > _MAX_LINE_BYTES:
            self.flush()

    def flush(self) -> None:
        """Shows a last line that has no line break."""
        if self._partial_line:
            self._show(self._partial_line)
            self._partial_line = b""

    def last_lines(self) -> bytes:
        """Returns the last 20 lines as they are shown."""
        lines = self.tail.splitlines()[-20:]
        return b"".join(self._label + line + b"\n" for line in lines)

    def _show(self, lines: bytes) -> None:
        self.tail = (self.tail + lines[-_TAIL_BYTES:] + b"\n")[-_TAIL_BYTES:]
        if not self._quiet:
            self._console.write(self._label + lines.replace(b"\n", b"\n" + self._label) + b"\n")
