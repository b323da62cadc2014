"""Trusted proxies: the client's address, from the connection or from a proxy of ours that forwards it."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

_MAX_CACHED_PEERS = 1000
_MAX_ADDRESS_CHARS = 45  # of IPv6


class TrustedProxies:
    """The proxies whose `X-Forwarded-For` counts: addresses and networks, or `*`, as in `forwarded_allow_ips`."""

    def __init__(self, trusted: tuple[str, ...]) -> None:
        self._trusts_all = "*" in trusted
        self._networks = [ip_network(row) for row in trusted if row != "*"]
        self._trusted_peers: dict[str, bool] = {}

    def client_ip(self, environ: dict[str, Any]) -> str:
        """Returns the client's address: the last one named by a trusted proxy, else the peer's; "" if local."""
        peer: str = environ.get("REMOTE_ADDR", "")
        forwarded_for: str | None = environ.get("HTTP_X_FORWARDED_FOR")
        if forwarded_for is None:
            return peer
        trusted = self._trusted_peers.get(peer)
        if trusted is None:
            trusted = self._trusts(peer)
            if len(self._trusted_peers) < _MAX_CACHED_PEERS:
                self._trusted_peers[peer] = trusted
        # Addresses before the last one are the client's own claim.
        return forwarded_for.rpartition(",")[2].strip()[:_MAX_ADDRESS_CHARS] if trusted else peer

    def _trusts(self, peer: str) -> bool:
        if self._trusts_all or not peer:
            return True
        try:
            address = ip_address(peer)
        except ValueError:
            return False
        return any(address in network for network in self._networks)
