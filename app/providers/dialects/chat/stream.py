"""Chunks of completions, to and from the events of the neutral form."""

from __future__ import annotations

from app.providers.dialects.dialect import Framing, StreamDecoder, StreamEncoder


def stream_decoder(origin: str) -> StreamDecoder:
    """Returns the decoder of one vendor stream."""
    raise NotImplementedError


def stream_encoder(framing: Framing) -> StreamEncoder:
    """Returns the encoder of one caller's stream."""
    raise NotImplementedError
