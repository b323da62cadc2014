"""Requests: the three sorts of calls to models."""

from __future__ import annotations

from app.domain.chat import EmbedRequest
from app.domain.generation import GenerationRequest
from app.domain.media import MediaRequest

CallRequest = GenerationRequest | EmbedRequest | MediaRequest
