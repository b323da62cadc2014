"""The processes of the Procfile under one command, for platforms that run one: started and stopped together.

The ledger ends last, so that the rows of calls that gunicorn let finish are written. Lines are passed on as they are.
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

# After the time that running calls get (`server.drain_s`): to settle those that were left, and to end.
_ENDING_S = 15


def main() -> int:
    try:
        patience_s = load_settings().config.server.drain_s + _ENDING_S
    except ConfigError as exc:
        print(exc, file=sys.stderr)
        return 1
    beside_this_python = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    env = {**os.environ, "PATH": beside_this_python, "PYTHONUNBUFFERED": "1"}
    programs = [
        Program(
            name=name,
            command=["sh", "-c", command],
            env=env,
            patience_s=patience_s,
            stage=int(name == "ledger"),
            hurry=signal.SIGINT if name == "web" else None,
            defers_stop=name == "ledger",
        )
        for name, command in re.findall(r"^(\w+): *(.+)$", Path("Procfile").read_text(encoding="utf-8"), re.MULTILINE)
    ]
    return Supervisor(programs, console=None, tell=_tell, settled=True).run()


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
