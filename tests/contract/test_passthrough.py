"""The OpenAI dialect on the wire: what the caller wrote is what the provider reads, each value byte for byte."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.errors import InvalidRequest
from app.providers.base import ChatCall, EmbedCall
from tests.support.providers import SECRET, SSE_HEADERS, chat_call, embed_call, openai, scripted_server
from tests.support.upstream import Upstream

ODD = b'{ "model" :"m","messages":[{"role":"user","content":"\xc3\xbc \\"model\\" x"}] , "s":1e2,"x":{"b":1.50,"a":[]}}'


def wire(call: ChatCall | EmbedCall, *, path: str = "", **config: Any) -> tuple[bytes, bytes]:
    """Head and body as they reach the provider."""
    requests: list[bytes] = []

    def serve(sock: Any) -> None:
        if isinstance(call, ChatCall) and call.request.stream:
            sock.sendall(SSE_HEADERS + b"data: [DONE]\n\n")
        else:
            sock.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 24\r\n\r\n{"choices":[],"data":[]}')

    with scripted_server(serve, requests) as url:
        provider = openai(url + path, **config)
        if isinstance(call, EmbedCall):
            provider.embed(call)
        elif call.request.stream:
            list(provider.stream(call))
        else:
            provider.chat(call)
    head, _, body = requests[0].partition(b"\r\n\r\n")
    return head, body


# The same, the object around the values written anew: one key of each name, in one spelling.
AS_SENT = b'{"model":"m","messages":[{"role":"user","content":"\xc3\xbc \\"model\\" x"}],"s":1e2,"x":{"b":1.50,"a":[]}}'


def models_named(body: bytes) -> list[tuple[str, Any]]:
    """Every key that any parser could take for the model, with its value, duplicates included."""
    pairs: list[tuple[str, Any]] = json.loads(body, object_pairs_hook=list)
    return [(name, value) for name, value in pairs if name.lower() == "model"]


def test_the_request_as_it_goes_out() -> None:
    head, _ = wire(chat_call("m"), headers={"X-Org": "7"})
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /v1/chat/completions HTTP/1.1"
    assert b"Authorization: Bearer " + SECRET.encode() in lines
    assert b"X-Org: 7" in lines
    assert b"Content-Type: application/json" in lines


def test_a_path_with_odd_characters_is_escaped() -> None:
    head, _ = wire(chat_call("m"), path="/ü/deployments/my%20model/")
    assert head.startswith(b"POST /v1/%C3%BC/deployments/my%20model/chat/completions HTTP/1.1\r\n")


def test_the_same_model_passes_every_value_untouched() -> None:
    assert wire(chat_call(raw=ODD))[1] == AS_SENT


def test_the_same_model_with_usage_asked_for_streams_every_value_untouched() -> None:
    asked = b',"stream":true,"stream_options":{"include_usage":true}}'
    assert wire(chat_call(raw=ODD[:-1] + asked))[1] == AS_SENT[:-1] + asked


def test_another_model_changes_the_name_and_nothing_else() -> None:
    body = wire(chat_call(raw=ODD, target="real"))[1]
    assert json.loads(body) == {**json.loads(ODD), "model": "real"}
    for value in (b'[{"role":"user","content":"\xc3\xbc \\"model\\" x"}]', b"1e2", b'{"b":1.50,"a":[]}'):
        assert value in body


def test_unknown_fields_are_forwarded(upstream: Upstream) -> None:
    fields: dict[str, Any] = {
        "vendor_extra": {"deep": [1, None, "ü"]},
        "logit_bias": {"5": -100},
        "tools": [{"type": "custom"}],
    }
    for target in ("echo", "echo-2"):
        answer = openai(upstream.url).chat(chat_call("echo", target=target, **fields))
        body = json.loads(json.loads(answer.body)["choices"][0]["message"]["content"].partition("\n\n")[2])
        assert {name: body[name] for name in fields} == fields


def test_the_number_of_choices_and_the_tools_are_forwarded() -> None:
    body = json.loads(wire(chat_call("m", target="real", n=3, tools=[{"type": "function"}], tool_choice="auto"))[1])
    assert (body["n"], body["tools"], body["tool_choice"]) == (3, [{"type": "function"}], "auto")


@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}, {"include_usage": True}, {"other": 1}])
def test_a_stream_always_asks_for_usage_and_keeps_other_options(options: dict[str, Any] | None) -> None:
    body = json.loads(wire(chat_call("m", stream=True, stream_options=options))[1])
    assert body["stream_options"] == {**(options or {}), "include_usage": True}
    assert body["stream"] is True


SMUGGLED = [
    b'{"model":"dear","messages":[{"role":"user","content":"x"}],"model":"cheap"%b}',
    b'{"mod\\u0065l":"dear","messages":[{"role":"user","content":"x"}],"model":"cheap"%b}',
    b'{"\\u006dodel":"cheap","messages":[{"role":"user","content":"x"}]%b}',
]


@pytest.mark.parametrize("raw", SMUGGLED)
@pytest.mark.parametrize("target", ["cheap", "real"])
@pytest.mark.parametrize("stream", [b"", b',"stream":true', b',"stream":true,"stream_options":{"include_usage":true}'])
def test_a_second_model_cannot_be_smuggled_in(raw: bytes, target: str, stream: bytes) -> None:
    """Whichever of two keys a parser takes, and whether it minds capitals: there is only one, the admitted one."""
    call = chat_call(raw=raw % stream, target=target)
    assert call.request.model == "cheap"
    assert models_named(wire(call)[1]) == [("model", target)]


@pytest.mark.parametrize(
    "name", ["Model", "M\\u004fDEL", "MAX_TOKENS", "max_to\u212aens", "N", "\\u004e", "\u017ftream"]
)
def test_a_field_that_we_act_on_has_no_other_spelling(name: str) -> None:
    """Parsers that ignore case (Go's, Unicode's odd letters included) would take it for the field itself."""
    raw = f'{{"model":"cheap","messages":[{{"role":"user","content":"x"}}],"{name}":7}}'.encode()
    known = json.loads(f'"{name}"')
    with pytest.raises(InvalidRequest) as refused:
        chat_call(raw=raw)
    assert refused.value.param == known
    assert f"`{known.casefold()}`" in refused.value.message


def test_a_second_model_cannot_be_smuggled_into_embeddings() -> None:
    with pytest.raises(InvalidRequest) as refused:
        embed_call("cheap", Model="dear")
    assert refused.value.param == "Model"


def test_embeddings_pass_through() -> None:
    head, body = wire(embed_call("m", input=[1, 2, 3], dimensions=8))
    assert head.startswith(b"POST /v1/embeddings HTTP/1.1\r\n")
    assert json.loads(body) == {"model": "m", "input": [1, 2, 3], "dimensions": 8}
    assert json.loads(wire(embed_call("m", target="real"))[1])["model"] == "real"


def test_an_answer_passes_untouched(upstream: Upstream) -> None:
    answer = openai(upstream.url).chat(chat_call("tools"))
    assert b'"arguments":"{\\"city\\":\\"Ulm\\"}"' in answer.body


def test_a_large_request_and_a_large_answer_arrive_whole(upstream: Upstream) -> None:
    provider = openai(upstream.url)
    assert len(provider.chat(chat_call("big-3000")).body) > 3_000_000
    answer = provider.chat(chat_call("echo", prompt="x" * 3_000_000))
    assert answer.body.count(b"x") > 3_000_000
