"""Mutation testing by sample: runs the quick tests with one operator, constant or statement made wrong.

    python -m scripts.mutants --sample 60 --seed 2

Each mutant is one small change in one file, made in a copy of the tree; it is killed when a quick test then fails.
A survivor is code that no quick test checks, or a change without effect.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from scripts.mutation_operators import Mutant, PythonMutants, lua_mutants

ROOT = Path(__file__).parents[1]
FILES = (
    "app/gateway/*.py",
    "app/domain/*.py",
    "app/store/redis/lua/**/*.lua",
    "app/store/jobs.py",
    "app/store/ledger.py",
    "app/store/outbox.py",
    "app/ledger_process.py",
    "app/store/spool.py",
)
QUICK = ("tests/unit/test_*.py", "tests/api/test_chat.py", "tests/api/test_routing.py", "tests/api/test_jobs.py")
_TEST_TIMEOUT_S = 60
_FIRST_FILES = 4
_NOT_COPIED = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", ".hypothesis", "data")


@dataclass(frozen=True)
class Verdict:
    """The outcome of the tests with one mutant."""

    outcome: str  # killed | survived | timeout
    by: str  # the test that failed
    took_s: float


def find_mutants(root: Path, patterns: list[str]) -> list[Mutant]:
    found: list[Mutant] = []
    for path in sorted({path for pattern in patterns for path in root.glob(pattern)}):
        name, text = str(path.relative_to(root)), path.read_text(encoding="utf-8")
        found += PythonMutants(name, text).mutants if path.suffix == ".py" else lua_mutants(name, text)
    return found


def sample(found: list[Mutant], size: int, seed: int) -> list[Mutant]:
    """Draws `size` mutants, no two on one line."""
    shuffled = random.Random(seed).sample(found, len(found))
    drawn = {(mutant.path, mutant.line): mutant for mutant in reversed(shuffled)}
    order = [mutant for mutant in shuffled if drawn[mutant.path, mutant.line] is mutant]
    return order[:size]


class Tree:
    """A copy of the working tree, with one mutant at a time."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "tree"
        self._temporary = directory / "t"  # short: Unix sockets' paths are
        shutil.copytree(ROOT, self.root, ignore=_NOT_COPIED, symlinks=True)
        (self.root / ".venv").symlink_to((ROOT / ".venv").resolve())
        self._writes = itertools.count(int(time.time()))

    def judge(self, mutant: Mutant, timeout_s: float) -> Verdict:
        path = self.root / mutant.path
        text = path.read_bytes()
        self._write(path, text[: mutant.start] + mutant.new.encode() + text[mutant.end :])
        started = time.monotonic()
        try:
            outcome, by = self._verdict(quick_tests(self.root, mutant.path), timeout_s)
        finally:
            self._write(path, text)
        return Verdict(outcome, by, time.monotonic() - started)

    def _verdict(self, tests: list[str], timeout_s: float) -> tuple[str, str]:
        flaky: list[str] = []
        while True:
            deselected = [f"--deselect={test}" for test in flaky]
            # Most mutants die in the first files: the others are not even collected for those.
            failed = self.first_failure([*tests[:_FIRST_FILES], *deselected], timeout_s)
            if failed == "":
                failed = self.first_failure([*tests[_FIRST_FILES:], *deselected], timeout_s)
            if failed is None:
                return "timeout", ""
            # A test that fails once and then passes has failed for another reason.
            if not failed or "::" not in failed or self.first_failure([failed], timeout_s) != "":
                return ("killed", failed) if failed else ("survived", "")
            flaky.append(failed)

    def first_failure(self, tests: list[str], timeout_s: float) -> str | None:
        """Returns the first test that fails; "" when all pass, None when they do not end within `timeout_s`."""
        command = [
            ".venv/bin/python",
            "-m",
            "pytest",
            "-x",
            "--tb=no",
            "-q",
            "-rfE",
            "-p",
            "no:cacheprovider",
            "--hypothesis-profile=no-shrinking",
            f"--timeout={_TEST_TIMEOUT_S}",
            f"--basetemp={self._temporary}",
            *tests,
        ]
        with subprocess.Popen(
            command, cwd=self.root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        ) as process:
            try:
                output, _ = process.communicate(timeout=timeout_s)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                return None
        if process.returncode == 0:
            return ""
        failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", output, re.MULTILINE)
        return failed[1] if failed else "the tests' start"

    def _write(self, path: Path, text: bytes) -> None:
        path.write_bytes(text)
        at = next(self._writes)  # Python tells compiled files that are out of date by whole seconds
        os.utime(path, (at, at))


