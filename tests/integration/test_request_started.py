"""The start time of a request, on both paths through the server (fast and gunicorn's own) and behind a proxy."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Callable

import pytest

from tests.support.client import ask, chat, post
from tests.support.servers import DEV_KEY, Gateway, wait_for
from tests.support.upstream import Upstream

CONFIG = """
providers:
  up: {{kind: openai, base_url: {url}}}
models: {{usage-10-5: {{targets: [{{provider: up}}]}}}}
"""


@pytest.mark.parametrize(("proxies", "client_ip"), [("127.0.0.1", "203.0.113.7"), ("10.0.0.0/8", "127.0.0.1")])
def test_the_client_is_named_by_a_trusted_proxy_only(
    gateway: Callable[..., Gateway], upstream: Upstream, proxies: str, client_ip: str
) -> None:
    server = gateway(CONFIG.format(url=upstream.url), workers=1, env={"FORWARDED_ALLOW_IPS": proxies})

    def headers(request_id: str) -> dict[str, str]:
        return {"X-Request-ID": request_id, "X-Forwarded-For": "203.0.113.7", "User-Agent": f"agent-of-{request_id}"}

    assert post(server.port, chat("usage-10-5"), DEV_KEY, headers=headers("plain")).status == 200
    assert ask(server.port, "/v1/models", DEV_KEY, headers=headers("view")).status == 200
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    body = json.dumps(chat("usage-10-5")).encode()
    sent = {"Authorization": f"Bearer {DEV_KEY}", "Content-Type": "application/json", **headers("chunked")}
    connection.request("POST", "/v1/chat/completions", iter([body]), sent, encode_chunked=True)
    assert connection.getresponse().status == 200
    connection.close()
    for request_id in ("plain", "view", "chunked"):
        line = wait_for(
            lambda request_id=request_id: re.search(rf".*request_started.*{request_id}.*", server.log()), timeout_s=5
        )[0]
        text = re.sub(r"\x1b\[[0-9;]*m", "", line)
        assert re.search(rf"client_ip\W{{1,3}}{re.escape(client_ip)}\b", text), line
        assert f"agent-of-{request_id}" in text
