"""`make run` on a pseudo-terminal, below make, as a person has it: it can be typed at and closed."""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import pty
import re
import sqlite3
import subprocess
import sys
import termios
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from threading import Thread
from typing import Any

import psutil

from tests.support.servers import ROOT, free_port, wait_for

KEY = "pstk-key-of-make-run"
# Twenty chunks of a word each take 10 s; a job's answer takes 4 s.
CONFIG = """
providers:
  demo: {kind: demo, script: {chunk_delay_s: 0.5}}
  slow: {kind: demo, script: {delay_s: 4}}
models:
  demo: {targets: [{provider: demo}]}
  slow: {targets: [{provider: slow}]}
"""
MAKE = f"make -s -o .venv/stamp BIN={Path(sys.executable).parent} run"


_ENDED = (psutil.Error, OSError, IndexError)  # what psutil raises of a process that ends meanwhile


class MakeRun:
    """`with MakeRun(directory) as run`: ready when entered. `command`, of a shell, is the foreground job.

    What is left of it at the end is killed.
    """

    def __init__(self, directory: Path, command: str = MAKE, **env: str) -> None:
        self.data_dir = directory / "my data"  # a space, as in many a home directory
        self.port = free_port()
        config = directory / "gateway.yaml"
        config.write_text(CONFIG)
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME") or name.startswith("COV")}
        self.env: Mapping[str, str] = {
            **kept,
            "DATA_DIR": str(self.data_dir),
            "PORT": str(self.port),
            "TLS_PORT": str(free_port()),
            "DEV_API_KEY": KEY,
            "GATEWAY_CONFIG": str(config),
            **env,
        }
        self._command = command
        self._shown = bytearray()
        self.family: list[psutil.Process] = []

    def __enter__(self) -> MakeRun:
        self._terminal, inside = pty.openpty()
        self.process = subprocess.Popen(
            ["sh", "-c", self._command],
            cwd=ROOT,
            env=self.env,
            stdin=inside,
            stdout=inside,
            stderr=inside,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(inside, termios.TIOCSCTTY, 0),
        )
        os.close(inside)
        Thread(target=self._read, args=(self._terminal,), daemon=True).start()
        wait_for(lambda: "Ctrl-C stops everything" in self.shown() or self.process.poll() is not None, timeout_s=60)
        assert "Penstock is ready" in self.shown(), self.shown()
        self.join_family()
        # The process that make started, and the one in a session of its own.
        self.supervisors = [each for each in self.family if "scripts.run" in _cmdline(each)]
        return self

    def __exit__(self, *_: object) -> None:
        self.close_terminal()
        for each in self.left():
            with suppress(*_ENDED):
                each.kill()
        self.process.wait(10)

    def join_family(self) -> None:
        """Has those that were started since watched, too."""
        self.family += [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]

    def _read(self, terminal: int) -> None:
        with suppress(OSError):
            while data := os.read(terminal, 65536):
                self._shown += data

    def shown(self) -> str:
        """Without its colours."""
        return re.sub(r"\x1b\[\d*m", "", self._shown.decode(errors="replace").replace("\r\n", "\n"))

    def ctrl_c(self) -> None:
        os.write(self._terminal, b"\x03")

    def close_terminal(self) -> None:
        if self._terminal >= 0:
            os.close(self._terminal)
            self._terminal = -1

    def named(self, part: str) -> psutil.Process:
        """The process that the supervisor started last with `part` in its command."""
        found = []

        def look() -> bool:
            for each in self.supervisors[-1].children():
                if any(part in word for word in _cmdline(each)):
                    found.append(each)
            return bool(found)

        wait_for(look)
        return found[-1]

    def left(self) -> list[psutil.Process]:
        """Every process of it that is alive, also such as were started later and have other parents by now."""
        found = {}
        for each in [*self.family, *psutil.process_iter()]:
            with suppress(*_ENDED):
                ours = each in self.family or each.environ().get("DATA_DIR") == str(self.data_dir)
                if ours and each.is_running() and each.status() != psutil.STATUS_ZOMBIE:
                    found[each.pid] = each
        return list(found.values())

    def gone(self, timeout_s: float = 30) -> None:
        deadline = time.monotonic() + timeout_s
        while left := self.left():
            assert time.monotonic() < deadline, f"{left} are left\n{self.shown()[-3000:]}"
            self.process.poll()
            time.sleep(0.1)

    def chat(
        self, model: str = "demo", words: int = 1, path: str = "/v1/chat/completions", **more: Any
    ) -> TerminalAnswer:
        return TerminalAnswer(self.port, path, {"model": model, "messages": _question(words), **more})

    def statuses(self) -> list[str]:
        with closing(sqlite3.connect(self.data_dir / "ledger.db")) as ledger:
            return [status for (status,) in ledger.execute("SELECT status FROM usage")]


class TerminalAnswer:
    """An answer that has begun."""

    def __init__(self, port: int, path: str, body: Mapping[str, Any]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        connection.request("POST", path, json.dumps(body), headers)
        self.reply = connection.getresponse()
        self._connection = connection

    def text(self) -> str:
        """The rest of it."""
        with closing(self._connection):
            return self.reply.read().decode()


def _cmdline(process: psutil.Process) -> list[str]:
    with suppress(*_ENDED):
        return process.cmdline()
    return []


def _question(words: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": " ".join(["word"] * words)}]
