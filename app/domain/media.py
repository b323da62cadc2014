"""Media requests: moderations, speech, transcriptions and pictures, passed on in OpenAI's dialect and never translated.

Validation covers what the gateway acts on: the model, streaming, and what can be billed. Everything else is the
provider's business. A form is encoded anew, a JSON body keeps each value's bytes (`domain.body`).

Source of names and ranges: OpenAI API reference, "Audio", "Images" and "Moderations".
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from app.domain import multipart
from app.domain.body import check_field_names, decode_body, decode_fields, encode_fields, missing_field
from app.domain.generation import IMAGE_CEILING_TOKENS
from app.domain.recordings import most_seconds_of, seconds_of
from app.domain.suggestions import closest_match
from app.domain.tokens import BYTES_PER_TOKEN
from app.domain.usage import Details, Usage
from app.errors import Forbidden, InvalidRequest

MediaEndpoint = Literal[
    "moderations",
    "audio.speech",
    "audio.transcriptions",
    "audio.translations",
    "images.generations",
    "images.edits",
    "images.variations",
]
ModelKind = Literal["moderation", "audio", "image"]


class _Rules(NamedTuple):
    """The form of an endpoint's body: as JSON, as a multipart form or either, and its required fields and files."""

    kind: ModelKind
    json: bool = False
    form: bool = False
    required: tuple[str, ...] = ()
    files: tuple[str, ...] = ()  # required of a form


RULES: dict[MediaEndpoint, _Rules] = {
    "moderations": _Rules("moderation", json=True, required=("input",)),
    "audio.speech": _Rules("audio", json=True, required=("input",)),
    "audio.transcriptions": _Rules("audio", form=True, files=("file",)),
    "audio.translations": _Rules("audio", form=True, files=("file",)),
    "images.generations": _Rules("image", json=True, required=("prompt",)),
    "images.edits": _Rules("image", json=True, form=True, required=("prompt",), files=("image",)),
    "images.variations": _Rules("image", form=True, files=("image",)),
}
# More tokens than any model makes of a second of sound: Google's 32; OpenAI's are 10 to 21.
_TOKENS_PER_SECOND = 32
_HEARD_TOKENS_PER_SECOND = 10  # OpenAI's
_SPOKEN_CHARACTERS_PER_SECOND = 15  # English, at the usual speed
_SPEECH_TOKENS_PER_SECOND = 21  # OpenAI's price a minute, by its price a token
_IMAGE_TOKENS = 4160  # of a square picture of high quality
_PARTIAL_IMAGE_TOKENS = 100  # OpenAI, "Image generation", for each one
_Count = Annotated[int, msgspec.Meta(ge=1, le=128)]


class MediaRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A media request. `model` is "" when the body names none. `size` is the body's length.

    `images` and `frames` are those asked for, `input_images` those sent along; `characters` are to be spoken,
    `seconds` the length of the recording. `streamed`: the answer comes as events. `parts` are those of a form.
    """

    endpoint: MediaEndpoint
    model: str = ""
    user: str | None = None
    streamed: bool = False
    size: int = 0
    text_bytes: int = 0
    images: int = 0
    frames: int = 1
    partial_images: int = 0
    input_images: int = 0
    characters: int = 0
    seconds: int = 0
    has_unknown_cost: bool = False
    fields: dict[str, msgspec.Raw] = msgspec.field(default_factory=dict)
    parts: list[multipart.Part] = msgspec.field(default_factory=list)

    @classmethod
    def parse(cls, endpoint: MediaEndpoint, body: bytes, content_type: str) -> MediaRequest:
        """Returns the request in `body`. Raises `InvalidRequest` whose `param` names the field."""
        rules = RULES[endpoint]
        if is_form(content_type):
            return _of_form(endpoint, rules, body, content_type)
        return _of_json(endpoint, rules, body)

    @property
    def kind(self) -> ModelKind:
        """The kind of model that serves the endpoint."""
        return RULES[self.endpoint].kind

    @property
    def path(self) -> str:
        """The endpoint's path behind the version."""
        return f"/{self.endpoint.replace('.', '/')}"

    def field(self, name: str) -> str:
        """Returns a text of the body; "" when it is not there."""
        if self.parts:
            return next((part.text() for part in self.parts if part.name == name and part.filename is None), "")
        value = msgspec.json.decode(self.fields.get(name, msgspec.Raw(b'""')))
        return value if isinstance(value, str) else ""

    def with_model(self, model: str) -> MediaRequest:
        """Returns the same request for another model."""
        return msgspec.structs.replace(self, model=model)

    def bounded(self) -> MediaRequest:
        """Returns the request as a budget counts it: with the most seconds that its recording can have.

        Raises `Forbidden` for what can cost anything.
        """
        if self.has_unknown_cost:
            raise Forbidden("The price of `svg` is unknown, and your plan has a budget.", param="svg")
        recording = next((part.content for part in self.parts if part.name == "file"), None)
        if recording is None:
            return self
        seconds = most_seconds_of(recording)
        if seconds is None:
            raise Forbidden(
                "Only the recording itself says how long it is, and your plan has a budget: send WAV (PCM), MP3, or "
                "Ogg with Opus or Vorbis.",
                param="file",
            )
        return msgspec.structs.replace(self, seconds=seconds)

    def encode(self, model: str) -> tuple[bytes, str]:
        """Returns the body for the provider's `model`, and its content type."""
        if not self.parts:
            return encode_fields(self.fields, {"model": model}), "application/json"
        others = [part for part in self.parts if part.name != "model"]
        return multipart.encode([("model", model.encode()), *others])

    def estimate_prompt_tokens(self) -> int:
        """Returns a likely count of prompt tokens, for limits on tokens."""
        images = self.input_images * IMAGE_CEILING_TOKENS // 50
        return self.text_bytes // BYTES_PER_TOKEN + self.seconds * _HEARD_TOKENS_PER_SECOND + images + 1

    def estimate_prompt_tokens_closely(self) -> int:
        return self.estimate_prompt_tokens()

    def prompt_tokens_upper_bound(self) -> int:
        """Returns a count of prompt tokens that no tokenizer exceeds: of the text, the sound and the pictures."""
        return self.text_bytes + self.seconds * _TOKENS_PER_SECOND + self.input_images * IMAGE_CEILING_TOKENS

    def completion_tokens_upper_bound(self, bound: int) -> int:
        """Returns the most completion tokens when one answer, or one picture, has at most `bound`."""
        if self.kind == "image":
            return self.images * (bound * self.frames + self.partial_images * _PARTIAL_IMAGE_TOKENS)
        return 0 if self.kind == "moderation" else bound

    @property
    def units(self) -> Details:
        """Units that the call is billed by besides tokens: as many as it can be."""
        return Details(audio_seconds=self.seconds, images=self.images, characters=self.characters)

    def estimate_usage(self) -> Usage:
        """Returns the likely usage of an answer whose provider does not report it."""
        spoken = self.characters * _SPEECH_TOKENS_PER_SECOND // _SPOKEN_CHARACTERS_PER_SECOND
        drawn = self.images * self.frames * _IMAGE_TOKENS
        heard = self.seconds * 3  # a word and a half a second
        return Usage(
            self.estimate_prompt_tokens(),
            spoken + drawn + heard,
            estimated=True,
            details=self.units._replace(
                audio_completion_tokens=spoken,
                image_completion_tokens=drawn,
                audio_prompt_tokens=self.seconds * _HEARD_TOKENS_PER_SECOND,
            ),
        )


def is_form(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == "multipart/form-data"


class _Fields(msgspec.Struct, frozen=True):
    """The fields that the gateway acts on."""

    model: Annotated[str, msgspec.Meta(max_length=256)] | None = None
    input: msgspec.Raw = msgspec.Raw(b"")
    prompt: str | None = None
    n: _Count | None = None
    frame_count: _Count | None = None
    partial_images: Annotated[int, msgspec.Meta(ge=0, le=16)] | None = None
    stream: bool | None = None
    stream_format: str | None = None
    user: Annotated[str, msgspec.Meta(max_length=512)] | None = None
    images: list[msgspec.Raw] | None = None
    image: msgspec.Raw = msgspec.Raw(b"")
    mask: msgspec.Raw = msgspec.Raw(b"")
    svg: msgspec.Raw = msgspec.Raw(b"")


_KNOWN = frozenset(_Fields.__struct_fields__)
_JSON = msgspec.json.Decoder(_Fields)
_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_TEXT = msgspec.json.Decoder(str)
# Of a form: fields that may stand there once, and those that are numbers or flags.
_NUMBERS = {"n": (1, 128), "frame_count": (1, 128), "partial_images": (0, 16)}
_ONCE = frozenset({"model", "prompt", "stream", "stream_format", "user", "file", *_NUMBERS})
_FILES = frozenset({"file", "image", "image[]", "mask", "markup"})


def _of_json(endpoint: MediaEndpoint, rules: _Rules, body: bytes) -> MediaRequest:
    found = decode_body(_JSON, body)
    fields = decode_fields(body)
    check_field_names(fields, _KNOWN)
    for name in rules.required:
        if not _is_given(fields.get(name, msgspec.Raw(b""))):
            raise missing_field(name, closest_match(name, fields))
    text = _spoken(found.input) if endpoint == "audio.speech" else ""
    sent = len(found.images or ()) + _count(found.image) + _count(found.mask)
    return _checked(
        MediaRequest(
            endpoint=endpoint,
            model=found.model or "",
            user=found.user,
            streamed=bool(found.stream) or found.stream_format == "sse",
            size=len(body),
            text_bytes=len(body),
            characters=len(text),
            has_unknown_cost=_is_given(found.svg),
            fields=fields,
            **_pictures(rules, found.n, found.frame_count, found.partial_images, sent),
        )
    )


def _of_form(endpoint: MediaEndpoint, rules: _Rules, body: bytes, content_type: str) -> MediaRequest:
    parts = multipart.parse(body, content_type)
    names = [part.name for part in parts]
    _check_names(names)
    files = [part for part in parts if part.name in _FILES]
    for name in rules.required + rules.files:
        if not any(given in (name, f"{name}[]") for given in names):
            raise missing_field(name, closest_match(name, names))
    for part in files:
        if part.filename is None and part.name == "file":
            raise InvalidRequest("Expected a file: `file`.", param="file")
    text = {part.name: part.text() for part in parts if part.name in _ONCE and part.name != "file"}
    numbers = {name: _number(name, text.get(name)) for name in _NUMBERS}
    recording = next((part.content for part in files if part.name == "file"), memoryview(b""))
    pictures = sum(part.name != "file" for part in files)
    return _checked(
        MediaRequest(
            endpoint=endpoint,
            model=text.get("model", ""),
            user=text.get("user") or None,
            streamed=_flag("stream", text.get("stream", "false")) or text.get("stream_format") == "sse",
            size=len(body),
            text_bytes=sum(len(part.content) for part in parts if part.name not in _FILES),
            seconds=seconds_of(recording) if recording else 0,
            has_unknown_cost=any(name == "svg" or name.startswith("svg[") for name in names),
            parts=parts,
            **_pictures(rules, numbers["n"], numbers["frame_count"], numbers["partial_images"], pictures),
        )
    )


def _pictures(rules: _Rules, n: int | None, frames: int | None, partial: int | None, sent: int) -> dict[str, Any]:
    if rules.kind != "image":
        return {}
    return {"images": n or 1, "frames": frames or 1, "partial_images": partial or 0, "input_images": sent}


def _checked(request: MediaRequest) -> MediaRequest:
    for name, value in (("model", request.model), ("user", request.user or "")):
        if "\x00" in value:
            raise InvalidRequest(f"`{name}` must not contain NUL characters.", param=name)
        if len(value) > (256 if name == "model" else 512):
            raise InvalidRequest(f"The value is too long: `{name}`.", param=name)
    return request


def _check_names(names: list[str]) -> None:
    """Raises `InvalidRequest` for a field that another parser could find more than once, or under another name."""
    for name in names:
        plain = name.removesuffix("[]").strip().casefold()
        if name not in _ONCE and plain in _ONCE:
            raise InvalidRequest(f"Unknown field `{name[:64]}`: expected `{plain}`.", param=name[:64])
        if name in _ONCE and names.count(name) > 1:
            raise InvalidRequest(f"The field is there more than once: `{name}`.", param=name)


def _number(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    least, most = _NUMBERS[name]
    if not (text.isascii() and text.isdigit()) or len(text) > 6 or not least <= int(text) <= most:
        raise InvalidRequest(f"Expected a number from {least} to {most}: `{name}`.", param=name)
    return int(text)


def _flag(name: str, text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise InvalidRequest(f"Expected true or false: `{name}`.", param=name)
    return text.lower() == "true"


def _spoken(text: msgspec.Raw) -> str:
    try:
        return _TEXT.decode(text)
    except msgspec.ValidationError:
        raise InvalidRequest("Expected a text: `input`.", param="input") from None


def _count(field: msgspec.Raw) -> int:
    """Returns how many pictures a field has: a list of them, or one, whatever it is named by."""
    if not _is_given(field):
        return 0
    try:
        return len(_LIST.decode(field))
    except msgspec.ValidationError:
        return 1


def _is_given(field: msgspec.Raw) -> bool:
    return bool(field) and bytes(field) != b"null"
