"""Names of tests: short sentences, each said once in its file."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
MOST_CHARACTERS = 70


@pytest.mark.parametrize("path", sorted(TESTS.rglob("test_*.py")), ids=lambda path: str(path.relative_to(TESTS)))
def test_a_test_is_named_in_a_sentence_that_fits_in_a_line(path: Path) -> None:
    names = [
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    assert [name for name in names if len(name) > MOST_CHARACTERS] == []
    assert [name for name, count in Counter(names).items() if count > 1] == []  # the first one would never run


def test_no_two_modules_of_tests_have_one_name() -> None:
    """Folders of tests are no packages: pytest would find one of the two in the other's place."""
    names = Counter(path.name for path in TESTS.rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []
