"""A gateway starts on a machine without a network: it looks up no name and opens no connection until it is called."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# In a process of its own: in this one most modules are imported already.
_START = """
import socket, sys

def refuse(*arguments, **_):
    raise SystemExit(f"it asked the network for {arguments}")

socket.getaddrinfo = socket.gethostbyname = socket.create_connection = refuse
socket.socket.connect = socket.socket.connect_ex = socket.socket.sendto = refuse
from app import create_app
from app.settings import load_settings

settings = load_settings({"DATA_DIR": sys.argv[1], "OPENAI_API_KEY": "sk-none", "REDIS_URL": "redis://redis.invalid/0"})
create_app(settings)
print("started")
"""


def test_bug_14_a_gateway_is_imported_and_built_without_any_network(tmp_path: Path) -> None:
    start = [sys.executable, "-c", _START, str(tmp_path)]
    done = subprocess.run(start, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("started\n"), done.stderr


def test_a_start_that_asks_the_network_would_be_seen(tmp_path: Path) -> None:
    start = [
        sys.executable,
        "-c",
        _START.replace("create_app(settings)", "socket.getaddrinfo('prices.invalid', 443)"),
        str(tmp_path),
    ]
    done = subprocess.run(start, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60)
    assert "it asked the network for ('prices.invalid', 443)" in done.stderr
