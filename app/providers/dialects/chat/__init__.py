"""Chat completions: OpenAI's first dialect, and the one that most other servers speak.

Sources: OpenAI's API reference ("Chat completions", its types as in the `openai` package), and for what other vendors
add to it (`reasoning_content`, `thinking_blocks`, `extra_content`, `cache_control`) the references of DeepSeek, vLLM,
OpenRouter, LiteLLM and Google.
"""

from __future__ import annotations

from app.providers.dialects.chat.answer import decode_answer, encode_answer
from app.providers.dialects.chat.errors import error_body, error_event
from app.providers.dialects.chat.passing import ChatWatch, pass_request, read_answer
from app.providers.dialects.chat.request import decode_request, encode_request
from app.providers.dialects.chat.stream_decoder import ChatStreamDecoder
from app.providers.dialects.chat.stream_encoder import ChatStreamEncoder
from app.providers.dialects.dialect import Dialect


def _path(model: str, stream: bool) -> str:
    return "/chat/completions"


DIALECT = Dialect(
    name="chat",
    title="chat completions",
    path=_path,
    decode_request=decode_request,
    encode_request=encode_request,
    decode_answer=decode_answer,
    encode_answer=encode_answer,
    stream_decoder=ChatStreamDecoder,
    stream_encoder=ChatStreamEncoder,
    pass_request=pass_request,
    read_answer=read_answer,
    watch=ChatWatch,
    error_body=error_body,
    error_event=error_event,
)
