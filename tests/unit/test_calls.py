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
from tests.support.calls import CALLER, POOR, PipelineHarness, chat, embeddings


def only_row(harness: PipelineHarness) -> dict[str, Any]:
    [row] = harness.rows()
    return row


def assert_row_has(row: dict[str, Any], **expected: Any) -> None:
    assert {name: row[name] for name in expected} == expected


# --- how long it took


def test_a_calls_latency_is_the_time_it_took_in_row_header_metric_and_log(harness: PipelineHarness) -> None:
    harness.vendors["up"].takes_s = 2.5
    with capture_logs() as logs:
        reply = harness.pipeline.chat(CALLER, chat(), harness.context())
    assert_row_has(only_row(harness), latency_ms=2500.0, ttft_ms=None)
    assert reply.report.latency_ms == 2500
    assert dict(call_headers(reply.report))["openai-processing-ms"] == "2500"
    assert harness.metric("llm_request_duration_seconds_sum", model="m", provider="up") == 2.5
    assert harness.metric("llm_request_duration_seconds_count", model="m", provider="up") == 1
    [told] = [log for log in logs if log["event"] == "llm_request_completed"]
    assert told["latency_ms"] == 2500


def test_a_streams_first_chunk_and_its_end_are_timed_from_its_beginning(harness: PipelineHarness) -> None:
    vendor = harness.vendors["up"]
    vendor.takes_s, vendor.blocks, vendor.pause_s = 0.75, [b"data: {}\n\n"] * 5, 0.25
    stream = harness.pipeline.stream(CALLER, chat(stream=True), harness.context())
    assert stream.report.latency_ms == 750, "what the headers say is the time until then"
    with capture_logs() as logs:
        assert b"".join(stream) == b"data: {}\n\n" * 5
    assert_row_has(only_row(harness), ttft_ms=750.0, latency_ms=2000.0, streamed=True)
    assert harness.metric("llm_time_to_first_token_seconds_sum", model="m") == 0.75
    assert harness.metric("llm_request_duration_seconds_sum", model="m", provider="up") == 2.0
    assert [log["latency_ms"] for log in logs if log["event"] == "llm_request_completed"] == [2000]


def test_a_call_that_fails_or_is_given_up_took_as_long_as_it_took(harness: PipelineHarness) -> None:
    vendor = harness.vendors["up"]
    vendor.takes_s = 3.0
    for number, failure in enumerate((UpstreamRejected("no", provider="up", kind="rejected"), ClientGone("gone"))):
        vendor.fails = [failure]
        with capture_logs() as logs, pytest.raises(type(failure)):
            harness.pipeline.chat(CALLER, chat(), harness.context())
        assert_row_has(harness.rows()[number], latency_ms=3000.0, ttft_ms=None)
        assert [log["latency_ms"] for log in logs if log["event"] == "llm_request_failed"] == [3000]
    assert harness.metric("llm_request_duration_seconds_sum", model="m", provider="up") == 6.0


def test_embeddings_and_answers_from_the_cache_are_timed_too(harness: PipelineHarness) -> None:
    harness.vendors["up"].takes_s = 1.5
    harness.pipeline.embed(CALLER, embeddings(), harness.context())
    harness.pipeline.chat(CALLER, chat(temperature=0), harness.context())
    harness.pipeline.chat(CALLER, chat(temperature=0), harness.context())
    assert [(row["endpoint"], row["cache"], row["latency_ms"]) for row in harness.rows()] == [
        ("embeddings", "bypass", 1500.0),
        ("chat.completions", "miss", 1500.0),
        ("chat.completions", "hit", 0.0),
    ]


def test_a_job_is_timed_from_when_it_runs(harness: PipelineHarness) -> None:
    harness.vendors["up"].takes_s = 1.5
    held = harness.pipeline.defer(CALLER, chat(), harness.context(), for_s=600)
    harness.clock.step(40)
    harness.pipeline.resume(CALLER, chat(), held, harness.context().cancel, stays_open=lambda _: False)
    assert_row_has(only_row(harness), latency_ms=1500.0, job_id="call_1")


# --- what its row says


