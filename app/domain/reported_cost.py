"""Reported cost: what a vendor's answer says that the call costs, in whole nano-dollars.

Sources: OpenRouter, "Usage Accounting" (`cost` in credits, which are dollars, and `cost_details`); xAI's API reference
(`cost_in_usd_ticks`); Perplexity's API reference (`cost.total_cost`).
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_CEILING, Decimal, InvalidOperation

from app.domain.money import NANO

_TICKS_PER_NANO = 10
# A million dollars: no call costs as much, and the ledger has room for it.
_MAX_NANOUSD = 1_000_000 * NANO


def reported_cost(usage: Mapping[str, object]) -> int | None:
    """Returns the cost in an answer's object `usage`; None where it has none, or one that cannot be read."""
    cost = usage.get("cost")
    if isinstance(cost, Mapping):
        return _nanousd(cost.get("total_cost"))
    if cost is not None:
        own = _nanousd(cost)
        details = usage.get("cost_details")
        # With a key of the operator's own, `cost` is OpenRouter's share, and the model's vendor bills the rest.
        if own is not None and usage.get("is_byok") is True and isinstance(details, Mapping):
            own = min(own + (_nanousd(details.get("upstream_inference_cost")) or 0), _MAX_NANOUSD)
        return own
    ticks = usage.get("cost_in_usd_ticks")
    return min(-(-ticks // _TICKS_PER_NANO), _MAX_NANOUSD) if type(ticks) is int and ticks >= 0 else None


def _nanousd(dollars: object) -> int | None:
    """Returns dollars as nano-dollars, rounded up; None for what is no amount."""
    if isinstance(dollars, bool) or not isinstance(dollars, int | float | str):
        return None
    try:
        amount = Decimal(str(dollars)[:64])
    except InvalidOperation:
        return None
    if not amount.is_finite() or amount < 0:
        return None
    return int(min(amount * NANO, Decimal(_MAX_NANOUSD)).to_integral_value(ROUND_CEILING))
