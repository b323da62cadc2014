"""The processes of the Procfile under one command, for platforms that run one: started and stopped together.

honcho's own `start` kills five seconds after the first process has ended, and would cut the streams that gunicorn
lets finish; it also puts a prefix before each line, which would make JSON logs unreadable.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from honcho import manager
from honcho.environ import parse_procfile
from honcho.printer import Printer

from app.errors import ConfigError
from app.settings import load_settings

# After the time that running calls get (`server.drain_s`): to settle those that were left, and to end.
_ENDING_S = 15


def main() -> int:
    try:
        manager.KILL_WAIT = load_settings().config.server.drain_s + _ENDING_S
    except ConfigError as exc:
        print(exc, file=sys.stderr)
        return 1
    commands = parse_procfile(Path("Procfile").read_text(encoding="utf-8")).processes
    running = manager.Manager(Printer(sys.stdout, prefix=False))
    beside_this_python = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    for name, command in commands.items():
        running.add_process(name, command, env={**os.environ, "PATH": beside_this_python, "PYTHONUNBUFFERED": "1"})
    running.loop()
    return int(running.returncode or 0)


if __name__ == "__main__":
    sys.exit(main())
