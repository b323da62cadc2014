"""Mutation operators: the mutants of a file, each with one operator, constant, argument, element or statement wrong.

Python is parsed to its syntax tree, Lua to its tokens.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

_PYTHON_PAIRS = {
    "<": "<=",
    "<=": "<",
    ">": ">=",
    ">=": ">",
    "==": "!=",
    "!=": "==",
    "is": "is not",
    "is not": "is",
    "in": "not in",
    "not in": "in",
    "+": "-",
    "-": "+",
    "*": "+",
    "/": "*",
    "//": "*",
    "%": "*",
    "**": "*",
    "|": "&",
    "&": "|",
    "and": "or",
    "or": "and",
}
_LUA_PAIRS = _PYTHON_PAIRS | {
    "~=": "==",
    "==": "~=",
    "not": "",
    "true": "false",
    "false": "true",
    "..": "",
    "max": "min",
    "min": "max",
    "floor": "ceil",
    "ceil": "floor",
}
_Located = ast.expr | ast.stmt | ast.keyword  # nodes with a position


@dataclass(frozen=True)
class Mutant:
    """`text[start:end]` of `path` becomes `new`; offsets are in bytes. `change` describes it to a reader."""

    path: str
    line: int
    start: int
    end: int
    new: str
    change: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}  {self.change}"


class PythonMutants:
    """The mutants of one Python file. Parts that only a reader sees are left alone: annotations, docstrings, log lines,
    sentences for people, `__slots__`, imports, decorators."""

    def __init__(self, path: str, text: str) -> None:
        self._path = path
        self._bytes = text.encode()
        self._starts = [0, *itertools.accumulate(len(line) for line in self._bytes.splitlines(keepends=True))]
        self.mutants: list[Mutant] = []
        self._visit(ast.parse(text))

    def _visit(self, node: ast.AST) -> None:
        if _is_for_readers(node):
            return
        mutate: Callable[[ast.AST], None] = getattr(self, f"_of_{type(node).__name__.lower()}", lambda _: None)
        mutate(node)
        for name, value in ast.iter_fields(node):
            if name == "decorator_list" or (name == "keywords" and isinstance(node, ast.ClassDef)):
                continue
            children = [
                child for child in (value if isinstance(value, list) else [value]) if isinstance(child, ast.AST)
            ]
            if name in ("annotation", "returns"):  # of these only what validates: `Annotated[int, Meta(ge=1)]`
                children = [call for child in children for call in ast.walk(child) if isinstance(call, ast.Call)]
            for child in children:
                self._visit(child)

    def _of_compare(self, node: ast.Compare) -> None:
        for left, right in itertools.pairwise([node.left, *node.comparators]):
            self._operator(left, right)

    def _of_binop(self, node: ast.BinOp) -> None:
        if not any(isinstance(side, (ast.JoinedStr, ast.List)) for side in (node.left, node.right)):
            self._operator(node.left, node.right)

    def _of_boolop(self, node: ast.BoolOp) -> None:
        for left, right in itertools.pairwise(node.values):
            self._operator(left, right)

    def _of_unaryop(self, node: ast.UnaryOp) -> None:
        self._replace(node, self._text(node.operand))

    def _of_if(self, node: ast.If | ast.IfExp | ast.While) -> None:
        if not isinstance(node.test, (ast.Compare, ast.UnaryOp, ast.Constant)):  # those have mutants of their own
            self._replace(node.test, f"not ({self._text(node.test)})")

    _of_ifexp = _of_while = _of_if

    def _of_constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self._replace(node, str(not value))
        elif isinstance(value, int | float):
            self._replace(node, repr(value + 1 if abs(value) < 10 else value * 2))
        elif isinstance(value, str) and " " not in value and not value.startswith("penstock:"):
            self._replace(node, repr(value + "~"))

    def _of_call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id == "cast":
            return
        for first, second in itertools.pairwise(node.args):
            self._replace_from_to(first, second, f"{self._text(second)}, {self._text(first)}")
        for keyword in node.keywords:
            if not _is_for_readers(keyword):
                self._without(keyword, [*node.args, *node.keywords])

    def _of_list(self, node: ast.List | ast.Tuple | ast.Set) -> None:
        if len(node.elts) > 1 and isinstance(getattr(node, "ctx", ast.Load()), ast.Load):
            for element in node.elts:
                self._without(element, node.elts, "," if isinstance(node, ast.Tuple) and len(node.elts) == 2 else "")

    _of_tuple = _of_set = _of_list

    def _of_dict(self, node: ast.Dict) -> None:
        pairs = [
            f"{self._text(key)}: {self._text(value)}" if key else f"**({self._text(value)})"
            for key, value in zip(node.keys, node.values, strict=True)
        ]
        if len(pairs) > 1:
            for i, key in enumerate(node.keys):
                rest = ", ".join(pairs[:i] + pairs[i + 1 :])
                at = self._span(key or node.values[i])[0]
                self._add(at, *self._span(node), "{" + rest + "}", f"without {pairs[i]}")

    def _of_augassign(self, node: ast.AugAssign) -> None:
        start, end = self._span(node.target)[1], self._span(node.value)[0]
        old = self._bytes[start:end].decode()
        new = re.sub(r"(\S+)=", lambda sign: _PYTHON_PAIRS.get(sign[1], sign[1]) + "=", old)
        self._add(start, start, end, new, f"{old} → {new}")
        self._replace(node, "pass")

    def _of_expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call):
            self._replace(node, "pass")

    def _of_assign(self, node: ast.Assign) -> None:
        kept = isinstance(node.targets[0], (ast.Attribute, ast.Subscript))
        if kept and not isinstance(node.value, ast.Name):  # nothing works without what `__init__` was given
            self._replace(node, "pass")

    def _of_raise(self, node: ast.Raise | ast.Break | ast.Continue | ast.Delete) -> None:
        self._replace(node, "pass")

    _of_break = _of_continue = _of_delete = _of_raise

    def _operator(self, left: _Located, right: _Located) -> None:
        start, end = self._span(left)[1], self._span(right)[0]
        found = re.search(r"\b(?:is\s+not|not\s+in|is|in|and|or)\b|[<>=!+\-*/%|&]+", self._slice(start, end))
        if found and found[0] in _PYTHON_PAIRS:
            at, new = start + found.start(), _PYTHON_PAIRS[found[0]]
            change = f"{found[0]} → {new}  in  {self._slice(self._span(left)[0], self._span(right)[1])}"
            self._add(at, at, at + len(found[0]), new, change)

    def _without(self, removed: _Located, among: Sequence[_Located], tail: str = "") -> None:
        rest = ", ".join(self._text(each) for each in among if each is not removed) + tail
        start, end = self._span(among[0])[0], self._span(among[-1])[1]
        self._add(self._span(removed)[0], start, end, rest, f"without {self._text(removed)}")

    def _replace(self, node: _Located, new: str) -> None:
        self._replace_from_to(node, node, new)

    def _replace_from_to(self, first: _Located, last: _Located, new: str) -> None:
        start, end = self._span(first)[0], self._span(last)[1]
        self._add(start, start, end, new, f"{self._slice(start, end)} → {new}")

    def _add(self, shown_at: int, start: int, end: int, new: str, change: str) -> None:
        if self._slice(start, end) != new:
            line = self._bytes[:shown_at].count(b"\n") + 1
            self.mutants.append(Mutant(self._path, line, start, end, new, " ".join(change.split())[:160]))

    def _span(self, node: _Located) -> tuple[int, int]:
        last_line, last_column = node.end_lineno or 0, node.end_col_offset or 0
        return self._starts[node.lineno - 1] + node.col_offset, self._starts[last_line - 1] + last_column

    def _text(self, node: _Located) -> str:
        return self._slice(*self._span(node))

    def _slice(self, start: int, end: int) -> str:
        return self._bytes[start:end].decode()


def _is_for_readers(node: ast.AST) -> bool:
    match node:
        case ast.Import() | ast.ImportFrom() | ast.JoinedStr():
            return True
        case ast.Expr(value=ast.Constant()):
            return True
        case ast.Call(func=ast.Attribute(value=ast.Name(id="log" | "warnings"))):
            return True
        case ast.Expr(value=ast.Call() as call):
            return _is_for_readers(call)
        case ast.Assign(targets=[ast.Name(id=name)]):
            return name in ("__slots__", "__all__", "log")
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return True
        case ast.Call(func=ast.Name(id="TypeVar")) | ast.keyword(arg="description"):
            return True
        case ast.List() | ast.Tuple() | ast.Set():  # a list of words is data
            return len(node.elts) > 8 and all(isinstance(each, ast.Constant) for each in node.elts)
    return False


_LUA_TOKEN = re.compile(
    r"(?P<comment>--[^\n]*)|(?P<string>'[^'\n]*'|\"[^\"\n]*\")|(?P<number>\b\d+(?:\.\d+)?\b)|(?P<name>\b[A-Za-z_]\w*\b)"
    r"|(?P<sign>\.\.|[<>=~]=|[<>+\-*/%])|(?P<other>\S)"
)
_LUA_STATEMENT = re.compile(
    r"^[ \t]*(?!local |return|for .* do$)"
    r"(redis\.call\(.*\)|table\.insert\(.*\)|[\w.\[\] ,+#]+ = .*[^,{]|(?:if|for) .* end)$",
    re.MULTILINE,
)


def lua_mutants(path: str, text: str) -> Iterator[Mutant]:
    """Yields the mutants of one script. Redis's command names stay: a wrong one fails in any test."""
    lines = text.splitlines()

    def mutant(start: int, end: int, new: str, change: str) -> Mutant:
        line = text[:start].count("\n") + 1
        at = (len(text[:start].encode()), len(text[:end].encode()))
        return Mutant(path, line, *at, new, f"{change}  in  {lines[line - 1].strip()}"[:160])

    before = ""
    for token in _LUA_TOKEN.finditer(text):
        kind, word, new = token.lastgroup, token[0], None
        if kind == "comment":
            continue
        if kind == "number":
            value = float(word) if "." in word else int(word)
            new = str(value + 1 if value < 10 else value * 2)
        elif kind == "string" and not word[1:-1].isupper() and "%" not in word:
            new = {"'0'": "'1'", "'1'": "'0'"}.get(word, f"{word[:-1]}~{word[-1]}")
        elif kind == "name" or (kind == "sign" and not (word == "-" and re.match(r"[(,=]|return|\.\.$", before))):
            new = _LUA_PAIRS.get(word)
        if new is not None:
            yield mutant(*token.span(), new, f"{word} → {new}")
        before = word
    for statement in _LUA_STATEMENT.finditer(text):
        yield mutant(*statement.span(1), "", "removed")
