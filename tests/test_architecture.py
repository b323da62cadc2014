"""The shape of the code, held by tests: layers, no circles, one reader of the environment, no globals, short files."""

from __future__ import annotations

import ast
import graphlib
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

import app

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "app").rglob("*.py"))
SOURCES = sorted(
    [ROOT / "gunicorn.conf.py", *(path for room in ("app", "bench", "scripts") for path in (ROOT / room).rglob("*.py"))]
)
LONGEST_FILE = 340
QUESTION = re.compile(
    r"(What|How|Which|Whether|Who|Whose|Whom|When|Where|Why|Is|Are|Does|Do|Can|Would|May)\b",
)
Function = ast.FunctionDef | ast.AsyncFunctionDef


def parsed(paths: list[Path] = MODULES) -> Iterator[tuple[Path, ast.Module]]:
    for path in paths:
        yield path.relative_to(ROOT), ast.parse(path.read_text())


def test_imports_point_down_only() -> None:
    """The contracts are in pyproject.toml."""
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout


def test_no_circle_of_imports() -> None:
    """Not even of those inside functions, or for types only."""
    graph = grimp.build_graph("app", cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    circle: list[str] = []
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as exc:
        circle = exc.args[1]
    assert len(imports) > 100
    assert circle == []


def test_only_settings_reads_the_environment() -> None:
    # telemetry.metrics asks whether prometheus_client, which reads the variable itself, runs in its multiprocess mode;
    # telemetry.logging for FORCE_COLOR, the sign of all programs whose output goes to a terminal by way of another's.
    allowed = {"app/settings.py", "app/telemetry/metrics.py", "app/telemetry/logging.py"}
    readers = {
        str(path)
        for path, tree in parsed()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
        if isinstance(node.value, ast.Name) and node.value.id == "os"
    }
    assert readers == allowed


def test_no_globals() -> None:
    found = [
        f"{path}:{node.lineno}" for path, tree in parsed() for node in ast.walk(tree) if isinstance(node, ast.Global)
    ]
    assert found == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_tells_one_story(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= LONGEST_FILE
    assert ast.get_docstring(ast.parse(text)) is not None or not text.strip(), (
        "a module opens by saying what it decides"
    )


def test_functions_fit_on_a_screen() -> None:
    too_long = [
        f"{path}:{node.lineno} {node.name}"
        for path, tree in parsed()
        for node in ast.walk(tree)
        if isinstance(node, Function) and (node.end_lineno or 0) - node.lineno > 60
    ]
    assert too_long == []


def test_a_docstring_names_a_thing_or_tells_what_is_done_and_asks_nothing() -> None:
    asking = [
        f"{path}:{getattr(node, 'lineno', 1)} {text.splitlines()[0]}"
        for path, tree in parsed(SOURCES)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | Function)
        if QUESTION.match(text := ast.get_docstring(node) or "")
    ]
    assert asking == []


def test_no_line_asks_the_formatter_to_look_away() -> None:
    mark = re.compile(r"#\s*fmt:\s*(skip|off)")
    found = [
        f"{path.relative_to(ROOT)}:{token.start[0]}"
        for path in [*SOURCES, *(ROOT / "tests").rglob("*.py")]
        for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
        if token.type == tokenize.COMMENT and mark.search(token.string)
    ]
    assert found == []


def test_a_protocol_has_two_implementations() -> None:
    """By the names of their members: a class implements a protocol if it or a base of it in app/ has all of them."""
    classes = [node for _, tree in parsed() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    protocols = [node for node in classes if "Protocol" in base_names(node)]
    concrete = [node for node in classes if node not in protocols]
    by_name = {node.name: node for node in concrete}
    implementations = {
        protocol.name: [node.name for node in concrete if members(protocol) <= inherited_members(node, by_name)]
        for protocol in protocols
    }
    assert implementations
    assert {name: found for name, found in implementations.items() if len(found) < 2} == {}


def base_names(node: ast.ClassDef) -> set[str]:
    return {base.id for base in node.bases if isinstance(base, ast.Name)}


def inherited_members(node: ast.ClassDef, by_name: dict[str, ast.ClassDef]) -> set[str]:
    bases = [by_name[name] for name in base_names(node) if name in by_name and name != node.name]
    return members(node).union(*(inherited_members(base, by_name) for base in bases))


def members(node: ast.ClassDef) -> set[str]:
    """Methods, fields, and the attributes that methods give to `self`."""
    found = {statement.name for statement in node.body if isinstance(statement, Function)}
    for inner in ast.walk(node):
        targets = inner.targets if isinstance(inner, ast.Assign) else [getattr(inner, "target", None)]
        if isinstance(inner, ast.Assign | ast.AnnAssign):
            found |= {target.attr for target in targets if isinstance(target, ast.Attribute)}
            found |= {target.id for target in targets if isinstance(target, ast.Name) and inner in node.body}
    return found


def test_the_version_stands_in_one_place() -> None:
    """pyproject.toml and the API's description read it from the code; an image's default label is compared."""
    assert re.findall(r"(?m)^ARG VERSION=(.*)$", (ROOT / "Dockerfile").read_text()) == [app.__version__]
    others = [path for path in SOURCES if f'"{app.__version__}"' in path.read_text()]
    assert [str(path.relative_to(ROOT)) for path in others] == ["app/settings.py"]
