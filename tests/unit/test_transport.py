"""Every way a provider can fail at the level of connections and statuses, and what the caller is told."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from app.domain.config import Timeouts
from app.errors import (
    ClientGone,
    ConfigError,
    UpstreamError,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
)  # fmt: skip
from app.providers.base import CancelToken
from app.providers.openai import OpenAIProvider
from tests.support.providers import SECRET, chat_call, openai, scripted_server
from tests.support.upstream import Upstream

FAST = Timeouts(connect_s=0.2, first_byte_s=0.2, idle_s=0.2, total_s=10)


@pytest.fixture
def provider(upstream: Upstream) -> OpenAIProvider:
    return openai(upstream.url, timeouts=FAST)


@pytest.fixture
def refusing_url() -> Iterator[str]:
    with socket.socket() as bound:  # bound, not listening: nobody else can take the port, and it refuses
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/v1"


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    made = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-out", made[0], "-keyout", made[1]],
        check=True, capture_output=True,
    )  # fmt: skip
    return made


@pytest.fixture(scope="session")
def tls_vendor(certificate: tuple[Path, Path]) -> Iterator[Upstream]:
    with Upstream(certificate=certificate) as vendor:
        yield vendor


def failure(provider: OpenAIProvider, model: str = "plain", **call: Any) -> UpstreamError:
    with pytest.raises(UpstreamError) as caught:
        provider.chat(chat_call(model, **call))
    assert provider.stats()["active"] == 0, "the failed call kept its place in the pool"
    return caught.value


# Connecting


def test_a_refused_connection_is_a_provider_that_is_unavailable(refusing_url: str) -> None:
    error = failure(openai(refusing_url))
    assert (type(error), error.kind, error.status) == (UpstreamUnavailable, "connect", 503)


def test_a_host_that_cannot_be_resolved_is_told_apart() -> None:
    error = failure(openai("http://no-such-host.invalid/v1"))
    assert (type(error), error.kind) == (UpstreamUnavailable, "resolve")


@pytest.mark.parametrize("url", ["http://a..b/v1", "http://host:99999/v1", "http://host:x/v1", "http://[::1/v1"])
def test_an_address_that_cannot_be_one_stops_the_start(url: str) -> None:
    with pytest.raises(ConfigError, match="^base_url: "):
        openai(url)


@pytest.mark.parametrize("file", ["missing.pem", "empty.pem"])
def test_an_authority_file_that_is_none_stops_the_start(file: str, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("")
    with pytest.raises(ConfigError, match="^ca_file: "):
        openai("https://127.0.0.1/v1", ca_file=str(tmp_path / file))


@pytest.mark.parametrize(
    "field", [{"api_key": "a-key\r\nX-Evil: 1"}, {"api_key": "schlüssel"}, {"headers": {"Connection": "x"}}]
)
def test_a_header_that_would_break_the_request_stops_the_start(field: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="^headers.") as caught:
        openai("http://127.0.0.1/v1", **field)
    assert "key\r" not in caught.value.message
    assert "schl" not in caught.value.message


def test_a_configured_header_replaces_ours_however_it_is_spelt(upstream: Upstream) -> None:
    provider = openai(upstream.url, headers={"authorization": "Basic x", "user-agent": "other"})
    sent = json.loads(provider.chat(chat_call("echo")).body)["choices"][0]["message"]["content"].lower()
    assert sent.count("authorization:") == sent.count("user-agent:") == 1
    assert "authorization: basic x" in sent


def test_a_certificate_that_nobody_vouches_for_is_refused(tls_vendor: Upstream) -> None:
    error = failure(openai(tls_vendor.url))
    assert (type(error), error.kind, error.status) == (UpstreamError, "tls", 502)


def test_a_certificate_for_another_host_is_refused(tls_vendor: Upstream, certificate: tuple[Path, Path]) -> None:
    error = failure(openai(tls_vendor.url.replace("127.0.0.1", "localhost"), ca_file=str(certificate[0])))
    assert error.kind == "tls"


def test_a_private_authority_is_trusted_when_the_configuration_says_so(
    tls_vendor: Upstream, certificate: tuple[Path, Path]
) -> None:
    provider = openai(tls_vendor.url, ca_file=str(certificate[0]))
    for _ in range(3):
        assert provider.chat(chat_call()).usage is not None
    list(provider.stream(chat_call(stream=True)))
    assert provider.stats() == {"idle": 1, "active": 0, "opened": 1, "reused": 3}


def test_tls_spoken_to_a_plain_server_is_a_tls_failure(upstream: Upstream) -> None:
    assert failure(openai(upstream.url.replace("http:", "https:"), timeouts=FAST)).kind in ("tls", "timeout_connect")
