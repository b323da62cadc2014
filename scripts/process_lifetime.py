"""Process lifetime: children that end with their parent, and a session in which one process gets all signals."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PDEATHSIG, _SUBREAPER = 1, 36  # of prctl(2)
_libc = ctypes.CDLL(None, use_errno=True)


def adopt_orphans() -> None:
    """Makes this process the parent of its descendants whose own parent ends: it stops and reaps them."""
    _prctl(_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    """Calls prctl(2), which Linux alone has. Elsewhere a supervisor that is killed leaves its programs."""
    if sys.platform == "linux":
        _libc.prctl(option, value, 0, 0, 0)


def end_with_parent(parent: int, *, block: bool = False) -> Callable[[], None]:
    """Returns a function for a child to call before its exec: the child then gets SIGTERM when `parent` ends.

    With `block`, the signal waits until the child unblocks it.
    """

    def prepare() -> None:
        if block:
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        _prctl(_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return prepare


def run_in_session(work: Callable[[], int]) -> int:
    """Runs `work` in a process and session of its own, which ends in order even if this process is killed.

    SIGINT, SIGTERM and SIGHUP are passed on to it. Returns its exit code.
    """
    parent = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    worker = os.fork()
    if worker == 0:
        os.setsid()
        end_with_parent(parent)()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        raise SystemExit(work())

    def forward(number: int, _frame: object) -> None:
        with suppress(ProcessLookupError):  # it has just ended
            os.kill(worker, number)

    for number in STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, forward)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    if os.environ.get("MAKELEVEL"):
        end_with_parent(os.getppid())()  # make may be killed
    code = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
    return code if code >= 0 else 128 - code
