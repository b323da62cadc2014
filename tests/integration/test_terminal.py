"""`flask chat` as a person has it: a process of its own, on a pipe or a terminal, and a real gunicorn behind it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.servers import DEV_KEY, ROOT, Gateway
from tests.support.upstream import Upstream

WORDS = [f"word{number}" for number in range(20)]
CONFIG = """
providers:
  demo: {{kind: demo, script: {{chunk_delay_s: 0.05, reply: "{reply}"}}}}
  up: {{kind: openai, base_url: {url}}}
models:
  demo: {{targets: [{{provider: demo}}]}}
  stream-5000-10: {{targets: [{{provider: up}}]}}
  silent: {{targets: [{{provider: up}}]}}
"""
FLASK = [str(Path(sys.executable).parent / "flask"), "--app", "app"]


@pytest.fixture
def running(gateway: Callable[..., Gateway], upstream: Upstream) -> Gateway:
    config = CONFIG.format(reply=" ".join(WORDS), url=upstream.url)
    return gateway(config, prices='up: {"*": {prompt: 1, completion: 2}}', workers=1)


class Terminal:
    """A command on a terminal of its own; `type` is the keyboard."""

    def __init__(self, gateway: Gateway, *args: str) -> None:
        self._master, slave = pty.openpty()
        self._process = subprocess.Popen(
            [*FLASK, *args],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=ROOT,
            env={**gateway.env, "TERM": "dumb"},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self.shown = ""

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def until(self, text: str, timeout_s: float = 20.0) -> str:
        """Returns the output up to and including `text`; the next call continues behind it."""
        deadline = time.monotonic() + timeout_s
        while text not in self.shown:
            assert select.select([self._master], [], [], max(deadline - time.monotonic(), 0))[0], (
                f"{text!r} was not shown, only {self.shown!r}"
            )
            self.shown += self._read()
        before, _, self.shown = self.shown.partition(text)
        return before + text

    def ended(self) -> int:
        while read := self._read():
            self.shown += read
        return self._process.wait(10)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        os.close(self._master)

    def _read(self) -> str:
        try:
            return os.read(self._master, 65536).decode("utf-8", "replace")
        except OSError:  # EIO: the other end is closed
            return ""


@pytest.fixture
def terminal(running: Gateway) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def start(*args: str) -> Terminal:
        opened.append(Terminal(running, *args))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


def test_an_answer_is_shown_word_by_word_as_it_arrives(running: Gateway) -> None:
    with subprocess.Popen(
        [*FLASK, "chat", "Hi"], cwd=ROOT, env=running.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        read: list[tuple[float, bytes]] = []
        while data := os.read(process.stdout.fileno(), 65536):
            read.append((time.monotonic(), data))
        assert process.wait(10) == 0
        assert process.stderr.read() == b""
    assert b"".join(data for _, data in read).decode() == " ".join(WORDS) + "\n"
    assert len(read) >= len(WORDS) // 4, "a few words at a time, also on a busy machine; never all at the end"
    assert read[-1][0] - read[0][0] >= 0.5, "spread over the second in which the model spoke"
    running.drained()
    [row] = running.rows()
    assert (row["status"], row["model"], row["streamed"]) == ("ok", "demo", 1)


def test_a_pipe_is_the_question_and_its_reader_may_go(running: Gateway) -> None:
    command = f"printf 'Hi there' | {' '.join(FLASK)} chat | head -c 5"
    done = subprocess.run(command, shell=True, cwd=ROOT, env=running.env, capture_output=True, timeout=60)
    assert (done.stdout, done.stderr) == (b"word0", b"")
    running.drained()
    assert [row["status"] for row in running.rows()] == ["aborted"], "nobody pays for what nobody reads"


def test_a_refused_key_is_one_line_with_the_gateways_code(running: Gateway) -> None:
    done = subprocess.run(
        [*FLASK, "chat", "Hi"],
        cwd=ROOT,
        env={**running.env, "PENSTOCK_KEY": "wrong"},
        capture_output=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"Error: INVALID_API_KEY: Incorrect API key provided.\n"


def test_ctrl_c_stops_the_answer_and_at_the_prompt_it_ends_the_program(
    running: Gateway, upstream: Upstream, terminal: Callable[..., Terminal]
) -> None:
    chat = terminal("chat", "--model", "stream-5000-10", "--verbose")
    chat.until("> ")
    chat.type("Hello\n")
    chat.until("tok tok tok ")
    chat.type("\x03")
    chat.until("Stopped.")
    upstream.wait_until("open_streams", 0)
    assert upstream.served()["aborted"] == 1
    assert chat.until("> ").endswith("> ")
    chat.type("\x03")
    assert chat.ended() == 0
    running.drained()
    [row] = running.rows()
    assert (row["status"], row["http_status"], row["estimated"]) == ("aborted", 499, 1)
    assert 3 <= row["completion_tokens"] < 5000


def test_ctrl_c_before_the_first_word_stops_the_call_too(
    running: Gateway, upstream: Upstream, terminal: Callable[..., Terminal]
) -> None:
    chat = terminal("chat", "--model", "silent")
    chat.until("> ")
    chat.type("Hello\n")
    upstream.wait_until("waiting", 1)
    chat.type("\x03")
    chat.until("Stopped.")
    upstream.wait_until("waiting", 0)
    chat.until("> ")
    chat.type("\x04")
    assert chat.ended() == 0
    running.drained()
    assert [row["status"] for row in running.rows()] == ["aborted"]


def test_each_turn_of_a_conversation_carries_the_ones_before(
    running: Gateway, terminal: Callable[..., Terminal]
) -> None:
    chat = terminal("chat", "--verbose")
    assert "auto. Ctrl-C stops an answer" in chat.until("> ")
    chat.type("one two\n")
    assert f"{' '.join(WORDS)}\r\n" in chat.until("demo by demo · picked by default · 2 + 20 tokens")
    chat.until("> ")
    chat.type("  \n")
    chat.until("> ")
    chat.type("three\n")
    chat.until("23 + 20 tokens")  # two words, twenty of the answer, one more
    chat.until("> ")
    chat.type("/exit\n")
    assert chat.ended() == 0


def test_an_error_in_a_conversation_is_one_line_and_the_prompt_comes_back(
    running: Gateway, terminal: Callable[..., Terminal]
) -> None:
    chat = terminal("chat", "--model", "nope")
    chat.until("> ")
    chat.type("Hello\n")
    assert re.search(r"\nError: MODEL_NOT_FOUND: [^\n]*\r\n", chat.until("> "))
    chat.type("/exit\n")
    assert chat.ended() == 0


def test_ctrl_c_ends_a_single_question_as_a_shell_expects_it(running: Gateway, upstream: Upstream) -> None:
    command = [*FLASK, "chat", "Hi", "--model", "stream-5000-10", "--key", DEV_KEY]
    with subprocess.Popen(
        command, cwd=ROOT, env=running.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert os.read(process.stdout.fileno(), 65536).startswith(b"tok ")
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.stderr.read() == b""
    upstream.wait_until("open_streams", 0)
    running.drained()
    assert [row["status"] for row in running.rows()] == ["aborted"]
