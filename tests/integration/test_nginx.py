"""nginx as a client meets it: TLS, limits by address, hidden paths, and errors in one shape, whoever makes them."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import socket
import ssl
import time
import warnings
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.support.client import chat
from tests.support.nginx import Nginx
from tests.support.servers import DEV_KEY, Gateway, RedisServer, flushed, free_port, wait_for
from tests.support.upstream import Upstream

CONFIG = """
providers:
  up: {{kind: openai, base_url: {url}}}
models:
  usage-10-5: {{targets: [{{provider: up}}]}}
  stream-6-200: {{targets: [{{provider: up}}]}}
  silent: {{targets: [{{provider: up}}]}}
  status-503: {{targets: [{{provider: up}}]}}
retry: {{max_attempts: 1}}
plans: {{one: {{requests_per_minute: 1}}}}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer, vendor: Upstream) -> Iterator[Gateway]:
    flushed(redis_server.url)
    directory = tmp_path_factory.mktemp("behind")
    with Gateway(directory, CONFIG.format(url=vendor.url), redis_url=redis_server.url) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def nginx(server: Gateway) -> Iterator[Nginx]:
    with TemporaryDirectory() as name:
        Path(name).chmod(0o755)  # started by root, nginx serves the challenge as nobody
        with Nginx(Path(name), server.port) as nginx:
            yield nginx


