"""The support assistant: what it answers, what it remembers and for whom, and what it refuses."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from app import create_app
from app.errors import StoreUnavailable
from app.features.support import DEFAULT_PROMPT, SupportMessage
from app.gateway.call import CallContext
from app.services import Services, build_services
from app.settings import load_settings
from app.store.history import ConversationTurn, History
from tests.api.conftest import KEY, AppClient
from tests.support.response import AppResponse
from tests.support.upstream import Upstream

CONFIG = """
providers:
  demo: {kind: demo, script: {chunk_delay_s: 0}}
models:
  m: {targets: [{provider: demo}]}
  other: {targets: [{provider: demo, model: other}]}
"""
EIGHT_WORDS = "This is Penstock's offline demo model. You said:"
NINE_MORE = "\n\nFor real answers, set a vendor's key, such as OPENAI_API_KEY."  # once a conversation


class ChatClient:
    """A client of the assistant, with one key."""

    def __init__(self, client: AppClient, key: str = KEY) -> None:
        self.app = client
        self._http: Any = create_app(services=client.services).test_client()
        self._headers = {"Authorization": f"Bearer {key}"}

    def send(self, body: Any, *, path: str = "/v1/chat", headers: dict[str, str] | None = None) -> AppResponse:
        data = body if isinstance(body, bytes) else json.dumps(body)
        sent = {"Content-Type": "application/json", **self._headers, **(headers or {})}
        response: AppResponse = self._http.post(path, data=data, headers=sent)
        response.get_data()
        response.close()
        return response

    def say(self, message: str, user: str = "ann", **more: Any) -> AppResponse:
        return self.send({"message": message, "user_id": user, **more})

    def history(self, user: str = "ann", *, method: str = "GET") -> AppResponse:
        response: AppResponse = self._http.open(f"/v1/chat/history/{user}", method=method, headers=self._headers)
        return response

    def texts(self, user: str = "ann") -> list[str]:
        found: list[dict[str, str]] = self.history(user).json["messages"]
        assert [message["role"] for message in found] == ["user", "assistant"] * (len(found) // 2)
        return [message["content"] for message in found]


@pytest.fixture
def assistant_client(client_with: Callable[[str], AppClient]) -> ChatClient:
    return ChatClient(client_with(CONFIG))


def refusal(response: AppResponse) -> tuple[int, str, str | None]:
    assert response.json is not None
    assert response.json["error"]["code"] == response.json["code"]
    return response.status_code, response.json["code"], response.json["error"]["param"]


@pytest.mark.parametrize("path", ["/v1/chat", "/api/v1/chat", "/api/v1/chat/"])
def test_an_answer_has_the_shape_of_the_contract(assistant_client: ChatClient, path: str) -> None:
    response = assistant_client.send({"message": "Hello there", "user_id": "ann"}, path=path)
    assert response.status_code == 200
    assert response.json is not None
    assert set(response.json) == {"response", "user_id", "timestamp", "usage"}
    assert (response.json["response"], response.json["user_id"]) == (f"{EIGHT_WORDS} Hello there{NINE_MORE}", "ann")
    assert response.json["timestamp"].endswith("Z")
    assert response.json["usage"]["completion_tokens"] == 19
    assert (response.headers["x-penstock-model"], response.headers["x-penstock-provider"]) == ("m", "demo")
    [row] = assistant_client.app.rows()
    assert (row["status"], row["model"], row["user"], row["completion_tokens"]) == ("ok", "m", "ann", 19)
    assert row["cost_nanousd"] > 0, "it is a call as any other"


def test_a_history_has_the_shape_of_the_contract_and_no_system_prompt(assistant_client: ChatClient) -> None:
    assistant_client.say("One")
    assistant_client.say("Two")
    expected = [
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": f"{EIGHT_WORDS} One{NINE_MORE}"},
        {"role": "user", "content": "Two"},
        {"role": "assistant", "content": f"{EIGHT_WORDS} Two"},
    ]
    response = assistant_client.history()
    assert response.json == {"user_id": "ann", "messages": expected, "message_count": 4}
    assert response.headers["X-Request-ID"]


def test_a_deleted_history_is_empty_and_a_second_delete_is_no_error(assistant_client: ChatClient) -> None:
    assistant_client.say("One")
    empty = {"user_id": "ann", "messages": [], "message_count": 0}
    for _ in range(2):
        response = assistant_client.history(method="DELETE")
        assert (response.status_code, response.json) == (200, empty)
    assert assistant_client.history().json == empty
    assert assistant_client.app.keys("penstock:history:*") == []


def test_an_unknown_user_has_an_empty_history(assistant_client: ChatClient) -> None:
    response = assistant_client.history("nobody")
    assert (response.status_code, response.json) == (200, {"user_id": "nobody", "messages": [], "message_count": 0})


def test_bug_07_no_key_reads_or_continues_another_keys_conversation(
    assistant_client: ChatClient, upstream: Upstream
) -> None:
    key, _ = assistant_client.app.services.keys.create("other")
    other = ChatClient(assistant_client.app, key)
    assistant_client.say("My secret")
    assert other.texts() == []
    other.say("Hello")
    assert other.texts() == ["Hello", f"{EIGHT_WORDS} Hello{NINE_MORE}"]
    mine, theirs = (row["prompt_tokens"] for row in assistant_client.app.rows())
    assert theirs == mine - 1, "the model was not told of the other conversation: one word less, and no more"
    other.history(method="DELETE")
    assert assistant_client.texts() == ["My secret", f"{EIGHT_WORDS} My secret{NINE_MORE}"]


def test_users_of_one_key_have_conversations_of_their_own(assistant_client: ChatClient) -> None:
    # Ids that a careless key or path would confuse.
    users = ["ann", "Ann", "ann:bob", "ann%20", "ann ", "änn", "a" * 256, "ann?x=1", "ann#1", "*", "ann\\bob", "..."]
    for user in users:
        assert assistant_client.say(f"I am {user}", user).status_code == 200
    for user in users:
        in_a_path = "".join(f"%{byte:02X}" for byte in user.encode())
        assert assistant_client.texts(in_a_path)[0] == f"I am {user}"
        assert assistant_client.history(in_a_path).json["user_id"] == user


class EchoedCall:
    """The request that an `echo` model received, out of its answer."""

    def __init__(self, response: AppResponse) -> None:
        assert response.status_code == 200, response.text
        self.body = json.loads(response.json["response"].partition("\n\n")[2])
        self.messages = self.body["messages"]


@pytest.fixture
def echo(client_with: Callable[[str], AppClient], upstream: Upstream) -> Callable[..., ChatClient]:
    def build(support: str = "{}", prompt: str | None = None, directory: Path | None = None) -> ChatClient:
        if prompt is not None and directory is not None:
            (directory / "prompts").mkdir()
            (directory / "prompts" / "support.txt").write_text(prompt)
        return ChatClient(
            client_with(
                f"providers: {{up: {{kind: openai, base_url: {upstream.url}}}}}\n"
                f"models: {{echo: {{targets: [{{provider: up}}]}}, usage-10-5: {{targets: [{{provider: up}}]}}}}\n"
                f"support: {support}\n"
            )
        )

    return build


def test_the_model_is_told_the_prompt_the_conversation_and_the_message(echo: Callable[..., ChatClient]) -> None:
    assistant_client = echo()
    first = EchoedCall(assistant_client.say("One"))
    assert first.messages == [{"role": "system", "content": DEFAULT_PROMPT}, {"role": "user", "content": "One"}]
    second = EchoedCall(assistant_client.say("Two"))
    assert [message["role"] for message in second.messages] == ["system", "user", "assistant", "user"]
    assert second.messages[1]["content"] == "One"
    assert json.loads(second.messages[2]["content"].partition("\n\n")[2]) == first.body
    assert (first.body["model"], first.body["max_tokens"], first.body["temperature"]) == ("echo", 150, 0.7)
    assert "user" not in first.body, "the vendor need not know who asks"


def test_the_prompt_is_a_file_next_to_the_configuration(echo: Callable[..., ChatClient], tmp_path: Path) -> None:
    assistant_client = echo("{}", "\nBe brief, ÄÖÜ.\n", tmp_path)
    assert EchoedCall(assistant_client.say("Hi")).messages[0] == {"role": "system", "content": "Be brief, ÄÖÜ."}


def test_model_length_and_temperature_are_configured(echo: Callable[..., ChatClient]) -> None:
    body = EchoedCall(echo("{max_tokens: 7, temperature: 0.1}").say("Hi")).body
    assert (body["max_tokens"], body["temperature"]) == (7, 0.1)
    assert "temperature" not in EchoedCall(echo("{temperature: null}").say("Hi", "bob")).body
    assert echo("{model: usage-10-5}").say("Hi", "eve").headers["x-penstock-model"] == "usage-10-5"


def test_the_last_messages_are_kept_and_the_first_is_never_an_answer(client_with: Callable[[str], AppClient]) -> None:
    assistant_client = ChatClient(client_with(CONFIG))
    for i in range(13):
        assistant_client.say(f"Message {i}")
    texts = assistant_client.texts()
    assert (len(texts), texts[0], texts[-2]) == (20, "Message 3", "Message 12")
    [key] = assistant_client.app.keys("penstock:history:*")
    assert assistant_client.app.services.redis.execute("LLEN", key) == 10, (
        "what is beyond them is forgotten, not only hidden"
    )
    assistant_client = ChatClient(client_with(CONFIG + "support: {history_messages: 5}\n"))
    assistant_client.say("Message 13")
    assert assistant_client.texts()[::2] == ["Message 12", "Message 13"], "five messages are two whole exchanges"


def test_a_history_is_bounded_in_bytes(client_with: Callable[[str], AppClient]) -> None:
    assistant_client = ChatClient(client_with(CONFIG + "support: {history_bytes: 1024, max_message_chars: 128}\n"))
    for letter in "abcdef":
        assistant_client.say(letter * 120)
    texts = assistant_client.texts()
    assert texts[-2] == "f" * 120
    assert 2 <= len(texts) < 12
    [key] = assistant_client.app.keys("penstock:history:*")
    kept = assistant_client.app.services.redis.execute("LRANGE", key, 0, -1)
    assert sum(map(len, kept)) <= 1024


def test_a_long_answer_is_given_in_full_and_remembered_in_part(client_with: Callable[[str], AppClient]) -> None:
    reply = "ä" * 3000
    config = CONFIG.replace("chunk_delay_s: 0", f'chunk_delay_s: 0, reply: "{reply}"')
    assistant_client = ChatClient(client_with(config + "support: {history_bytes: 1024, max_message_chars: 128}\n"))
    assert assistant_client.say("\x01" * 128, "ann").json["response"] == reply
    message, answer = assistant_client.texts()
    assert (message, set(answer)) == ("\x01" * 128, {"ä"})
    assert assistant_client.say("Hi", "bob", stream=True).text.count("ä") == 3000
    assert len(assistant_client.texts("bob")[1]) > 400
    for key in assistant_client.app.keys("penstock:history:*"):
        assert 1000 < len(assistant_client.app.services.redis.execute("LINDEX", key, 0)) <= 1024


def test_a_history_lives_as_long_as_configured_from_its_last_message(client_with: Callable[[str], AppClient]) -> None:
    assistant_client = ChatClient(client_with(CONFIG + "support: {history_ttl_s: 100}\n"))
    assistant_client.say("One")
    [key] = assistant_client.app.keys("penstock:history:*")
    redis = assistant_client.app.services.redis
    assert 90_000 < redis.execute("PTTL", key) <= 100_000
    redis.execute("PEXPIRE", key, 5000)
    assistant_client.texts()
    assert redis.execute("PTTL", key) <= 5000, "reading is no sign of life"
    assistant_client.say("Two")
    assert 90_000 < redis.execute("PTTL", key) <= 100_000


def test_neither_users_nor_their_messages_are_in_names_of_redis_keys(assistant_client: ChatClient) -> None:
    assistant_client.say("Hello", "ann@example.org")
    [key] = assistant_client.app.keys("penstock:history:*")
    assert key.startswith(b"penstock:history:dev:")
    assert b"ann" not in key


def test_an_append_that_is_sent_twice_is_kept_once(assistant_client: ChatClient) -> None:
    from app.store.history import ConversationTurn

    history = History(redis=assistant_client.app.services.redis, max_turns=10, max_bytes=65536, ttl_s=60)
    for exchange in (
        ConversationTurn("1", "Hi", "Hello"),
        ConversationTurn("2", "Hi", "Hello"),
        ConversationTurn("1", "Hi", "Hello"),
    ):
        history.append("dev", "ann", exchange)
    assert [exchange.id for exchange in history.read("dev", "ann")] == ["1", "2"]


def test_a_stream_is_in_openais_format_and_remembered_when_it_ends(assistant_client: ChatClient) -> None:
    response = assistant_client.say("Hello there", stream=True)
    assert response.status_code == 200
    assert response.mimetype == "text/event-stream"
    assert response.headers["x-penstock-model"] == "m"
    *data, done = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    assert done == "[DONE]"
    chunks = [json.loads(line) for line in data]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    said = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert said == f"{EIGHT_WORDS} Hello there{NINE_MORE}"
    assert assistant_client.texts() == ["Hello there", said]
    [row] = assistant_client.app.rows()
    assert (row["streamed"], row["user"], row["status"]) == (True, "ann", "ok")


@pytest.mark.parametrize(
    ("script", "end", "kept"),
    [
        ("", b"[DONE]", f"{EIGHT_WORDS} Hi{NINE_MORE}"),
        (", cut_after_chunks: 3", b'"error"', "This is Penstock's"),
    ],
)
def test_a_stream_is_remembered_before_its_end_is_sent(
    client_with: Callable[[str], AppClient], script: str, end: bytes, kept: str
) -> None:
    assistant_client = ChatClient(client_with(CONFIG.replace("chunk_delay_s: 0", f"chunk_delay_s: 0{script}")))
    app = create_app(services=assistant_client.app.services)
    body = {"message": "Hi", "user_id": "ann", "stream": True}
    response = app.test_client().post("/v1/chat", json=body, headers={"Authorization": f"Bearer {KEY}"}, buffered=False)
    blocks: Iterator[Any] = iter(response.response)
    while end not in next(blocks):
        assert assistant_client.texts() == []
    assert assistant_client.texts() == ["Hi", kept], (
        "a client that sends its next message now has it answered with this one"
    )
    response.close()
    assert assistant_client.texts() == ["Hi", kept], "once"


@pytest.mark.parametrize(("chunks", "kept"), [(3, ["Hi", "This is Penstock's"]), (0, [])])
def test_of_a_stream_that_breaks_off_what_was_shown_is_remembered(
    client_with: Callable[[str], AppClient], chunks: int, kept: list[str]
) -> None:
    config = CONFIG.replace("chunk_delay_s: 0", f"chunk_delay_s: 0, cut_after_chunks: {chunks}")
    assistant_client = ChatClient(client_with(config + "retry: {max_attempts: 1}\n"))
    response = assistant_client.say("Hi", stream=True)
    assert "[DONE]" not in response.text
    assert response.status_code == (200 if chunks else 502)
    assert assistant_client.texts() == kept
    assert [row["status"] for row in assistant_client.app.rows()] == ["error"]


def test_of_a_stream_that_is_hung_up_on_what_was_shown_is_remembered(assistant_client: ChatClient) -> None:
    support = assistant_client.app.services.support
    caller = assistant_client.app.services.callers.lookup(KEY)
    for words, user in ((2, "ann"), (0, "bob")):
        stream = support.stream(
            caller, SupportMessage("Hi", user, stream=True), CallContext(f"req_{user}", f"req_{user}")
        )
        assert len(list(islice(stream, words))) == words
        stream.close()
    assert assistant_client.texts("ann") == ["Hi", "This is"]
    assert assistant_client.texts("bob") == []
    assert [row["status"] for row in assistant_client.app.rows()] == ["aborted", "aborted"]


def test_a_call_that_fails_is_not_remembered_so_that_it_can_be_repeated(
    client_with: Callable[[str], AppClient],
) -> None:
    config = CONFIG.replace("chunk_delay_s: 0", "chunk_delay_s: 0, fail_status: 500, fail_times: 1")
    assistant_client = ChatClient(client_with(config + "retry: {max_attempts: 1}\n"))
    assert refusal(assistant_client.say("Hi")) == (502, "MODEL_ERROR", None)
    assert assistant_client.texts() == []
    assert assistant_client.say("Hi").status_code == 200
    assert assistant_client.texts() == ["Hi", f"{EIGHT_WORDS} Hi{NINE_MORE}"]


def test_an_answer_without_words_leaves_the_message_and_no_empty_answer(
    client_with: Callable[[str], AppClient],
) -> None:
    assistant_client = ChatClient(client_with(CONFIG.replace("chunk_delay_s: 0", 'chunk_delay_s: 0, reply: ""')))
    for stream in (False, True):
        assert assistant_client.say("Hi", stream=stream).status_code == 200
    assert assistant_client.history().json["messages"] == [{"role": "user", "content": "Hi"}] * 2


def test_a_cool_assistants_answers_are_cached_and_marked(client_with: Callable[[str], AppClient]) -> None:
    assistant_client = ChatClient(client_with(CONFIG + "support: {temperature: 0}\n"))
    first, second = assistant_client.say("Hi", "ann"), assistant_client.say("Hi", "bob")
    assert "cached" not in first.json
    assert second.json["cached"] is True
    assert second.json["response"] == first.json["response"]
    assert (second.headers["x-penstock-cache"], second.headers["x-penstock-cost-usd"]) == ("hit", "0")
    assert assistant_client.texts("bob") == assistant_client.texts("ann")
    streamed = assistant_client.say("Hi", "eve", stream=True)
    assert (streamed.headers["x-penstock-cache"], "[DONE]" in streamed.text) == ("hit", True)
    assert assistant_client.texts("eve") == assistant_client.texts("ann")


@pytest.mark.parametrize("nobody", [{}, {"user_id": None}, {"user_id": "anonymous"}])
@pytest.mark.parametrize("stream", [False, True])
def test_who_does_not_say_who_they_are_is_answered_and_not_remembered(
    assistant_client: ChatClient, nobody: dict[str, Any], stream: bool
) -> None:
    answers = [assistant_client.send({"message": "My name is Ann", "stream": stream, **nobody}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert stream or {answer.json["user_id"] for answer in answers} == {"anonymous"}
    assert (assistant_client.app.keys("penstock:history:*"), assistant_client.texts("anonymous")) == ([], [])
    first, second = assistant_client.app.rows()
    assert (first["user"], second["user"]) == ("anonymous", "anonymous")
    assert first["prompt_tokens"] == second["prompt_tokens"], "the model was not told what another had said"


def test_an_older_versions_memory_of_nobody_is_hidden_and_can_be_forgotten(assistant_client: ChatClient) -> None:
    key_id = assistant_client.app.services.callers.verify(KEY).key_id
    assistant_client.send({"message": "What is my name?"})
    assistant_client.app.services.support._history.append(
        key_id, "anonymous", ConversationTurn("call", "My name is Ann", "Hi Ann")
    )
    assert assistant_client.texts("anonymous") == []
    assistant_client.send({"message": "What is my name?"})
    before, after = assistant_client.app.rows()
    assert before["prompt_tokens"] == after["prompt_tokens"]
    assert assistant_client.history("anonymous", method="DELETE").status_code == 200
    assert assistant_client.app.keys("penstock:history:*") == []


GOOD = {"message": "Hi", "user_id": "ann"}
BAD_BODIES: list[tuple[Any, str | None]] = [
    (b"{", None),
    (b"", None),
    (b"[]", None),
    (b'"Hi"', None),
    (b"null", None),
    (b'{"message":"\\ud800","user_id":"ann"}', None),
    (b'{"message":"Hi","user_id":"\\udfff"}', None),
    (b'{"message":"Hi","user_id":"\xed\xa0\x80"}', None),
    ({"user_id": "ann"}, "message"),
    ({**GOOD, "message": ""}, "message"),
    ({**GOOD, "message": " \n\t"}, "message"),
    ({**GOOD, "message": None}, "message"),
    ({**GOOD, "message": 5}, "message"),
    ({**GOOD, "message": ["Hi"]}, "message"),
    ({**GOOD, "message": "x" * 4001}, "message"),
    ({"message": "Hi", "userId": "ann"}, "userId"),
    ({"message": "Hi", "user-id": "ann"}, "user-id"),
    ({"message": "Hi", "USER_ID": "ann", "user_id": None}, "USER_ID"),
    ({**GOOD, "user_id": ""}, "user_id"),
    ({**GOOD, "user_id": "  "}, "user_id"),
    ({**GOOD, "user_id": 7}, "user_id"),
    ({**GOOD, "user_id": "a\x00b"}, "user_id"),
    ({**GOOD, "user_id": "a\nb"}, "user_id"),
    ({**GOOD, "user_id": "a/b"}, "user_id"),
    ({**GOOD, "user_id": ".."}, "user_id"),
    ({**GOOD, "user_id": "a\ufffd"}, "user_id"),
    ({**GOOD, "user_id": "x" * 257}, "user_id"),
    ({**GOOD, "stream": "yes"}, "stream"),
]


@pytest.mark.parametrize(("body", "param"), BAD_BODIES)
def test_what_the_caller_gets_wrong(assistant_client: ChatClient, body: Any, param: str | None) -> None:
    assert refusal(assistant_client.send(body)) == (400, "INVALID_REQUEST", param)
    assert assistant_client.app.rows() == [], "what was not admitted has no row"
    assert assistant_client.app.keys("penstock:history:*") == []


@pytest.mark.parametrize("user", ["a/b", "a%2Fb", "a//b", "a%00b", "..%2F..", "x" * 257, "%FF", "%ED%A0%80", "%20"])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_path_that_holds_no_user_id(assistant_client: ChatClient, user: str, method: str) -> None:
    assert refusal(assistant_client.history(user, method=method)) == (400, "INVALID_REQUEST", "user_id")


def test_what_is_just_within_the_bounds_is_served(assistant_client: ChatClient) -> None:
    assert assistant_client.say("x" * 4000, "u" * 256, stream=None, unknown=1).status_code == 200
    assert assistant_client.say("a\x00b").status_code == 200, "a NUL in a text is the model's business"


def test_wrong_types_methods_and_paths(assistant_client: ChatClient) -> None:
    plain = assistant_client.send(GOOD, headers={"Content-Type": "text/plain"})
    assert refusal(plain) == (415, "UNSUPPORTED_MEDIA_TYPE", None)
    http: Any = create_app(services=assistant_client.app.services).test_client()
    headers = {"Authorization": f"Bearer {KEY}"}
    wrong = http.get("/v1/chat", headers=headers)
    assert (refusal(wrong), wrong.headers["Allow"]) == ((405, "INVALID_REQUEST", None), "OPTIONS, POST")
    assert refusal(http.post("/v1/chat/history/ann", headers=headers)) == (405, "INVALID_REQUEST", None)
    assert refusal(http.get("/v1/chat/history", headers=headers)) == (404, "NOT_FOUND", None)
    large = assistant_client.send(b'{"message":"' + b"x" * 10_485_760 + b'"}')
    assert refusal(large) == (413, "REQUEST_TOO_LARGE", None)


def test_keys_that_open_nothing(assistant_client: ChatClient) -> None:
    assistant_client.say("Hi")
    revoked, info = assistant_client.app.services.keys.create("revoked")
    late = ChatClient(assistant_client.app, revoked)
    assert late.say("Hi").status_code == 200, "the worker remembers this key now"
    assistant_client.app.services.keys.revoke(info.key_id)
    for key in ("", "wrong", revoked):
        other = ChatClient(assistant_client.app, key)
        assert refusal(other.say("Hi")) == (401, "INVALID_API_KEY", None), key
        if key != revoked:  # a view may trust its memory for half a second
            for method in ("GET", "DELETE"):
                assert refusal(other.history(method=method)) == (401, "INVALID_API_KEY", None)


def test_a_key_without_the_assistants_model_gets_its_own_default(
    client_with: Callable[[str], AppClient],
) -> None:
    assistant_client = ChatClient(client_with(CONFIG))
    restricted, _ = assistant_client.app.services.keys.create("restricted", models=["other"])
    assert ChatClient(assistant_client.app, restricted).say("Hi").headers["x-penstock-model"] == "other"
    named = ChatClient(client_with(CONFIG + "support: {model: m}\n"))
    restricted, _ = named.app.services.keys.create("restricted", models=["other"])
    assert refusal(ChatClient(named.app, restricted).say("Hi")) == (403, "FORBIDDEN", "model")


def test_limits_hold_for_the_assistant_too(client_with: Callable[[str], AppClient]) -> None:
    assistant_client = ChatClient(client_with(CONFIG + "plans: {two: {requests_per_minute: 2}}\n"))
    key, _ = assistant_client.app.services.keys.create("two", plan="two")
    limited = ChatClient(assistant_client.app, key)
    assert [limited.say(f"{i}").status_code for i in range(3)] == [200, 200, 429]
    assert len(limited.texts()) == 4, "a refused message is not remembered"


@pytest.fixture
def without_redis(tmp_path: Path) -> Iterator[Services]:
    with socket.socket() as bound:  # bound but not listening: nobody else can take the port, and it refuses
        bound.bind(("127.0.0.1", 0))
        (tmp_path / "gateway.yaml").write_text(CONFIG)
        services = build_services(
            load_settings(
                {
                    "GATEWAY_CONFIG": str(tmp_path / "gateway.yaml"),
                    "DATA_DIR": str(tmp_path),
                    "DEV_API_KEY": KEY,
                    "REDIS_URL": f"redis://127.0.0.1:{bound.getsockname()[1]}/0",
                }
            )
        )
        yield services
        services.close()


def test_without_redis_nothing_is_answered_and_everyone_is_told_so(without_redis: Services) -> None:
    assistant_client = ChatClient(AppClient(without_redis, [], [], []))
    for response in (
        assistant_client.say("Hi"),
        assistant_client.say("Hi", stream=True),
        assistant_client.history(),
        assistant_client.history(method="DELETE"),
    ):
        assert refusal(response) == (503, "NOT_READY", None)
        assert response.headers["Retry-After"] == "1"


class _ForgettingRedis(History):
    def append(self, *_: Any) -> None:
        raise StoreUnavailable("The limits store is not answering.")


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_cannot_be_remembered_is_given_all_the_same(assistant_client: ChatClient, stream: bool) -> None:
    assistant_client.app.services.support._history = _ForgettingRedis(
        redis=assistant_client.app.services.redis, max_turns=10, max_bytes=65536, ttl_s=60
    )
    response = assistant_client.say("Hi", stream=stream)
    assert response.status_code == 200
    assert "Hi" in response.text
    assert ("[DONE]" in response.text) == stream
    assert [row["status"] for row in assistant_client.app.rows()] == ["ok"]
