"""OpenAI responses: the dialect of Codex and of OpenAI's newer SDKs.

Sources: OpenAI's API reference ("Responses", its types and stream accumulator as in the `openai` package), and Codex's
reader of streams.
"""

from __future__ import annotations

from app.providers.dialects.dialect import Dialect
from app.providers.dialects.responses.answer import decode_answer, encode_answer, read_answer
from app.providers.dialects.responses.errors import error_body
from app.providers.dialects.responses.parts import TITLE
from app.providers.dialects.responses.passing import ResponsesWatch, error_event, pass_request
from app.providers.dialects.responses.request_in import decode_request
from app.providers.dialects.responses.request_out import encode_request
from app.providers.dialects.responses.stream_in import ResponsesStreamDecoder
from app.providers.dialects.responses.stream_out import ResponsesStreamEncoder


def _path(model: str, stream: bool) -> str:
    return "/responses"


DIALECT = Dialect(
    name="responses",
    title=TITLE,
    path=_path,
    decode_request=decode_request,
    encode_request=encode_request,
    decode_answer=decode_answer,
    encode_answer=encode_answer,
    stream_decoder=ResponsesStreamDecoder,
    stream_encoder=ResponsesStreamEncoder,
    pass_request=pass_request,
    read_answer=read_answer,
    watch=ResponsesWatch,
    error_body=error_body,
    error_event=error_event,
)
