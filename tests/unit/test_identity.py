"""FakeKeyStore by their shape, callers by what they may do, and for how long either is believed."""

from __future__ import annotations

import re

import pytest

from app.domain.identity import Caller, Role, Scope, display_prefix, hash_key, is_well_formed, new_key
from app.errors import InvalidApiKey
from app.gateway.callers import FRESH_S, Callers
from app.store.keys import Keys

KEY = new_key()


class FakeKeyStore(Keys):
    """The key store: what it has, and how often it was asked."""

    def __init__(self, *callers: Caller) -> None:
        self.has = {caller.key_hash: caller for caller in callers}
        self.asked: list[str] = []

    def authenticate(self, key_hash: str) -> Caller | None:
        self.asked.append(key_hash)
        return self.has.get(key_hash)


def caller(key: str = KEY, **more: object) -> Caller:
    return Caller("key_1", "test", key_hash=hash_key(key), **more)  # type: ignore[arg-type]


def test_a_new_key_has_the_shape_that_scanners_look_for() -> None:
    keys = {new_key() for _ in range(20)}
    assert len(keys) == 20
    assert all(re.fullmatch(r"pstk_[0-9A-Za-z]{42}", key) and is_well_formed(key) for key in keys)
    assert display_prefix(KEY) == KEY[:11]


def test_a_key_with_one_wrong_character_is_no_key() -> None:
    """Its checksum is that of what was sent yesterday, too: keys are kept for years."""
    assert is_well_formed("pstk_" + "0" * 36 + "2pm6Fc") is (_crc_of_zeros() == "2pm6Fc")
    for at in range(len(KEY)):
        other = "a" if KEY[at] != "a" else "b"
        assert not is_well_formed(KEY[:at] + other + KEY[at + 1 :])
    for wrong in (
        "",
        "pstk_",
        KEY[:-1],
        KEY + "0",
        KEY.replace("pstk_", "sk-x_"),
        KEY[:-1] + "é",
        KEY[:20] + "é" + KEY[21:],
    ):
        assert not is_well_formed(wrong)


def _crc_of_zeros() -> str:
    import zlib

    number, digits = zlib.crc32(b"0" * 36), ""
    alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    for _ in range(6):
        number, rest = divmod(number, 62)
        digits = alphabet[rest] + digits
    return digits


def test_who_may_do_what() -> None:
    assert [caller().has(scope) for scope in Scope] == [True, True, False]
    assert all(caller(role=Role.ADMIN).has(scope) for scope in Scope)
    assert caller().may_use("anything")
    limited = caller(models=frozenset({"a"}))
    assert (limited.may_use("a"), limited.may_use("b")) == (True, False)


def test_a_known_caller_is_read_once_until_it_is_verified() -> None:
    now = [0.0]
    keys = FakeKeyStore(caller())
    callers = Callers(keys=keys, monotonic=lambda: now[0])
    assert [callers.lookup(KEY) for _ in range(3)] == [caller()] * 3
    assert len(keys.asked) == 1
    now[0] = FRESH_S - 0.01
    callers.verify(KEY)
    assert len(keys.asked) == 1
    now[0] = FRESH_S
    assert callers.verify(KEY) == caller()
    assert len(keys.asked) == 2, "what is not verified by admission is read anew"
    callers.by_hash(hash_key(KEY))
    assert len(keys.asked) == 3


def test_an_unknown_key_is_asked_for_once_in_a_while() -> None:
    now = [0.0]
    keys = FakeKeyStore()
    callers = Callers(keys=keys, monotonic=lambda: now[0])
    for at, asked in ((0.0, 1), (FRESH_S - 0.01, 1), (FRESH_S, 2)):
        now[0] = at
        with pytest.raises(InvalidApiKey):
            callers.lookup(KEY)
        assert len(keys.asked) == asked
    with pytest.raises(InvalidApiKey):
        callers.lookup("garbage")
    assert len(keys.asked) == 2, "what cannot be a key is refused without a look"


def test_an_expired_key_is_refused_from_its_last_second_on() -> None:
    now = [99.0]
    callers = Callers(keys=FakeKeyStore(caller(expires_at=100.0)), clock=lambda: now[0])
    assert callers.lookup(KEY).key_id == "key_1"
    now[0] = 100.0
    with pytest.raises(InvalidApiKey, match="expired"):
        callers.lookup(KEY)


def test_the_keys_of_the_environment_are_known_without_a_store() -> None:
    keys = FakeKeyStore()
    callers = Callers(keys=keys, dev_key="dev", admin_key="adm")
    dev, admin = callers.lookup("dev"), callers.verify("adm")
    assert (dev.key_id, dev.role, dev.plan, dev.key_hash) == ("dev", Role.USER, "default", hash_key("dev"))
    assert (admin.key_id, admin.role, admin.key_hash) == ("admin", Role.ADMIN, hash_key("adm"))
    assert callers.by_hash(hash_key("adm")) == admin
    assert (dev.record, keys.asked) == (b"", [])


def test_only_so_many_callers_are_remembered_and_the_least_used_go_first() -> None:
    keys = FakeKeyStore(*(caller(f"{number}") for number in range(10_002)))
    callers = Callers(keys=keys)
    for number in range(10_000):
        callers.refresh(hash_key(f"{number}"))
    callers.refresh(hash_key("0"))
    callers.refresh(hash_key("10000"))
    assert len(callers._cached) == 10_000
    assert hash_key("0") in callers._cached, "it was used just now"
    assert hash_key("1") not in callers._cached