def test_a_row_says_what_was_asked_for_who_answered_and_what_it_cost(harness: PipelineHarness) -> None:
    harness.vendors["up"].usage = Usage(100, 50, cached_tokens=40, reasoning_tokens=10)
    began = harness.clock.wall()
    harness.vendors["up"].takes_s = 1.0
    context = harness.context(notes=(("route", "code"), ("optimized", "trimmed")))
    reply = harness.pipeline.chat(CALLER, chat(user="ann"), context)
    cost = 60 * 1000 + 40 * 250 + 40 * 2000 + 10 * 3000
    assert_row_has(
        only_row(harness),
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
    assert reply.body == harness.vendors["up"].body
    report = reply.report
    assert (report.model, report.provider, report.cache, report.attempts) == ("m", "up", "bypass", 1)
    assert (report.cost_nanousd, report.notes) == (cost, context.notes)


def test_what_a_call_was_is_counted_in_the_metrics(harness: PipelineHarness) -> None:
    harness.vendors["up"].usage = Usage(100, 50, cached_tokens=40, reasoning_tokens=10)
    harness.vendors["up"].meanwhile = lambda: during.append(harness.metric("llm_active_requests"))
    during: list[float] = []
    harness.pipeline.chat(CALLER, chat(), harness.context())
    assert (during, harness.metric("llm_active_requests")) == ([1], 0)
    assert harness.metric("llm_requests_total", model="m", provider="up", status="ok") == 1
    kinds = {"prompt": 100, "completion": 50, "cached": 40, "reasoning": 10}
    assert {kind: harness.metric("llm_tokens_total", model="m", kind=kind) for kind in kinds} == kinds
    assert harness.metric("llm_cost_usd_total", model="m", provider="up") == pytest.approx(0.00018)
    assert harness.metric("llm_cost_per_request_usd_sum", model="m") == pytest.approx(0.00018)
    assert harness.metric("llm_cache_requests_total", result="bypass") == 1


def test_an_answer_without_usage_is_estimated_from_both_texts(harness: PipelineHarness) -> None:
    vendor = harness.vendors["up"]
    vendor.usage, vendor.text_bytes = None, 81
    request = chat()
    harness.pipeline.chat(CALLER, request, harness.context())
    prompt = request.estimate_prompt_tokens_closely()
    assert_row_has(only_row(harness), prompt_tokens=prompt, completion_tokens=20, estimated=True, unpriced=False)

    vendor.blocks = [b"x" * 40, b"y" * 43]
    list(harness.pipeline.stream(CALLER, chat(), harness.context()))
    vendor.blocks = [b"x"] * 30
    list(harness.pipeline.stream(CALLER, chat(), harness.context()))
    assert [row["completion_tokens"] for row in harness.rows()[1:]] == [20, 30], (
        "by the text's length, or by its chunks"
    )


def test_a_stream_that_the_client_gives_up_is_charged_for_what_came(harness: PipelineHarness) -> None:
    vendor = harness.vendors["up"]
    vendor.blocks = [b"0123"] * 9
    request = chat(stream=True)
    stream = harness.pipeline.stream(CALLER, request, harness.context())
    assert next(iter(stream)) == b"0123"
    stream.close()
    stream.close()
    prompt = request.estimate_prompt_tokens_closely()
    assert_row_has(
        only_row(harness),
        status="aborted",
        http_status=499,
        prompt_tokens=prompt,
        completion_tokens=1,
        estimated=True,
        cost_nanousd=prompt * 1000 + 2000,
    )
    assert vendor.streams[0].closed > 0
    assert harness.counted("tokens_per_day") == prompt + 1
    assert harness.metric("llm_active_requests") == 0


def test_a_refused_call_costs_nothing_and_says_so(harness: PipelineHarness) -> None:
    harness.vendors["up"].fails = [UpstreamRejected("no", provider="up", kind="rejected")]
    with capture_logs() as logs, pytest.raises(UpstreamRejected):
        harness.pipeline.chat(CALLER, chat(), harness.context())
    assert_row_has(
        only_row(harness),
        status="error",
        http_status=400,
        prompt_tokens=0,
        completion_tokens=0,
        cost_nanousd=0,
        provider="up",
        attempts=1,
        unpriced=False,
    )
    assert (harness.counted("tokens_per_day"), harness.counted("requests_per_day")) == (0, 1)
    assert harness.metric("llm_requests_total", model="m", provider="up", status="error") == 1
    [told] = [log for log in logs if log["event"] == "llm_request_failed"]
    assert (told["code"], told["status"], told["log_level"]) == ("INVALID_REQUEST", "error", "warning")


def test_a_bug_leaves_a_row_with_the_possible_bill_and_nothing_reserved(harness: PipelineHarness) -> None:
    harness.vendors["up"].fails = [ZeroDivisionError()]
    request = chat(max_tokens=9)
    with pytest.raises(ZeroDivisionError):
        harness.pipeline.chat(CALLER, request, harness.context())
    prompt = request.estimate_prompt_tokens_closely()
    assert_row_has(
        only_row(harness),
        status="error",
        http_status=500,
        prompt_tokens=prompt,
        completion_tokens=9,
        estimated=True,
        cost_nanousd=prompt * 1000 + 9 * 2000,
    )
    assert [attempt[:3] for attempt in only_row(harness)["charged_attempts"]] == [["up", "up-1", "interrupted"]]
    assert harness.counted("tokens_per_day") == prompt + 9
    assert harness.metric("llm_active_requests") == 0
    assert harness.lose() == 0


def test_a_fallbacks_price_is_what_is_charged_and_its_name_what_is_told(harness: PipelineHarness) -> None:
    harness.vendors["up"].fails = [UpstreamUnavailable("down", provider="up", kind="status_5xx")]
    reply = harness.pipeline.chat(CALLER, chat("safe"), harness.context())
    assert (reply.report.provider, reply.report.attempts) == ("dear", 2)
    row = only_row(harness)
    assert_row_has(row, provider="dear", upstream_model="safe", attempts=2, model="safe")
    assert row["cost_nanousd"] >= 10 * 5000 + 20 * 50_000


def test_a_price_that_nobody_knows_is_flagged(harness: PipelineHarness) -> None:
    harness.pipeline.chat(CALLER, chat("unknown"), harness.context())
    assert_row_has(only_row(harness), unpriced=True, cost_nanousd=0, prompt_tokens=10)


# --- what is reserved while it runs


def test_while_a_call_runs_its_tokens_are_reserved_as_likely(harness: PipelineHarness) -> None:
    vendor = harness.vendors["up"]
    seen: list[int] = []
    vendor.meanwhile = lambda: seen.append(harness.counted("tokens_per_day"))
    requests: list[Any] = [chat(), chat(max_tokens=7), chat(max_tokens=7, n=3), chat(n=2), embeddings()]
    for request in requests:
        run: Callable[..., Any] = harness.pipeline.embed if request is requests[-1] else harness.pipeline.chat
        run(CALLER, request, harness.context())
    prompts = [len(request.raw) // 4 + 1 for request in requests]
    before = [30 * number for number in range(5)]
    reserved = [now - settled for now, settled in zip(seen, before, strict=True)]
    assert [now - prompt for now, prompt in zip(reserved, prompts, strict=True)] == [512, 7, 21, 1024, 0]
    assert (harness.counted("tokens_per_day"), harness.counted("requests_per_day")) == (150, 5)


def test_while_a_call_runs_a_budget_holds_its_most_at_the_dearest_target(harness: PipelineHarness) -> None:
    """The bytes of the body are the most tokens that its prompt can have, and 8 a message for the template."""
    seen: list[int] = []
    harness.vendors["up"].meanwhile = lambda: seen.append(harness.counted("budget_usd_per_month"))
    asked = [chat("safe"), chat("safe", max_tokens=50), chat("safe", max_tokens=50, n=2), chat("m", max_tokens=50)]
    spent = 0
    for request, bound, prompt_rate, rate in zip(
        asked, (100, 50, 100, 50), (5000, 5000, 5000, 1000), (50_000, 50_000, 50_000, 3000), strict=True
    ):
        harness.pipeline.chat(POOR, request, harness.context())
        prompt = len(request.canonical().raw) + 8
        assert seen.pop() - spent == prompt * prompt_rate + bound * rate
        assert harness.counted("budget_usd_per_month") - spent == 10 * 1000 + 20 * 2000
        spent = harness.counted("budget_usd_per_month")


def test_under_a_budget_an_unknown_price_is_refused_before_any_call(harness: PipelineHarness) -> None:
    for model in ("unknown", "half-known"):
        with pytest.raises(Forbidden) as refusal:
            harness.pipeline.chat(POOR, chat(model), harness.context())
        assert refusal.value.param == "model"
    assert harness.rows() == []
    assert not any(vendor.calls for vendor in harness.vendors.values())
    assert harness.metric("llm_active_requests") == 0


def test_a_worker_that_dies_leaves_a_row_as_likely(harness: PipelineHarness) -> None:
    began = harness.clock.wall()
    harness.vendors["up"].meanwhile = harness.lose
    harness.vendors["up"].fails = [KeyboardInterrupt()]  # what it does afterwards only corrects this row
    request = chat(max_tokens=9, user="ann", stream=True)
    context = harness.context(notes=(("route", "code"),))
    with pytest.raises(KeyboardInterrupt):
        harness.pipeline.stream(CALLER, request, context)
    prompt = len(request.raw) // 4 + 1
    assert_row_has(
        harness.rows()[0],
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


def test_a_call_has_the_configured_time_and_its_reservation_a_little_more(harness: PipelineHarness) -> None:
    vendor = harness.vendors["up"]
    vendor.meanwhile = lambda: open_until.append(_latest_deadline(harness))
    open_until: list[float] = []
    began, began_wall = harness.clock.monotonic(), float(harness.redis.execute("TIME")[0])
    harness.pipeline.chat(CALLER, chat(), harness.context())
    assert vendor.calls[0].deadline == began + 30
    assert open_until[0] / 1000 - began_wall == pytest.approx(35, abs=2)


def _latest_deadline(harness: PipelineHarness) -> float:
    keys = harness.redis.execute("KEYS", "penstock:reservations:*")
    return max(float(harness.redis.execute("ZRANGE", key, 0, -1, "WITHSCORES")[1]) for key in keys)


# --- limits, as the pipeline tells of them


def test_a_refusal_is_counted_by_its_limit_and_asks_nobody(harness: PipelineHarness) -> None:
    with pytest.raises(RateLimited) as refusal:
        harness.pipeline.chat(CALLER, chat(n=128, max_tokens=1000), harness.context())
    assert refusal.value.limit == "tokens_per_day"
    assert [row.left for row in refusal.value.remaining if row.unit == "tokens"] == [100_000]
    assert harness.metric("llm_rate_limited_total", limit="tokens_per_day") == 1
    assert (harness.rows(), harness.vendors["up"].calls, harness.metric("llm_active_requests")) == ([], [], 0)


def test_a_budget_of_which_less_than_a_fifth_is_left_is_counted(harness: PipelineHarness) -> None:
    harness.pipeline.chat(POOR, chat(max_tokens=1), harness.context())
    assert harness.metric("llm_budget_near_total", plan="poor") == 0
    [key] = harness.redis.execute("KEYS", "penstock:limit:key_1:budget*")
    harness.redis.execute("SET", key, 800_000_000)
    harness.pipeline.chat(POOR, chat(max_tokens=1), harness.context())
    assert harness.metric("llm_budget_near_total", plan="poor") == 1
    harness.redis.execute("SET", key, 999_990_000)
    with pytest.raises(BudgetExceeded):
        harness.pipeline.chat(POOR, chat(max_tokens=1000), harness.context())


def test_a_call_has_its_slot_until_it_is_settled(harness: PipelineHarness) -> None:
    seen: list[int] = []
    harness.vendors["up"].meanwhile = lambda: seen.append(harness.redis.execute("ZCARD", "penstock:running:key_1"))
    harness.pipeline.chat(CALLER, chat(), harness.context())
    assert (seen, harness.redis.execute("ZCARD", "penstock:running:key_1")) == ([1], 0)


# --- calls that run later


def test_a_held_call_runs_once_with_what_it_reserved_then(harness: PipelineHarness) -> None:
    request = chat(max_tokens=9)
    held = harness.pipeline.defer(CALLER, request, harness.context(), for_s=600)
    assert harness.counted("tokens_per_day") == len(request.raw) // 4 + 1 + 9
    assert harness.redis.execute("ZCARD", "penstock:running:key_1") == 0, "it does not run yet"
    assert harness.rows() == []
    again = type(held).decode(held.encode())
    assert again == held
    reply = harness.pipeline.resume(CALLER, request, again, harness.context().cancel, stays_open=lambda _: False)
    assert reply.body == harness.vendors["up"].body
    assert (harness.counted("tokens_per_day"), harness.counted("requests_per_day")) == (30, 1)
    assert_row_has(
        only_row(harness), job_id="call_1", request_id="req_1", call_id="call_1", status="ok", cache="bypass"
    )
    assert harness.metric("llm_active_requests") == 0
    assert harness.lose() == 0


def test_a_deferred_call_that_will_not_run_gives_back_all_but_its_request(harness: PipelineHarness) -> None:
    held = harness.pipeline.defer(CALLER, chat(), harness.context(), for_s=600)
    harness.pipeline.abandon(held, "aborted", 499)
    assert_row_has(
        only_row(harness),
        status="aborted",
        http_status=499,
        prompt_tokens=0,
        completion_tokens=0,
        cost_nanousd=0,
        estimated=False,
        job_id="call_1",
    )
    assert (harness.counted("tokens_per_day"), harness.counted("requests_per_day")) == (0, 1)
    assert harness.metric("llm_requests_total", model="m", provider="cache", status="aborted") == 1


def test_a_held_call_that_is_to_be_tried_again_stays_open(harness: PipelineHarness) -> None:
    request = chat()
    held = harness.pipeline.defer(CALLER, request, harness.context(), for_s=600)
    down = UpstreamUnavailable("down", provider="up", kind="status_5xx")
    harness.vendors["up"].fails = [down, down]
    with pytest.raises(UpstreamError):
        harness.pipeline.resume(CALLER, request, held, harness.context().cancel, stays_open=lambda exc: exc is down)
    assert (harness.rows(), harness.metric("llm_active_requests")) == ([], 0)
    harness.vendors["up"].fails = [down, down]
    with pytest.raises(UpstreamError):
        harness.pipeline.resume(CALLER, request, held, harness.context().cancel, stays_open=lambda _: False)
    assert_row_has(only_row(harness), status="error", http_status=503)


def test_a_held_call_is_lost_only_after_its_time(harness: PipelineHarness) -> None:
    harness.pipeline.defer(CALLER, chat(), harness.context(), for_s=7200, reservations=reservations_of(QUEUE))
    assert harness.lose() == 0
    assert harness.lose() == 1
    assert_row_has(only_row(harness), status="lost", job_id="call_1")


def test_a_held_calls_answer_may_come_from_the_cache_and_go_there(harness: PipelineHarness) -> None:
    request = chat(temperature=0)
    replies = []
    for _ in range(2):
        held = harness.pipeline.defer(CALLER, request, harness.context(), for_s=600)
        replies.append(
            harness.pipeline.resume(CALLER, request, held, harness.context().cancel, stays_open=lambda _: False)
        )
    assert [reply.report.cache for reply in replies] == ["miss", "hit"]
    assert [row["cache"] for row in harness.rows()] == ["miss", "hit"]
    assert len(harness.vendors["up"].calls) == 1
    held = harness.pipeline.defer(CALLER, request, harness.context(read_cache=False), for_s=600)
    reply = harness.pipeline.resume(CALLER, request, held, harness.context().cancel, stays_open=lambda _: False)
    assert reply.report.cache == "bypass"


# --- attempts that gave no answer


def test_an_attempt_that_may_be_billed_is_charged_beside_the_answer(harness: PipelineHarness) -> None:
    harness.vendors["up"].fails = [UpstreamTimeout("slow", provider="up", kind="timeout_first_byte", billable=True)]
    request = chat("safe", max_tokens=9)
    harness.pipeline.chat(CALLER, request, harness.context())
    prompt = request.estimate_prompt_tokens_closely()
    row = only_row(harness)
    lost_cost, cost = prompt * 1000 + 9 * 2000, 10 * 5000 + 20 * 50_000
    assert [ChargedAttempt(*attempt) for attempt in row["charged_attempts"]] == [
        ChargedAttempt("up", "safe", "timeout_first_byte", prompt, 9, lost_cost, True),
        ChargedAttempt("dear", "safe", "ok", 10, 20, cost, False),
    ]
    assert_row_has(
        row,
        status="ok",
        provider="dear",
        attempts=2,
        estimated=True,
        prompt_tokens=prompt + 10,
        completion_tokens=29,
        cost_nanousd=lost_cost + cost,
    )
    assert harness.counted("tokens_per_day") == prompt + 10 + 29


def test_an_attempt_that_was_refused_costs_nothing_and_is_not_noted(harness: PipelineHarness) -> None:
    harness.vendors["up"].fails = [UpstreamUnavailable("down", provider="up", kind="status_5xx")]
    harness.pipeline.chat(CALLER, chat("safe"), harness.context())
    row = only_row(harness)
    assert_row_has(row, estimated=False, cost_nanousd=10 * 5000 + 20 * 50_000, prompt_tokens=10)
    assert not row.get("charged_attempts")


def test_a_client_that_hangs_up_on_a_provider_at_work_pays_for_it(harness: PipelineHarness) -> None:
    request = chat(max_tokens=9)
    for billable in (True, False):
        harness.vendors["up"].fails = [ClientGone("gone", billable=billable)]
        with pytest.raises(ClientGone):
            harness.pipeline.chat(CALLER, request, harness.context())
    paid, free = harness.rows()
    prompt = request.estimate_prompt_tokens_closely()
    assert_row_has(
        paid,
        status="aborted",
        http_status=499,
        prompt_tokens=prompt,
        completion_tokens=9,
        estimated=True,
        cost_nanousd=prompt * 1000 + 9 * 2000,
    )
    assert [attempt[:3] for attempt in paid["charged_attempts"]] == [["up", "up-1", "client_gone"]]
    assert_row_has(free, status="aborted", http_status=499, prompt_tokens=0, completion_tokens=0, cost_nanousd=0)


def test_a_job_pays_for_every_time_that_a_provider_worked_in_vain(harness: PipelineHarness) -> None:
    request = chat(max_tokens=9)
    held = harness.pipeline.defer(CALLER, request, harness.context(), for_s=600)
    slow = UpstreamTimeout("slow", provider="up", kind="timeout_first_byte", billable=True)
    harness.vendors["up"].fails = [slow]
    with pytest.raises(UpstreamTimeout):
        harness.pipeline.resume(CALLER, request, held, harness.context().cancel, stays_open=lambda _: True)
    assert harness.rows() == []
    again = type(held).decode(held.encode())
    harness.pipeline.resume(CALLER, request, again, harness.context().cancel, stays_open=lambda _: False)
    prompt = request.estimate_prompt_tokens_closely()
    assert_row_has(only_row(harness), status="ok", prompt_tokens=prompt + 10, completion_tokens=29, estimated=True)
    assert [attempt[2] for attempt in only_row(harness)["charged_attempts"]] == ["timeout_first_byte", "ok"]

    held = harness.pipeline.defer(CALLER, request, harness.context(), for_s=600)
    harness.vendors["up"].fails = [slow]
    with pytest.raises(UpstreamTimeout):
        harness.pipeline.resume(CALLER, request, held, harness.context().cancel, stays_open=lambda _: True)
    harness.pipeline.abandon(held, "error", 504)
    assert_row_has(
        harness.rows()[1],
        status="error",
        http_status=504,
        prompt_tokens=prompt,
        completion_tokens=9,
        estimated=True,
        cost_nanousd=prompt * 1000 + 9 * 2000,
    )
    assert [attempt[2] for attempt in harness.rows()[1]["charged_attempts"]] == ["timeout_first_byte"]
    assert harness.counted("tokens_per_day") == 2 * (prompt + 9) + 30


def test_an_answer_from_the_cache_has_no_provider_and_costs_nothing(harness: PipelineHarness) -> None:
    paid = harness.pipeline.chat(CALLER, chat(temperature=0), harness.context())
    free = harness.pipeline.chat(CALLER, chat(temperature=0), harness.context())
    row = harness.rows()[1]
    own = {"id": f"chatcmpl-{row['call_id']}", "created": int(row["ts"]), "cached": True}
    assert json.loads(free.body) == {**json.loads(paid.body), **own}
    assert_row_has(
        harness.rows()[1],
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
    assert harness.metric("llm_cache_requests_total", result="hit") == 1
    assert harness.metric("llm_requests_total", model="m", provider="cache", status="ok") == 1
