"""Bare nginx, the floor of the benchmark: `proxy_pass` to the vendor, kept connections, no TLS, no log, two workers."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from scripts.executables import find_nginx
from tests.support.servers import free_port, wait_for

_CONFIG = """
daemon off; worker_processes 2; worker_rlimit_nofile 16384; pid {work}/pid; error_log {work}/error.log;
events {{ worker_connections 8192; }}
http {{
    access_log off; keepalive_requests 1000000; client_max_body_size 10m; client_body_buffer_size 256k;
    client_body_temp_path {work}/body; proxy_temp_path {work}/proxy; fastcgi_temp_path {work}/fastcgi;
    uwsgi_temp_path {work}/uwsgi; scgi_temp_path {work}/scgi;
    upstream vendor {{ server 127.0.0.1:{vendor}; keepalive 256; keepalive_requests 1000000; }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://vendor; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
        }}
    }}
}}
"""


@contextmanager
def run_bare_nginx(directory: Path, vendor_port: int) -> Iterator[tuple[psutil.Process, int]]:
    """Runs it. Yields its process and port."""
    port = free_port()
    directory.mkdir()
    (directory / "nginx.conf").write_text(_CONFIG.format(work=directory, vendor=vendor_port, port=port))
    process = subprocess.Popen([find_nginx() or "nginx", "-p", str(directory), "-c", "nginx.conf", "-e", "error.log"])

    def listens() -> bool:
        assert process.poll() is None, "the bare nginx ended"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_for(listens, message="the bare nginx did not start")
        yield psutil.Process(process.pid), port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)
