"""Gemini dialect: Google's generateContent and streamGenerateContent, as caller's and as vendor's."""

from __future__ import annotations

from app.providers.dialects.dialect import Dialect
from app.providers.dialects.gemini.answers import decode_answer, encode_answer
from app.providers.dialects.gemini.errors import error_body, error_event
from app.providers.dialects.gemini.passing import GeminiWatch, pass_request, path, read_answer
from app.providers.dialects.gemini.reading import decode_request
from app.providers.dialects.gemini.stream_reading import GeminiStreamDecoder
from app.providers.dialects.gemini.stream_writing import GeminiStreamEncoder
from app.providers.dialects.gemini.writing import TITLE, encode_request

DIALECT = Dialect(
    name="gemini",
    title=TITLE,
    path=path,
    decode_request=decode_request,
    encode_request=encode_request,
    decode_answer=decode_answer,
    encode_answer=encode_answer,
    stream_decoder=GeminiStreamDecoder,
    stream_encoder=GeminiStreamEncoder,
    pass_request=pass_request,
    read_answer=read_answer,
    watch=GeminiWatch,
    error_body=error_body,
    error_event=error_event,
    # No comment: the google-genai package takes each line without `data:` for JSON.
    heartbeat=b"\n\n",
)
