"""The support assistant on real workers: one user's messages at once, and users who hang up."""

from __future__ import annotations

import http.client
import json
import re
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

from tests.support.client import Answer, in_parallel, post
from tests.support.servers import DEV_KEY, Gateway, wait_for
from tests.support.upstream import Upstream

CONFIG = """
providers:
  demo: {kind: demo, script: {delay_s: 0.05, chunk_delay_s: 0.002}}
models:
  demo: {targets: [{provider: demo}]}
support: {history_messages: 200}
"""
VENDOR = """
providers:
  up: {{kind: openai, base_url: {url}}}
models:
  {model}: {{targets: [{{provider: up}}]}}
"""


def say(gateway: Gateway, message: str, user: str = "ann", **more: Any) -> Answer:
    options = {name: more.pop(name) for name in ("hang_up_after",) if name in more}
    return post(gateway.port, {"message": message, "user_id": user, **more}, DEV_KEY, path="/api/v1/chat", **options)


def history(gateway: Gateway, user: str = "ann") -> list[tuple[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
    try:
        connection.request("GET", f"/v1/chat/history/{user}", headers={"Authorization": f"Bearer {DEV_KEY}"})
        found = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    assert found["message_count"] == len(found["messages"])
    return [(message["role"], message["content"]) for message in found["messages"]]


def streamed_text(stream: Answer) -> str:
    return "".join(json.loads(text) for text in re.findall(r'"content":("[^"]*")', stream.body.decode()))


def test_fifty_messages_of_one_user_at_once_lose_nothing_of_each_other(gateway: Callable[..., Gateway]) -> None:
    server = gateway(CONFIG)
    names = [f"message-{i}" for i in range(50)]
    calls = [partial(say, server, name, stream=i % 2 == 1) for i, name in enumerate(names)]
    answers = in_parallel(calls, threads=50)
    assert {answer.status for answer in answers} == {200}
    assert [answer.done for answer in answers] == [False, True] * 25
    said = [streamed_text(answer) if answer.done else answer.json["response"] for answer in answers]
    assert [text.partition("You said: ")[2].split()[0] for text in said] == names

    kept = history(server)
    assert [role for role, _ in kept] == ["user", "assistant"] * 50
    pairs = [(kept[i][1], kept[i + 1][1]) for i in range(0, 100, 2)]
    assert sorted(pairs) == sorted(zip(names, said, strict=True)), "each answer directly after its message"

    assert say(server, "one more").status == 200
    assert history(server)[:100] == kept
    assert history(server)[100] == ("user", "one more")
    server.drained()
    rows = server.rows()
    assert [(row["status"], row["user"]) for row in rows] == [("ok", "ann")] * 51
    # The last one was told of all the others.
    assert max(row["prompt_tokens"] for row in rows) > 50 * 10


def test_bug_01_hanging_up_ends_the_upstream_call_and_keeps_what_was_shown(
    gateway: Callable[..., Gateway], upstream: Upstream
) -> None:
    server = gateway(VENDOR.format(url=upstream.url, model="stream-40-20"))
    say(server, "Tell me", stream=True, hang_up_after=3)
    upstream.wait_until("open_streams", 0, timeout_s=1)
    kept = wait_for(partial(history, server), message="what was streamed is not kept")
    assert kept[0] == ("user", "Tell me")
    assert 3 <= kept[1][1].count("tok ") < 40
    server.drained()
    assert [row["status"] for row in server.rows()] == ["aborted"]


def test_bug_01_hanging_up_before_the_answer_keeps_nothing(gateway: Callable[..., Gateway], upstream: Upstream) -> None:
    server = gateway(VENDOR.format(url=upstream.url, model="silent"))
    for stream in (False, True):
        body = json.dumps({"message": "Tell me", "user_id": "ann", "stream": stream}).encode()
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
            head = f"POST /v1/chat HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {DEV_KEY}\r\n"
            client.sendall(
                f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
            )
            upstream.wait_until("waiting", 1)
        upstream.wait_until("waiting", 0, timeout_s=1)
    server.drained()
    assert [row["status"] for row in server.rows()] == ["aborted", "aborted"]
    assert history(server) == []


def test_the_words_of_users_and_their_names_are_not_in_the_log(gateway: Callable[..., Gateway]) -> None:
    server = gateway(CONFIG)
    say(server, "my private question", "ann@example.org")
    history(server, "ann@example.org")
    wait_for(lambda: "/v1/chat/history" in server.log())
    assert "llm_request_completed" in server.log()
    for text in ("private", "ann@example.org", DEV_KEY):
        assert text not in server.log()
