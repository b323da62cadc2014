"""Calls of somebody who wants more than was paid for: every field that changes a cost, in every spelling.

Built by hypothesis, the same ones for the same seed. A body is written by hand, field after field, so that it may name
a field twice, with capitals or with escapes.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

MARK = "[[MARK]]"  # stands in the body where the call's own mark goes
CHAT_MODELS = (
    "plain",
    "plain",
    "bounded",
    "bounded",
    "pair",
    "pair",
    "either",
    "dear",
    "gpt-4.1-mini",
    "gpt-4.1-nano",
    "gpt-5-mini",
    "gpt-5-nano",
    "gpt-audio-mini",
)
_MANNERS = (
    *["ok"] * 12,
    "slow.150",
    "slow.150",
    "pace.3",
    "pace.3",
    "pace.8",
    "stall.1500",
    "stall.1500-once",
    "cut.3",
    "cut.0",
    "cut.3-once",
    "error.2",
    "fail.504",
    "fail.504-once",
    "fail.524",
    "refuse.500",
    "refuse.429",
    "refuse.503-once",
    "refuse.400",
)
_UNITS = ("the quick brown fox ", "a b c ", "漢字 ", "7 1 ", "🙂 ", "{}[];", "naïve ", "z")
_SMALL = st.integers(1, 100)
_ODD_BOUND = st.sampled_from((None, 0, -1, 10**12, 32_768, 40_000, 1.0, 1e3, "50", True, 2**63))
_EXTRAS = ("tools", "prediction", "web_search_options", "modalities", "reasoning_effort", "odd")


@dataclass(frozen=True)
class HostileCall:
    """`manner` is what the vendor does. `hang_up`: None, 0 (before the first byte) or after so many chunks."""

    path: str
    body: str
    manner: str
    hang_up: int | None

    @property
    def kind(self) -> str:
        """Its row in the table."""
        where = {"/v1/chat/async": "job", "/v1/embeddings": "embedding"}.get(self.path, "chat")
        gone = {None: "", 0: ", hang-up before"}.get(self.hang_up, ", hang-up in between")
        streamed = " stream" if '"stream": true' in self.body else ""
        once = "-once" if self.manner.endswith("-once") else ""
        return f"{where} {self.manner.partition('.')[0]}{once}{streamed}{gone}"


def hostile_calls(count: int, number: int) -> list[HostileCall]:
    """`count` different calls; the same for the same `number`."""
    found: dict[HostileCall, None] = {}

    @seed(number)
    @settings(
        max_examples=count * 10,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(_calls())
    def build(call: HostileCall) -> None:
        if len(found) == count:
            raise _Enough
        found[call] = None

    with suppress(_Enough):
        build()
    return list(found)


class _Enough(Exception):
    pass


def _one_in(draw: st.DrawFn, times: int) -> bool:
    return draw(st.sampled_from((False,) * (times - 1) + (True,)))


@st.composite
def _calls(draw: st.DrawFn) -> HostileCall:
    manner = draw(st.sampled_from(_MANNERS))
    if _one_in(draw, 12):
        return HostileCall("/v1/embeddings", _embedding(draw), manner, 0 if _one_in(draw, 8) else None)
    job = _one_in(draw, 12)
    fields = _chat_fields(draw, stream=not job and draw(st.booleans()))
    hang_up = None if job or not _one_in(draw, 5) else draw(st.sampled_from((0, 1, 3, 10)))
    return HostileCall("/v1/chat/async" if job else "/v1/chat/completions", _written(draw, fields), manner, hang_up)


def _chat_fields(draw: st.DrawFn, *, stream: bool) -> list[tuple[str, Any]]:
    fields: list[tuple[str, Any]] = [
        ("model", draw(st.sampled_from(CHAT_MODELS))),
        ("messages", [{"role": "user", "content": _content(draw)} for _ in range(draw(st.integers(1, 2)))]),
    ]
    fields += _bounds(draw)
    if _one_in(draw, 5):
        fields.append(("n", draw(st.sampled_from((1, 2, 2, 3, 3, 8, 128, 0, None)))))
    if _one_in(draw, 4):
        tiers = ("flex", "priority", "scale", "default", "auto", "garbage", "Priority", None, 7)
        fields.append(("service_tier", draw(st.sampled_from(tiers))))
    if stream or _one_in(draw, 30):
        fields.append(("stream", draw(st.sampled_from((True,) * 12 + (False, None, 1)))))
        if draw(st.booleans()):
            fields.append(
                ("stream_options", draw(st.sampled_from(({"include_usage": True}, {"include_usage": False}, {}, None))))
            )
    for name in _EXTRAS:
        if _one_in(draw, 14):
            fields += _extra(draw, name)
    if _one_in(draw, 10):  # the same field once more, for whoever takes the last one
        name, _ = draw(st.sampled_from(fields))
        fields.append((name, _another(draw, name)))
    return fields


def _bounds(draw: st.DrawFn) -> list[tuple[str, Any]]:
    if _one_in(draw, 25):
        return []
    names = draw(
        st.sampled_from(
            (
                ("max_tokens",),
                ("max_tokens",),
                ("max_completion_tokens",),
                ("max_completion_tokens",),
                ("max_tokens", "max_completion_tokens"),
                ("max_completion_tokens", "max_tokens"),
            )
        )
    )
    return [(name, draw(_ODD_BOUND) if _one_in(draw, 8) else draw(_SMALL)) for name in names]


def _another(draw: st.DrawFn, name: str) -> Any:
    if name == "model":
        return draw(st.sampled_from(("dear", "gpt-4.1", "plain")))
    if name == "messages":
        return [{"role": "user", "content": MARK + " more" * 400}]
    if name in ("max_tokens", "max_completion_tokens"):
        return draw(st.sampled_from((1, 2_000, 30_000)))
    return draw(st.sampled_from((4, "priority", True, {"include_usage": False})))


def _extra(draw: st.DrawFn, name: str) -> list[tuple[str, Any]]:
    if name == "tools":
        function = {"name": "f", "description": "word " * draw(st.integers(1, 200)), "parameters": {"type": "object"}}
        return [("tools", [{"type": "function", "function": function}]), ("tool_choice", "auto")]
    if name == "prediction":
        return [("prediction", {"type": "content", "content": "guess " * draw(st.integers(1, 1500))})]
    if name == "web_search_options":
        return [(name, draw(st.sampled_from(({}, {"search_context_size": "high"}))))]
    if name == "modalities":
        return [(name, ["text", "audio"]), ("audio", {"voice": "alloy", "format": "wav"})]
    if name == "reasoning_effort":
        return [(name, draw(st.sampled_from(("low", "medium", "high"))))]
    deep: Any = 1
    for _ in range(draw(st.sampled_from((1, 30, 400)))):
        deep = [deep]
    return [
        draw(
            st.sampled_from(
                (("metadata", deep), ("seed", 10**30), ("logit_bias", {"50256": -100}), ("", 0), ("x", "\x00"))
            )
        )
    ]


def _content(draw: st.DrawFn) -> Any:
    text = f"{MARK} " + draw(st.sampled_from(_UNITS)) * draw(st.integers(1, 40))
    if not _one_in(draw, 5):
        return text
    parts = draw(st.lists(st.sampled_from(_PARTS), min_size=1, max_size=2))
    return [{"type": "text", "text": text}, *parts]


_PARTS: tuple[dict[str, Any], ...] = (
    {"type": "text", "text": "and this"},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "iVBOR" * 40}},
    {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "high"}},
    {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}},
    {"type": "file", "file": {"file_id": "file-abc"}},
    {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64," + "JVBER" * 40}},
    {"type": "input_audio", "input_audio": {"data": "UklGR" * 40, "format": "wav"}},
    {"type": "video_url", "video_url": {"url": "https://example.com/a.mp4"}},
)


def _embedding(draw: st.DrawFn) -> str:
    text = f"{MARK} " + draw(st.sampled_from(_UNITS)) * draw(st.integers(1, 300))
    tokens = list(range(draw(st.integers(1, 300))))
    given = draw(st.sampled_from((text, [text, text], [text, "more " * 50])))
    fields: list[tuple[str, Any]] = [
        ("model", draw(st.sampled_from(("vectors", "text-embedding-3-small")))),
        ("input", given),
    ]
    if _one_in(draw, 5):  # numbers instead of words: the mark is then where a user's name is
        fields = [fields[0], ("input", tokens), ("user", MARK)]
    if _one_in(draw, 8):
        fields.append(("input", text * 5))
    return _written(draw, fields)


def _written(draw: st.DrawFn, fields: list[tuple[str, Any]]) -> str:
    ascii_only = draw(st.booleans())
    rows = [f"{_spelt(draw, name)}: {json.dumps(value, ensure_ascii=ascii_only)}" for name, value in fields]
    body = "{" + ", ".join(rows) + "}"
    if _one_in(draw, 60):
        return draw(st.sampled_from((f" {body}\n", f"{body} {{}}", f"\ufeff{body}", body[:-1], f"[{body}]")))
    return body


def _spelt(draw: st.DrawFn, name: str) -> str:
    """The name as JSON, now and then as only a lenient parser takes it."""
    if not name or not _one_in(draw, 25):
        return json.dumps(name)
    spellings = (
        name.upper(),
        name.title(),
        name.capitalize(),
        name.replace("_", "\\u005f"),
        f"\\u{ord(name[0]):04x}{name[1:]}",
    )
    return f'"{draw(st.sampled_from(spellings))}"'
