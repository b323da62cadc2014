"""Usage of an answer that grows: Google counts all tokens anew in each chunk, and tells of searches in one of them."""

from __future__ import annotations

import msgspec

from app.domain.usage import Usage
from app.providers.dialects.gemini.usage import WireUsage, read_usage
from app.providers.dialects.gemini.wire import WireAnswer

_decode = msgspec.json.Decoder(WireUsage | None).decode


class RunningUsage:
    """Keeps what the last chunk says, and reads it when it is asked for: that costs more than all else in a chunk."""

    def __init__(self) -> None:
        self._said: msgspec.Raw | None = None
        self._searches = 0
        self._uses_maps = False

    def see(self, wire: WireAnswer) -> None:
        """Records a chunk, or a whole answer."""
        if wire.usage_metadata:
            self._said = wire.usage_metadata
        for candidate in wire.candidates or ():
            grounding = candidate.grounding_metadata
            if grounding is not None:
                self._searches = max(self._searches, len(grounding.web_search_queries or ()))
                # Billed at a price that no answer tells.
                self._uses_maps = self._uses_maps or any("maps" in each for each in grounding.grounding_chunks or ())

    def read(self) -> Usage | None:
        """Returns the usage so far; None if nothing that can be read was said of it."""
        try:
            wire = _decode(self._said) if self._said is not None else None
        except ValueError:
            wire = None
        if wire is None:
            return None
        usage = read_usage(wire, self._searches)
        return usage._replace(unpriced=True) if self._uses_maps else usage

    def read_prompt(self) -> Usage | None:
        """Returns the usage so far without what was generated."""
        usage = self.read()
        return usage._replace(completion_tokens=0, reasoning_tokens=0) if usage is not None else None


def usage_of(wire: WireAnswer) -> Usage | None:
    """Returns the usage of a whole answer."""
    running = RunningUsage()
    running.see(wire)
    return running.read()
