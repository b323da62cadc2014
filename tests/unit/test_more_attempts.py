"""Under a budget, each further attempt at a vendor that may bill is paid for before it is made, or it is not made."""

from __future__ import annotations

from typing import Any

import pytest

from app.domain.charges import ChargedAttempt
from app.errors import BudgetExceeded, ClientGone, UpstreamError, UpstreamTimeout
from tests.support.calls import CALLER, POOR, PipelineHarness, chat

REQUEST = chat("safe", max_tokens=9)
PROMPT = REQUEST.canonical().estimate_prompt_tokens_closely()
# The most that an attempt can cost: at the dearest target; and what one is charged of which nothing is known.
CEILING = (len(REQUEST.canonical().raw) + 8) * 5000 + 9 * 50_000
CHARGED = PROMPT * 1000 + 9 * 3000
BUDGET = 1_000_000_000


def timeout_error() -> UpstreamTimeout:
    return UpstreamTimeout("slow", provider="up", kind="timeout_first_byte", billable=True)


def spent(harness: PipelineHarness) -> int:
    return harness.counted("budget_usd_per_month")


def leave_budget(harness: PipelineHarness, nanousd: int) -> None:
    """The key has so much of its budget left."""
    harness.pipeline.chat(POOR, chat(max_tokens=1), harness.context())
    [key] = harness.redis.execute("KEYS", "penstock:limit:key_1:budget*")
    harness.redis.execute("SET", key, BUDGET - nanousd, "KEEPTTL")


def test_while_a_second_attempt_runs_money_for_both_is_reserved(harness: PipelineHarness) -> None:
    seen: list[int] = []
    for vendor in harness.vendors.values():
        vendor.meanwhile = lambda: seen.append(spent(harness))
    harness.vendors["up"].fails = [timeout_error()]
    harness.pipeline.chat(POOR, REQUEST, harness.context())
    assert seen == [CEILING, 2 * CEILING]
    answer = 10 * 5000 + 20 * 50_000
    [row] = harness.rows()
    assert (row["cost_nanousd"], spent(harness)) == (CHARGED + answer, CHARGED + answer)
    assert [ChargedAttempt(*attempt)[:6] for attempt in row["charged_attempts"]] == [
        ("up", "safe", "timeout_first_byte", PROMPT, 9, CHARGED),
        ("dear", "safe", "ok", 10, 20, answer),
    ]
    assert harness.lose() == 0


@pytest.mark.parametrize(("left", "asked"), [(2 * CEILING, 2), (2 * CEILING - 1, 1), (CEILING, 1)])
def test_an_attempt_that_the_budget_cannot_bear_is_not_made(harness: PipelineHarness, left: int, asked: int) -> None:
    leave_budget(harness, left)
    harness.vendors["up"].calls.clear()
    harness.vendors["up"].fails = [timeout_error()]
    harness.vendors["dear"].fails = [timeout_error()]
    with pytest.raises(UpstreamTimeout):
        harness.pipeline.chat(POOR, REQUEST, harness.context())
    assert len(harness.vendors["up"].calls) + len(harness.vendors["dear"].calls) == asked
    row = harness.rows()[-1]
    assert (row["status"], row["attempts"], len(row["charged_attempts"])) == ("error", asked, asked)
    assert BUDGET - left < spent(harness) == BUDGET - left + row["cost_nanousd"] <= BUDGET


def test_a_refused_attempt_needs_no_more_money(harness: PipelineHarness) -> None:
    leave_budget(harness, CEILING)
    harness.vendors["up"].fails = [UpstreamTimeout("no answer", provider="up", kind="timeout_connect")]
    reply = harness.pipeline.chat(POOR, REQUEST, harness.context())
    assert reply.report.provider == "dear"


