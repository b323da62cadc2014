"""Peers: who is at the other end of a connection, a client or one of our proxies that names it."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

_MOST_KNOWN = 1000
_LONGEST_ADDRESS = 45  # of IPv6


class TrustedProxies:
    """`trusted` are addresses and networks of proxies, or `*`; as gunicorn's `forwarded_allow_ips`."""

    def __init__(self, trusted: tuple[str, ...]) -> None:
        self._everybody = "*" in trusted
        self._networks = [ip_network(row) for row in trusted if row != "*"]
        self._known: dict[str, bool] = {}

    def client_ip(self, environ: dict[str, Any]) -> str:
        """The client's address: the last one that a trusted proxy names, else the peer's own; "" for a local socket."""
        peer: str = environ.get("REMOTE_ADDR", "")
        told: str | None = environ.get("HTTP_X_FORWARDED_FOR")
        if told is None:
            return peer
        trusted = self._known.get(peer)
        if trusted is None:
            trusted = self._trusts(peer)
            if len(self._known) < _MOST_KNOWN:
                self._known[peer] = trusted
        # Those before the last are what the client itself said.
        return told.rpartition(",")[2].strip()[:_LONGEST_ADDRESS] if trusted else peer

    def _trusts(self, peer: str) -> bool:
        if self._everybody or not peer:
            return True
        try:
            address = ip_address(peer)
        except ValueError:
            return False
        return any(address in network for network in self._networks)
