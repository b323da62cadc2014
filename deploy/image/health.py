"""The image's health checks, without curl: `health.py gateway` and `worker` ask the process, `ledger` looks for a
pulse.

Liveness only. A container whose Redis is away is not made well by a restart; whether calls would be served is /ready's
to say.
"""

import http.client
import os
import sys
import time

# The ledger's loop shows life every second; a locked database may hold it up for a few.
_PULSE_S = 30


def gateway() -> str:
    return _asked(int(os.environ.get("PORT") or 8000), "/health")


def worker() -> str:
    return _asked(int(os.environ["WORKER_PORT"]), "/metrics")


def _asked(port: int, path: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=4)
    try:
        connection.request("GET", path)
        status = connection.getresponse().status
    except OSError as exc:
        return f"{path} does not answer: {exc}"
    return "" if status == 200 else f"{path} answers {status}"


def ledger() -> str:
    try:
        age_s = time.time() - os.stat(os.path.join(os.environ.get("DATA_DIR") or "data", "ledger-alive")).st_mtime
    except OSError as exc:
        return f"no sign of life: {exc}"
    return "" if age_s < _PULSE_S else f"the last sign of life is {age_s:.0f} s old"


if __name__ == "__main__":
    sys.exit({"gateway": gateway, "ledger": ledger, "worker": worker}[sys.argv[1]]() or 0)
