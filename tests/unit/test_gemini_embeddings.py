"""Embeddings of Gemini's vendors, and OpenAI's shape of them."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest

from app.domain.chat import EmbedRequest
from app.errors import Untranslatable
from app.providers.dialects.gemini import embeddings

ANSWER = json.dumps({"embeddings": [{"values": [0.5, -1]}, {"values": [2, 3]}]}).encode()


def request_of(**body: Any) -> EmbedRequest:
    return EmbedRequest.parse(json.dumps({"model": "m", **body}).encode())


def test_texts_become_requests_of_one_batch() -> None:
    request = request_of(input=["a", "b"], dimensions=3, taskType="RETRIEVAL_QUERY")
    shared = {"outputDimensionality": 3, "taskType": "RETRIEVAL_QUERY", "model": "models/gemini-embedding-2"}
    assert json.loads(embeddings.encode_embeddings(request, "gemini-embedding-2")) == {
        "requests": [{"content": {"parts": [{"text": text}]}, **shared} for text in "ab"]
    }
    assert embeddings.path("gemini-embedding-2") == "/models/gemini-embedding-2:batchEmbedContents"


def test_token_ids_are_refused() -> None:
    with pytest.raises(Untranslatable):
        embeddings.encode_embeddings(request_of(input=[[1, 2]]), "m")


def test_values_are_numbers_or_base64_as_the_caller_asked() -> None:
    plain = json.loads(embeddings.decode_embeddings(ANSWER, request_of(input=["a", "b"])))
    assert [row["embedding"] for row in plain["data"]] == [[0.5, -1], [2, 3]]
    assert "usage" not in plain
    packed = json.loads(embeddings.decode_embeddings(ANSWER, request_of(input=["a", "b"], encoding_format="base64")))
    assert struct.unpack("<2f", base64.b64decode(packed["data"][0]["embedding"])) == (0.5, -1)


def test_usage_is_passed_on_in_both_directions() -> None:
    raw = json.dumps({**json.loads(ANSWER), "usageMetadata": {"promptTokenCount": 7}}).encode()
    listed = embeddings.decode_embeddings(raw, request_of(input=["a", "b"]))
    assert json.loads(listed)["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    again = json.loads(embeddings.write_answer(listed, batch=True))
    assert [row["values"] for row in again["embeddings"]] == [[0.5, -1], [2, 3]]
    assert again["usageMetadata"]["promptTokenCount"] == 7


@pytest.mark.parametrize("body", [b"", b"{}", b'{"embeddings":[{}]}'])
def test_what_holds_no_embeddings_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="."):
        embeddings.decode_embeddings(body, request_of(input="a"))