def test_a_worker_that_dies_in_its_second_attempt_is_charged_for_both(harness: PipelineHarness) -> None:
    harness.vendors["up"].fails = [timeout_error()]
    harness.vendors["dear"].meanwhile = harness.lose
    harness.vendors["dear"].fails = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        harness.pipeline.chat(POOR, REQUEST, harness.context())
    lost = harness.rows()[0]
    assert [attempt[2] for attempt in lost["charged_attempts"]] == ["timeout_first_byte", "lost"]
    estimate = REQUEST.canonical().estimate_prompt_tokens()
    assert (lost["status"], lost["prompt_tokens"], lost["completion_tokens"]) == ("lost", PROMPT + estimate, 18)
    assert lost["cost_nanousd"] == CHARGED + estimate * 1000 + 9 * 3000


def test_a_job_that_is_run_again_reserves_for_each_time_and_once_for_each(harness: PipelineHarness) -> None:
    held = harness.pipeline.defer(POOR, REQUEST, harness.context(), for_s=600)
    seen: list[int] = []
    for vendor in harness.vendors.values():
        vendor.meanwhile = lambda: seen.append(spent(harness))
    for _ in range(2):
        harness.vendors["up"].fails = [timeout_error()]
        harness.vendors["dear"].fails = [timeout_error()]
        with pytest.raises(UpstreamError):
            run_again(harness, held)
        held = type(held).decode(held.encode())
    assert seen == [CEILING * number for number in (1, 2, 3, 4)]
    run_again(harness, held)
    assert seen[-1] == 5 * CEILING
    [row] = harness.rows()
    dear_charged = PROMPT * 5000 + 9 * 50_000
    assert row["cost_nanousd"] == spent(harness) == 2 * (CHARGED + dear_charged) + 10 * 1000 + 20 * 2000
    assert (row["status"], len(row["charged_attempts"])) == ("ok", 5)


def run_again(harness: PipelineHarness, held: Any) -> None:
    harness.pipeline.resume(POOR, REQUEST, held, harness.context().cancel, stays_open=lambda _: True)


def test_a_job_whose_budget_is_used_up_by_its_attempts_says_so(harness: PipelineHarness) -> None:
    leave_budget(harness, 2 * CEILING)
    held = harness.pipeline.defer(POOR, REQUEST, harness.context(), for_s=600)
    harness.vendors["up"].fails = [timeout_error()]
    harness.vendors["dear"].fails = [timeout_error()]
    with pytest.raises(UpstreamTimeout):
        run_again(harness, held)
    with pytest.raises(BudgetExceeded) as refusal:
        harness.pipeline.resume(POOR, REQUEST, held, harness.context().cancel, stays_open=lambda _: False)
    assert (refusal.value.retryable, refusal.value.limit) == (False, "budget_usd")
    row = harness.rows()[-1]
    assert (row["status"], row["http_status"], len(row["charged_attempts"])) == ("error", 429, 2)
    assert spent(harness) == BUDGET - 2 * CEILING + row["cost_nanousd"]


def test_no_further_attempt_is_made_for_a_call_that_has_ended_meanwhile(harness: PipelineHarness) -> None:
    """The reaper took the worker for dead: what its attempts cost from here on nobody would see."""
    harness.vendors["up"].meanwhile = harness.lose
    harness.vendors["up"].fails = [timeout_error()]
    with pytest.raises(UpstreamTimeout):
        harness.pipeline.chat(POOR, REQUEST, harness.context())
    assert harness.vendors["dear"].calls == []
    assert [row["status"] for row in harness.rows()] == ["lost", "error"]
    assert spent(harness) == CHARGED


def test_without_a_budget_attempts_need_no_money_and_are_still_charged(harness: PipelineHarness) -> None:
    harness.vendors["up"].fails = [timeout_error()]
    harness.vendors["dear"].fails = [ClientGone("gone", billable=True)]
    with pytest.raises(ClientGone):
        harness.pipeline.chat(CALLER, REQUEST, harness.context())
    [row] = harness.rows()
    prompt = REQUEST.estimate_prompt_tokens_closely()
    assert row["cost_nanousd"] == prompt * 6000 + 9 * 52_000
    assert (row["status"], harness.counted("tokens_per_day")) == ("aborted", 2 * (prompt + 9))
