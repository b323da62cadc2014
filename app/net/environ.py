"""Keys of our own in the WSGI environ: set by server/, read by api/. Another server sets none of them."""

from __future__ import annotations

DRAINING = "penstock.draining"  # True when the worker is about to stop
HANGUP_WATCHER = "penstock.hangup"  # the `HangupWatcher` of the connection
