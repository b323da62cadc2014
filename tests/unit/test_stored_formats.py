"""Stored formats: the bytes of the version before, in Redis and on disk, are read and would be written the same."""

from __future__ import annotations

import msgspec
import pytest
from msgspec.structs import replace

from app.domain.charges import ChargedAttempt
from app.domain.limits import Amounts
from app.domain.usage import UsageRow
from app.gateway.deferred import DeferredCall
from app.store.redis.keys import QUEUE
from app.store.reservations import lose_call, recorded
from app.store.spool_files import WaitingSettlement, encoded

# Taken from a run of the release before the reservation was one type.
RESERVATION = (
    b'{"row":{"request_id":"req_1","call_id":"call_1","ts":1800000000.25,"key_id":"key_1","user":"u1",'
    b'"tenant":"acme","model":"m","provider":"","upstream_model":"","endpoint":"chat.completions",'
    b'"status":"lost","http_status":0,"prompt_tokens":27,"completion_tokens":1000,"cached_tokens":0,'
    b'"reasoning_tokens":0,"cost_nanousd":3027000,"latency_ms":0.0,"ttft_ms":null,"attempts":0,"cache":"bypass",'
    b'"streamed":false,"estimated":true,"unpriced":false,"job_id":null,"tags":"route=code"},'
    b'"leases":"penstock:running:key_1","flight":"penstock:flight:4dae3324b01f56d8e486119bd59061fc0b540d353ed934'
    b'1cef65e11e2a046ed4","keys":["penstock:limit:key_1:requests_per_minute",'
    b'"penstock:limit:key_1:tokens_per_day:2027-01-15","penstock:limit:key_1:budget_usd_per_month:2027-01"],'
    b'"args":["gcra",1,"1000","60000","window",1027,"100000","230399750","window",3027000,"1000000000",'
    b'"1612799750"],"cached_args":["gcra",1,"1000","60000","window",0,"100000","230399750","window",0,'
    b'"1000000000","1612799750"]}'
)
RESERVATION_WITH_A_SECOND_ATTEMPT = (
    b'{"row":{"request_id":"req_5","call_id":"call_5","ts":1800000000.25,"key_id":"key_1","user":"",'
    b'"tenant":"acme","model":"safe","provider":"","upstream_model":"","endpoint":"chat.completions",'
    b'"status":"lost","http_status":0,"prompt_tokens":72,"completion_tokens":200,"cached_tokens":0,'
    b'"reasoning_tokens":0,"cost_nanousd":672000,"latency_ms":0.0,"ttft_ms":null,"attempts":0,"cache":"bypass",'
    b'"streamed":false,"estimated":true,"unpriced":false,"job_id":null,"tags":"route=code",'
    b'"charged_attempts":[["up","safe","timeout_first_byte",48,100,348000,true,false],["","","lost",24,100,'
    b'324000,true,false]]},"leases":"penstock:running:key_1","flight":"penstock:none",'
    b'"keys":["penstock:limit:key_1:requests_per_minute","penstock:limit:key_1:tokens_per_day:2027-01-15",'
    b'"penstock:limit:key_1:budget_usd_per_month:2027-01"],"args":["gcra",1,"1000","60000","window",272,'
    b'"100000","230399750","window",672000,"1000000000","1612799750"],"cached_args":[]}'
)
OUTBOX_ROW = (
    b'{"request_id":"req_1","call_id":"call_1","ts":1800000000.25,"key_id":"key_1","user":"u1","tenant":"acme",'
    b'"model":"m","provider":"up","upstream_model":"up-1","endpoint":"chat.completions","status":"ok",'
    b'"http_status":200,"prompt_tokens":10,"completion_tokens":20,"cached_tokens":0,"reasoning_tokens":0,'
    b'"cost_nanousd":50000,"latency_ms":0.0,"ttft_ms":null,"attempts":1,"cache":"miss","streamed":false,'
    b'"estimated":false,"unpriced":false,"job_id":null,"tags":"route=code"}'
)
OUTBOX_ROW_WITH_EVERYTHING = (
    b'{"request_id":"req_2","call_id":"call_2","ts":1800000000.25,"key_id":"key_1","user":"","tenant":"acme",'
    b'"model":"safe","provider":"dear","upstream_model":"safe","endpoint":"chat.completions","status":"ok",'
    b'"http_status":200,"prompt_tokens":58,"completion_tokens":120,"cached_tokens":4,"reasoning_tokens":5,'
    b'"cost_nanousd":1398000,"latency_ms":0.0,"ttft_ms":null,"attempts":2,"cache":"bypass","streamed":false,'
    b'"estimated":true,"unpriced":true,"job_id":null,"tags":"route=code","charged_attempts":[["up","safe",'
    b'"timeout_first_byte",48,100,348000,true,false],["dear","safe","ok",10,20,1050000,false,false]],'
    b'"service_tier":"flex","cache_write_tokens":3,"searches":2}'
)
OUTBOX_ROW_OF_A_SESSION = OUTBOX_ROW_WITH_EVERYTHING[:-1] + (
    b',"file_searches":1,"images":4,"characters":5,"inference_geo":"us","price_version":"genai-prices 0.2.3",'
    b'"reported_cost_nanousd":0,"computed_cost_nanousd":7,"session":"ses_1","agent":"a0/a1"}'
)
DEFERRED_CALL = (
    b'{"row":{"request_id":"req_3","call_id":"call_3","ts":1800000000.25,"key_id":"key_1","user":"",'
    b'"tenant":"acme","model":"m","provider":"","upstream_model":"","endpoint":"chat.completions",'
    b'"status":"lost","http_status":0,"prompt_tokens":24,"completion_tokens":1000,"cached_tokens":0,'
    b'"reasoning_tokens":0,"cost_nanousd":3024000,"latency_ms":0.0,"ttft_ms":null,"attempts":0,"cache":"bypass",'
    b'"streamed":false,"estimated":true,"unpriced":false,"job_id":"call_3","tags":"route=code"},"reserve":[1,'
    b'536,3100000],"if_lost":[1,1024,3024000],"charges":[["requests_per_minute",'
    b'"penstock:limit:key_1:requests_per_minute",1000,60000,1],["tokens_per_day",'
    b'"penstock:limit:key_1:tokens_per_day:2027-01-15",100000,230399750,536],["budget_usd_per_month",'
    b'"penstock:limit:key_1:budget_usd_per_month:2027-01",1000000000,1612799750,3100000]],'
    b'"leases":"penstock:running:key_1","cache_key":"","read_cache":true,"write_cache":true,"charged":[],'
    b'"covered":1}'
)
SPOOL_LINE = (
    b'{"keys":["cGVuc3RvY2s6cmVzZXJ2YXRpb246Y2FsbF82","cGVuc3RvY2s6cmVzZXJ2YXRpb25zOnZtLTEwNDE3LWMyYzRjNThj",'
    b'"cGVuc3RvY2s6bm9uZQ==","cGVuc3RvY2s6bm9uZQ==","cGVuc3RvY2s6cnVubmluZzprZXlfMQ==","cGVuc3RvY2s6b3V0Ym94",'
    b'"cGVuc3RvY2s6bGltaXQ6a2V5XzE6cmVxdWVzdHNfcGVyX21pbnV0ZQ==",'
    b'"cGVuc3RvY2s6bGltaXQ6a2V5XzE6dG9rZW5zX3Blcl9kYXk6MjAyNy0wMS0xNQ==",'
    b'"cGVuc3RvY2s6bGltaXQ6a2V5XzE6YnVkZ2V0X3VzZF9wZXJfbW9udGg6MjAyNy0wMQ=="],"args":["Y2FsbF82","c2V0dGxlZA==",'
    b'"eyJyZXF1ZXN0X2lkIjoicmVxXzYiLCJjYWxsX2lkIjoiY2FsbF82IiwidHMiOjE4MDAwMDAwMDAuMjUsImtleV9pZCI6ImtleV8xIiwid'
    b"XNlciI6IiIsInRlbmFudCI6ImFjbWUiLCJtb2RlbCI6Im0iLCJwcm92aWRlciI6InVwIiwidXBzdHJlYW1fbW9kZWwiOiJ1cC0xIiwiZW5"
    b"kcG9pbnQiOiJjaGF0LmNvbXBsZXRpb25zIiwic3RhdHVzIjoib2siLCJodHRwX3N0YXR1cyI6MjAwLCJwcm9tcHRfdG9rZW5zIjoxMCwiY"
    b"29tcGxldGlvbl90b2tlbnMiOjIwLCJjYWNoZWRfdG9rZW5zIjo0LCJyZWFzb25pbmdfdG9rZW5zIjo1LCJjb3N0X25hbm91c2QiOjUyMDA"
    b"wLCJsYXRlbmN5X21zIjowLjAsInR0ZnRfbXMiOm51bGwsImF0dGVtcHRzIjoxLCJjYWNoZSI6ImJ5cGFzcyIsInN0cmVhbWVkIjpmYWxzZ"
    b"SwiZXN0aW1hdGVkIjpmYWxzZSwidW5wcmljZWQiOnRydWUsImpvYl9pZCI6bnVsbCwidGFncyI6InJvdXRlPWNvZGUiLCJzZXJ2aWNlX3R"
    b'pZXIiOiJmbGV4IiwiY2FjaGVfd3JpdGVfdG9rZW5zIjozLCJzZWFyY2hlcyI6Mn0=","","NjAwMDA=","MTIwMDAw","Z2NyYQ==",'
    b'"MQ==","MTAwMA==","NjAwMDA=","d2luZG93","MzA=","MTAwMDAw","MjMwMzk5NzUw","d2luZG93","NTIwMDA=",'
    b'"MTAwMDAwMDAwMA==","MTYxMjc5OTc1MA=="],"v":2}'
    b"\n"
)
KEYS = [
    "penstock:limit:key_1:requests_per_minute",
    "penstock:limit:key_1:tokens_per_day:2027-01-15",
    "penstock:limit:key_1:budget_usd_per_month:2027-01",
]


