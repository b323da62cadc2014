"""The documents: Markdown as GitHub reads it, a map that has every room, and the list of private interfaces."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_RULE = re.compile(r"\|[\s:|-]+\|")  # between a table's head and its rows


PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_blank_line_splits_a_table(page: Path) -> None:
    blocks = _FENCED.sub("", page.read_text()).split("\n\n")
    tables = [block.strip().splitlines() for block in blocks if block.strip().startswith("|")]
    assert [rows[0] for rows in tables if len(rows) < 2 or not _RULE.fullmatch(rows[1])] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_heading_or_paragraph_opens_as_a_question(page: Path) -> None:
    text = _FENCED.sub("", page.read_text())
    openers = re.findall(r"(?:\A|\n\n)(?:#+ |- |\*\*)?((?:What|How|Which|Whether|Who|Whose|Why|Is|Are|Does)\b.*)", text)
    assert openers == []


def test_the_map_of_the_architecture_has_every_room() -> None:
    table = (ROOT / "docs/architecture.md").read_text().partition("## The map")[2].partition("\n## ")[0]
    rooms = {str(path.parent.relative_to(ROOT / "app")) for path in (ROOT / "app").rglob("*.py") if path.stat().st_size}
    rooms -= {".", "store/sql/migrations", "store/sql/migrations/versions"}
    assert {room for room in rooms if f"\n| `{room}/` |" not in table} == set()


# Begin with an underscore and are documented all the same.
DOCUMENTED = {"_asdict", "_exit", "_fields", "_make", "_mapping", "_replace"}


def private_names(tree: ast.Module) -> Iterator[str]:
    """Yields the private names of other modules that a module uses: imported, or of an object it has not defined."""
    own = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    own |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    own |= {node.attr for node in attributes if isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self"}
    instances = {"self", "cls", "found"} | {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    for used in attributes:
        is_ours = used.attr in own and ast.unparse(used.value) in instances
        if used.attr.startswith("_") and not used.attr.startswith("__") and not is_ours:
            yield used.attr
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) == "getattr"
            and isinstance(node.args[1], ast.Constant)
        ):
            yield from re.findall(r"^_\w+", str(node.args[1].value))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module != "__future__":
            for name in [*(node.module or "").split("."), *(alias.name for alias in node.names)]:
                if name.startswith("_") and not name.startswith("__"):
                    yield name


def test_every_private_name_of_a_library_is_listed_and_no_other() -> None:
    """A private name of a module of our own would be found, too: modules use each other's public names only."""
    rows = re.findall(r"^\| [\w-]+ \| (.*?) \| (.*?) \|", (ROOT / "docs/decisions/private-apis.md").read_text(), re.M)
    listed = {
        (path, name)
        for names, files in rows
        for name in re.findall(r"`(_\w+)`", names)
        for path in re.findall(r"`([\w/]+\.py)`", files)
    }
    used = {
        (str(path.relative_to(ROOT / "app")), name)
        for path in (ROOT / "app").rglob("*.py")
        for name in private_names(ast.parse(path.read_text()))
        if name not in DOCUMENTED
    }
    assert used == listed
