"""Idle streams, `python -m bench.idle [STREAMS]`: memory of two workers with 10,000, each with a chunk a minute."""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import gevent
import psutil
from gevent import socket
from gevent.pool import Pool

from bench.measure import memory_mb
from bench.scenarios import question
from tests.support.servers import Gateway, RedisServer
from tests.support.upstream import Upstream

CONFIG = """
providers:
  up:
    {{kind: openai, base_url: {url}, max_connections: 20000,
     timeouts: {{first_byte_s: 120, idle_s: 300, total_s: 900}}}}
models: {{stream-9-60000: {{targets: [{{provider: up}}]}}}}
timeouts: {{total_s: 900}}
"""


def open_stream(port: int, key: str) -> Any:
    """Returns the socket of a stream whose first chunk has come; None if it did not come."""
    body = json.dumps(question("stream-9-60000", stream=True)).encode()
    sock: Any = socket.create_connection(("127.0.0.1", port), timeout=180)
    sock.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Authorization: Bearer %b\r\nContent-Length: %d\r\n\r\n%b" % (key.encode(), len(body), body)
    )
    data = b""
    while b'"content":' not in data:
        more = sock.recv(65536)
        if not more:
            return None
        data += more
    return sock if data.startswith(b"HTTP/1.1 200") else None


def main() -> None:
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        directory = Path(name)
        upstream = stack.enter_context(Upstream())
        redis = RedisServer(directory)
        redis.start()
        stack.callback(redis.stop)
        config = CONFIG.format(url=upstream.url)
        gateway = stack.enter_context(Gateway(directory / "gateway", config, redis_url=redis.url))
        master = psutil.Process(gateway.master_pid)
        key = gateway.create_key("idle")
        open_stream(gateway.port, key).close()
        before, started = memory_mb(master), time.perf_counter()
        streams = Pool(200).map(lambda _: open_stream(gateway.port, key), range(wanted))
        held = [stream for stream in streams if stream is not None]
        seconds = time.perf_counter() - started
        after = memory_mb(master)
        print(f"{len(held)} of {wanted} streams opened in {seconds:.1f} s")
        each_kb = (after - before) * 1000 / len(held)
        print(f"gateway: {before:.0f} MB before, {after:.0f} MB with them: {each_kb:.1f} KB each")
        cpu = sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in gateway.worker_pids())
        arrived = 0

        def next_chunk(stream: Any) -> None:
            nonlocal arrived
            with suppress(gevent.Timeout), gevent.Timeout(90):
                while data := stream.recv(65536):
                    if b'"content":' in data:  # and not a heartbeat
                        arrived += 1
                        return

        Pool(len(held)).map(next_chunk, held)
        used = sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in gateway.worker_pids()) - cpu
        print(f"the next chunk, a minute later, came on {arrived}; the workers used {used:.1f} s of CPU meanwhile")
        descriptors = [psutil.Process(pid).num_fds() for pid in gateway.worker_pids()]
        print(f"descriptors by worker: {descriptors}; limit {hard}")
        for stream in held:
            stream.close()


if __name__ == "__main__":
    gevent.get_hub()
    main()
