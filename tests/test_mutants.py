"""The script that samples mutants: what it changes, what it leaves alone, and which tests it runs first."""

from __future__ import annotations

import ast
from pathlib import Path

from scripts.mutants import FILES, ROOT, find_mutants, quick_tests, sample
from scripts.mutation_operators import Mutant, PythonMutants, lua_mutants

PYTHON = '''
"""A docstring with 1 + 1."""
import os

__slots__ = ("a", "b")

def f(a: int, b: int = 2, *, c: bool = True) -> int:
    """Another."""
    log.info("event", a=a + 1)
    if a < b and not c:
        raise ValueError("a sentence with 3 words")
    g(a, b, key=[a, b])
    return {"x": a + b, "é": 7}
'''
LUA = """
-- a comment with 1 + 1
local n = tonumber(redis.call('GET', KEYS[1]) or 0)
if n >= 5 and ARGV[2] == '1' then redis.call('DEL', KEYS[1]) end
n = n - 1
return {-1, n}
"""


def applied(text: str, mutant: Mutant) -> str:
    data = text.encode()
    return (data[: mutant.start] + mutant.new.encode() + data[mutant.end :]).decode()


def made(text: str, mutants: list[Mutant]) -> set[str]:
    """The lines that the mutants leave where they change something."""
    lines = text.splitlines()
    return {line.strip() for mutant in mutants for line in applied(text, mutant).splitlines() if line not in lines}


def test_python_is_changed_where_it_acts() -> None:
    mutants = PythonMutants("x.py", PYTHON).mutants
    assert made(PYTHON, mutants) >= {
        "def f(a: int, b: int = 3, *, c: bool = True) -> int:",
        "def f(a: int, b: int = 2, *, c: bool = False) -> int:",
        "if a <= b and not c:",
        "if a < b or not c:",
        "if a < b and c:",
        "g(b, a, key=[a, b])",
        "g(a, b)",
        "g(a, b, key=[a])",
        "pass",
        'return {"x": a - b, "é": 7}',
        'return {"é": 7}',
        'return {"x": a + b, "é": 8}',
    }
    assert {mutant.line for mutant in mutants} <= {7, 10, 11, 12, 13}, "not what only a reader sees"
    assert not any("sentence" in mutant.change and "pass" not in mutant.change for mutant in mutants)


def test_lua_is_changed_where_it_acts() -> None:
    mutants = list(lua_mutants("x.lua", LUA))
    assert made(LUA, mutants) >= {
        "if n > 5 and ARGV[2] == '1' then redis.call('DEL', KEYS[1]) end",
        "if n >= 6 and ARGV[2] == '1' then redis.call('DEL', KEYS[1]) end",
        "if n >= 5 or ARGV[2] == '1' then redis.call('DEL', KEYS[1]) end",
        "if n >= 5 and ARGV[2] == '0' then redis.call('DEL', KEYS[1]) end",
        "n = n + 1",
        "return {-2, n}",
    }
    assert {mutant.line for mutant in mutants} == {3, 4, 5, 6}, "not the comment"
    removed = [mutant for mutant in mutants if mutant.change.startswith("removed")]
    assert [(mutant.line, applied(LUA, mutant).splitlines()[mutant.line - 1]) for mutant in removed] == [
        (4, ""),
        (5, ""),
    ]


def test_every_python_mutant_of_the_product_is_still_python() -> None:
    found = [mutant for mutant in find_mutants(ROOT, list(FILES)) if mutant.path.endswith(".py")]
    for mutant in sample(found, 300, seed=1):
        ast.parse(applied((ROOT / mutant.path).read_text(encoding="utf-8"), mutant))


def test_a_sample_is_the_same_for_the_same_seed_and_takes_a_line_once() -> None:
    found = find_mutants(ROOT, ["app/gateway/limits.py", "app/store/redis/lua/settle.lua"])
    drawn = sample(found, 50, seed=3)
    assert drawn == sample(found, 50, seed=3) != sample(found, 50, seed=4)
    assert len({(mutant.path, mutant.line) for mutant in drawn}) == len(drawn) == 50


def test_the_tests_that_speak_of_a_file_come_first() -> None:
    assert quick_tests(ROOT, "app/gateway/limits.py")[0] == "tests/unit/test_limits.py"
    assert "tests/unit/test_admission.py" in quick_tests(ROOT, "app/store/redis/lua/settle.lua")[:4]
    assert Path("tests/unit/test_pacing.py").as_posix() not in quick_tests(ROOT, "app/gateway/limits.py")
