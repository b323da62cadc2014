"""The structural measurements, on a small tree with one of each fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.structure import (
    Module,
    arrows_up,
    circles,
    classes,
    implementations,
    imports,
    layer_of,
    parse_modules,
    questions,
)

FILES = {
    "pyproject.toml": '[tool.importlinter]\n[[tool.importlinter.contracts]]\ntype = "layers"\n'
    'layers = ["app.api", "app.gateway", "app.store"]\n',
    "app/api.py": '"""Views."""\n',
    "app/gateway.py": '"""Which calls run."""\nfrom app.store import Outbox\n\n\n'
    "class Reaper:\n    def run_once(self): ...\n\n    def share(self): ...\n\n"
    "    def start(self):\n        return Outbox(share=self.share)\n",
    "app/store.py": '"""Rows."""\nfrom typing import Protocol\n\n\n'
    "class Chore(Protocol):\n    def run_once(self): ...\n\n\n"
    "class Outbox:\n    def drain(self):\n        from app.api import view\n",
    "app/a.py": "from app import b\n",
    "app/b.py": "def late():\n    from app import a\n",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def modules(tree: Path) -> list[Module]:
    return parse_modules(tree, ["app"])


def test_docstrings_that_open_as_a_question_are_counted(modules: list[Module]) -> None:
    assert questions(modules) == "1 of 3"


def test_a_circle_is_found_also_through_an_import_in_a_function(modules: list[Module]) -> None:
    assert circles(imports(modules)) == [["app.a", "app.b"]]


def test_an_arrow_up_is_an_import_a_protocol_or_a_method_handed_down(tree: Path, modules: list[Module]) -> None:
    protocols = implementations(list(classes(modules)))
    assert [[item.name for item in found] for found in protocols.values()] == [["Reaper"]]
    assert arrows_up(modules, imports(modules), layer_of(tree), protocols) == [
        "app.store imports app.api",
        "app.store calls app.gateway (Chore)",
        "app.store calls app.gateway (self.share)",
    ]
