"""An upstream's events, however the network cuts them: nothing lost, nothing invented, nothing that breaks clients."""

from __future__ import annotations

import pytest

from app.domain.config import Timeouts
from app.domain.money import Usage
from app.errors import UpstreamError, UpstreamTimeout
from app.providers.events import OpenAIStream

A = b'data: {"choices":[{"index":0,"delta":{"content":"A"}}],"usage":null}\n\n'
B = 'data: {"choices":[{"index":0,"delta":{"content":"Bé"}}]}\n\n'.encode()
USAGE = (
    b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,'
    b'"prompt_tokens_details":{"cached_tokens":1}}}\n\n'
)
DONE = b"data: [DONE]\n\n"


class Wire:
    """An exchange that brings the given blocks; None is silence until the limit."""

    def __init__(self, *blocks: bytes | None) -> None:
        self._blocks = list(blocks)
        self.closed = self.finished = False

    def read(self, limit_s: float, kind: str) -> bytes:
        if not self._blocks:
            return b""
        block = self._blocks.pop(0)
        if block is None:
            raise UpstreamTimeout("silence", provider="up", kind=kind)
        return block

    def read_first(self) -> bytes:
        return self.read(1, "timeout_first_byte")

    def close(self) -> None:
        self.closed = True

    def finish_if_complete(self) -> None:
        self.finished = True


def stream(wire: Wire, *, include_usage: bool = False, idle_s: float = 10, heartbeat_s: float = 4) -> OpenAIStream:
    made = OpenAIStream(
        wire, provider="up", include_usage=include_usage, heartbeat_s=heartbeat_s, timeouts=Timeouts(idle_s=idle_s)
    )  # type: ignore[arg-type]
    made.await_first()
    return made


WHOLE = A + B + USAGE + DONE


@pytest.mark.parametrize("cut", range(1, len(WHOLE)))
def test_a_cut_at_any_byte_changes_nothing(cut: int) -> None:
    wire = Wire(WHOLE[:cut], WHOLE[cut:])
    made = stream(wire)
    assert b"".join(made) == A + B
    assert (made.complete, made.chunks, made.text_bytes) == (True, 2, 4)
    assert made.usage == Usage(3, 2, 1)
    assert wire.finished


@pytest.mark.parametrize("cut", range(1, 40))
def test_other_line_ends_are_understood(cut: int) -> None:
    text = WHOLE.replace(b"\n", b"\r\n")
    assert b"".join(stream(Wire(text[:cut], text[cut:]))) == A + B


def test_a_block_with_nothing_to_strip_passes_untouched() -> None:
    assert list(stream(Wire(A + B, A, DONE))) == [A + B, A]


def test_usage_is_passed_on_to_those_who_asked() -> None:
    assert b"".join(stream(Wire(WHOLE), include_usage=True)) == A + B + USAGE


def test_what_some_clients_cannot_parse_is_left_out() -> None:
    odd = b": a comment\n\nretry: 100\n\nid: 5\nevent: message\ndata:" + A[6:] + DONE
    assert b"".join(stream(Wire(odd))) == A


def test_silence_is_a_heartbeat_and_too_much_of_it_an_error() -> None:
    made = stream(Wire(A, None, None, B, None, None, None))
    received = []
    with pytest.raises(UpstreamTimeout) as error:
        received.extend(made)
    assert error.value.kind == "timeout_idle"
    assert b"".join(received) == A + B


@pytest.mark.parametrize("rest", [[], [B], [b"data: {", b""], [USAGE]])
def test_bug_02_an_end_without_done_is_never_a_clean_one(rest: list[bytes]) -> None:
    wire = Wire(A, *rest)
    made = stream(wire)
    with pytest.raises(UpstreamError) as error:
        list(made)
    assert error.value.kind == "cut"
    assert (made.complete, wire.closed) == (False, True)


def test_an_error_event_ends_the_stream_behind_the_chunks_before_it() -> None:
    made = stream(Wire(A + b'data: {"error":{"message":"overloaded"}}\n\n'))
    received: list[bytes] = []
    with pytest.raises(UpstreamError) as error:
        received.extend(made)
    assert (received, error.value.kind) == ([A], "stream_error")
    assert "overloaded" not in error.value.message


def test_an_error_before_the_first_chunk_can_still_fall_back() -> None:
    with pytest.raises(UpstreamError):
        stream(Wire(b'event: error\ndata: {"error":{"message":"overloaded"}}\n\n'))


def test_bug_12_an_event_has_a_longest_length() -> None:
    with pytest.raises(UpstreamError) as error:
        stream(Wire(*[b"data: " + b"x" * 65_536] * 20))
    assert error.value.kind == "bad_body"


def test_a_shape_that_is_new_to_us_is_the_clients_to_understand() -> None:
    new = b'data: {"choices":[{"index":0,"delta":{"content":["parts"]}}]}\n\n'
    made = stream(Wire(new + DONE))
    assert b"".join(made) == new
    assert made.chunks == 1
