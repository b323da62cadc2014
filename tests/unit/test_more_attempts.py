"""Under a budget, each further attempt at a vendor that may bill is paid for before it is made, or it is not made."""

from __future__ import annotations

from typing import Any

import pytest

from app.domain.charges import ChargedAttempt
from app.errors import BudgetExceeded, ClientGone, UpstreamError, UpstreamTimeout
from tests.support.calls import CALLER, POOR, House, chat

REQUEST = chat("safe", max_tokens=9)
PROMPT = REQUEST.canonical().estimate_prompt_tokens_closely()
# The most that an attempt can cost: at the dearest target; and what one is charged of which nothing is known.
CEILING = (len(REQUEST.canonical().raw) + 8) * 5000 + 9 * 50_000
CHARGED = PROMPT * 1000 + 9 * 3000
BUDGET = 1_000_000_000


def slow() -> UpstreamTimeout:
    return UpstreamTimeout("slow", provider="up", kind="timeout_first_byte", billable=True)


def spent(house: House) -> int:
    return house.counted("budget_usd_per_month")


def leave(house: House, nanousd: int) -> None:
    """The key has so much of its budget left."""
    house.pipeline.chat(POOR, chat(max_tokens=1), house.context())
    [key] = house.redis.execute("KEYS", "penstock:limit:key_1:budget*")
    house.redis.execute("SET", key, BUDGET - nanousd, "KEEPTTL")


def test_while_a_second_attempt_runs_money_for_both_is_reserved(house: House) -> None:
    seen: list[int] = []
    for vendor in house.vendors.values():
        vendor.meanwhile = lambda: seen.append(spent(house))
    house.vendors["up"].fails = [slow()]
    house.pipeline.chat(POOR, REQUEST, house.context())
    assert seen == [CEILING, 2 * CEILING]
    answer = 10 * 5000 + 20 * 50_000
    [row] = house.rows()
    assert (row["cost_nanousd"], spent(house)) == (CHARGED + answer, CHARGED + answer)
    assert [ChargedAttempt(*attempt)[:6] for attempt in row["charged_attempts"]] == [
        ("up", "safe", "timeout_first_byte", PROMPT, 9, CHARGED),
        ("dear", "safe", "ok", 10, 20, answer),
    ]
    assert house.lose() == 0


@pytest.mark.parametrize(("left", "asked"), [(2 * CEILING, 2), (2 * CEILING - 1, 1), (CEILING, 1)])
def test_an_attempt_that_the_budget_cannot_bear_is_not_made(house: House, left: int, asked: int) -> None:
    leave(house, left)
    house.vendors["up"].calls.clear()
    house.vendors["up"].fails = [slow()]
    house.vendors["dear"].fails = [slow()]
    with pytest.raises(UpstreamTimeout):
        house.pipeline.chat(POOR, REQUEST, house.context())
    assert len(house.vendors["up"].calls) + len(house.vendors["dear"].calls) == asked
    row = house.rows()[-1]
    assert (row["status"], row["attempts"], len(row["charged_attempts"])) == ("error", asked, asked)
    assert BUDGET - left < spent(house) == BUDGET - left + row["cost_nanousd"] <= BUDGET


def test_a_refused_attempt_needs_no_more_money(house: House) -> None:
    leave(house, CEILING)
    house.vendors["up"].fails = [UpstreamTimeout("no answer", provider="up", kind="timeout_connect")]
    reply = house.pipeline.chat(POOR, REQUEST, house.context())
    assert reply.report.provider == "dear"


def test_a_worker_that_dies_in_its_second_attempt_is_charged_for_both(house: House) -> None:
    house.vendors["up"].fails = [slow()]
    house.vendors["dear"].meanwhile = house.lose
    house.vendors["dear"].fails = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        house.pipeline.chat(POOR, REQUEST, house.context())
    lost = house.rows()[0]
    assert [attempt[2] for attempt in lost["charged_attempts"]] == ["timeout_first_byte", "lost"]
    estimate = REQUEST.canonical().estimate_prompt_tokens()
    assert (lost["status"], lost["prompt_tokens"], lost["completion_tokens"]) == ("lost", PROMPT + estimate, 18)
    assert lost["cost_nanousd"] == CHARGED + estimate * 1000 + 9 * 3000


def test_a_job_that_is_run_again_reserves_for_each_time_and_once_for_each(house: House) -> None:
    held = house.pipeline.defer(POOR, REQUEST, house.context(), for_s=600)
    seen: list[int] = []
    for vendor in house.vendors.values():
        vendor.meanwhile = lambda: seen.append(spent(house))
    for _ in range(2):
        house.vendors["up"].fails = [slow()]
        house.vendors["dear"].fails = [slow()]
        with pytest.raises(UpstreamError):
            run_again(house, held)
        held = type(held).decode(held.encode())
    assert seen == [CEILING * number for number in (1, 2, 3, 4)]
    run_again(house, held)
    assert seen[-1] == 5 * CEILING
    [row] = house.rows()
    dear_charged = PROMPT * 5000 + 9 * 50_000
    assert row["cost_nanousd"] == spent(house) == 2 * (CHARGED + dear_charged) + 10 * 1000 + 20 * 2000
    assert (row["status"], len(row["charged_attempts"])) == ("ok", 5)


def run_again(house: House, held: Any) -> None:
    house.pipeline.resume(POOR, REQUEST, held, house.context().cancel, stays_open=lambda _: True)


def test_a_job_whose_budget_is_used_up_by_its_attempts_says_so(house: House) -> None:
    leave(house, 2 * CEILING)
    held = house.pipeline.defer(POOR, REQUEST, house.context(), for_s=600)
    house.vendors["up"].fails = [slow()]
    house.vendors["dear"].fails = [slow()]
    with pytest.raises(UpstreamTimeout):
        run_again(house, held)
    with pytest.raises(BudgetExceeded) as refusal:
        house.pipeline.resume(POOR, REQUEST, held, house.context().cancel, stays_open=lambda _: False)
    assert (refusal.value.retryable, refusal.value.limit) == (False, "budget_usd")
    row = house.rows()[-1]
    assert (row["status"], row["http_status"], len(row["charged_attempts"])) == ("error", 429, 2)
    assert spent(house) == BUDGET - 2 * CEILING + row["cost_nanousd"]


def test_no_further_attempt_is_made_for_a_call_that_has_ended_meanwhile(house: House) -> None:
    """The reaper took the worker for dead: what its attempts cost from here on nobody would see."""
    house.vendors["up"].meanwhile = house.lose
    house.vendors["up"].fails = [slow()]
    with pytest.raises(UpstreamTimeout):
        house.pipeline.chat(POOR, REQUEST, house.context())
    assert house.vendors["dear"].calls == []
    assert [row["status"] for row in house.rows()] == ["lost", "error"]
    assert spent(house) == CHARGED


def test_without_a_budget_attempts_need_no_money_and_are_still_charged(house: House) -> None:
    house.vendors["up"].fails = [slow()]
    house.vendors["dear"].fails = [ClientGone("gone", billable=True)]
    with pytest.raises(ClientGone):
        house.pipeline.chat(CALLER, REQUEST, house.context())
    [row] = house.rows()
    prompt = REQUEST.estimate_prompt_tokens_closely()
    assert row["cost_nanousd"] == prompt * 6000 + 9 * 52_000
    assert (row["status"], house.counted("tokens_per_day")) == ("aborted", 2 * (prompt + 9))
