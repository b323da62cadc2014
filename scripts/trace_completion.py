"""Profile of one chat completion: the files of app/ that it enters, in order, and its call depth there, as JSON.

Run by `scripts/structure.py` with the measured tree as working directory and on the PYTHONPATH; uses only names that
every revision has. The application is served in this process, by its WSGI interface, with the demo model and a Redis of
its own. One call goes first, so that the key is known and every module imported; the second is measured.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

from app import create_app
from app.services import build_services
from app.settings import load_settings
from scripts.executables import find_redis

_CONFIG = "providers: {demo: {kind: demo}}\nmodels: {m: {targets: [{provider: demo, model: m}]}}\n"
_KEY = "dev-key-for-structure"


class Profile:
    """A profile function: collects files below `directory` and the deepest chain of functions in them."""

    def __init__(self, directory: Path) -> None:
        self._directory = str(directory) + "/"
        self.files: dict[str, None] = {}
        self.depth = 0

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if event != "call" or not frame.f_code.co_filename.startswith(self._directory):
            return
        self.files[frame.f_code.co_filename.removeprefix(self._directory)] = None
        depth, outer = 0, frame
        while outer is not None:
            code = outer.f_code
            depth += code.co_filename.startswith(self._directory) and not code.co_name.startswith("<")
            outer = outer.f_back  # type: ignore[assignment]
        self.depth = max(self.depth, depth)


def main() -> None:
    """Prints `{"files": […], "depth": n}` on the last line."""
    with tempfile.TemporaryDirectory() as directory, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        command = [find_redis(), "--port", str(port), "--save", "", "--dir", directory]
        redis = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            _await(port)
            print(json.dumps(_traced(Path(directory), f"redis://127.0.0.1:{port}/0")))
        finally:
            redis.terminate()
            redis.wait(10)


def _traced(directory: Path, redis_url: str) -> dict[str, Any]:
    (directory / "gateway.yaml").write_text(_CONFIG)
    settings = load_settings(
        {
            "GATEWAY_CONFIG": str(directory / "gateway.yaml"),
            "DATA_DIR": str(directory),
            "REDIS_URL": redis_url,
            "DEV_API_KEY": _KEY,
        }
    )
    services = build_services(settings)
    services.database.migrate()
    client = create_app(services=services).test_client()
    body = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
    profile = Profile(Path.cwd() / "app")
    for warm in (False, True):
        threading.setprofile(profile if warm else None)
        sys.setprofile(profile if warm else None)
        response = client.post("/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {_KEY}"})
        response.get_data()
        response.close()
        sys.setprofile(None)
        if response.status_code != 200:
            raise SystemExit(response.text)
    services.close()
    return {"files": list(profile.files), "depth": profile.depth}


def _await(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise SystemExit("Redis did not start") from None
            time.sleep(0.02)


if __name__ == "__main__":
    main()
