"""The charge for one upstream attempt of a call, and sums of charges."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class ChargedAttempt(NamedTuple):
    """A row of the ledger's `usage_attempts`. `unpriced`: the price is unknown, and the cost of 0 is not a fact.

    `outcome`: `ok`; of an answer that broke off, the call's status; of one that never came, an `UpstreamError`'s kind,
    `client_gone`, `worker_lost`, `lost` (with the call) or `interrupted`.
    """

    provider: str
    upstream_model: str
    outcome: str
    prompt_tokens: int
    completion_tokens: int
    cost_nanousd: int
    estimated: bool
    unpriced: bool = False


class Totals(NamedTuple):
    """Sums over the attempts of one call."""

    prompt_tokens: int
    completion_tokens: int
    cost_nanousd: int

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


def totals(charged: Iterable[ChargedAttempt]) -> Totals:
    """Returns the sums over `charged`."""
    rows = [attempt[3:6] for attempt in charged]
    return Totals(*(sum(column) for column in zip(*rows, strict=True))) if rows else Totals(0, 0, 0)