class Call(http.client.HTTPConnection):
    """HTTP/1.1 over a connection that is there already."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        super().__init__("localhost")
        self.sock = sock


def call(
    nginx: Nginx,
    path: str = "/v1/chat/completions",
    body: Any = None,
    *,
    key: str = DEV_KEY,
    method: str = "",
    **headers: str,
) -> tuple[http.client.HTTPResponse, bytes]:
    connection = Call(nginx.connect())
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    sent = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method or ("GET" if body is None else "POST"), path, data, sent)
    response = connection.getresponse()
    answer = response.read()
    connection.close()
    return response, answer


def is_ours(response: http.client.HTTPResponse, body: bytes, status: int, code: str, *, secure: bool = True) -> None:
    """The one error shape, with the headers that every answer has."""
    found = json.loads(body)
    assert (response.status, found["code"], found["error"]["code"]) == (status, code, code)
    assert found["error"]["message"]
    assert response.headers["X-Request-ID"] == found["request_id"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", found["timestamp"])
    assert abs(time.time() - time.mktime(time.strptime(found["timestamp"], "%Y-%m-%dT%H:%M:%SZ")) + time.timezone) < 60
    assert response.headers["Strict-Transport-Security"] == ("max-age=31536000" if secure else None)
    assert response.headers["Retry-After"] == ("1" if status in (429, 502, 503, 504) else None)


def test_a_completion_and_the_headers_of_every_answer(nginx: Nginx) -> None:
    response, body = call(nginx, body=chat("usage-10-5"))
    assert (response.status, json.loads(body)["object"]) == (200, "chat.completion")
    assert response.headers["Strict-Transport-Security"] == "max-age=31536000"
    assert response.headers.get_all("X-Content-Type-Options") == ["nosniff"]
    assert re.fullmatch(r"req_[0-9a-f]{32}", response.headers["X-Request-ID"])
    docs, _ = call(nginx, "/docs")
    assert docs.headers.get_all("X-Content-Type-Options") == ["nosniff"]


def test_a_stream_arrives_chunk_by_chunk(nginx: Nginx) -> None:
    connection = Call(nginx.connect())
    body = json.dumps(chat("stream-6-200", stream=True))
    connection.request(
        "POST", "/v1/chat/completions", body, {"Authorization": f"Bearer {DEV_KEY}", "Content-Type": "application/json"}
    )
    response = connection.getresponse()
    times = []
    while line := response.readline():
        if b'"content":' in line:
            times.append(time.monotonic())
    connection.close()
    assert len(times) == 6
    assert all(later - earlier > 0.05 for earlier, later in pairwise(times)), "one at a time"


def test_an_upload_may_be_longer_than_other_requests(nginx: Nginx) -> None:
    content = (b" " * 1023 + b"\n") * 12 * 1024
    head = (
        b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b\r\n'
        b'Content-Disposition: form-data; name="file"; filename="in.jsonl"\r\n\r\n'
    )
    form = head + content + b"\r\n--b--\r\n"
    for path in ("/v1/files", "/api/v1/files"):
        response, body = call(nginx, path, form, Content_Type="multipart/form-data; boundary=b")
        assert (response.status, json.loads(body)["bytes"]) == (200, len(content))
    is_ours(*call(nginx, "/v1/batches", form), 413, "REQUEST_TOO_LARGE")


@pytest.mark.parametrize("path", ["/v1/audio/transcriptions", "/audio/translations/", "/v1/v1/images/edits"])
def test_a_recording_may_be_longer_than_other_requests(server: Gateway, nginx: Nginx, path: str) -> None:
    most = server.services.settings.config.server.max_media_body_bytes
    for size, status in ((most, 400), (most + 1, 413)):
        response, body = call(nginx, path, b" " * size, Content_Type="multipart/form-data; boundary=b")
        assert response.status == status, body


@pytest.mark.parametrize(
    ("path", "shape", "kind"),
    [
        ("/v1/messages?beta=true", {"type", "error", "request_id"}, "request_too_large"),
        ("/messages/count_tokens", {"type", "error", "request_id"}, "request_too_large"),
        ("/v1beta/models/m:generateContent", {"error"}, "INVALID_ARGUMENT"),
        ("/models/m:streamGenerateContent?alt=sse", {"error"}, "INVALID_ARGUMENT"),
    ],
)
def test_an_error_of_nginx_has_the_shape_of_the_callers_api(
    nginx: Nginx, path: str, shape: set[str], kind: str
) -> None:
    response, body = call(nginx, path, b"x" * 11_000_000)
    answer = json.loads(body)
    assert (response.status, answer.keys()) == (413, shape)
    assert kind in (answer["error"].get("type"), answer["error"].get("status"))
    assert answer["error"].get("code") in (None, 413)


def test_a_web_socket_is_refused_in_one_round_trip(nginx: Nginx) -> None:
    client = nginx.connect()
    client.sendall(
        f"GET /v1/responses HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {DEV_KEY}\r\nConnection: Upgrade\r\n"
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    answer = http.client.HTTPResponse(client)
    answer.begin()
    assert (answer.status, "POST" in json.loads(answer.read())["error"]["message"]) == (426, True)
    client.close()


def test_the_probe_of_coding_agents_is_answered(nginx: Nginx) -> None:
    response, _ = call(nginx, "/", method="HEAD")
    assert response.status == 200


def test_a_hang_up_reaches_the_vendor_through_nginx(nginx: Nginx, upstream: Upstream) -> None:
    data = json.dumps(chat("silent")).encode()
    client = nginx.connect()
    client.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (DEV_KEY.encode(), len(data), data)
    )
    upstream.wait_until("waiting", 1)
    client.close()
    upstream.wait_until("waiting", 0, timeout_s=1)


def test_http_2_is_spoken(nginx: Nginx) -> None:
    with nginx.connect(protocols=("h2", "http/1.1")) as client:
        assert client.selected_alpn_protocol() == "h2"


def test_nothing_older_than_tls_1_2_and_no_weak_cipher(nginx: Nginx) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for old in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
            with pytest.raises((ssl.SSLError, OSError)):
                nginx.connect(minimum_version=old, maximum_version=old, ciphers="ALL:@SECLEVEL=0")
    tls_1_2 = ssl.TLSVersion.TLSv1_2
    with nginx.connect(minimum_version=tls_1_2, maximum_version=tls_1_2) as client:
        assert client.version() == "TLSv1.2"
    for weak in ("AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA", "ECDHE-RSA-AES256-SHA384", "DHE-RSA-AES128-GCM-SHA256"):
        with pytest.raises((ssl.SSLError, OSError)):
            nginx.connect(maximum_version=tls_1_2, ciphers=f"{weak}:@SECLEVEL=0")


@pytest.mark.parametrize(
    "path",
    ["/metrics", "/metrics/", "//metrics", "/%6detrics", "/debug", "/v1/debug", "/api/v1/debug/", "/v1/../metrics"],
)
def test_what_is_for_operators_is_closed_to_the_outside(nginx: Nginx, path: str) -> None:
    is_ours(*call(nginx, path), 404, "NOT_FOUND")


def test_a_body_too_large_is_refused_at_the_edge(nginx: Nginx) -> None:
    is_ours(*call(nginx, body=b"x" * 11_000_000), 413, "REQUEST_TOO_LARGE")


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\x01garbage\r\n\r\n",
        b"GET /../../etc HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n",
        b"POST /%zz HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
@pytest.mark.parametrize("secure", [True, False])
def test_what_is_no_request_at_all_is_an_error_like_any_other(nginx: Nginx, sent: bytes, secure: bool) -> None:
    client = nginx.connect() if secure else socket.create_connection(("127.0.0.1", nginx.http_port), timeout=10)
    client.sendall(sent)
    answer = http.client.HTTPResponse(client)
    answer.begin()
    is_ours(answer, answer.read(), 400, "INVALID_REQUEST", secure=secure)
    client.close()


def test_a_bad_method_address_or_version_is_an_error_like_any_other(nginx: Nginx) -> None:
    for line, status in (("TRACE / HTTP/1.1", 405), (f"GET /{'a' * 20_000} HTTP/1.1", 414), ("GET / HTTP/4.0", 505)):
        client = nginx.connect()
        client.sendall(f"{line}\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = http.client.HTTPResponse(client)
        answer.begin()
        is_ours(answer, answer.read(), status, "INVALID_REQUEST")
        client.close()


def test_headers_too_long_are_refused_at_the_edge(nginx: Nginx) -> None:
    is_ours(*call(nginx, X_Long="x" * 60_000), 431, "INVALID_REQUEST")


def test_the_gateways_own_errors_pass_untouched(nginx: Nginx, server: Gateway) -> None:
    response, body = call(nginx, body=chat("nobody"))
    assert (response.status, json.loads(body)["code"]) == (404, "MODEL_NOT_FOUND")
    response, body = call(nginx, body=chat("status-503"))
    assert (response.status, json.loads(body)["code"]) == (503, "MODEL_UNAVAILABLE")
    key = server.create_key("one", plan="one")
    statuses = [call(nginx, body=chat("usage-10-5"), key=key)[0] for _ in range(2)]
    assert [answer.status for answer in statuses] == [200, 429]
    (wait,) = statuses[1].headers.get_all("Retry-After", [])
    assert int(wait) > 1, "the gateway's, not nginx's"


def test_an_address_with_too_many_requests_is_told_so(server: Gateway, tmp_path: Path) -> None:
    with Nginx(tmp_path, server.port, PER_IP_REQUESTS_PER_SECOND="1", PER_IP_BURST="2") as nginx:
        answers = [call(nginx, "/health") for _ in range(4)]
    assert [response.status for response, _ in answers] == [200, 200, 200, 429]
    is_ours(*answers[-1], 429, "RATE_LIMIT_EXCEEDED")


def test_one_public_name_in_redirects_and_in_the_certificate(tmp_path: Path) -> None:
    with Nginx(tmp_path, 1, PUBLIC_HOST="llm.example.org:8443") as nginx:
        plain = http.client.HTTPConnection("127.0.0.1", nginx.http_port, timeout=10)
        plain.request("GET", "/docs", headers={"Host": "elsewhere.example"})
        assert plain.getresponse().headers["Location"] == "https://llm.example.org:8443/docs"
        plain.close()
        with nginx.connect() as client:
            certificate = client.getpeercert()
        assert certificate is not None
        assert ("DNS", "llm.example.org") in certificate["subjectAltName"]


def test_the_edge_takes_bodies_as_long_as_the_gateway_does_by_default(server: Gateway, nginx: Nginx) -> None:
    most = server.services.settings.config.server.max_body_bytes
    at_most, _ = call(nginx, body=b" " * most)
    assert at_most.status == 400, "empty, and the gateway says so"
    is_ours(*call(nginx, body=b" " * (most + 1)), 413, "REQUEST_TOO_LARGE")


def test_no_gateway_is_not_ready(tmp_path: Path) -> None:
    with Nginx(tmp_path, free_port()) as nginx:
        response, body = call(nginx, "/v1/chat/completions?key=secret-in-a-query", chat("usage-10-5"))
        assert "secret-in-a-query" not in nginx.error_log(), "nginx quotes first lines there"
    is_ours(response, body, 503, "NOT_READY")


def plain(
    nginx: Nginx, path: str, body: Any = None, *, method: str = "", **headers: str
) -> tuple[http.client.HTTPResponse, bytes]:
    """One request on plain HTTP, without a key unless it is among `headers`."""
    connection = http.client.HTTPConnection("127.0.0.1", nginx.http_port, timeout=10)
    sent = {"Host": "example.org", **{name.replace("_", "-"): value for name, value in headers.items()}}
    connection.request(method or ("GET" if body is None else "POST"), path, body, sent)
    response = connection.getresponse()
    answer = response.read()
    connection.close()
    return response, answer


@pytest.mark.parametrize(
    "path", ["/health", "/healthz", "/ready", "/v1/health", "/v1/ready", "/api/v1/health", "/api/v1/ready"]
)
def test_a_load_balancer_is_answered_on_plain_http_as_on_https(nginx: Nginx, path: str) -> None:
    answers = [plain(nginx, path), call(nginx, path)]
    assert [response.status for response, _ in answers] == [200, 200]
    words = {json.loads(body)["status"] for _, body in answers}
    assert words == {"ready" if path.endswith("ready") else "healthy"}
    head, nothing = plain(nginx, path, method="HEAD")
    assert (head.status, nothing) == (200, b"")


def test_a_load_balancer_on_plain_http_learns_that_no_gateway_is_there(tmp_path: Path) -> None:
    with Nginx(tmp_path, free_port()) as nginx:
        is_ours(*plain(nginx, "/ready"), 503, "NOT_READY", secure=False)


@pytest.mark.parametrize(("method", "body"), [("GET", None), ("POST", b"{}"), ("DELETE", None)])
@pytest.mark.parametrize(
    "path",
    [
        "/v1/models?a=b",
        "/health/detailed",
        "/metrics",
        "/v1/chat/completions",
        "/healthzz",
        "/v1/healthz",
        "/readyz",
        "//elsewhere.example/",
    ],
)
def test_all_else_on_plain_http_is_sent_to_https_with_its_method(
    nginx: Nginx, path: str, method: str, body: bytes | None
) -> None:
    response, _ = plain(nginx, path, body, method=method)
    assert (response.status, response.headers["Location"]) == (308, f"https://example.org{path}")


@pytest.mark.parametrize("header", ["Authorization", "x-api-key", "api-key"])
@pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions", "/health", "/ready", "/"])
def test_a_key_sent_in_clear_is_neither_used_nor_redirected_but_warned_of(nginx: Nginx, header: str, path: str) -> None:
    name = f"in-clear-{header}-{path.strip('/').replace('/', '-')}-"
    body = json.dumps(chat("usage-10-5")).encode() if path.endswith("completions") else None
    response, answer = plain(nginx, path, body, **{header: f"Bearer {DEV_KEY}", "X-Request-ID": name})
    is_ours(response, answer, 403, "FORBIDDEN", secure=False)
    assert "revoke it" in json.loads(answer)["error"]["message"]
    assert "Location" not in response.headers
    (line,) = wait_for(lambda: [line for line in nginx.access_log() if line["request_id"] == name])
    assert (line["path"], line["upstream"], line["tls"]) == (path, "", ""), "an operator sees who did it"
    assert DEV_KEY not in (nginx.directory / "access.log").read_text()


def test_a_long_body_with_a_key_in_clear_gets_the_warning_too(nginx: Nginx) -> None:
    response, answer = plain(nginx, "/v1/files", b"x" * 3_000_000, Authorization="Bearer x")
    is_ours(response, answer, 403, "FORBIDDEN", secure=False)


def test_certificates_can_be_renewed_over_plain_http(nginx: Nginx) -> None:
    challenge = nginx.directory / "its tls" / "acme" / ".well-known" / "acme-challenge" / "token"
    challenge.parent.mkdir(parents=True)
    challenge.write_text("proof")
    assert plain(nginx, "/.well-known/acme-challenge/token")[1] == b"proof"
    for nothing in ("", "other"):
        is_ours(*plain(nginx, f"/.well-known/acme-challenge/{nothing}"), 404, "NOT_FOUND", secure=False)


@pytest.mark.parametrize(("sent", "kept"), [("a-sane.id:1", True), ("-x", False), ("x y", False), ("x" * 129, False)])
def test_a_sane_request_id_is_kept_and_another_replaced(nginx: Nginx, sent: str, kept: bool) -> None:
    response, _ = call(nginx, "/health", X_Request_ID=sent)
    assert (response.headers["X-Request-ID"] == sent) is kept
    if not kept:
        assert re.fullmatch(r"req_[0-9a-f]{32}", response.headers["X-Request-ID"])


def test_the_access_log_tells_timings_and_no_secret(nginx: Nginx) -> None:
    call(nginx, "/v1/models?token=secret-in-a-query", X_Request_ID="logged-once", Cookie="session=secret-cookie")
    (line,) = wait_for(lambda: [line for line in nginx.access_log() if line["request_id"] == "logged-once"])
    assert (line["path"], line["status"], line["upstream_status"]) == ("/v1/models", 200, "200")
    assert float(line["upstream_s"]) <= line["duration_s"] + 0.001
    call(nginx, "/v1/batches?token=secret-in-a-query", b"x" * 11_000_000, X_Request_ID="refused-once")
    (line,) = wait_for(lambda: [line for line in nginx.access_log() if line["request_id"] == "refused-once"])
    assert (line["method"], line["path"], line["status"], line["upstream"]) == ("POST", "/v1/batches", 413, "")
    text = (nginx.directory / "access.log").read_text()
    assert not any(secret in text for secret in ("secret-in-a-query", "secret-cookie", DEV_KEY))


def test_whom_a_client_claims_to_be_is_not_believed(nginx: Nginx, server: Gateway) -> None:
    # The gateway takes metrics' readers by their address; a forged header must not make one.
    response, _ = call(nginx, "/metrics", X_Forwarded_For="127.0.0.1", Forwarded="for=127.0.0.1")
    assert response.status == 404


@pytest.mark.parametrize("gateway", ["127.0.0.1:8000", "gateway:8000"])
def test_debians_nginx_takes_the_configuration_too(tmp_path: Path, gateway: str) -> None:
    debians = shutil.which("nginx", path="/usr/sbin")
    if debians is None:
        pytest.skip("Debian's nginx is not installed")
    said = Nginx(tmp_path, 1).check(debians, gateway)
    assert "test is successful" in said
    assert "[warn]" not in said


@pytest.mark.parametrize("gateway", ["127.0.0.1:8000", "gateway:8000"])
def test_the_newest_nginx_takes_the_configuration_without_a_warning(nginx: Nginx, tmp_path: Path, gateway: str) -> None:
    said = Nginx(tmp_path, 1).check(nginx.env["NGINX_BIN"], gateway)
    assert "test is successful" in said
    assert "[warn]" not in said
