"""How long processes live: a child ends with its parent, and a terminal's signals reach one process alone."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PDEATHSIG, _SUBREAPER = 1, 36  # of prctl(2)
_libc = ctypes.CDLL(None, use_errno=True)


def adopt_orphans() -> None:
    """What a child of this process leaves when it is killed becomes this one's, to end and to reap."""
    _prctl(_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    """Linux alone has it. Elsewhere a supervisor that is killed leaves its programs."""
    if sys.platform == "linux":
        _libc.prctl(option, value, 0, 0, 0)


def end_with_parent(parent: int, *, block: bool = False) -> Callable[[], None]:
    """For a child before its exec: it gets SIGTERM when `parent` ends, however that ends. `block`: but waits for it."""

    def prepare() -> None:
        if block:
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        _prctl(_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return prepare


def in_own_session(work: Callable[[], int]) -> int:
    """Runs `work` in a process and session of its own, which ends in good order even if this process is killed.

    SIGINT, SIGTERM and SIGHUP are passed on to it. Returns its exit code.
    """
    parent = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    worker = os.fork()
    if worker == 0:
        os.setsid()
        end_with_parent(parent)()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
        raise SystemExit(work())

    def pass_on(number: int, _frame: object) -> None:
        with suppress(ProcessLookupError):  # it has just ended
            os.kill(worker, number)

    for number in STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    if os.environ.get("MAKELEVEL"):
        end_with_parent(os.getppid())()  # make may be killed
    code = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
    return code if code >= 0 else 128 - code
