"""Markdown: sections by heading, tables with their caption and header row."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from markdown_it import MarkdownIt
from markdown_it.token import Token

from retrieval.documents import Content, Section, Table
from retrieval.readers.text import clean, decode

PARSER = MarkdownIt("commonmark").enable("table")

# `---`, lines as YAML has them (`key: value`, indented, in a list, a comment, empty), `---`. A text between two
# rules is none: one of its lines is prose. Read by lines, since front matter need not be valid YAML.
FRONT_MATTER = re.compile(
    r"---[ \t]*\n(?=\w)(?:(?:\w[\w .-]*:(?:[ \t].*)?|[ \t#\]}-].*)?\n)*?(?:---|\.\.\.)[ \t]*(?:\n|\Z)"
)
# In quotes or without; not the mark of a text on the lines below.
FRONT_MATTER_TITLE = re.compile(
    r"""^title:[ \t]*(?![|>]|""|'')(["']?)(\S.*?)\1[ \t]*$""", re.MULTILINE | re.IGNORECASE
)


@dataclass(frozen=True)
class _Heading:
    level: int
    text: str
    start: int


def read_markdown(data: bytes) -> Content:
    """The file's text as it is, cut into sections at its headings.

    Front matter is in no section; its title is the document's.
    """
    text = clean(decode(data))
    front_matter = FRONT_MATTER.match(text)
    if front_matter is None:
        return parse_markdown(text)
    title = FRONT_MATTER_TITLE.search(front_matter[0])
    content = parse_markdown(text, front_matter.end())
    return replace(content, title=title[2] if title else content.title)


def parse_markdown(text: str, start: int = 0) -> Content:
    """Sections and tables of Markdown text from `start` on, where a line begins; its first heading is the title."""
    # Empty lines instead of those before, so that line numbers hold for the whole text.
    tokens = PARSER.parse("\n" * text.count("\n", 0, start) + text[start:])
    # Lines as the parser counts them: ended by a line feed and by nothing else.
    line_starts = [0, *accumulate(len(line) + 1 for line in text.split("\n"))]
    headings = list(_headings(tokens, line_starts))
    tables = list(_tables(tokens, text, line_starts))
    return Content(
        text, tuple(_sections(text, start, headings, tables)), headings[0].text if headings else None
    )


def _headings(tokens: list[Token], line_starts: list[int]) -> Iterator[_Heading]:
    for opening, inline in pairwise(tokens):
        # Level 0: a heading inside a quotation or a list belongs to what is quoted.
        if opening.type == "heading_open" and opening.level == 0 and opening.map:
            start = line_starts[opening.map[0]]
            yield _Heading(int(opening.tag[1]), _plain(inline), start)


def _plain(inline: Token) -> str:
    """The words of a heading without its markup, on one line."""
    words = {"softbreak": " ", "hardbreak": " "}
    return "".join(
        words.get(part.type, part.content)
        for part in inline.children or ()
        if part.type in ("text", "code_inline", *words)
    )


def _tables(tokens: list[Token], text: str, line_starts: list[int]) -> Iterator[Table]:
    caption = ""
    for index, token in enumerate(tokens):
        if token.type == "table_open" and token.map:
            first, last = token.map
            start, body = line_starts[first], line_starts[min(first + 2, last)]
            header = text[start:body].rstrip("\n")
            yield Table(start, min(line_starts[last], len(text)), header, caption)
        if token.level == 0 and token.nesting >= 0 and token.type != "inline":
            # The paragraph right above a table names it.
            caption = tokens[index + 1].content if token.type == "paragraph_open" else ""


def _sections(text: str, start: int, headings: list[_Heading], tables: list[Table]) -> Iterator[Section]:
    path: list[_Heading] = []
    table_starts = [table.start for table in tables]
    for heading, after in zip([None, *headings], [*headings, None], strict=True):
        if heading is not None:
            path = [above for above in path if above.level < heading.level] + [heading]
        end = after.start if after else len(text)
        body = text[heading.start if heading else start : end]
        # A heading without text of its own opens the section of the next one.
        if not _has_body(body, heading) and after is not None:
            continue
        if text[start:end].strip():
            inside = tables[bisect_left(table_starts, start) : bisect_left(table_starts, end)]
            yield Section(start, end, tuple(h.text for h in path), tables=tuple(inside))
        start = end


def _has_body(body: str, heading: _Heading | None) -> bool:
    lines = [line for line in body.splitlines() if line.strip()]
    if heading is None:
        return bool(lines)
    # "Title" + "=====" is a heading of two lines.
    return len(lines) > (2 if len(lines) > 1 and not set(lines[1].strip()) - set("=-") else 1)
