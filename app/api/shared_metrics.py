"""Figures of the whole installation, for Prometheus and `/debug`."""

from __future__ import annotations

import ssl
from pathlib import Path

from app.errors import StoreUnavailable
from app.services import Services


def shared_figures(found: Services) -> dict[str, float]:
    """The figures by the names of their series; without those that cannot be read, so that the scrape never fails."""
    figures: dict[str, float] = {}
    try:
        used, most = found.redis.memory()
        figures |= {"redis_memory_used_bytes": used, "redis_memory_max_bytes": most}
        depth = found.queue.depth()
        figures |= {
            "llm_queue_size": depth.waiting,
            "llm_queue_capacity": found.queue.capacity,
            "llm_queue_active_requests": depth.running,
            "llm_queue_oldest_seconds": depth.oldest_s,
            "llm_queue_workers": depth.workers,
            "llm_queue_slots": depth.slots,
        }
        figures |= {"llm_outbox_lag_seconds": found.outbox.lag_s(), "llm_outbox_rows": found.outbox.depth()}
    except StoreUnavailable:
        pass  # its absence is an alert of its own
    try:
        figures["llm_dead_letters"] = found.ledger.count_dead_letters()
    except StoreUnavailable:
        pass  # calls go on without the database, and rows wait
    backlog = found.spool.backlog()
    figures |= {
        "llm_spool_files": backlog.files,
        "llm_spool_bytes": backlog.bytes,
        "llm_spool_refused_files": backlog.refused_files,
    }
    expires = certificate_end(found.settings.tls_certificate)
    if expires is not None:
        figures["tls_certificate_expiry_timestamp_seconds"] = expires
    return figures


def certificate_end(certificate: Path | None) -> float | None:
    """The end of the first certificate in the PEM file, in Unix seconds; None if it cannot be read."""
    if certificate is None:
        return None
    try:
        end: str = ssl._ssl._test_decode_cert(str(certificate))["notAfter"]  # type: ignore[attr-defined]
    except (OSError, KeyError):
        return None
    return float(ssl.cert_time_to_seconds(end))
