"""The schema of the section of `config/gateway.yaml` for the HTTP server."""

from __future__ import annotations

from pydantic import Field

from app.config.section import Seconds, Section


class ServerConfig(Section):
    """The HTTP server."""

    max_body_bytes: int = Field(10_485_760, ge=1024, le=1_073_741_824, description="Longer request bodies get 413.")
    max_media_body_bytes: int = Field(
        27_262_976,
        ge=1024,
        le=1_073_741_824,
        description="The same for forms with recordings and pictures; at most a key's part of "
        "max_body_bytes_in_flight. OpenAI takes recordings of up to 25 MB.",
    )
    max_body_bytes_in_flight: int | None = Field(
        None,
        ge=1024,
        description="What a worker holds of request bodies above 64 KiB, until their calls end; one key may take half. "
        "More waits a second and gets 503. By default 8 × max_body_bytes.",
    )
    body_timeout_s: Seconds = Field(30.0, description="For the client to send the whole request body.")
    drain_s: int = Field(
        60,
        ge=1,
        le=3600,
        description="A worker that stops lets its calls go on for this long; then they end as aborted.",
    )
    heartbeat_s: Seconds = Field(15.0, description="A comment is sent on a stream after this much silence.")
    metrics_networks: tuple[str, ...] = Field(
        ("127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"),
        description="The networks from which /metrics may be read.",
    )
    cors_origins: tuple[str, ...] = Field((), description="Browser origins that may call the API. None by default.")

    @property
    def body_budget(self) -> int:
        """Bytes of large request bodies that a worker may hold at once."""
        return self.max_body_bytes_in_flight or 8 * self.max_body_bytes
