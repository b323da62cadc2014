"""Dead pointers: documents, paths, modules, tests and names that a comment, docstring or document names and nobody has.

    .venv/bin/python -m scripts.pointers [ROOT]

It reads the comments and docstrings of Python, Lua, YAML, nginx, shell and Make files, and the Markdown documents
(of the changelog only the newest section: older ones tell what was), and resolves each pointer against the same tree.
"""

from __future__ import annotations

import ast
import io
import os
import re
import sys
import tokenize
from collections.abc import Iterator
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

_SKIPPED = {"data", "node_modules", "__pycache__"}  # and hidden folders but .ci
# Names of other programs, which no file of this tree has as code.
_FOREIGN = {
    "Connection.send_command",
    "read_response",  # redis-py
    "client.webhooks.unwrap",  # OpenAI's SDK
    "proxy_cache_lock",
    "proxy_cache_lock_timeout",
    "REJECTED",  # nginx
    "PartialArg",
    "BlockedReason",
    "GenerateContentResponseUsageMetadata",  # Google's SDK
    "MessageDeltaUsage",
    "BetaIterationsUsage",  # Anthropic's
    "librechat.yaml",
    "LimitNOFILE",  # systemd
    "pg_dump",
    "pg_restore",  # PostgreSQL
    "PENSTOCK_BUILD_IMAGE",  # a setting that the changelog says is gone
    "Date",  # HTTP
    "NAME_FILE",  # a pattern: any setting's name before _FILE
}
_BASES_WITHOUT_NAMES = {"msgspec.Struct", "NamedTuple", "Protocol"}
_LAYOUT = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.COMMENT}
_COMMENT = {
    ".lua": "--",
    ".yaml": "#",
    ".yml": "#",
    ".conf": "#",
    ".template": "#",
    ".sh": "#",
    ".toml": "#",
    ".in": "#",
    "Makefile": "#",
    "Dockerfile": "#",
    ".example": "#",
    "Procfile": "#",
}
_PATH = re.compile(
    r"(?<![\w/.:@~$*<>{}-])((?:[\w.-]+/)*[\w.-]*\w\.(?:py|lua|md|ya?ml|conf|toml|template|sh|css|html|svg|wrk))"
    r"(?:::(\w+))?(?![\w/*])"
)
_FOLDER = re.compile(r"(?<![\w/.:@~$*<>{}-])((?:[\w.-]+/)+)(?![\w*<{$])")
_SECTION = re.compile(r'(docs/[\w/-]+\.md)(?:,| \()\s*(?:#\s*)?(?:"([^"]+)"|(bug \d+))')
_SHOUTED = re.compile(r"\b(DESIGN|CONVENTIONS|[A-Z]{4,}(?= §))\b")
_CODE = re.compile(r"`([^`\n]+)`")
_DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")
_LINK = re.compile(r"\[[^\]]*\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)")
_TEST = re.compile(r"\btest_\w+\b(?!\.\w)")


class Pointer(NamedTuple):
    """A pointer and where it stands."""

    path: str
    line: int
    target: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line} {self.target}"


