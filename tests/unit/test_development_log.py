"""The readable log of development: one line an event, and nothing a caller says passes for another line."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator

import pytest
import structlog

from app.telemetry.logging import configure_logging


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], str]]:
    """Returns the lines logged since the last call."""
    read, write = os.pipe()
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    root = logging.getLogger()
    before = root.handlers, root.level
    configure_logging("info", False, frozenset({"a-secret-value"}), fd=write)
    yield lambda: os.read(read, 65536).decode()
    root.handlers, root.level = before
    logging.captureWarnings(False)
    structlog.reset_defaults()
    os.close(read)
    os.close(write)


def test_a_line_is_a_time_a_level_an_event_and_its_fields(logged: Callable[[], str]) -> None:
    structlog.get_logger().info("happened", count=3, ratio=0.5, name="n", words="two words", nothing=None, empty="")
    line = logged()
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d\.\d{3}Z info  happened count=3 ratio=0.5 name=n words='two words' nothing=None empty=''\n",
        line,
    )


def test_what_a_caller_says_cannot_steer_the_terminal_or_begin_a_line(logged: Callable[[], str]) -> None:
    structlog.get_logger().warning("asked", model="x\n12:00:00.000Z info  forged\x1b[2J", other="a\rb\u2028c")
    line = logged()
    assert line.count("\n") == 1
    assert "\x1b" not in line
    assert "\r" not in line
    assert "forged" in line


def test_a_traceback_is_indented_and_secrets_are_cut(logged: Callable[[], str]) -> None:
    try:
        raise ValueError("a-secret-value\nunindented")
    except ValueError:
        structlog.get_logger().exception("failed")
    head, *rest = logged().splitlines()
    assert head.endswith("error failed")
    assert rest[0] == "    Traceback (most recent call last):"
    assert all(line.startswith("    ") for line in rest)
    assert "a-secret-value" not in "".join(rest)


@pytest.mark.parametrize("fields", [{"level": 3}, {"timestamp": None}, {"event_": object()}, {"bad": "\ud800"}])
def test_no_field_makes_a_line_fail(logged: Callable[[], str], fields: dict[str, object]) -> None:
    structlog.get_logger().info("odd", **fields)
    assert "odd" in logged()


def test_colours_are_for_terminals_and_for_a_supervisor_that_has_one(
    logged: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    structlog.get_logger().info("plain")
    assert "\x1b" not in logged()
    read, write = os.pipe()
    monkeypatch.setenv("FORCE_COLOR", "1")
    configure_logging("info", False, frozenset(), fd=write)
    structlog.get_logger().info("coloured", n=1)
    assert "\x1b[32minfo \x1b[0m coloured \x1b[2mn=\x1b[0m1" in os.read(read, 1000).decode()
    os.close(read)
    os.close(write)
