"""Usage as vendors report it with moderations, speech, transcriptions and pictures.

Sources: OpenAI's API reference and SDK (`types/audio/transcription.py`, `types/images_response.py`), and Mistral's
reference for `prompt_audio_seconds`. A detail of an odd type is left out: what is beside it still counts.
"""

from __future__ import annotations

import math

import msgspec

from app.domain.media import MediaRequest
from app.domain.usage import Details, Usage

# More than any model can read or write in one call: what a vendor reports beyond it is not a count.
_MOST = 10**9


class _Parts(msgspec.Struct, frozen=True):
    audio_tokens: object = None
    image_tokens: object = None
    cached_tokens: object = None


class _WireUsage(msgspec.Struct, frozen=True):
    input_tokens: object = None
    output_tokens: object = None
    prompt_tokens: object = None
    completion_tokens: object = None
    seconds: object = None
    prompt_audio_seconds: object = None
    input_tokens_details: _Parts | None = None
    input_token_details: _Parts | None = None  # of transcriptions
    output_tokens_details: _Parts | None = None


class _Answer(msgspec.Struct, frozen=True):
    type: object = None  # of an event
    usage: _WireUsage | None = None
    svg_usage: msgspec.Raw = msgspec.Raw(b"")
    duration: object = None
    data: list[msgspec.Raw] | None = None


class Reading(msgspec.Struct, frozen=True):
    """The facts in one JSON object of an answer. `is_last`: the event ends its part of the answer."""

    usage: Usage | None
    is_last: bool


_decode = msgspec.json.Decoder(_Answer).decode
_LAST_EVENTS = (".completed", ".done")


def read(body: bytes, request: MediaRequest) -> Reading:
    """Returns what an answer, or an event of one, reports. Raises `ValueError` for what is no JSON object."""
    try:
        answer = _decode(body)
    except msgspec.ValidationError:  # usage of another shape: it is still an answer, and was paid for
        msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        return Reading(None, False)
    is_last = isinstance(answer.type, str) and answer.type.endswith(_LAST_EVENTS)
    wire = answer.usage
    seconds = _seconds(answer)
    if wire is None and not seconds:
        return Reading(None, is_last)
    usage = _tokens(wire, request) if wire is not None else Usage(details=Details())
    made = len(answer.data) if answer.data is not None else request.images
    details = (usage.details or Details())._replace(
        audio_seconds=seconds, images=made if request.images else 0, characters=request.characters
    )
    unpriced = bool(answer.svg_usage) and bytes(answer.svg_usage) != b"null"  # of another model, at its own price
    return Reading(usage._replace(details=details, unpriced=unpriced), is_last)


def _tokens(wire: _WireUsage, request: MediaRequest) -> Usage:
    heard = wire.input_tokens_details or wire.input_token_details or _Parts()
    prompt = _count(wire.input_tokens) or _count(wire.prompt_tokens)
    completion = _count(wire.output_tokens) or _count(wire.completion_tokens)
    drawn = spoken = 0
    if request.kind == "image":  # all of it, unless the answer says that some is text
        written = wire.output_tokens_details
        drawn = completion if written is None else _count(written.image_tokens)
    elif request.endpoint == "audio.speech":
        spoken = completion
    return Usage(
        prompt,
        completion,
        _count(heard.cached_tokens),
        details=Details(
            audio_prompt_tokens=_count(heard.audio_tokens),
            image_prompt_tokens=_count(heard.image_tokens),
            image_completion_tokens=drawn,
            audio_completion_tokens=spoken,
        ),
    )


def _seconds(answer: _Answer) -> int:
    """Returns the billed length of the recording in whole seconds, rounded up; 0 if it is not told."""
    wire = answer.usage or _WireUsage()
    for value in (wire.seconds, wire.prompt_audio_seconds, answer.duration):
        if isinstance(value, str):  # whisper's own servers write the duration as a text
            try:
                value = float(value)
            except ValueError:
                continue
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < _MOST:
            return math.ceil(value)
    return 0


def _count(value: object) -> int:
    return value if type(value) is int and 0 <= value <= _MOST else 0