class Tree:
    """The targets of pointers: files, folders, modules with their names, tests, and every word of the code."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = {str(path.relative_to(root)): path for path in sorted(_files_of(root))}

    @cached_property
    def suffixes(self) -> set[str]:
        """Every way to name a file or folder of the tree by the end of its path."""
        named = set(self.files) | {f"{parent}/" for name in self.files for parent in list(Path(name).parents)[:-1]}
        return {name.split("/", skip)[skip] for name in named for skip in range(name.rstrip("/").count("/") + 1)}

    @cached_property
    def words(self) -> set[str]:
        """Every word outside of comments, docstrings and documents."""
        return {
            word for name, path in self.files.items() if _is_code(name) for word in re.findall(r"\w+", code_of(path))
        }

    @cached_property
    def tests(self) -> set[str]:
        modules = [path for name, path in self.files.items() if re.search(r"(^|/)test_\w+\.py$", name)]
        return {name for path in modules for name in [path.stem, *_defined_tests(path)]}

    @cached_property
    def members(self) -> dict[str, set[str]]:
        """The methods and attributes by class; of classes that share a name, those of all. Subclasses are left out."""
        found: dict[str, set[str]] = {}
        trees = [ast.parse(path.read_text()) for name, path in self.files.items() if name.endswith(".py")]
        for node in [node for tree in trees for node in ast.walk(tree)]:
            if isinstance(node, ast.ClassDef) and {ast.unparse(base) for base in node.bases} <= _BASES_WITHOUT_NAMES:
                found.setdefault(node.name, set()).update(_defined_members(node))
        return found

    @cached_property
    def settings(self) -> set[str]:
        """The keys of the configuration: annotated names in the modules of its schema."""
        schema = [path for name, path in self.files.items() if re.match(r"app/(config|domain)/.*\.py$", name)]
        return {key for path in schema for key in re.findall(r"^    (\w+):", path.read_text(), re.MULTILINE)}

    @cached_property
    def rooms(self) -> set[str]:
        found = {Path(name).parts[1].removesuffix(".py") for name in self.files if name.startswith("app/")}
        return found | {"app", "bench", "scripts", "tests"}

    def has_module(self, dotted: str) -> bool:
        """Tells if `dotted` is a module, or a name in one; below app/ without `app.`, too."""
        parts = dotted.removeprefix("app.").split(".")
        for length in range(len(parts), 0, -1):
            stem = "/".join(parts[:length])
            for path in (f"app/{stem}.py", f"app/{stem}/__init__.py", f"{stem}.py", f"{stem}/__init__.py"):
                if path in self.files:
                    rest = parts[length:]
                    return not rest or self._has_names(self.files[path], rest)
        return False

    def _has_names(self, path: Path, names: list[str]) -> bool:
        return bool(re.search(rf"\b{names[0]}\b", code_of(path))) and self.words.issuperset(names[1:])


def dead_pointers(root: Path) -> list[Pointer]:
    """Returns what the tree's comments, docstrings and documents name and the tree does not have."""
    tree = Tree(root)
    found = []
    for name, path in tree.files.items():
        for first_line, text in prose_of(path):
            for offset, target in _dead(tree, path, text):
                found.append(Pointer(name, first_line + text.count("\n", 0, offset), target))
    return found


def _files_of(root: Path) -> Iterator[Path]:
    """Yields the files of a tree, without what is installed or written there."""
    for directory, folders, names in os.walk(root):
        hidden = {name for name in folders if name.startswith(".") and name != ".ci"}
        folders[:] = [name for name in folders if name not in _SKIPPED | hidden]
        yield from (Path(directory, name) for name in names)


