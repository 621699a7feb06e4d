"""The parts of a file (pages, slides, sheets, records) in one text, each in a section of its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from retrieval.documents import Content, Section, Table


class Parts:
    """Joins parts into one text, a blank line between two, and keeps their sections."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._sections: list[Section] = []
        self._length = 0

    def add(
        self,
        text: str,
        headings: tuple[str, ...] = (),
        page: int | None = None,
        tables: Iterable[Table] = (),
    ) -> None:
        """One part more, and where in it tables are; one without text is left out."""
        if not text.strip():
            return
        start, end = self._length, self._length + len(text)
        moved = tuple(replace(table, start=start + table.start, end=start + table.end) for table in tables)
        self._sections.append(Section(start, end, headings, page, moved))
        self._texts.append(text)
        self._length = end + len("\n\n")

    def content(self, title: str | None = None, warnings: tuple[str, ...] = ()) -> Content:
        return Content("\n\n".join(self._texts), tuple(self._sections), title, warnings)
