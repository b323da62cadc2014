"""Procfile runner, for platforms that run one command: its processes are started and stopped together.

The ledger ends last, so that the rows of calls that gunicorn let finish are written. Output is passed on as it is.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path

from app.errors import ConfigError
from app.settings import load_settings
from scripts.supervisor import Program, Supervisor

# After the time that running calls get (`server.drain_s`): to settle those that are left, and to end.
_SHUTDOWN_S = 15


def main() -> int:
    try:
        stop_timeout_s = load_settings().config.server.drain_s + _SHUTDOWN_S
    except ConfigError as exc:
        print(exc, file=sys.stderr)
        return 1
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    env = {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1"}
    programs = [
        Program(
            name=name,
            command=["sh", "-c", command],
            env=env,
            stop_timeout_s=stop_timeout_s,
            stage=int(name == "ledger"),
            hurry_signal=signal.SIGINT if name == "web" else None,
            defers_stop=name == "ledger",
        )
        for name, command in re.findall(r"^(\w+): *(.+)$", Path("Procfile").read_text(encoding="utf-8"), re.MULTILINE)
    ]
    return Supervisor(programs, console=None, report=_report, is_ready=True).run()


def _report(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