def prose_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yields comments, docstrings or a document, each with the number of its first line."""
    if path.suffix == ".py":
        yield from _python(path)[1]
    elif path.name == "CHANGELOG.md":
        yield 1, "\n## ".join(path.read_text().split("\n## ")[:2])
    elif path.suffix == ".md":
        yield 1, path.read_text()
    elif mark := _COMMENT.get(path.suffix) or _COMMENT.get(path.name):
        lines = [f"{line} ".partition(mark)[2] for line in path.read_text().split("\n")]
        yield 1, "\n".join(lines)


def code_of(path: Path) -> str:
    """Returns a file without its comments and docstrings."""
    if path.suffix == ".py":
        return _python(path)[0]
    mark = _COMMENT.get(path.suffix) or _COMMENT.get(path.name) or "\0"
    return "\n".join(line.partition(mark)[0] for line in path.read_text(errors="replace").split("\n"))


@cache
def _python(path: Path) -> tuple[str, list[tuple[int, str]]]:
    """Returns code and prose; comments on following lines are one piece."""
    code: list[str] = []
    prose: list[tuple[int, str]] = []
    statement_begins, comment_line = True, -1
    for kind, text, (line, _), _, _ in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if kind == tokenize.COMMENT:
            if line == comment_line + 1:
                prose[-1] = (prose[-1][0], f"{prose[-1][1]}\n{text[1:]}")
            else:
                prose.append((line, text[1:]))
            comment_line = line
        elif kind == tokenize.STRING and statement_begins:
            prose.append((line, text))
        elif kind not in _LAYOUT:
            code.append(text)
            statement_begins = False
        if kind in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT):
            statement_begins = True
    return " ".join(code), prose


def _defined_members(node: ast.ClassDef) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store):
            yield part.attr
    for part in node.body:
        if isinstance(part, ast.FunctionDef):
            yield part.name
        else:
            yield from (name.id for name in ast.walk(part) if isinstance(name, ast.Name))


def _is_code(name: str) -> bool:
    return not name.endswith(".md") and not name.startswith("tests/data/") and not name.startswith("bench/report")


def _defined_tests(path: Path) -> list[str]:
    return re.findall(r"def (test_\w+)", path.read_text())


def _dead(tree: Tree, path: Path, text: str) -> Iterator[tuple[int, str]]:
    """Yields the offsets and words of dead pointers in one piece of prose."""
    for match in _PATH.finditer(text):
        target, test = match.groups()
        if not _is_there(tree, path, target) or (test and test not in tree.tests):
            yield match.start(), match[0]
    for match in _FOLDER.finditer(text):
        if match[1].split("/")[0] in tree.rooms | {"docs"} and match[1] not in tree.suffixes:
            yield match.start(), match[1]
    for match in _SECTION.finditer(text):
        document = tree.root / match[1]
        if not document.is_file() or not _has_section(document.read_text(), match[2] or match[3]):
            yield match.start(), match[0]
    for match in _SHOUTED.finditer(text):
        if f"{match[1]}.md" not in tree.suffixes:
            yield match.start(), match[1]
    for match in _TEST.finditer(text):
        if match[0] not in tree.tests | tree.suffixes:
            yield match.start(), match[0]
    for match in _CODE.finditer(text):
        if re.fullmatch(r"[A-Za-z_][\w.]*\w(\(\))?", match[1]) and not _is_named(tree, match[1].removesuffix("()")):
            yield match.start(), match[1]
    if path.suffix == ".md":
        for match in _LINK.finditer(text):
            document = path.parent / match[1] if match[1] else path
            if not document.exists() or (match[2] and match[2] not in _anchors(document.read_text())):
                yield match.start(), match[0]


def _is_there(tree: Tree, path: Path, target: str) -> bool:
    target = target.removeprefix("./")
    package = target.split("/")[0]
    return (
        target in tree.suffixes
        or (path.parent / target).exists()
        or ("/" in target and package not in tree.rooms and package.isidentifier() and find_spec(package) is not None)
    )


def _is_named(tree: Tree, name: str) -> bool:
    """Tells if a name in backticks is a module, a setting, or made of words that the code has."""
    first, _, rest = name.partition(".")
    if name in _FOREIGN or (rest and first not in tree.rooms and "_" in first and find_spec(first) is not None):
        return True
    if rest and first in tree.rooms and not {first, rest.split(".")[0]} <= tree.settings:
        return tree.has_module(name) or name in tree.suffixes
    if rest and first in tree.members and rest.split(".")[0] not in tree.members[first]:
        return False
    return name in tree.suffixes or tree.words.issuperset(re.findall(r"\w+", name))


def _has_section(text: str, title: str) -> bool:
    return re.search(rf"^(#+ |\*\*|- \*\*).*{re.escape(title)}\b", text, re.MULTILINE | re.IGNORECASE) is not None


def _anchors(text: str) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


if __name__ == "__main__":
    pointers = dead_pointers(Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve())
    print(*pointers, sep="\n")
    sys.exit(bool(pointers))