def test_a_reservation_is_read_and_would_be_recorded_the_same() -> None:
    reservation = recorded(RESERVATION, owner="w")
    assert (reservation.call_id, reservation.row.user, reservation.row.cost_nanousd) == ("call_1", "u1", 3_027_000)
    assert reservation.if_lost == Amounts(1, 1027, 3_027_000)
    assert [(counter.key, counter.kind) for counter in reservation.counters] == list(
        zip(KEYS, ("gcra", "window", "window"), strict=True)
    )
    assert replace(reservation, read_cache=True).record() == RESERVATION


def test_a_reservation_of_two_attempts_is_read_and_written_the_same() -> None:
    reservation = recorded(RESERVATION_WITH_A_SECOND_ATTEMPT, owner="w")
    assert [attempt.outcome for attempt in reservation.row.charged_attempts] == ["timeout_first_byte", "lost"]
    assert reservation.cache_key == ""
    assert reservation.record() == RESERVATION_WITH_A_SECOND_ATTEMPT


@pytest.mark.parametrize(("from_cache", "wanted"), [(False, "args"), (True, "cached_args")])
def test_a_reservation_is_lost_with_the_arguments_that_were_recorded(from_cache: bool, wanted: str) -> None:
    known = msgspec.json.decode(RESERVATION)
    keys, args = lose_call(recorded(RESERVATION, owner="w"), from_cache=from_cache)
    assert keys[0] == "penstock:reservation:call_1"
    assert keys[1] == "penstock:reservations:w"
    assert list(keys[3:]) == [known["flight"], known["leases"], "penstock:outbox", *KEYS]
    assert list(args[6:]) == known[wanted]
    used_nothing = {"prompt_tokens": 0, "completion_tokens": 0, "cost_nanousd": 0, "cache": "hit"}
    assert args[2] == msgspec.json.encode(known["row"] | (used_nothing if from_cache else {}))


