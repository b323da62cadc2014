"""Tables of what clients showed, in docs/clients.md: between two marks, written by the run and compared in CI."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.vendors.gateway import DIALECTS

DOCUMENT = Path(__file__).parents[2] / "docs" / "clients.md"
_TITLES = {"chat": "chat completions", "responses": "responses", "messages": "messages", "gemini": "generateContent"}


@dataclass
class Cell:
    """One client at one vendor: yes if all that was begun has passed."""

    begun: int = 0
    done: int = 0

    def passed(self) -> None:
        self.done += 1


@dataclass
class Table:
    """Clients by the vendors' dialects. `name`: of its marks in the document."""

    name: str
    cells: dict[str, dict[str, Cell]] = field(default_factory=dict)

    def begin(self, client: str, version: str, dialect: str) -> Cell:
        cell = self.cells.setdefault(f"{client} {version}", {}).setdefault(dialect, Cell())
        cell.begun += 1
        return cell

    def text(self) -> str:
        lines = [f"| client | {' | '.join(_TITLES[dialect] for dialect in DIALECTS)} |", "|---" * 5 + "|"]
        for client, cells in self.cells.items():
            words = [_word(cells.get(dialect)) for dialect in DIALECTS]
            lines.append(f"| {client} | {' | '.join(words)} |")
        return "\n".join(lines)

    def publish(self) -> None:
        """Writes the table into the document; in CI, raises AssertionError if another one stands there."""
        if any(len(cells) < len(DIALECTS) for cells in self.cells.values()):
            return  # some of the tests were selected
        written = DOCUMENT.read_text()
        between = re.compile(rf"(<!-- {self.name}: [^\n]* -->\n).*?(<!-- end of {self.name} -->)", re.DOTALL)
        assert between.search(written), f"{DOCUMENT.name} has no marks of {self.name}"
        new = between.sub(lambda found: f"{found[1]}\n{self.text()}\n\n{found[2]}", written)
        if os.environ.get("CI"):
            assert new == written, "the table has changed: run `make test-clients` and commit docs/clients.md"
        elif new != written:
            DOCUMENT.write_text(new)


def _word(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    return "yes" if cell.done == cell.begun else "no"
