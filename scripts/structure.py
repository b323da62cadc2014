"""Structural measurements of a source tree: sizes, docstrings, layers, import circles, the path of one completion.

    .venv/bin/python -m scripts.structure [ROOT]

`ROOT` is any revision of this project that has `app/` and `pyproject.toml`, so that two of them can be compared. A
completion is traced in a process of its own, on the tree's own code (`scripts/trace_completion.py`).
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.pointers import dead_pointers

QUESTION = re.compile(r"(What|How|Which|Whether|Who|Whose|When|Where|Why|Is|Are|Does|Do|Can)\b")
_Documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_Function = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Module:
    """A parsed file; `name` is dotted, a package's without `__init__`."""

    name: str
    path: Path
    text: str
    tree: ast.Module


@dataclass(frozen=True)
class Class:
    """A class of app/ with every name that its body or its methods' `self.…` assignments define."""

    name: str
    module: str
    members: frozenset[str]
    bases: tuple[str, ...]


def parse_modules(root: Path, folders: Iterable[str]) -> list[Module]:
    """Reads every Python file below `folders`, in a stable order."""
    modules = []
    for path in sorted(path for folder in folders for path in (root / folder).rglob("*.py")):
        name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        text = path.read_text()
        modules.append(Module(name, path, text, ast.parse(text)))
    return modules


def spread(values: Iterable[int]) -> str:
    """Formats the median, the 95th percentile and the maximum."""
    ordered = sorted(values)
    return f"{ordered[len(ordered) // 2]} / {ordered[int(len(ordered) * 0.95)]} / {ordered[-1]}"


def questions(modules: Iterable[Module]) -> str:
    """Formats the count of docstrings that open with a question word, and of all."""
    nodes = (node for module in modules for node in ast.walk(module.tree) if isinstance(node, _Documented))
    texts = [text for node in nodes if (text := ast.get_docstring(node))]
    return f"{sum(bool(QUESTION.match(text)) for text in texts)} of {len(texts)}"