@pytest.mark.parametrize(
    "row", [OUTBOX_ROW, OUTBOX_ROW_WITH_EVERYTHING, OUTBOX_ROW_OF_A_SESSION], ids=["plain", "everything", "a session"]
)
def test_a_row_of_the_outbox_is_read_and_would_be_written_the_same(row: bytes) -> None:
    assert msgspec.json.encode(msgspec.json.decode(row, type=UsageRow)) == row


def test_a_row_tells_of_every_attempt_and_the_rare_kinds_of_usage() -> None:
    row = msgspec.json.decode(OUTBOX_ROW_WITH_EVERYTHING, type=UsageRow)
    assert row.charged_attempts[1] == ChargedAttempt("dear", "safe", "ok", 10, 20, 1_050_000, False, False)
    assert (row.service_tier, row.cache_write_tokens, row.searches, row.audio_seconds) == ("flex", 3, 2, 0)


def test_a_row_tells_of_its_session_and_of_both_costs() -> None:
    row = msgspec.json.decode(OUTBOX_ROW_OF_A_SESSION, type=UsageRow)
    assert (row.session, row.agent, row.inference_geo) == ("ses_1", "a0/a1", "us")
    assert (row.reported_cost_nanousd, row.computed_cost_nanousd) == (0, 7)


def test_a_row_without_newer_fields_has_their_defaults() -> None:
    row = msgspec.json.decode(
        b'{"request_id":"r","ts":1,"key_id":"k","model":"m","status":"ok","of_a_later_version":1}', type=UsageRow
    )
    assert (row.call_id, row.endpoint, row.cache, row.job_id) == ("r", "chat.completions", "bypass", None)
    assert (row.ttft_ms, row.unpriced, row.charged_attempts, row.service_tier) == (None, False, [], "")
    assert (row.session, row.agent, row.price_version, row.reported_cost_nanousd) == ("", "", "", None)


def test_a_deferred_call_is_read_and_would_be_stored_the_same() -> None:
    deferred = DeferredCall.decode(DEFERRED_CALL)
    assert deferred.encode() == DEFERRED_CALL
    reservation = deferred.reservation()
    assert (reservation.owner, reservation.queued, reservation.row.job_id) == (QUEUE, True, "call_3")
    assert [counter.key for counter in reservation.counters] == KEYS
    assert DeferredCall.of(reservation, read_cache=True, write_cache=True).encode() == DEFERRED_CALL


def test_a_deferred_call_of_the_version_without_attempts_has_made_none() -> None:
    old = DEFERRED_CALL.replace(b',"charged":[],"covered":1', b"")
    assert old != DEFERRED_CALL
    assert DeferredCall.decode(old).encode() == DEFERRED_CALL


def test_a_line_of_the_spool_is_read_and_would_be_written_the_same() -> None:
    settlement = WaitingSettlement(SPOOL_LINE).settlement()
    assert settlement is not None
    assert (settlement.call_id, settlement.reservation_key) == ("call_6", b"penstock:reservation:call_6")
    assert settlement.counter_keys == KEYS
    row = msgspec.json.decode(settlement.args[2], type=UsageRow)
    assert (row.status, row.cost_nanousd, row.searches) == ("ok", 52_000, 2)
    assert encoded(*settlement.first()) == SPOOL_LINE
    assert settlement.repeated().args == [b"call_6", b"replayed", *settlement.args[2:]]
