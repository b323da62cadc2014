"""A gateway's configuration with the played vendors: each model by each dialect, as `<dialect>_<model>`."""

from __future__ import annotations

from collections.abc import Iterable

from tests.support.vendors.server import Vendors

DIALECTS = ("chat", "responses", "messages", "gemini")
PRICES = "\n".join(f'{name}: {{"*": {{prompt: 1, completion: 2}}}}' for name in DIALECTS)
_KINDS = {"chat": "openai", "responses": "openai", "messages": "anthropic", "gemini": "gemini"}


def alias(dialect: str, model: str) -> str:
    """Returns the name by which callers reach the vendor of `dialect` that plays `model`."""
    return f"{dialect}_{model}"


def configuration(vendors: Vendors, models: Iterable[str], *, drop: Iterable[str] = (), more: str = "") -> str:
    """Returns a gateway.yaml. `drop`: of each model. `more`: further sections."""
    lines = ["providers:"]
    for dialect in DIALECTS:
        fields = f"kind: {_KINDS[dialect]}, base_url: {vendors.base_url(dialect)!r}, api_key: played"
        lines.append(f"  {dialect}: {{{fields}}}")
    lines.append("models:")
    dropped = f"[{', '.join(drop)}]"
    for dialect in DIALECTS:
        wire = f", wire: {dialect}" if _KINDS[dialect] == "openai" else ""
        for model in models:
            target = f"{{provider: {dialect}, model: {model}}}"
            lines.append(f"  {alias(dialect, model)}: {{targets: [{target}], drop: {dropped}{wire}}}")
    return "\n".join([*lines, "plans:", "  free: {requests_per_minute: 6000}", more, ""])
