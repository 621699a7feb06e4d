"""What is read: a document, its sections, and nothing about how either is found or stored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TypeAlias

MetadataValue: TypeAlias = str | int | float | bool | tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Where a table lies in the text, and what a reader of any of its rows must see first.

    `header` is the header row, with which the table begins; `caption` names the table and stands outside of it. Where
    its section had to be cut they are put in front of every chunk of the table that does not show them, and kept
    apart from the chunk's text, so that offsets stay exact.
    """

    start: int
    end: int
    header: str
    caption: str = ""

    def shown_before(self, *, is_beginning: bool) -> str:
        """What is put in front of a chunk of the table."""
        return "\n".join(part for part in (self.caption, "" if is_beginning else self.header) if part)


@dataclass(frozen=True)
class Section:
    """A span of a document's text that no chunk crosses: what lies under one heading, or on one page.

    `start` and `end` are character offsets into `Document.text`. `headings` is the path of headings above
    it, outermost first. `page` counts from 1 and is None where the format has no pages.
    """

    start: int
    end: int
    headings: tuple[str, ...] = ()
    page: int | None = None
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True)
class Content:
    """What a reader makes of a file: its text and the sections that cover what is to be found in it, in order.

    `title` is None where the file does not name itself. `warnings` says what could not be read, such as one
    page of many.
    """

    text: str
    sections: tuple[Section, ...]
    title: str | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Document:
    """One source, read.

    `id` is the caller's own, any string; it is returned unchanged with every hit. `uri` says where the
    source lies. `metadata` is what searches can filter by.
    """

    id: str
    title: str
    uri: str
    content: Content
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return self.content.text

    @cached_property
    def content_sha256(self) -> str:
        """Hash of all that is cut into chunks, and of nothing else: equal for copies under other names.

        A title that is not of the content is such a name.
        """
        parts = [self.content.title, sorted(self.metadata.items()), asdict(self.content)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
