"""On a platform that runs one command: what the Procfile names is started, and ended without cutting a stream."""

from __future__ import annotations

import http.client
import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import yaml

from tests.support.servers import ROOT, free_port, wait_for

CONFIG = """
providers: {demo: {kind: demo, script: {chunk_delay_s: 0.2}}}
models: {demo: {targets: [{provider: demo}]}}
"""
KEY = "key-for-the-procfile"
HEADERS = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}


def test_a_stream_outlives_the_signal_that_ends_the_processes(tmp_path: Path, redis_url: str) -> None:
    (tmp_path / "gateway.yaml").write_text(CONFIG)
    port = free_port()
    env = {
        **{name: value for name, value in os.environ.items() if name == "PATH" or name.startswith("COV")},
        "DATA_DIR": str(tmp_path / "data"),
        "REDIS_URL": redis_url,
        "PORT": str(port),
        "DEV_API_KEY": KEY,
        "GATEWAY_CONFIG": str(tmp_path / "gateway.yaml"),
        "WEB_CONCURRENCY": "1",
    }
    output = tmp_path / "output.txt"
    with output.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-m", "scripts.serve"], cwd=ROOT, env=env, stdout=file, stderr=file)
    try:
        wait_for(lambda: _ready(port), timeout_s=60, message=output.read_text())
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
            # About forty chunks of 0.2 s.
            message = {"role": "user", "content": " ".join(["word"] * 36)}
            body = json.dumps({"model": "demo", "messages": [message], "stream": True})
            connection.request("POST", "/v1/chat/completions", body, HEADERS)
            answer = connection.getresponse()
            assert answer.status == 200
            assert answer.readline().startswith(b"data: ")
            process.send_signal(signal.SIGTERM)
            assert answer.read().rstrip().endswith(b"data: [DONE]")
        assert process.wait(30) == 128 + signal.SIGTERM
    finally:
        process.kill()
        process.wait()
    assert "ledger_started" in output.read_text(), "it ran beside the gateway"
    assert _statuses(tmp_path) == [("ok",)], "the ledger ended last"


def test_the_blueprint_starts_the_procfile_and_forgets_no_spending() -> None:
    redis, web = yaml.safe_load((ROOT / "render.yaml").read_text())["services"]
    assert (redis["maxmemoryPolicy"], redis["ipAllowList"]) == ("noeviction", [])
    assert web["startCommand"] == "python -m scripts.serve"
    set_here = {variable["key"]: variable for variable in web["envVars"]}
    assert set_here["DATA_DIR"]["value"] == web["disk"]["mountPath"]
    assert set_here["REDIS_URL"]["fromService"]["name"] == redis["name"]
    known = (ROOT / ".env.example").read_text()
    assert [key for key in set_here if key != "PYTHON_VERSION" and f"{key}=" not in known] == []


def _ready(port: int) -> bool:
    try:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=2)) as connection:
            connection.request("GET", "/ready")
            return connection.getresponse().status == 200
    except OSError:
        return False


def _statuses(tmp_path: Path) -> list[tuple[str]]:
    with closing(sqlite3.connect(tmp_path / "data" / "ledger.db")) as connection:
        return connection.execute("SELECT status FROM usage").fetchall()
