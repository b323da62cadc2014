"""A flag that SIGTERM and SIGINT set, for commands and processes that run until they are told to stop."""

from __future__ import annotations

import signal
import time
from typing import Any


class StopSignal:
    """Set by a signal. Not an Event: a handler that interrupts `Event.wait` can deadlock in `Event.set`."""

    def __init__(self) -> None:
        self._stopped = False

    @classmethod
    def by_signal(cls) -> StopSignal:
        """Returns a flag that SIGTERM and SIGINT set from now on."""
        stop = cls()
        signal.signal(signal.SIGTERM, stop.set)
        signal.signal(signal.SIGINT, stop.set)
        # Our supervisor may have blocked it until now.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        return stop

    def set(self, *_signal: Any) -> None:
        self._stopped = True

    def is_set(self) -> bool:
        return self._stopped

    def wait(self, timeout_s: float) -> bool:
        """Returns True as soon as the flag is set, False after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while not self._stopped and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, 0.05))
        return self._stopped
