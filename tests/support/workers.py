"""A real worker of the queue: Dramatiq, in a process group of its own, so that it can be killed whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType

import psutil

from tests.support.servers import ROOT, Gateway, wait_for

_DRAMATIQ = Path(sys.executable).parent / "dramatiq-gevent"


class QueueWorker:
    """`with QueueWorker(gateway): …`. `threads` is how many jobs it runs at once; `env` is added to the gateway's."""

    def __init__(self, gateway: Gateway, *, threads: int = 20, name: str = "worker", **env: str) -> None:
        self._gateway = gateway
        self._command = [str(_DRAMATIQ), "app.jobs.worker", "--processes", "1", "--threads", str(threads)]
        self._env = {**gateway.env, **env}
        self._log = Path(gateway.env["DATA_DIR"]) / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> QueueWorker:
        return self if self._process is not None and self._process.poll() is None else self.start()

    def start(self) -> QueueWorker:
        """Returns when it takes jobs."""
        begun = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=ROOT, env=self._env, stdout=log, stderr=log, start_new_session=True
            )
        wait_for(lambda: b"worker_started" in self._log.read_bytes()[begun:], message="the worker did not start")
        return self

    def __exit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        if self._process is not None and self._process.poll() is None:
            if kind is None:
                self.stop()
            else:
                self.kill()

    def stop(self) -> int:
        """As `docker stop` does; its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(30)

    def ask_to_stop(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """As a crash or the kernel does: all of it, at once."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(10)

    @property
    def process(self) -> psutil.Process:
        assert self._process is not None
        return psutil.Process(self._process.pid)

    def log(self) -> str:
        return self._log.read_text(errors="replace")
