"""Tokenizer: counts the tokens of a text as OpenAI's models do, offline, with the vocabularies of bpe-openai.

The first count of a process loads the package's extension and one vocabulary: 70 ms and 66 MB, of which half are pages
of a file that all processes share. A process that never counts pays neither. The extension keeps the interpreter's
lock, in a thread as well, so a long text is counted in slices between which other calls go on.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any, Literal

import gevent

Vocabulary = Literal["o200k_base", "cl100k_base"]
_SLICE_CHARS = 32_768  # 1 to 3 ms
_EXTENSION = "bpe_openai._bindings"


def count_tokens(text: str, vocabulary: Vocabulary = "o200k_base") -> int:
    """Returns the number of tokens of a text. It should be short: nothing else runs meanwhile."""
    return int(_tokenizer(vocabulary).count(text))


def slices(texts: Iterable[str]) -> Iterator[str]:
    """Yields the texts, long ones in pieces, and lets other calls go on in between.

    A piece ends before a space if it can: a token begins there, so that the pieces have as many as the whole.
    """
    since_pause = 0
    for text in texts:
        for piece in _cut(text):
            since_pause += len(piece)
            if since_pause > _SLICE_CHARS:
                gevent.sleep(0)
                since_pause = len(piece)
            yield piece


def _cut(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > _SLICE_CHARS:
        end = start + _SLICE_CHARS
        space = text.rfind(" ", start + 1, end)
        cut = space if space > start else end
        yield text[start:cut]
        start = cut
    yield text[start:] if start else text


@cache
def _tokenizer(vocabulary: Vocabulary) -> Any:
    return _load_extension().tokenizer_for_encoding(vocabulary)


@cache
def _load_extension() -> ModuleType:
    """Imports the extension without its package, which makes dictionaries of 60 MB that counting does not need."""
    if _EXTENSION in sys.modules:
        return sys.modules[_EXTENSION]
    package = find_spec("bpe_openai")
    spec = PathFinder.find_spec(_EXTENSION, package.submodule_search_locations) if package is not None else None
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError("bpe-openai is not installed, or has another layout than the version in requirements")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