def quick_tests(root: Path, mutated: str) -> list[str]:
    """Returns the quick tests that can reach the mutated file, those that name it most often first."""
    modules = _modules_of(root, mutated)
    name = re.compile(rf"\b({'|'.join(re.escape(path.stem) for path in modules)})\b")
    imports: dict[Path, set[Path]] = {}
    ranked = []
    for path in (path for pattern in QUICK for path in root.glob(pattern)):
        text = path.read_text(encoding="utf-8")
        if path.parent.name == "api" or "create_app" in text or not modules.isdisjoint(_reachable(root, path, imports)):
            other = not name.fullmatch(path.stem.removeprefix("test_"))
            ranked.append((other, -len(name.findall(text)), path.parent.name, path.name, path))
    return [str(path.relative_to(root)) for *_, path in sorted(ranked)]


def _modules_of(root: Path, mutated: str) -> set[Path]:
    """Returns the mutated module; for a Lua script, the modules that load it."""
    path = root / mutated
    if path.suffix == ".py":
        return {path}
    script = str(path.relative_to(root / "app/store/redis/lua").with_suffix(""))
    return {user for user in (root / "app").rglob("*.py") if f'"{script}"' in user.read_text(encoding="utf-8")}


def _reachable(root: Path, path: Path, imports: dict[Path, set[Path]]) -> set[Path]:
    """Returns the files that importing `path` imports. `imports` caches the imports of each file."""
    reached: set[Path] = set()
    queue = [path]
    while queue:
        file = queue.pop()
        if file in reached:
            continue
        reached.add(file)
        if file not in imports:
            imports[file] = set(_imported(root, file))
        queue += imports[file]
    return reached


def _imported(root: Path, path: Path) -> Iterator[Path]:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("app", "tests", "scripts"):
            package = root / (node.module or "").replace(".", "/")
            places = [package, *(package / alias.name for alias in node.names)]
            yield from (
                file
                for place in places
                for file in (place.with_suffix(".py"), place / "__init__.py")
                if file.is_file() and file != root / "app/__init__.py"
            )


def run(drawn: list[Mutant], jobs: int) -> dict[str, int]:
    outcomes = dict.fromkeys(("killed", "survived", "timeout"), 0)
    with tempfile.TemporaryDirectory(prefix="mutants-") as directory:
        trees: SimpleQueue[Tree] = SimpleQueue()
        for job in range(jobs):
            trees.put(Tree(Path(directory) / str(job)))
        first = trees.get()
        started = time.monotonic()
        failed = first.first_failure(quick_tests(first.root, drawn[0].path), 600)
        if failed != "":
            sys.exit(f"The quick tests fail without any mutant: {failed or 'not within 600 s'}")
        clean_s = time.monotonic() - started
        print(f"without a mutant: {clean_s:.0f} s", flush=True)
        trees.put(first)

        def judge(mutant: Mutant) -> tuple[Mutant, Verdict]:
            tree = trees.get()
            try:
                return mutant, tree.judge(mutant, 3 * clean_s + 30)
            finally:
                trees.put(tree)

        with ThreadPoolExecutor(jobs) as pool:
            for mutant, verdict in pool.map(judge, drawn):
                outcomes[verdict.outcome] += 1
                print(f"{verdict.outcome:8} {verdict.took_s:4.0f} s  {mutant}  {verdict.by}", flush=True)
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=60, help="how many mutants")
    parser.add_argument("--seed", type=int, default=1, help="the same seed draws the same mutants of the same files")
    parser.add_argument("--files", nargs="+", default=list(FILES), help="patterns from the root of the tree")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many at a time")
    parser.add_argument("--list", action="store_true", help="only show what would be changed")
    options = parser.parse_args()
    found = find_mutants(ROOT, options.files)
    drawn = sample(found, options.sample, options.seed)
    print(f"{len(drawn)} of {len(found)} mutants, seed {options.seed}", flush=True)
    if options.list:
        print(*drawn, sep="\n")
        return
    started = time.monotonic()
    outcomes = run(drawn, options.jobs)
    summary = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())
    share = (outcomes["killed"] + outcomes["timeout"]) / max(len(drawn), 1)
    print(f"{summary}: {share:.0%} noticed, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
