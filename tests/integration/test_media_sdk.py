"""OpenAI's own client on the media endpoints of a real gateway with the demo model."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from openai import APIStatusError, OpenAI

from tests.support.servers import DEV_KEY, Gateway
from tests.unit.test_recordings import wav

CONFIG = """
providers: {demo: {kind: demo}}
models:
  demo: {targets: [demo]}
  ears: {kind: audio, targets: [demo]}
  eyes: {kind: moderation, targets: [demo]}
"""


@pytest.fixture
def client(gateway: Callable[..., Gateway]) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{gateway(CONFIG).url}/v1", api_key=DEV_KEY, max_retries=0) as client:
        yield client


def test_the_sdk_judges_speaks_hears_and_draws(client: OpenAI) -> None:
    assert client.moderations.create(input=["a", "b"]).results[1].flagged is False
    assert client.audio.speech.create(model="demo", voice="alloy", input="Hello").content[:4] == b"RIFF"
    sound = ("a.wav", wav(4))
    assert "5 seconds" in client.audio.transcriptions.create(model="demo", file=sound).text
    with pytest.deprecated_call():
        assert "5 seconds" in client.audio.translations.create(model="demo", file=sound).text
    pictures = client.images.generate(model="demo", prompt="a cat", n=2)
    assert pictures.data is not None
    assert len(pictures.data) == 2
    assert pictures.usage is not None
    edited = client.images.edit(model="demo", prompt="a hat", image=[("a.png", b"1"), ("b.png", b"2")])
    assert edited.data is not None
    assert edited.data[0].b64_json


def test_the_sdk_reads_media_streams_to_their_end(client: OpenAI) -> None:
    heard = client.audio.transcriptions.create(model="ears", file=("a.wav", wav(4)), stream=True)
    assert [event.type for event in heard] == ["transcript.text.delta", "transcript.text.done"]
    drawn = client.images.generate(model="demo", prompt="a cat", stream=True)
    assert [event.type for event in drawn] == ["image_generation.completed"]
    with client.audio.speech.with_streaming_response.create(model="demo", voice="alloy", input="Hi " * 99) as spoken:
        assert sum(map(len, spoken.iter_bytes())) > 100_000


def test_a_recording_may_be_longer_than_other_bodies(client: OpenAI) -> None:
    longest = b"RIFF" + b"\0" * 11_000_000
    assert client.audio.transcriptions.create(model="demo", file=("a.wav", longest)).text
    with pytest.raises(APIStatusError) as caught:
        client.audio.transcriptions.create(model="demo", file=("a.wav", longest * 3))
    assert caught.value.status_code == 413
