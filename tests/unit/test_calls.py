"""A call from admission to its row, on a clock that the test moves: what it took, what it is charged, what is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.api.headers import call_headers
from app.domain.charges import ChargedAttempt
from app.domain.usage import Usage
from app.errors import (
    BudgetExceeded,
    ClientGone,
    Forbidden,
    RateLimited,
    UpstreamError,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from app.gateway.heartbeat import QUEUE, reservations_of
from tests.support.calls import CALLER, POOR, House, chat, embeddings


def only_row(house: House) -> dict[str, Any]:
    [row] = house.rows()
    return row


def has(row: dict[str, Any], **expected: Any) -> None:
    assert {name: row[name] for name in expected} == expected


# --- how long it took


def test_a_calls_latency_is_the_time_it_took_in_row_header_metric_and_log(house: House) -> None:
    house.vendors["up"].takes_s = 2.5
    with capture_logs() as logs:
        reply = house.pipeline.chat(CALLER, chat(), house.context())
    has(only_row(house), latency_ms=2500.0, ttft_ms=None)
    assert reply.report.latency_ms == 2500
    assert dict(call_headers(reply.report))["openai-processing-ms"] == "2500"
    assert house.metric("llm_request_duration_seconds_sum", model="m", provider="up") == 2.5
    assert house.metric("llm_request_duration_seconds_count", model="m", provider="up") == 1
    [told] = [log for log in logs if log["event"] == "llm_request_completed"]
    assert told["latency_ms"] == 2500


def test_a_streams_first_chunk_and_its_end_are_timed_from_its_beginning(house: House) -> None:
    vendor = house.vendors["up"]
    vendor.takes_s, vendor.blocks, vendor.pause_s = 0.75, [b"data: {}\n\n"] * 5, 0.25
    stream = house.pipeline.stream(CALLER, chat(stream=True), house.context())
    assert stream.report.latency_ms == 750, "what the headers say is the time until then"
    with capture_logs() as logs:
        assert b"".join(stream) == b"data: {}\n\n" * 5
    has(only_row(house), ttft_ms=750.0, latency_ms=2000.0, streamed=True)
    assert house.metric("llm_time_to_first_token_seconds_sum", model="m") == 0.75
    assert house.metric("llm_request_duration_seconds_sum", model="m", provider="up") == 2.0
    assert [log["latency_ms"] for log in logs if log["event"] == "llm_request_completed"] == [2000]


def test_a_call_that_fails_or_is_given_up_took_as_long_as_it_took(house: House) -> None:
    vendor = house.vendors["up"]
    vendor.takes_s = 3.0
    for number, failure in enumerate((UpstreamRejected("no", provider="up", kind="rejected"), ClientGone("gone"))):
        vendor.fails = [failure]
        with capture_logs() as logs, pytest.raises(type(failure)):
            house.pipeline.chat(CALLER, chat(), house.context())
        has(house.rows()[number], latency_ms=3000.0, ttft_ms=None)
        assert [log["latency_ms"] for log in logs if log["event"] == "llm_request_failed"] == [3000]
    assert house.metric("llm_request_duration_seconds_sum", model="m", provider="up") == 6.0


def test_embeddings_and_answers_from_the_cache_are_timed_too(house: House) -> None:
    house.vendors["up"].takes_s = 1.5
    house.pipeline.embed(CALLER, embeddings(), house.context())
    house.pipeline.chat(CALLER, chat(temperature=0), house.context())
    house.pipeline.chat(CALLER, chat(temperature=0), house.context())
    assert [(row["endpoint"], row["cache"], row["latency_ms"]) for row in house.rows()] == [
        ("embeddings", "bypass", 1500.0),
        ("chat.completions", "miss", 1500.0),
        ("chat.completions", "hit", 0.0),
    ]


def test_a_job_is_timed_from_when_it_runs(house: House) -> None:
    house.vendors["up"].takes_s = 1.5
    held = house.pipeline.defer(CALLER, chat(), house.context(), for_s=600)
    house.clock.step(40)
    house.pipeline.resume(CALLER, chat(), held, house.context().cancel, stays_open=lambda _: False)
    has(only_row(house), latency_ms=1500.0, job_id="call_1")


# --- what its row says


def test_a_row_says_what_was_asked_for_who_answered_and_what_it_cost(house: House) -> None:
    house.vendors["up"].usage = Usage(100, 50, cached_tokens=40, reasoning_tokens=10)
    began = house.clock.wall()
    house.vendors["up"].takes_s = 1.0
    context = house.context(notes=(("route", "code"), ("optimized", "trimmed")))
    reply = house.pipeline.chat(CALLER, chat(user="ann"), context)
    cost = 60 * 1000 + 40 * 250 + 40 * 2000 + 10 * 3000
    has(
        only_row(house),
        request_id="req_1",
        call_id="call_1",
        ts=began,
        key_id="key_1",
        user="ann",
        tenant="acme",
        model="m",
        provider="up",
        upstream_model="up-1",
        endpoint="chat.completions",
        status="ok",
        http_status=200,
        prompt_tokens=100,
        completion_tokens=50,
        cached_tokens=40,
        reasoning_tokens=10,
        cost_nanousd=cost,
        attempts=1,
        cache="bypass",
        streamed=False,
        estimated=False,
        unpriced=False,
        job_id=None,
        tags="route=code optimized=trimmed",
    )
    assert reply.body == house.vendors["up"].body
    report = reply.report
    assert (report.model, report.provider, report.cache, report.attempts) == ("m", "up", "bypass", 1)
    assert (report.cost_nanousd, report.notes) == (cost, context.notes)


def test_what_a_call_was_is_counted_in_the_metrics(house: House) -> None:
    house.vendors["up"].usage = Usage(100, 50, cached_tokens=40, reasoning_tokens=10)
    house.vendors["up"].meanwhile = lambda: during.append(house.metric("llm_active_requests"))
    during: list[float] = []
    house.pipeline.chat(CALLER, chat(), house.context())
    assert (during, house.metric("llm_active_requests")) == ([1], 0)
    assert house.metric("llm_requests_total", model="m", provider="up", status="ok") == 1
    kinds = {"prompt": 100, "completion": 50, "cached": 40, "reasoning": 10}
    assert {kind: house.metric("llm_tokens_total", model="m", kind=kind) for kind in kinds} == kinds
    assert house.metric("llm_cost_usd_total", model="m", provider="up") == pytest.approx(0.00018)
    assert house.metric("llm_cost_per_request_usd_sum", model="m") == pytest.approx(0.00018)
    assert house.metric("llm_cache_requests_total", result="bypass") == 1


def test_an_answer_without_usage_is_estimated_from_both_texts(house: House) -> None:
    vendor = house.vendors["up"]
    vendor.usage, vendor.text_bytes = None, 81
    request = chat()
    house.pipeline.chat(CALLER, request, house.context())
    prompt = request.estimate_prompt_tokens_closely()
    has(only_row(house), prompt_tokens=prompt, completion_tokens=20, estimated=True, unpriced=False)

    vendor.blocks = [b"x" * 40, b"y" * 43]
    list(house.pipeline.stream(CALLER, chat(), house.context()))
    vendor.blocks = [b"x"] * 30
    list(house.pipeline.stream(CALLER, chat(), house.context()))
    assert [row["completion_tokens"] for row in house.rows()[1:]] == [20, 30], "by the text's length, or by its chunks"


def test_a_stream_that_the_client_gives_up_is_charged_for_what_came(house: House) -> None:
    vendor = house.vendors["up"]
    vendor.blocks = [b"0123"] * 9
    request = chat(stream=True)
    stream = house.pipeline.stream(CALLER, request, house.context())
    assert next(iter(stream)) == b"0123"
    stream.close()
    stream.close()
    prompt = request.estimate_prompt_tokens_closely()
    has(
        only_row(house),
        status="aborted",
        http_status=499,
        prompt_tokens=prompt,
        completion_tokens=1,
        estimated=True,
        cost_nanousd=prompt * 1000 + 2000,
    )
    assert vendor.streams[0].closed > 0
    assert house.counted("tokens_per_day") == prompt + 1
    assert house.metric("llm_active_requests") == 0


def test_a_refused_call_costs_nothing_and_says_so(house: House) -> None:
    house.vendors["up"].fails = [UpstreamRejected("no", provider="up", kind="rejected")]
    with capture_logs() as logs, pytest.raises(UpstreamRejected):
        house.pipeline.chat(CALLER, chat(), house.context())
    has(
        only_row(house),
        status="error",
        http_status=400,
        prompt_tokens=0,
        completion_tokens=0,
        cost_nanousd=0,
        provider="up",
        attempts=1,
        unpriced=False,
    )
    assert (house.counted("tokens_per_day"), house.counted("requests_per_day")) == (0, 1)
    assert house.metric("llm_requests_total", model="m", provider="up", status="error") == 1
    [told] = [log for log in logs if log["event"] == "llm_request_failed"]
    assert (told["code"], told["status"], told["log_level"]) == ("INVALID_REQUEST", "error", "warning")


def test_a_bug_leaves_a_row_with_the_possible_bill_and_nothing_reserved(house: House) -> None:
    house.vendors["up"].fails = [ZeroDivisionError()]
    request = chat(max_tokens=9)
    with pytest.raises(ZeroDivisionError):
        house.pipeline.chat(CALLER, request, house.context())
    prompt = request.estimate_prompt_tokens_closely()
    has(
        only_row(house),
        status="error",
        http_status=500,
        prompt_tokens=prompt,
        completion_tokens=9,
        estimated=True,
        cost_nanousd=prompt * 1000 + 9 * 2000,
    )
    assert [attempt[:3] for attempt in only_row(house)["charged_attempts"]] == [["up", "up-1", "interrupted"]]
    assert house.counted("tokens_per_day") == prompt + 9
    assert house.metric("llm_active_requests") == 0
    assert house.lose() == 0


def test_a_fallbacks_price_is_what_is_charged_and_its_name_what_is_told(house: House) -> None:
    house.vendors["up"].fails = [UpstreamUnavailable("down", provider="up", kind="status_5xx")]
    reply = house.pipeline.chat(CALLER, chat("safe"), house.context())
    assert (reply.report.provider, reply.report.attempts) == ("dear", 2)
    row = only_row(house)
    has(row, provider="dear", upstream_model="safe", attempts=2, model="safe")
    assert row["cost_nanousd"] >= 10 * 5000 + 20 * 50_000


def test_a_price_that_nobody_knows_is_flagged(house: House) -> None:
    house.pipeline.chat(CALLER, chat("unknown"), house.context())
    has(only_row(house), unpriced=True, cost_nanousd=0, prompt_tokens=10)


# --- what is reserved while it runs


def test_while_a_call_runs_its_tokens_are_reserved_as_likely(house: House) -> None:
    vendor = house.vendors["up"]
    seen: list[int] = []
    vendor.meanwhile = lambda: seen.append(house.counted("tokens_per_day"))
    requests = [chat(), chat(max_tokens=7), chat(max_tokens=7, n=3), chat(n=2), embeddings()]
    for request in requests:
        run: Callable[..., Any] = house.pipeline.embed if request is requests[-1] else house.pipeline.chat
        run(CALLER, request, house.context())
    prompts = [len(request.raw) // 4 + 1 for request in requests]
    before = [30 * number for number in range(5)]
    reserved = [now - settled for now, settled in zip(seen, before, strict=True)]
    assert [now - prompt for now, prompt in zip(reserved, prompts, strict=True)] == [512, 7, 21, 1024, 0]
    assert (house.counted("tokens_per_day"), house.counted("requests_per_day")) == (150, 5)


def test_while_a_call_runs_a_budget_holds_its_most_at_the_dearest_target(house: House) -> None:
    """The bytes of the body are the most tokens that its prompt can have, and 8 a message for the template."""
    seen: list[int] = []
    house.vendors["up"].meanwhile = lambda: seen.append(house.counted("budget_usd_per_month"))
    asked = [chat("safe"), chat("safe", max_tokens=50), chat("safe", max_tokens=50, n=2), chat("m", max_tokens=50)]
    spent = 0
    for request, bound, prompt_rate, rate in zip(
        asked, (100, 50, 100, 50), (5000, 5000, 5000, 1000), (50_000, 50_000, 50_000, 3000), strict=True
    ):
        house.pipeline.chat(POOR, request, house.context())
        prompt = len(request.canonical().raw) + 8
        assert seen.pop() - spent == prompt * prompt_rate + bound * rate
        assert house.counted("budget_usd_per_month") - spent == 10 * 1000 + 20 * 2000
        spent = house.counted("budget_usd_per_month")


def test_under_a_budget_an_unknown_price_is_refused_before_any_call(house: House) -> None:
    for model in ("unknown", "half-known"):
        with pytest.raises(Forbidden) as refusal:
            house.pipeline.chat(POOR, chat(model), house.context())
        assert refusal.value.param == "model"
    assert house.rows() == []
    assert not any(vendor.calls for vendor in house.vendors.values())
    assert house.metric("llm_active_requests") == 0


def test_a_worker_that_dies_leaves_a_row_as_likely(house: House) -> None:
    began = house.clock.wall()
    house.vendors["up"].meanwhile = house.lose
    house.vendors["up"].fails = [KeyboardInterrupt()]  # what it does afterwards only corrects this row
    request = chat(max_tokens=9, user="ann", stream=True)
    context = house.context(notes=(("route", "code"),))
    with pytest.raises(KeyboardInterrupt):
        house.pipeline.stream(CALLER, request, context)
    prompt = len(request.raw) // 4 + 1
    has(
        house.rows()[0],
        request_id="req_1",
        call_id="call_1",
        ts=began,
        key_id="key_1",
        user="ann",
        tenant="acme",
        model="m",
        provider="",
        upstream_model="",
        endpoint="chat.completions",
        status="lost",
        http_status=0,
        prompt_tokens=prompt,
        completion_tokens=9,
        cached_tokens=0,
        reasoning_tokens=0,
        cost_nanousd=prompt * 1000 + 9 * 2000,
        latency_ms=0.0,
        ttft_ms=None,
        attempts=0,
        cache="bypass",
        streamed=True,
        estimated=True,
        unpriced=False,
        job_id=None,
        tags="route=code",
    )


def test_a_call_has_the_configured_time_and_its_reservation_a_little_more(house: House) -> None:
    vendor = house.vendors["up"]
    vendor.meanwhile = lambda: open_until.append(_latest_deadline(house))
    open_until: list[float] = []
    began, began_wall = house.clock.monotonic(), float(house.redis.execute("TIME")[0])
    house.pipeline.chat(CALLER, chat(), house.context())
    assert vendor.calls[0].deadline == began + 30
    assert open_until[0] / 1000 - began_wall == pytest.approx(35, abs=2)


def _latest_deadline(house: House) -> float:
    keys = house.redis.execute("KEYS", "penstock:reservations:*")
    return max(float(house.redis.execute("ZRANGE", key, 0, -1, "WITHSCORES")[1]) for key in keys)


# --- limits, as the pipeline tells of them


def test_a_refusal_is_counted_by_its_limit_and_asks_nobody(house: House) -> None:
    with pytest.raises(RateLimited) as refusal:
        house.pipeline.chat(CALLER, chat(n=128, max_tokens=1000), house.context())
    assert refusal.value.limit == "tokens_per_day"
    assert [row.left for row in refusal.value.remaining if row.unit == "tokens"] == [100_000]
    assert house.metric("llm_rate_limited_total", limit="tokens_per_day") == 1
    assert (house.rows(), house.vendors["up"].calls, house.metric("llm_active_requests")) == ([], [], 0)


def test_a_budget_of_which_less_than_a_fifth_is_left_is_counted(house: House) -> None:
    house.pipeline.chat(POOR, chat(max_tokens=1), house.context())
    assert house.metric("llm_budget_near_total", plan="poor") == 0
    [key] = house.redis.execute("KEYS", "penstock:limit:key_1:budget*")
    house.redis.execute("SET", key, 800_000_000)
    house.pipeline.chat(POOR, chat(max_tokens=1), house.context())
    assert house.metric("llm_budget_near_total", plan="poor") == 1
    house.redis.execute("SET", key, 999_990_000)
    with pytest.raises(BudgetExceeded):
        house.pipeline.chat(POOR, chat(max_tokens=1000), house.context())


def test_a_call_has_its_slot_until_it_is_settled(house: House) -> None:
    seen: list[int] = []
    house.vendors["up"].meanwhile = lambda: seen.append(house.redis.execute("ZCARD", "penstock:running:key_1"))
    house.pipeline.chat(CALLER, chat(), house.context())
    assert (seen, house.redis.execute("ZCARD", "penstock:running:key_1")) == ([1], 0)


# --- calls that run later


def test_a_held_call_runs_once_with_what_it_reserved_then(house: House) -> None:
    request = chat(max_tokens=9)
    held = house.pipeline.defer(CALLER, request, house.context(), for_s=600)
    assert house.counted("tokens_per_day") == len(request.raw) // 4 + 1 + 9
    assert house.redis.execute("ZCARD", "penstock:running:key_1") == 0, "it does not run yet"
    assert house.rows() == []
    again = type(held).decode(held.encode())
    assert again == held
    reply = house.pipeline.resume(CALLER, request, again, house.context().cancel, stays_open=lambda _: False)
    assert reply.body == house.vendors["up"].body
    assert (house.counted("tokens_per_day"), house.counted("requests_per_day")) == (30, 1)
    has(only_row(house), job_id="call_1", request_id="req_1", call_id="call_1", status="ok", cache="bypass")
    assert house.metric("llm_active_requests") == 0
    assert house.lose() == 0


def test_a_deferred_call_that_will_not_run_gives_back_all_but_its_request(house: House) -> None:
    held = house.pipeline.defer(CALLER, chat(), house.context(), for_s=600)
    house.pipeline.abandon(held, "aborted", 499)
    has(
        only_row(house),
        status="aborted",
        http_status=499,
        prompt_tokens=0,
        completion_tokens=0,
        cost_nanousd=0,
        estimated=False,
        job_id="call_1",
    )
    assert (house.counted("tokens_per_day"), house.counted("requests_per_day")) == (0, 1)
    assert house.metric("llm_requests_total", model="m", provider="cache", status="aborted") == 1


def test_a_held_call_that_is_to_be_tried_again_stays_open(house: House) -> None:
    request = chat()
    held = house.pipeline.defer(CALLER, request, house.context(), for_s=600)
    down = UpstreamUnavailable("down", provider="up", kind="status_5xx")
    house.vendors["up"].fails = [down, down]
    with pytest.raises(UpstreamError):
        house.pipeline.resume(CALLER, request, held, house.context().cancel, stays_open=lambda exc: exc is down)
    assert (house.rows(), house.metric("llm_active_requests")) == ([], 0)
    house.vendors["up"].fails = [down, down]
    with pytest.raises(UpstreamError):
        house.pipeline.resume(CALLER, request, held, house.context().cancel, stays_open=lambda _: False)
    has(only_row(house), status="error", http_status=503)


def test_a_held_call_is_lost_only_after_its_time(house: House) -> None:
    house.pipeline.defer(CALLER, chat(), house.context(), for_s=7200, reservations=reservations_of(QUEUE))
    assert house.lose() == 0
    assert house.lose() == 1
    has(only_row(house), status="lost", job_id="call_1")


def test_a_held_calls_answer_may_come_from_the_cache_and_go_there(house: House) -> None:
    request = chat(temperature=0)
    replies = []
    for _ in range(2):
        held = house.pipeline.defer(CALLER, request, house.context(), for_s=600)
        replies.append(house.pipeline.resume(CALLER, request, held, house.context().cancel, stays_open=lambda _: False))
    assert [reply.report.cache for reply in replies] == ["miss", "hit"]
    assert [row["cache"] for row in house.rows()] == ["miss", "hit"]
    assert len(house.vendors["up"].calls) == 1
    held = house.pipeline.defer(CALLER, request, house.context(read_cache=False), for_s=600)
    reply = house.pipeline.resume(CALLER, request, held, house.context().cancel, stays_open=lambda _: False)
    assert reply.report.cache == "bypass"


# --- attempts that gave no answer


def test_an_attempt_that_may_be_billed_is_charged_beside_the_answer(house: House) -> None:
    house.vendors["up"].fails = [UpstreamTimeout("slow", provider="up", kind="timeout_first_byte", billable=True)]
    request = chat("safe", max_tokens=9)
    house.pipeline.chat(CALLER, request, house.context())
    prompt = request.estimate_prompt_tokens_closely()
    row = only_row(house)
    lost_cost, cost = prompt * 1000 + 9 * 2000, 10 * 5000 + 20 * 50_000
    assert [ChargedAttempt(*attempt) for attempt in row["charged_attempts"]] == [
        ChargedAttempt("up", "safe", "timeout_first_byte", prompt, 9, lost_cost, True),
        ChargedAttempt("dear", "safe", "ok", 10, 20, cost, False),
    ]
    has(
        row,
        status="ok",
        provider="dear",
        attempts=2,
        estimated=True,
        prompt_tokens=prompt + 10,
        completion_tokens=29,
        cost_nanousd=lost_cost + cost,
    )
    assert house.counted("tokens_per_day") == prompt + 10 + 29


def test_an_attempt_that_was_refused_costs_nothing_and_is_not_noted(house: House) -> None:
    house.vendors["up"].fails = [UpstreamUnavailable("down", provider="up", kind="status_5xx")]
    house.pipeline.chat(CALLER, chat("safe"), house.context())
    row = only_row(house)
    has(row, estimated=False, cost_nanousd=10 * 5000 + 20 * 50_000, prompt_tokens=10)
    assert not row.get("charged_attempts")


def test_a_client_that_hangs_up_on_a_provider_at_work_pays_for_it(house: House) -> None:
    request = chat(max_tokens=9)
    for billable in (True, False):
        house.vendors["up"].fails = [ClientGone("gone", billable=billable)]
        with pytest.raises(ClientGone):
            house.pipeline.chat(CALLER, request, house.context())
    paid, free = house.rows()
    prompt = request.estimate_prompt_tokens_closely()
    has(
        paid,
        status="aborted",
        http_status=499,
        prompt_tokens=prompt,
        completion_tokens=9,
        estimated=True,
        cost_nanousd=prompt * 1000 + 9 * 2000,
    )
    assert [attempt[:3] for attempt in paid["charged_attempts"]] == [["up", "up-1", "client_gone"]]
    has(free, status="aborted", http_status=499, prompt_tokens=0, completion_tokens=0, cost_nanousd=0)


def test_a_job_pays_for_every_time_that_a_provider_worked_in_vain(house: House) -> None:
    request = chat(max_tokens=9)
    held = house.pipeline.defer(CALLER, request, house.context(), for_s=600)
    slow = UpstreamTimeout("slow", provider="up", kind="timeout_first_byte", billable=True)
    house.vendors["up"].fails = [slow]
    with pytest.raises(UpstreamTimeout):
        house.pipeline.resume(CALLER, request, held, house.context().cancel, stays_open=lambda _: True)
    assert house.rows() == []
    again = type(held).decode(held.encode())
    house.pipeline.resume(CALLER, request, again, house.context().cancel, stays_open=lambda _: False)
    prompt = request.estimate_prompt_tokens_closely()
    has(only_row(house), status="ok", prompt_tokens=prompt + 10, completion_tokens=29, estimated=True)
    assert [attempt[2] for attempt in only_row(house)["charged_attempts"]] == ["timeout_first_byte", "ok"]

    held = house.pipeline.defer(CALLER, request, house.context(), for_s=600)
    house.vendors["up"].fails = [slow]
    with pytest.raises(UpstreamTimeout):
        house.pipeline.resume(CALLER, request, held, house.context().cancel, stays_open=lambda _: True)
    house.pipeline.abandon(held, "error", 504)
    has(
        house.rows()[1],
        status="error",
        http_status=504,
        prompt_tokens=prompt,
        completion_tokens=9,
        estimated=True,
        cost_nanousd=prompt * 1000 + 9 * 2000,
    )
    assert [attempt[2] for attempt in house.rows()[1]["charged_attempts"]] == ["timeout_first_byte"]
    assert house.counted("tokens_per_day") == 2 * (prompt + 9) + 30


def test_an_answer_from_the_cache_has_no_provider_and_costs_nothing(house: House) -> None:
    paid = house.pipeline.chat(CALLER, chat(temperature=0), house.context())
    free = house.pipeline.chat(CALLER, chat(temperature=0), house.context())
    row = house.rows()[1]
    own = {"id": f"chatcmpl-{row['call_id']}", "created": int(row["ts"]), "cached": True}
    assert json.loads(free.body) == {**json.loads(paid.body), **own}
    has(
        house.rows()[1],
        provider="cache",
        upstream_model="",
        status="ok",
        http_status=200,
        prompt_tokens=0,
        completion_tokens=0,
        cost_nanousd=0,
        attempts=0,
        cache="hit",
        estimated=False,
        unpriced=False,
    )
    report = free.report
    assert (report.provider, report.cache, report.attempts, report.cost_nanousd) == ("cache", "hit", 0, 0)
    assert house.metric("llm_cache_requests_total", result="hit") == 1
    assert house.metric("llm_requests_total", model="m", provider="cache", status="ok") == 1
