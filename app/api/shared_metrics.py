"""Metrics of the whole installation, for Prometheus and `/debug`: queue, Redis, outbox, spool, certificate."""

from __future__ import annotations

import ssl
from pathlib import Path

from app.errors import StoreUnavailable
from app.services import Services


def shared_metrics(services: Services) -> dict[str, float]:
    """Returns the values by the names of their series; without those that cannot be read: the scrape never fails."""
    values: dict[str, float] = {}
    try:
        used, most = services.redis.memory()
        values |= {"redis_memory_used_bytes": used, "redis_memory_max_bytes": most}
        depth = services.queue.depth()
        values |= {
            "llm_queue_size": depth.waiting,
            "llm_queue_capacity": services.queue.capacity,
            "llm_queue_active_requests": depth.running,
            "llm_queue_oldest_seconds": depth.oldest_s,
            "llm_queue_workers": depth.workers,
            "llm_queue_slots": depth.slots,
        }
        values |= {"llm_outbox_lag_seconds": services.outbox.lag_s(), "llm_outbox_rows": services.outbox.depth()}
    except StoreUnavailable:
        pass  # its absence is an alert of its own
    try:
        values["llm_dead_letters"] = services.ledger.count_dead_letters()
    except StoreUnavailable:
        pass  # calls go on without the database, and rows wait
    backlog = services.spool.backlog()
    values |= {
        "llm_spool_files": backlog.files,
        "llm_spool_bytes": backlog.bytes,
        "llm_spool_refused_files": backlog.refused_files,
    }
    expires = certificate_expiry(services.settings.tls_certificate)
    if expires is not None:
        values["tls_certificate_expiry_timestamp_seconds"] = expires
    return values


def certificate_expiry(certificate: Path | None) -> float | None:
    """Returns the expiry of the first certificate in the PEM file, in Unix seconds; None if it cannot be read."""
    if certificate is None:
        return None
    try:
        end: str = ssl._ssl._test_decode_cert(str(certificate))["notAfter"]  # type: ignore[attr-defined]
    except (OSError, KeyError):
        return None
    return float(ssl.cert_time_to_seconds(end))
