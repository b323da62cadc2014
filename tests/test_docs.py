"""The pages are Markdown as GitHub and others read it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_RULE = re.compile(r"\|[\s:|-]+\|")  # between a table's head and its rows


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda page: page.name
)
def test_no_blank_line_splits_a_table(page: Path) -> None:
    blocks = _FENCED.sub("", page.read_text()).split("\n\n")
    tables = [block.strip().splitlines() for block in blocks if block.strip().startswith("|")]
    assert [rows[0] for rows in tables if len(rows) < 2 or not _RULE.fullmatch(rows[1])] == []
