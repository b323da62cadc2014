"""Responses API: creates responses, keeps them, and continues conversations that were kept.

The conversation up to `previous_response_id` is put into the request's input before it is routed, so that any vendor
can go on with it, of any dialect, and another target can take over. Nothing of it is asked of the vendor.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import structlog

from app.domain.identity import Caller
from app.domain.responses import ResponsesRequest, given
from app.errors import GatewayError, InvalidRequest, NotFound, RequestTooLarge, StoreUnavailable
from app.gateway.call import CallContext, Reply, Report
from app.gateway.pipeline import Pipeline
from app.gateway.stream import CachedStream, LiveStream
from app.store.responses import Responses, StoredResponse

log = structlog.get_logger()
# The ids of items that the gateway made hold that of their response.
_OWN_ITEM_ID = re.compile(r"[a-z]+_(?P<call>[0-9a-z]+)_\d+")
_ENDED = frozenset({"completed", "incomplete"})
_TERMINAL_EVENTS = frozenset({"response.completed", "response.incomplete"})
_MAX_REFERENCES = 1_000


class _Ended(msgspec.Struct, frozen=True):
    """A response object, as far as it tells whether it is kept."""

    id: str
    status: str


class _Output(msgspec.Struct, frozen=True):
    output: list[msgspec.Raw]


class _Item(msgspec.Struct, frozen=True):
    type: str = ""
    id: str | None = None


class _Event(msgspec.Struct, frozen=True):
    type: str
    response: msgspec.Raw


_decode_ended = msgspec.json.Decoder(_Ended).decode
_decode_event = msgspec.json.Decoder(_Event).decode
_decode_output = msgspec.json.Decoder(_Output).decode
_decode_item = msgspec.json.Decoder(_Item).decode
_encode = msgspec.json.Encoder().encode
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode


class Turn(msgspec.Struct, frozen=True):
    """One request in its conversation. `request` is what is asked of a vendor, `added` are the items of its own."""

    request: ResponsesRequest
    added: list[msgspec.Raw]
    earlier: list[str]


class ResponsesService:
    """Creates, keeps and returns responses.

    `owned_item` marks a reasoning item of an answer as that of the provider which wrote it, so that no other one gets
    it. `max_input_bytes` bounds a conversation that is continued.
    """

    def __init__(
        self,
        *,
        pipeline: Pipeline,
        responses: Responses,
        owned_item: Callable[[dict[str, Any], str], dict[str, Any]],
        max_input_bytes: int,
    ) -> None:
        self._pipeline = pipeline
        self._responses = responses
        self._owned_item = owned_item
        self._max_input_bytes = max_input_bytes

    def create(self, caller: Caller, request: ResponsesRequest, context: CallContext) -> Reply:
        """Creates a response. Raises what `Pipeline.chat` and `turn` raise."""
        turn = self.turn(caller, request)
        reply = self._pipeline.chat(caller, turn.request, context)
        self._keep(caller, turn, reply.body, reply.report.provider)
        return reply

    def stream(self, caller: Caller, request: ResponsesRequest, context: CallContext) -> KeptStream:
        """Begins a streamed response. Its `close` must be called."""
        turn = self.turn(caller, request)
        stream = self._pipeline.stream(caller, turn.request, context)

        def keep(body: bytes) -> None:
            self._keep(caller, turn, body, stream.report.provider)

        return KeptStream(stream, keep)

    def turn(self, caller: Caller, request: ResponsesRequest) -> Turn:
        """Returns the request with the conversation that it continues, and the items that it refers to.

        Raises `NotFound` for a response that is not kept, `RequestTooLarge`, and `StoreUnavailable`.
        """
        references = request.references
        previous = request.previous_response_id
        if previous is None and not references:
            return Turn(request, request.items if request.store is not False else [], [])
        if previous is not None and given(request.conversation):
            raise InvalidRequest(
                "`previous_response_id` and `conversation` exclude each other.", param="previous_response_id"
            )
        added = self._resolved(caller, request.items, references) if references else request.items
        stored = self._conversation(caller, previous) if previous is not None else []
        items = [item for one in stored for item in (*one.input, *self._output_items(one))] + added
        if sum(len(bytes(item)) for item in items) > self._max_input_bytes:
            raise RequestTooLarge("The request is too large with the conversation that it continues.")
        return Turn(request.with_conversation(items), added, [one.id for one in stored])

    def get(self, key_id: str, response_id: str) -> StoredResponse:
        """Returns a kept response. Raises `NotFound`."""
        stored = self._responses.read(key_id, [response_id])[0]
        if stored is None:
            raise _not_found(response_id)
        return stored

    def input_items(self, key_id: str, response_id: str) -> list[dict[str, Any]]:
        """Returns the items that a kept response was made from, oldest first, each with an id. Raises `NotFound`."""
        last = self.get(key_id, response_id)
        stored = [one for one in self._responses.read(key_id, last.earlier) if one is not None]
        items = [item for one in stored for item in (*one.input, *self._output_items(one))] + last.input
        suffix = response_id.removeprefix("resp_")
        return [{"id": f"in_{suffix}_{i}", **_decode_object(item)} for i, item in enumerate(items)]

    def delete(self, key_id: str, response_id: str) -> None:
        """Forgets a kept response. Raises `NotFound`."""
        if not self._responses.delete(key_id, response_id):
            raise _not_found(response_id)

    def _conversation(self, caller: Caller, response_id: str) -> list[StoredResponse]:
        """Returns the responses up to this one, oldest first."""
        last = self._responses.read(caller.key_id, [response_id])[0]
        earlier = self._responses.read(caller.key_id, last.earlier) if last is not None else []
        found = [one for one in (*earlier, last) if one is not None]
        if last is None or len(found) <= len(earlier):
            raise NotFound(
                f"Previous response with id '{response_id[:64]}' not found: it has expired or been deleted, or it was "
                "made with another key or with `store: false`.",
                param="previous_response_id",
            )
        return found

    def _resolved(self, caller: Caller, items: list[msgspec.Raw], references: list[str]) -> list[msgspec.Raw]:
        """Returns the items with those of our own that they refer to. Others may be the vendor's, who knows them."""
        named = {name: found["call"] for name in references if (found := _OWN_ITEM_ID.fullmatch(name))}
        response_ids = [f"resp_{call}" for call in dict.fromkeys(named.values())]
        if len(response_ids) > _MAX_REFERENCES:
            raise InvalidRequest(f"More than {_MAX_REFERENCES} responses are referred to: `input`.", param="input")
        known: dict[str, msgspec.Raw] = {}
        for one in self._responses.read(caller.key_id, response_ids):
            for item in self._output_items(one) if one is not None else ():
                known[_decode_item(item).id or ""] = item
        wanted = {name: known[name] for name in references if name in known}
        return [wanted.get(_decode_item(item).id or "", item) for item in items] if wanted else items

    def _output_items(self, stored: StoredResponse) -> list[msgspec.Raw]:
        """Returns a response's output as a later request repeats it."""
        return [
            msgspec.Raw(_encode(self._owned_item(_decode_object(item), stored.provider)))
            if _decode_item(item).type == "reasoning"
            else item
            for item in _decode_output(stored.response).output
        ]

    def _keep(self, caller: Caller, turn: Turn, body: bytes, provider: str) -> None:
        """Keeps an answer, unless its caller or its state forbids it. An answer that cannot be kept is still one."""
        if turn.request.store is False:
            return
        try:
            ended = _decode_ended(body)
            if ended.status not in _ENDED:
                return
            stored = StoredResponse(ended.id, msgspec.Raw(body), turn.added, turn.earlier, provider)
            if not self._responses.keep(caller.key_id, stored):
                log.info("response_not_kept", key_id=caller.key_id, reason="too_long", bytes=len(body))
        except (msgspec.DecodeError, StoreUnavailable) as exc:
            log.warning("response_not_kept", key_id=caller.key_id, reason=type(exc).__name__)


class KeptStream:
    """A streamed response that is kept when it has ended, before the client is told so."""

    def __init__(self, stream: LiveStream | CachedStream, keep: Callable[[bytes], None]) -> None:
        self.report: Report = stream.report
        self.heartbeat = stream.heartbeat
        self._stream = stream
        self._keep = keep

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._stream)

    @property
    def ending(self) -> bytes:
        """The last bytes for the client, when the iteration has ended: the terminal event."""
        ending = self._stream.ending
        for event in ending.split(b"\n\n"):
            body = _ended_response(event)
            if body is not None:
                self._keep(body)
                break
        return ending

    def error_event(self, error: GatewayError, request_id: str) -> bytes:
        return self._stream.error_event(error, request_id)

    def close(self) -> None:
        self._stream.close()


def _ended_response(event: bytes) -> bytes | None:
    """Returns the response object in a terminal event; None for another event."""
    payload = event.partition(b"data: ")[2]
    try:
        found = _decode_event(payload)
    except (msgspec.DecodeError, RecursionError):
        return None
    return bytes(found.response) if found.type in _TERMINAL_EVENTS else None


def _not_found(response_id: str) -> NotFound:
    return NotFound(f"Response with id '{response_id[:64]}' not found.", param="response_id")
