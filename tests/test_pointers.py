"""Comments, docstrings and documents point only at what is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.pointers import dead_pointers

ROOT = Path(__file__).parents[1]


def test_every_document_path_module_test_and_name_that_is_mentioned_exists() -> None:
    assert [str(pointer) for pointer in dead_pointers(ROOT)] == []


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small project in which every pointer is right."""
    files = {
        "app/gateway/cache.py": '"""A cache (docs/clients.md, bug 7). See `gateway.cache.Cache`, and `Cache.get`."""\n'
        "class Cache:\n    def get(self): ...  # as `store/redis.py` has it\n",
        "app/store/redis.py": '"""Redis. Tested by `tests/test_cache.py::test_a_hit`."""\n',
        "app/store/lua/admit.lua": "-- One step of `gateway/cache.py`.\nreturn 1\n",
        "config/gateway.yaml": 'cache: {}  # see docs/clients.md, "Retries"\n',
        "docs/clients.md": "# Clients\n\n## Retries\n\n### Bug 7: keys\n\n[up](../README.md#start-here)\n",
        "README.md": "## Start here\n\n[clients](docs/clients.md), `admit.lua`\n",
        "tests/test_cache.py": "def test_a_hit(): ...\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_tree_without_dead_pointers_has_none(tree: Path) -> None:
    assert dead_pointers(tree) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "found"),
    [
        ("app/gateway/cache.py", "bug 7", "bug 8", "app/gateway/cache.py:1 docs/clients.md, bug 8"),
        (
            "app/gateway/cache.py",
            "`gateway.cache.Cache`",
            "`gateway.store.Cache`",
            "app/gateway/cache.py:1 gateway.store.Cache",
        ),
        ("app/gateway/cache.py", "`Cache.get`", "`Cache.fetch`", "app/gateway/cache.py:1 Cache.fetch"),
        ("app/gateway/cache.py", "`Cache.get`", "`Cache.Cache`", "app/gateway/cache.py:1 Cache.Cache"),
        ("app/gateway/cache.py", "store/redis.py", "store/client.py", "app/gateway/cache.py:3 store/client.py"),
        ("app/gateway/cache.py", "A cache (", "A cache (DESIGN §6, ", "app/gateway/cache.py:1 DESIGN"),
        ("app/store/redis.py", "test_a_hit", "test_a_miss", "app/store/redis.py:1 tests/test_cache.py::test_a_miss"),
        ("app/store/lua/admit.lua", "gateway/cache.py", "gateway/x.py", "app/store/lua/admit.lua:1 gateway/x.py"),
        ("config/gateway.yaml", "Retries", "Streams", 'config/gateway.yaml:1 docs/clients.md, "Streams"'),
        ("README.md", "docs/clients.md", "docs/client.md", "README.md:3 [clients](docs/client.md)"),
        ("docs/clients.md", "#start-here", "#start", "docs/clients.md:7 [up](../README.md#start)"),
        ("README.md", "admit.lua", "settle.lua", "README.md:3 settle.lua"),
    ],
)
def test_each_kind_of_dead_pointer_is_found(tree: Path, file: str, old: str, new: str, found: str) -> None:
    text = (tree / file).read_text()
    assert old in text
    (tree / file).write_text(text.replace(old, new))
    assert found in [str(pointer) for pointer in dead_pointers(tree)]
