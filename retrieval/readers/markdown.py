"""Markdown: sections by heading, tables with their caption and header row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise

from markdown_it import MarkdownIt
from markdown_it.token import Token

from retrieval.documents import Content, Section, Table
from retrieval.readers.text import clean, decode

PARSER = MarkdownIt("commonmark").enable("table")


@dataclass(frozen=True)
class _Heading:
    level: int
    text: str
    start: int


def read_markdown(data: bytes) -> Content:
    """The file's text as it is, cut into sections at its headings."""
    return parse_markdown(clean(decode(data)))


def parse_markdown(text: str) -> Content:
    """Sections and tables of Markdown text; the first top heading is the title."""
    tokens = PARSER.parse(text)
    # Lines as the parser counts them: ended by a line feed and by nothing else.
    line_starts = [0, *accumulate(len(line) + 1 for line in text.split("\n"))]
    headings = list(_headings(tokens, line_starts))
    tables = list(_tables(tokens, text, line_starts))
    return Content(text, tuple(_sections(text, headings, tables)), headings[0].text if headings else None)


def _headings(tokens: list[Token], line_starts: list[int]) -> Iterator[_Heading]:
    for opening, inline in pairwise(tokens):
        # Level 0: a heading inside a quotation or a list belongs to what is quoted.
        if opening.type == "heading_open" and opening.level == 0 and opening.map:
            start = line_starts[opening.map[0]]
            yield _Heading(int(opening.tag[1]), _plain(inline), start)


def _plain(inline: Token) -> str:
    """The words of a heading without its markup."""
    return "".join(part.content for part in inline.children or () if part.type in ("text", "code_inline"))


def _tables(tokens: list[Token], text: str, line_starts: list[int]) -> Iterator[Table]:
    caption = ""
    for index, token in enumerate(tokens):
        if token.type == "table_open" and token.map:
            first, last = token.map
            start, body = line_starts[first], line_starts[min(first + 2, last)]
            header = text[start:body].rstrip("\n")
            yield Table(
                start, min(line_starts[last], len(text)), f"{caption}\n{header}" if caption else header
            )
        if token.level == 0 and token.nesting >= 0 and token.type != "inline":
            # The paragraph right above a table names it.
            caption = tokens[index + 1].content if token.type == "paragraph_open" else ""


def _sections(text: str, headings: list[_Heading], tables: list[Table]) -> Iterator[Section]:
    path: list[_Heading] = []
    start = 0
    for heading, after in zip([None, *headings], [*headings, None], strict=True):
        if heading is not None:
            path = [above for above in path if above.level < heading.level] + [heading]
        end = after.start if after else len(text)
        body = text[heading.start if heading else 0 : end]
        # A heading without text of its own opens the section of the next one.
        if not _has_body(body, heading) and after is not None:
            continue
        if text[start:end].strip():
            inside = tuple(table for table in tables if start <= table.start < end)
            yield Section(start, end, tuple(h.text for h in path), tables=inside)
        start = end


def _has_body(body: str, heading: _Heading | None) -> bool:
    lines = [line for line in body.splitlines() if line.strip()]
    if heading is None:
        return bool(lines)
    # "Title" + "=====" is a heading of two lines.
    return len(lines) > (2 if len(lines) > 1 and not set(lines[1].strip()) - set("=-") else 1)
