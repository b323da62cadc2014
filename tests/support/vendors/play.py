"""What a vendor plays: a turn made of what the request asks, before any dialect's words."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
from dataclasses import dataclass, field
from typing import Any

FLAGS = frozenset({"think", "doneonly", "nousage", "kimi", "long", "emoji", "twice", "noid"})
_SECRET = os.urandom(16)  # another process is another vendor, and reads no signature of this one
_READERS = ("Read", "read_file", "read")
_SHELLS = ("Bash", "run_shell_command", "exec_command", "shell", "bash", "shell_command", "local_shell")
_PATHS = ("file_path", "filePath", "path", "absolute_path")
_COMMANDS = ("command", "cmd")


class Refused(Exception):
    """The request breaks a rule of the dialect. `code` is the dialect's own word for the error, if it has one."""

    def __init__(self, message: str, *, status: int = 400, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.param = param


@dataclass(frozen=True)
class Play:
    """The model's name, taken apart."""

    kind: str
    numbers: tuple[int, ...] = ()
    flags: frozenset[str] = frozenset()

    @classmethod
    def of(cls, model: str) -> Play:
        kind, *rest = model.split("-")
        numbers = tuple(int(part) for part in rest if part.isdigit())
        return cls(kind, numbers, FLAGS.intersection(rest))

    def number(self, position: int, default: int = 0) -> int:
        return self.numbers[position] if position < len(self.numbers) else default


@dataclass(frozen=True)
class Offered:
    """A tool of the request's. `custom`: it reads free text."""

    name: str
    schema: dict[str, Any] = field(default_factory=dict)
    custom: bool = False
    namespace: str = ""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a request asks. `results` are of the tool calls since the user last spoke; `shows` the reasoning's text."""

    model: str
    stream: bool
    prompt: str = ""
    tools: tuple[Offered, ...] = ()
    results: tuple[str, ...] = ()
    schema: dict[str, Any] | None = None
    shows: bool = True
    usage_wanted: bool = True
    request: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Call:
    id: str
    tool: Offered
    arguments: dict[str, Any]

    @property
    def text(self) -> str:
        return json.dumps(self.arguments)


@dataclass(frozen=True, kw_only=True)
class Turn:
    """An answer. `stop` is end, length, stop_sequence, tool_calls, refusal, filter or pause."""

    id: str
    model: str
    thinking: str = ""
    words: tuple[str, ...] = ()
    calls: tuple[Call, ...] = ()
    stop: str = "end"
    prompt_tokens: int = 10
    completion_tokens: int = 5
    cached: int = 0
    reasoning: int = 0
    written: int = 0
    done_only: bool = False
    bill: dict[str, Any] | None = None

    @property
    def text(self) -> str:
        return "".join(self.words)


def sign(*parts: str) -> str:
    """Returns this vendor's signature of `parts`."""
    return hmac.new(_SECRET, "\x00".join(parts).encode(), hashlib.sha256).hexdigest()


def compose(asked: Asked, play: Play, number: int, bill: dict[str, Any] | None) -> Turn:
    """Returns the answer of a model that plays `play`. `number` is the request's: ids are made of it."""
    calls = _calls(asked, play, number)
    stop = {"length": "length", "stopped": "stop_sequence", "pause": "pause", "filter": "filter"}.get(play.kind, "end")
    words: tuple[str, ...] = ("Hello ", "there", ".")
    if play.kind == "refusal":
        stop, words = "refusal", ("I ", "cannot ", "help.")
    elif calls:
        stop, words = "tool_calls", ()
    elif asked.results:
        words = tuple(re.findall(r"\S+\s*|\s+", f"The tools said: {' | '.join(asked.results)}."))
    elif asked.schema is not None:
        words = (json.dumps(instance(asked.schema)),)
    elif play.kind == "stream":
        words = ("tok ",) * play.number(0, 5)
    elif play.kind == "usage":
        words = ("tok ",) * play.number(1)
    thinks = "think" in play.flags
    turn = Turn(
        id=f"{number:06d}",
        model=asked.model,
        thinking="Let me think about it." if thinks else "",
        words=words,
        calls=calls,
        stop=stop,
        completion_tokens=5,
        reasoning=3 if thinks else 0,
        done_only="doneonly" in play.flags,
        bill=bill,
    )
    if play.kind == "usage":
        counts = dict(
            zip(("prompt_tokens", "completion_tokens", "cached", "reasoning", "written"), play.numbers, strict=False)
        )
        turn = Turn(**{**turn.__dict__, **counts})
    return turn


def _calls(asked: Asked, play: Play, number: int) -> tuple[Call, ...]:
    if play.kind == "agent":
        return _agent_calls(asked, play, number)
    if asked.results or not asked.tools:
        return ()
    if play.kind == "tools":
        chosen = asked.tools[: play.number(0, 1)]
    elif play.kind == "parallel":
        chosen = asked.tools[:1] * play.number(0, 2)
    else:
        return ()
    arguments = [
        {"input": "free text"} if tool.custom else instance({"type": "object", **tool.schema}, n)
        for n, tool in enumerate(chosen)
    ]
    return tuple(Call(_call_id(play, tool.name, number, n), tool, arguments[n]) for n, tool in enumerate(chosen))


def _agent_calls(asked: Asked, play: Play, number: int) -> tuple[Call, ...]:
    quoted = re.findall(r"`([^`]+)`", asked.prompt)
    step = len(asked.results)
    if len(quoted) < 2 or step >= 2 or not asked.tools:
        return ()
    tools = {tool.name: tool for tool in asked.tools}
    reader = next((tools[name] for name in _READERS if name in tools), None)
    shell = next((tools[name] for name in _SHELLS if name in tools), None)
    if step == 0 and reader is not None:
        tool, arguments = reader, _filled(reader, _PATHS, quoted[0])
    elif shell is not None:
        tool, arguments = shell, _filled(shell, _COMMANDS, quoted[1] if step else f"cat {quoted[0]}")
    else:
        return ()
    return (Call(_call_id(play, tool.name, number, 0), tool, arguments),)


def _filled(tool: Offered, names: tuple[str, ...], value: str) -> dict[str, Any]:
    properties = tool.schema.get("properties", {})
    known = [name for name in names if name in properties]
    required = {name: instance(properties[name]) for name in tool.schema.get("required", ()) if name in properties}
    return {**required, known[0]: value}


def _call_id(play: Play, tool: str, number: int, position: int) -> str:
    """Returns "" for the dialect's own style."""
    styles = {
        "kimi": f"functions.{tool}:{position}",
        "long": f"call_{number}_{position}_".ljust(200, "x"),
        "emoji": f"call🔧{number}_{position}",
        "twice": f"call_{number}",
        "noid": "-",
    }
    return next((styles[flag] for flag in sorted(play.flags) if flag in styles), "")


def instance(schema: dict[str, Any], seed: int = 0) -> Any:
    """Returns a value that fits `schema`, of the parts of JSON Schema that tools use."""
    if "enum" in schema:
        return schema["enum"][0]
    if "const" in schema:
        return schema["const"]
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return instance(schema[key][0], seed)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    kind = (kind[0] if isinstance(kind, list) else kind).lower()
    if kind == "object":
        properties = schema.get("properties", {})
        return {name: instance(properties.get(name, {}), seed) for name in schema.get("required", properties)}
    if kind == "array":
        return [instance(schema.get("items", {}), seed)] * schema.get("minItems", 0)
    if kind in ("integer", "number"):
        return schema.get("minimum", 1)
    return {"boolean": True, "null": None}.get(kind, f"Ulm{seed or ''}")