def imports(modules: list[Module]) -> dict[str, set[str]]:
    """Returns the modules of the tree that each module imports, also inside functions and for types only."""
    names = {module.name for module in modules}
    found: dict[str, set[str]] = {module.name: set() for module in modules}
    for module in modules:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                targets = [
                    full if (full := f"{node.module}.{alias.name}") in names else node.module for alias in node.names
                ]
            else:
                continue
            found[module.name].update(target for target in targets if target in names and target != module.name)
    return found


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Returns the strongly connected components of more than one module (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in graph[name]:
            if target not in index:
                visit(target)
            if target in stack:
                low[name] = min(low[name], low[target])
        if low[name] == index[name]:
            component = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(component) > 1:
                found.append(sorted(component))

    for name in graph:
        if name not in index:
            visit(name)
    return found


def layer_of(root: Path) -> dict[str, int]:
    """Returns the layer of each package or module that the tree's import-linter contract names; 0 is the top."""
    contracts = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return {name.strip(): number for number, layer in enumerate(layers) for name in re.split(r"[|:]", layer)}


def level(layers: dict[str, int], module: str) -> int | None:
    """Returns the layer of `module` by its longest prefix in the contract, or None outside of it."""
    while module:
        if module in layers:
            return layers[module]
        module = module.rpartition(".")[0]
    return None


def classes(modules: Iterable[Module]) -> Iterator[Class]:
    """Yields the classes of `modules`, also nested ones."""
    for module in modules:
        for node in (item for item in ast.walk(module.tree) if isinstance(item, ast.ClassDef)):
            members = {item.name for item in node.body if isinstance(item, (*_Function, ast.ClassDef))}
            for item in ast.walk(node):
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                    members.add(item.target.id)
                elif isinstance(item, ast.Attribute) and isinstance(item.ctx, ast.Store):
                    members.add(item.attr)
            bases = tuple(ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in node.bases)
            yield Class(node.name, module.name, frozenset(members), bases)


def implementations(found: list[Class]) -> dict[Class, list[Class]]:
    """Returns for each Protocol the classes that have all of its members, themselves or by a direct base."""
    by_name = {item.name: item for item in found}

    def members(item: Class) -> frozenset[str]:
        return item.members.union(*(by_name[base].members for base in item.bases if base in by_name))

    concrete = [(item, members(item)) for item in found if "Protocol" not in item.bases]
    return {
        protocol: [item for item, has in concrete if protocol.members <= has]
        for protocol in found
        if "Protocol" in protocol.bases
    }


def callbacks_up(module: Module, layers: dict[str, int], defined: dict[str, str]) -> Iterator[str]:
    """Finds own methods handed to the constructor of a class in a lower layer, which calls up through them."""
    for outer in (node for node in ast.walk(module.tree) if isinstance(node, ast.ClassDef)):
        methods = {item.name for item in outer.body if isinstance(item, _Function) and not item.decorator_list}
        for call in (node for node in ast.walk(outer) if isinstance(node, ast.Call)):
            below = defined.get(call.func.id) if isinstance(call.func, ast.Name) else None
            if below is None or (level(layers, below) or 0) <= (level(layers, module.name) or 0):
                continue
            for value in [*call.args, *(keyword.value for keyword in call.keywords)]:
                if isinstance(value, ast.Attribute) and value.attr in methods and ast.unparse(value.value) == "self":
                    yield f"{below} calls {module.name} ({ast.unparse(value)})"


def arrows_up(
    modules: list[Module], graph: dict[str, set[str]], layers: dict[str, int], protocols: dict[Class, list[Class]]
) -> list[str]:
    """Returns imports against the contract's order, and calls against it: by a Protocol whose one implementation
    stands above it, or by a method handed down."""

    def above(upper: str, lower: str) -> bool:
        first, second = level(layers, upper), level(layers, lower)
        return first is not None and second is not None and first < second

    found = [f"{name} imports {target}" for name in graph for target in graph[name] if above(target, name)]
    for protocol, items in protocols.items():
        if len(items) == 1 and above(items[0].module, protocol.module):
            found.append(f"{protocol.module} calls {items[0].module} ({protocol.name})")
    defined = {
        node.name: module.name for module in modules for node in module.tree.body if isinstance(node, ast.ClassDef)
    }
    return found + [arrow for module in modules for arrow in callbacks_up(module, layers, defined)]


def trace_completion(root: Path) -> dict[str, Any]:
    """Runs `scripts/trace_completion.py` on the tree's own code and returns its answer."""
    command = [sys.executable, "-P", str(Path(__file__).with_name("trace_completion.py"))]
    env = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def measure(root: Path) -> tuple[dict[str, object], dict[str, list[str]]]:
    """Returns the table's rows, and below each counted row what was counted."""
    app = parse_modules(root, ["app"])
    rest = parse_modules(root, ["tests", "bench", "scripts"])
    graph = imports(app)
    protocols = implementations(list(classes(app)))
    single = [f"{item.module}.{item.name}: {len(found)}" for item, found in protocols.items() if len(found) < 2]
    arrows = arrows_up(app, graph, layer_of(root), protocols)
    rings = [" ↔ ".join(component) for component in circles(graph)]
    functions = [node for module in app for node in ast.walk(module.tree) if isinstance(node, _Function)]
    path = trace_completion(root)
    rooms = sorted({str(Path(file).parent) for file in path["files"]})
    dead = [str(pointer) for pointer in dead_pointers(root)]
    rows: dict[str, object] = {
        "files in app/": len(app),
        "lines a file (median / p95 / max)": spread(module.text.count("\n") for module in app),
        "functions in app/": len(functions),
        "lines a function (median / p95 / max)": spread((node.end_lineno or 0) - node.lineno + 1 for node in functions),
        "docstrings of app/ that open with a question word": questions(app),
        "docstrings of tests, bench, scripts that do": questions(rest),
        "`# fmt: skip`": sum(module.text.count("# fmt: skip\n") for module in app + rest),
        "Protocols with fewer than two implementations": f"{len(single)} of {len(protocols)}",
        "arrows up between rooms": len(arrows),
        "import circles": len(rings),
        "rooms that one completion opens": len(rooms),
        "files that one completion opens": len(path["files"]),
        "call depth of one completion in app/": path["depth"],
        "dead pointers": len(dead),
    }
    return rows, {"Protocols": single, "arrows up": arrows, "circles": rings, "rooms": rooms, "dead pointers": dead}


def main() -> None:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    rows, details = measure(root)
    for name, value in rows.items():
        print(f"{name:55} {value}")
    for title, lines in details.items():
        print(f"\n{title}:", *(f"    {line}" for line in lines), sep="\n")


if __name__ == "__main__":
    main()
