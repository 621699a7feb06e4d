"""Source code: Python by its definitions, every other language by its blank lines."""

from __future__ import annotations

import ast
from itertools import accumulate, pairwise

from retrieval.documents import Content, Section
from retrieval.readers.text import clean, decode, read_text

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def read_python(data: bytes) -> Content:
    """One section for each top-level function or class, one for what stands between them.

    Code that this Python cannot parse is read as text.
    """
    text = clean(decode(data))
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        # Where expressions lie too deep in one another, the parser says that there is no memory.
        return read_text(data)
    line_starts = [0, *accumulate(len(line) + 1 for line in text.split("\n"))]
    cuts: list[tuple[int, str]] = [(0, "")]
    for node in tree.body:
        if isinstance(node, Definition):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            cuts.append((line_starts[first - 1], node.name))
            cuts.append((min(line_starts[node.end_lineno or first], len(text)), ""))
    cuts.append((len(text), ""))
    sections = tuple(
        Section(start, end, (name,) if name else ())
        for (start, name), (end, _) in pairwise(cuts)
        if text[start:end].strip()
    )
    return Content(text, sections)
