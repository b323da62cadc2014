"""Anthropic's messages: the codec of this dialect, for callers and for vendors."""

from __future__ import annotations

from app.providers.dialects.dialect import Dialect
from app.providers.dialects.messages.answer import decode_answer, encode_answer
from app.providers.dialects.messages.errors import error_body, error_event
from app.providers.dialects.messages.passing import Watch, pass_request, read_answer
from app.providers.dialects.messages.request_in import decode_request
from app.providers.dialects.messages.request_out import encode_request
from app.providers.dialects.messages.stream_in import StreamDecoder
from app.providers.dialects.messages.stream_out import HEARTBEAT, StreamEncoder
from app.providers.dialects.messages.thinking import TITLE

DIALECT = Dialect(
    name="messages",
    title=TITLE,
    path=lambda model, stream: "/messages",
    decode_request=decode_request,
    encode_request=encode_request,
    decode_answer=decode_answer,
    encode_answer=encode_answer,
    stream_decoder=StreamDecoder,
    stream_encoder=StreamEncoder,
    pass_request=pass_request,
    read_answer=read_answer,
    watch=Watch,
    error_body=error_body,
    error_event=error_event,
    heartbeat=HEARTBEAT,
)
