"""A batch's input file: its lines by number, the ones that remain, and the ids that a line is known by."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.jobs.batch.input_file import LineIds, RemainingLines, check_file, numbered_lines

CHAT = "/v1/chat/completions"


def line(custom_id: str) -> bytes:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body}).encode() + b"\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "in.jsonl"


def numbers(path: Path, done: set[int]) -> RemainingLines:
    return RemainingLines(path, 100, done=lambda number: number in done, pause=lambda _: None)


def test_a_lines_ids_are_those_a_batch_in_flight_was_begun_with() -> None:
    """Another process, also one of a newer version, finds by them what was submitted and charged."""
    ids = LineIds("batch_0123abcd")
    assert (ids.call_id(7), ids.call_id(7, refusals=2)) == ("batch_0123abcd-7", "batch_0123abcd-7-2")
    assert ids.idempotency_key(7) == "batch batch_0123abcd 7"
    assert ids.result_id(7) == "batch_req_0123abcd_7"


def test_blank_lines_count_and_are_not_read(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbfa\n\n  \nb")
    assert list(numbered_lines(file, 100)) == [(1, b"a\n"), (4, b"b")]


def test_a_line_that_is_too_long_is_cut_and_the_next_keeps_its_number(file: Path) -> None:
    file.write_bytes(b"x" * 20_000 + b"\nb\n")
    [(first, cut), second] = numbered_lines(file, 100)
    assert (first, len(cut), second) == (1, 100 + 4096, (2, b"b\n"))


def test_lines_that_are_done_are_passed_over_and_one_may_come_again(file: Path) -> None:
    file.write_bytes(b"a\nb\nc\n")
    done = {1}
    lines = numbers(file, done)
    assert lines.next() == (2, b"b\n")
    lines.push_back((2, b"b\n"))
    assert [lines.next(), lines.next(), lines.next()] == [(2, b"b\n"), (3, b"c\n"), None]
    lines.restart()
    done.add(2)
    assert lines.next() == (3, b"c\n")
    assert list(lines.chunks(5)) == [[(3, b"c\n")]], "chunks begin anew"


def test_a_file_without_a_usable_line_fails_as_a_whole(file: Path) -> None:
    def check(content: bytes, max_lines: int = 10) -> tuple[int, list[tuple[int, str]], list[str]]:
        file.write_bytes(content)
        found = check_file(file, CHAT, max_lines=max_lines, max_body_bytes=1000, pause=lambda _: None)
        bad = [(bad.number, bad.code) for bad in found.bad_lines]
        return found.total, bad, [error["code"] for error in found.errors]

    assert check(line("a") + line("b")) == (2, [], [])
    assert check(line("a") + line("a") + b"{\n") == (3, [(2, "duplicate_custom_id"), (3, "invalid_json_line")], [])
    assert check(b"{\n{\n") == (2, [], ["invalid_json_line"] * 2)
    assert check(b"\n") == (0, [], ["empty_file"])
    assert check(line("a") + line("b"), max_lines=1) == (0, [], ["too_many_tasks"])
