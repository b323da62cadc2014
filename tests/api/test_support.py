"""The support assistant: what it answers, what it remembers and for whom, and what it refuses."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import Client, TestResponse

from app import create_app
from app.errors import StoreUnavailable
from app.features.support import DEFAULT_PROMPT, SupportMessage
from app.gateway.call import CallContext
from app.services import Services, build_services
from app.settings import load_settings
from app.store.history import ConversationTurn, History
from tests.api.conftest import KEY, Edge
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

    def __init__(self, edge: Edge, key: str = KEY) -> None:
        self.edge = edge
        self._http: Client = create_app(services=edge.services).test_client()
        self._headers = {"Authorization": f"Bearer {key}"}

    def send(self, body: Any, *, path: str = "/v1/chat", headers: dict[str, str] | None = None) -> TestResponse:
        data = body if isinstance(body, bytes) else json.dumps(body)
        sent = {"Content-Type": "application/json", **self._headers, **(headers or {})}
        response: TestResponse = self._http.post(path, data=data, headers=sent)
        response.get_data()
        response.close()
        return response

    def say(self, message: str, user: str = "ann", **more: Any) -> TestResponse:
        return self.send({"message": message, "user_id": user, **more})

    def history(self, user: str = "ann", *, method: str = "GET") -> TestResponse:
        response: TestResponse = self._http.open(f"/v1/chat/history/{user}", method=method, headers=self._headers)
        return response

    def texts(self, user: str = "ann") -> list[str]:
        found: list[dict[str, str]] = self.history(user).json["messages"]
        assert [message["role"] for message in found] == ["user", "assistant"] * (len(found) // 2)
        return [message["content"] for message in found]


@pytest.fixture
def talk(edge: Callable[[str], Edge]) -> ChatClient:
    return ChatClient(edge(CONFIG))


def refusal(response: TestResponse) -> tuple[int, str, str | None]:
    assert response.json is not None
    assert response.json["error"]["code"] == response.json["code"]
    return response.status_code, response.json["code"], response.json["error"]["param"]


@pytest.mark.parametrize("path", ["/v1/chat", "/api/v1/chat", "/api/v1/chat/"])
def test_an_answer_has_the_shape_of_the_contract(talk: ChatClient, path: str) -> None:
    response = talk.send({"message": "Hello there", "user_id": "ann"}, path=path)
    assert response.status_code == 200
    assert response.json is not None
    assert set(response.json) == {"response", "user_id", "timestamp", "usage"}
    assert (response.json["response"], response.json["user_id"]) == (f"{EIGHT_WORDS} Hello there{NINE_MORE}", "ann")
    assert response.json["timestamp"].endswith("Z")
    assert response.json["usage"]["completion_tokens"] == 19
    assert (response.headers["x-penstock-model"], response.headers["x-penstock-provider"]) == ("m", "demo")
    [row] = talk.edge.rows()
    assert (row["status"], row["model"], row["user"], row["completion_tokens"]) == ("ok", "m", "ann", 19)
    assert row["cost_nanousd"] > 0, "it is a call as any other"


def test_a_history_has_the_shape_of_the_contract_and_no_system_prompt(talk: ChatClient) -> None:
    talk.say("One")
    talk.say("Two")
    expected = [
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": f"{EIGHT_WORDS} One{NINE_MORE}"},
        {"role": "user", "content": "Two"},
        {"role": "assistant", "content": f"{EIGHT_WORDS} Two"},
    ]
    response = talk.history()
    assert response.json == {"user_id": "ann", "messages": expected, "message_count": 4}
    assert response.headers["X-Request-ID"]


def test_a_deleted_history_is_empty_and_a_second_delete_is_no_error(talk: ChatClient) -> None:
    talk.say("One")
    empty = {"user_id": "ann", "messages": [], "message_count": 0}
    for _ in range(2):
        response = talk.history(method="DELETE")
        assert (response.status_code, response.json) == (200, empty)
    assert talk.history().json == empty
    assert talk.edge.keys("penstock:history:*") == []


def test_an_unknown_user_has_an_empty_history(talk: ChatClient) -> None:
    response = talk.history("nobody")
    assert (response.status_code, response.json) == (200, {"user_id": "nobody", "messages": [], "message_count": 0})


def test_bug_07_no_key_reads_or_continues_another_keys_conversation(talk: ChatClient, upstream: Upstream) -> None:
    key, _ = talk.edge.services.keys.create("other")
    other = ChatClient(talk.edge, key)
    talk.say("My secret")
    assert other.texts() == []
    other.say("Hello")
    assert other.texts() == ["Hello", f"{EIGHT_WORDS} Hello{NINE_MORE}"]
    mine, theirs = (row["prompt_tokens"] for row in talk.edge.rows())
    assert theirs == mine - 1, "the model was not told of the other conversation: one word less, and no more"
    other.history(method="DELETE")
    assert talk.texts() == ["My secret", f"{EIGHT_WORDS} My secret{NINE_MORE}"]


def test_users_of_one_key_have_conversations_of_their_own(talk: ChatClient) -> None:
    # Ids that a careless key or path would confuse.
    users = ["ann", "Ann", "ann:bob", "ann%20", "ann ", "änn", "a" * 256, "ann?x=1", "ann#1", "*", "ann\\bob", "..."]
    for user in users:
        assert talk.say(f"I am {user}", user).status_code == 200
    for user in users:
        in_a_path = "".join(f"%{byte:02X}" for byte in user.encode())
        assert talk.texts(in_a_path)[0] == f"I am {user}"
        assert talk.history(in_a_path).json["user_id"] == user


class Heard:
    """What an `echo` model was sent, out of its answer."""

    def __init__(self, response: TestResponse) -> None:
        assert response.status_code == 200, response.text
        self.body = json.loads(response.json["response"].partition("\n\n")[2])
        self.messages = self.body["messages"]


@pytest.fixture
def echo(edge: Callable[[str], Edge], upstream: Upstream) -> Callable[..., ChatClient]:
    def build(support: str = "{}", prompt: str | None = None, directory: Path | None = None) -> ChatClient:
        if prompt is not None and directory is not None:
            (directory / "prompts").mkdir()
            (directory / "prompts" / "support.txt").write_text(prompt)
        return ChatClient(
            edge(
                f"providers: {{up: {{kind: openai, base_url: {upstream.url}}}}}\n"
                f"models: {{echo: {{targets: [{{provider: up}}]}}, usage-10-5: {{targets: [{{provider: up}}]}}}}\n"
                f"support: {support}\n"
            )
        )

    return build


def test_the_model_is_told_the_prompt_the_conversation_and_the_message(echo: Callable[..., ChatClient]) -> None:
    talk = echo()
    first = Heard(talk.say("One"))
    assert first.messages == [{"role": "system", "content": DEFAULT_PROMPT}, {"role": "user", "content": "One"}]
    second = Heard(talk.say("Two"))
    assert [message["role"] for message in second.messages] == ["system", "user", "assistant", "user"]
    assert second.messages[1]["content"] == "One"
    assert json.loads(second.messages[2]["content"].partition("\n\n")[2]) == first.body
    assert (first.body["model"], first.body["max_tokens"], first.body["temperature"]) == ("echo", 150, 0.7)
    assert "user" not in first.body, "the vendor need not know who asks"


def test_the_prompt_is_a_file_next_to_the_configuration(echo: Callable[..., ChatClient], tmp_path: Path) -> None:
    talk = echo("{}", "\nBe brief, ÄÖÜ.\n", tmp_path)
    assert Heard(talk.say("Hi")).messages[0] == {"role": "system", "content": "Be brief, ÄÖÜ."}


def test_model_length_and_temperature_are_configured(echo: Callable[..., ChatClient]) -> None:
    body = Heard(echo("{max_tokens: 7, temperature: 0.1}").say("Hi")).body
    assert (body["max_tokens"], body["temperature"]) == (7, 0.1)
    assert "temperature" not in Heard(echo("{temperature: null}").say("Hi", "bob")).body
    assert echo("{model: usage-10-5}").say("Hi", "eve").headers["x-penstock-model"] == "usage-10-5"


def test_the_last_messages_are_kept_and_the_first_is_never_an_answer(edge: Callable[[str], Edge]) -> None:
    talk = ChatClient(edge(CONFIG))
    for i in range(13):
        talk.say(f"Message {i}")
    texts = talk.texts()
    assert (len(texts), texts[0], texts[-2]) == (20, "Message 3", "Message 12")
    [key] = talk.edge.keys("penstock:history:*")
    assert talk.edge.services.redis.execute("LLEN", key) == 10, "what is beyond them is forgotten, not only hidden"
    talk = ChatClient(edge(CONFIG + "support: {history_messages: 5}\n"))
    talk.say("Message 13")
    assert talk.texts()[::2] == ["Message 12", "Message 13"], "five messages are two whole exchanges"


def test_a_history_is_bounded_in_bytes(edge: Callable[[str], Edge]) -> None:
    talk = ChatClient(edge(CONFIG + "support: {history_bytes: 1024, max_message_chars: 128}\n"))
    for letter in "abcdef":
        talk.say(letter * 120)
    texts = talk.texts()
    assert texts[-2] == "f" * 120
    assert 2 <= len(texts) < 12
    [key] = talk.edge.keys("penstock:history:*")
    kept = talk.edge.services.redis.execute("LRANGE", key, 0, -1)
    assert sum(map(len, kept)) <= 1024


def test_a_long_answer_is_given_in_full_and_remembered_in_part(edge: Callable[[str], Edge]) -> None:
    reply = "ä" * 3000
    config = CONFIG.replace("chunk_delay_s: 0", f'chunk_delay_s: 0, reply: "{reply}"')
    talk = ChatClient(edge(config + "support: {history_bytes: 1024, max_message_chars: 128}\n"))
    assert talk.say("\x01" * 128, "ann").json["response"] == reply
    message, answer = talk.texts()
    assert (message, set(answer)) == ("\x01" * 128, {"ä"})
    assert talk.say("Hi", "bob", stream=True).text.count("ä") == 3000
    assert len(talk.texts("bob")[1]) > 400
    for key in talk.edge.keys("penstock:history:*"):
        assert 1000 < len(talk.edge.services.redis.execute("LINDEX", key, 0)) <= 1024


def test_a_history_lives_as_long_as_configured_from_its_last_message(edge: Callable[[str], Edge]) -> None:
    talk = ChatClient(edge(CONFIG + "support: {history_ttl_s: 100}\n"))
    talk.say("One")
    [key] = talk.edge.keys("penstock:history:*")
    redis = talk.edge.services.redis
    assert 90_000 < redis.execute("PTTL", key) <= 100_000
    redis.execute("PEXPIRE", key, 5000)
    talk.texts()
    assert redis.execute("PTTL", key) <= 5000, "reading is no sign of life"
    talk.say("Two")
    assert 90_000 < redis.execute("PTTL", key) <= 100_000


def test_neither_users_nor_their_messages_are_in_names_of_redis_keys(talk: ChatClient) -> None:
    talk.say("Hello", "ann@example.org")
    [key] = talk.edge.keys("penstock:history:*")
    assert key.startswith(b"penstock:history:dev:")
    assert b"ann" not in key


def test_an_append_that_is_sent_twice_is_kept_once(talk: ChatClient) -> None:
    from app.store.history import ConversationTurn

    history = History(redis=talk.edge.services.redis, max_turns=10, max_bytes=65536, ttl_s=60)
    for exchange in (
        ConversationTurn("1", "Hi", "Hello"),
        ConversationTurn("2", "Hi", "Hello"),
        ConversationTurn("1", "Hi", "Hello"),
    ):
        history.append("dev", "ann", exchange)
    assert [exchange.id for exchange in history.read("dev", "ann")] == ["1", "2"]


def test_a_stream_is_in_openais_format_and_remembered_when_it_ends(talk: ChatClient) -> None:
    response = talk.say("Hello there", stream=True)
    assert response.status_code == 200
    assert response.mimetype == "text/event-stream"
    assert response.headers["x-penstock-model"] == "m"
    *data, done = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    assert done == "[DONE]"
    chunks = [json.loads(line) for line in data]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    said = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert said == f"{EIGHT_WORDS} Hello there{NINE_MORE}"
    assert talk.texts() == ["Hello there", said]
    [row] = talk.edge.rows()
    assert (row["streamed"], row["user"], row["status"]) == (True, "ann", "ok")


@pytest.mark.parametrize(
    ("script", "end", "kept"),
    [
        ("", b"[DONE]", f"{EIGHT_WORDS} Hi{NINE_MORE}"),
        (", cut_after_chunks: 3", b'"error"', "This is Penstock's"),
    ],
)
def test_a_stream_is_remembered_before_its_end_is_sent(
    edge: Callable[[str], Edge], script: str, end: bytes, kept: str
) -> None:
    talk = ChatClient(edge(CONFIG.replace("chunk_delay_s: 0", f"chunk_delay_s: 0{script}")))
    app = create_app(services=talk.edge.services)
    body = {"message": "Hi", "user_id": "ann", "stream": True}
    response = app.test_client().post("/v1/chat", json=body, headers={"Authorization": f"Bearer {KEY}"}, buffered=False)
    blocks: Iterator[Any] = iter(response.response)
    while end not in next(blocks):
        assert talk.texts() == []
    assert talk.texts() == ["Hi", kept], "a client that sends its next message now has it answered with this one"
    response.close()
    assert talk.texts() == ["Hi", kept], "once"


@pytest.mark.parametrize(("chunks", "kept"), [(3, ["Hi", "This is Penstock's"]), (0, [])])
def test_of_a_stream_that_breaks_off_what_was_shown_is_remembered(
    edge: Callable[[str], Edge], chunks: int, kept: list[str]
) -> None:
    config = CONFIG.replace("chunk_delay_s: 0", f"chunk_delay_s: 0, cut_after_chunks: {chunks}")
    talk = ChatClient(edge(config + "retry: {max_attempts: 1}\n"))
    response = talk.say("Hi", stream=True)
    assert "[DONE]" not in response.text
    assert response.status_code == (200 if chunks else 502)
    assert talk.texts() == kept
    assert [row["status"] for row in talk.edge.rows()] == ["error"]


def test_of_a_stream_that_is_hung_up_on_what_was_shown_is_remembered(talk: ChatClient) -> None:
    support = talk.edge.services.support
    caller = talk.edge.services.callers.lookup(KEY)
    for words, user in ((2, "ann"), (0, "bob")):
        stream = support.stream(
            caller, SupportMessage("Hi", user, stream=True), CallContext(f"req_{user}", f"req_{user}")
        )
        assert len(list(islice(stream, words))) == words
        stream.close()
    assert talk.texts("ann") == ["Hi", "This is"]
    assert talk.texts("bob") == []
    assert [row["status"] for row in talk.edge.rows()] == ["aborted", "aborted"]


def test_a_call_that_fails_is_not_remembered_so_that_it_can_be_repeated(edge: Callable[[str], Edge]) -> None:
    config = CONFIG.replace("chunk_delay_s: 0", "chunk_delay_s: 0, fail_status: 500, fail_times: 1")
    talk = ChatClient(edge(config + "retry: {max_attempts: 1}\n"))
    assert refusal(talk.say("Hi")) == (502, "MODEL_ERROR", None)
    assert talk.texts() == []
    assert talk.say("Hi").status_code == 200
    assert talk.texts() == ["Hi", f"{EIGHT_WORDS} Hi{NINE_MORE}"]


def test_an_answer_without_words_leaves_the_message_and_no_empty_answer(edge: Callable[[str], Edge]) -> None:
    talk = ChatClient(edge(CONFIG.replace("chunk_delay_s: 0", 'chunk_delay_s: 0, reply: ""')))
    for stream in (False, True):
        assert talk.say("Hi", stream=stream).status_code == 200
    assert talk.history().json["messages"] == [{"role": "user", "content": "Hi"}] * 2


def test_a_cool_assistants_answers_are_cached_and_marked(edge: Callable[[str], Edge]) -> None:
    talk = ChatClient(edge(CONFIG + "support: {temperature: 0}\n"))
    first, second = talk.say("Hi", "ann"), talk.say("Hi", "bob")
    assert "cached" not in first.json
    assert second.json["cached"] is True
    assert second.json["response"] == first.json["response"]
    assert (second.headers["x-penstock-cache"], second.headers["x-penstock-cost-usd"]) == ("hit", "0")
    assert talk.texts("bob") == talk.texts("ann")
    streamed = talk.say("Hi", "eve", stream=True)
    assert (streamed.headers["x-penstock-cache"], "[DONE]" in streamed.text) == ("hit", True)
    assert talk.texts("eve") == talk.texts("ann")


@pytest.mark.parametrize("nobody", [{}, {"user_id": None}, {"user_id": "anonymous"}])
@pytest.mark.parametrize("stream", [False, True])
def test_who_does_not_say_who_they_are_is_answered_and_not_remembered(
    talk: ChatClient, nobody: dict[str, Any], stream: bool
) -> None:
    answers = [talk.send({"message": "My name is Ann", "stream": stream, **nobody}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert stream or {answer.json["user_id"] for answer in answers} == {"anonymous"}
    assert (talk.edge.keys("penstock:history:*"), talk.texts("anonymous")) == ([], [])
    first, second = talk.edge.rows()
    assert (first["user"], second["user"]) == ("anonymous", "anonymous")
    assert first["prompt_tokens"] == second["prompt_tokens"], "the model was not told what another had said"


def test_an_older_versions_memory_of_nobody_is_hidden_and_can_be_forgotten(talk: ChatClient) -> None:
    key_id = talk.edge.services.callers.verify(KEY).key_id
    talk.send({"message": "What is my name?"})
    talk.edge.services.support._history.append(
        key_id, "anonymous", ConversationTurn("call", "My name is Ann", "Hi Ann")
    )
    assert talk.texts("anonymous") == []
    talk.send({"message": "What is my name?"})
    before, after = talk.edge.rows()
    assert before["prompt_tokens"] == after["prompt_tokens"]
    assert talk.history("anonymous", method="DELETE").status_code == 200
    assert talk.edge.keys("penstock:history:*") == []


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
def test_what_the_caller_gets_wrong(talk: ChatClient, body: Any, param: str | None) -> None:
    assert refusal(talk.send(body)) == (400, "INVALID_REQUEST", param)
    assert talk.edge.rows() == [], "what was not admitted has no row"
    assert talk.edge.keys("penstock:history:*") == []


@pytest.mark.parametrize("user", ["a/b", "a%2Fb", "a//b", "a%00b", "..%2F..", "x" * 257, "%FF", "%ED%A0%80", "%20"])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_path_that_holds_no_user_id(talk: ChatClient, user: str, method: str) -> None:
    assert refusal(talk.history(user, method=method)) == (400, "INVALID_REQUEST", "user_id")


def test_what_is_just_within_the_bounds_is_served(talk: ChatClient) -> None:
    assert talk.say("x" * 4000, "u" * 256, stream=None, unknown=1).status_code == 200
    assert talk.say("a\x00b").status_code == 200, "a NUL in a text is the model's business"


def test_wrong_types_methods_and_paths(talk: ChatClient) -> None:
    plain = talk.send(GOOD, headers={"Content-Type": "text/plain"})
    assert refusal(plain) == (415, "UNSUPPORTED_MEDIA_TYPE", None)
    http = create_app(services=talk.edge.services).test_client()
    headers = {"Authorization": f"Bearer {KEY}"}
    wrong = http.get("/v1/chat", headers=headers)
    assert (refusal(wrong), wrong.headers["Allow"]) == ((405, "INVALID_REQUEST", None), "OPTIONS, POST")
    assert refusal(http.post("/v1/chat/history/ann", headers=headers)) == (405, "INVALID_REQUEST", None)
    assert refusal(http.get("/v1/chat/history", headers=headers)) == (404, "NOT_FOUND", None)
    large = talk.send(b'{"message":"' + b"x" * 10_485_760 + b'"}')
    assert refusal(large) == (413, "REQUEST_TOO_LARGE", None)


def test_keys_that_open_nothing(talk: ChatClient) -> None:
    talk.say("Hi")
    revoked, info = talk.edge.services.keys.create("revoked")
    late = ChatClient(talk.edge, revoked)
    assert late.say("Hi").status_code == 200, "the worker remembers this key now"
    talk.edge.services.keys.revoke(info.key_id)
    for key in ("", "wrong", revoked):
        other = ChatClient(talk.edge, key)
        assert refusal(other.say("Hi")) == (401, "INVALID_API_KEY", None), key
        if key != revoked:  # a view may trust its memory for half a second
            for method in ("GET", "DELETE"):
                assert refusal(other.history(method=method)) == (401, "INVALID_API_KEY", None)


def test_a_key_without_the_assistants_model_gets_its_own_default(
    edge: Callable[[str], Edge],
) -> None:
    talk = ChatClient(edge(CONFIG))
    restricted, _ = talk.edge.services.keys.create("restricted", models=["other"])
    assert ChatClient(talk.edge, restricted).say("Hi").headers["x-penstock-model"] == "other"
    named = ChatClient(edge(CONFIG + "support: {model: m}\n"))
    restricted, _ = named.edge.services.keys.create("restricted", models=["other"])
    assert refusal(ChatClient(named.edge, restricted).say("Hi")) == (403, "FORBIDDEN", "model")


def test_limits_hold_for_the_assistant_too(edge: Callable[[str], Edge]) -> None:
    talk = ChatClient(edge(CONFIG + "plans: {two: {requests_per_minute: 2}}\n"))
    key, _ = talk.edge.services.keys.create("two", plan="two")
    limited = ChatClient(talk.edge, key)
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
    talk = ChatClient(Edge(without_redis, [], [], []))
    for response in (talk.say("Hi"), talk.say("Hi", stream=True), talk.history(), talk.history(method="DELETE")):
        assert refusal(response) == (503, "NOT_READY", None)
        assert response.headers["Retry-After"] == "1"


class _Forgetful(History):
    def append(self, *_: Any) -> None:
        raise StoreUnavailable("The limits store is not answering.")


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_cannot_be_remembered_is_given_all_the_same(talk: ChatClient, stream: bool) -> None:
    talk.edge.services.support._history = _Forgetful(
        redis=talk.edge.services.redis, max_turns=10, max_bytes=65536, ttl_s=60
    )
    response = talk.say("Hi", stream=stream)
    assert response.status_code == 200
    assert "Hi" in response.text
    assert ("[DONE]" in response.text) == stream
    assert [row["status"] for row in talk.edge.rows()] == ["ok"]
