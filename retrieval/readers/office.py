"""Word, PowerPoint and Excel files.

Each library is imported by its reader: a replica that reads no such file does not wait for it.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator
from datetime import datetime, time
from typing import Any, NoReturn

from bs4 import BeautifulSoup

from cluster.errors import DataError, Unprocessable
from retrieval.documents import Content, Table
from retrieval.readers.html import to_markdown
from retrieval.readers.markdown import parse_markdown
from retrieval.readers.parsing import parsing
from retrieval.readers.parts import Parts
from retrieval.readers.text import clean

# Headings are known to the library; the style of what stands above them all is not.
TITLE_STYLE = "p[style-name='Title'] => h1:fresh\np.Title => h1:fresh"

# A few kilobytes of zip can claim to hold terabytes.
MAX_UNPACKED_BYTES = 1 << 30
# Short rows are filled up to the widest one, as far as this: else one cell far to the right makes a sheet thousands of
# times as large.
MAX_FILLED_COLUMNS = 50


def read_docx(data: bytes) -> Content:
    """Headings, paragraphs, lists and tables of a Word file."""
    import mammoth

    with parsing("Word"):
        # No pictures: they have no text, each would be read and held five times over, and a missing one ends it all.
        html = mammoth.convert_to_html(
            io.BytesIO(data), style_map=TITLE_STYLE, convert_image=lambda picture: []
        ).value
    return parse_markdown(to_markdown(BeautifulSoup(html, "lxml")))


def read_pptx(data: bytes) -> Content:
    """One section for each slide with text: its title, its shapes in order, its notes."""
    import pptx

    parts = Parts()
    with parsing("PowerPoint"):
        for number, slide in enumerate(pptx.Presentation(io.BytesIO(data)).slides, start=1):
            title, text, tables = _slide(slide)
            parts.add(text, (title,) if title else (), number, tables)
    return parts.content()


def read_xlsx(data: bytes) -> Content:
    """One section for each sheet: a table whose first row is its header, named by the sheet."""
    import openpyxl

    with parsing("Excel"):
        book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
        sheets = [(sheet.title, _rows(sheet)) for sheet in book]
    parts = Parts()
    for name, rows in sheets:
        text = markdown_table(row for row in rows if any(row))
        parts.add(text, (name,), tables=[_table(0, text, name)])
    return parts.content()


def _rows(sheet: Any) -> list[list[str]]:
    sheet.reset_dimensions()  # what a file says of its own size may be less than it holds
    rows = [_cells(row) for row in sheet.iter_rows(values_only=True)]
    # A cell with a style and nothing in it, far to the right, would give each row hundreds of empty ones.
    width = max((number for row in rows for number, cell in enumerate(row, start=1) if cell), default=0)
    filled = min(width, MAX_FILLED_COLUMNS)
    return [row[:width] + [""] * (filled - len(row)) for row in rows]


def office_reader_name(data: bytes) -> str | None:
    """`.docx`, `.pptx` or `.xlsx` by what the archive holds; None for another archive.

    Raises DataError for an archive that is damaged or unpacks to more than MAX_UNPACKED_BYTES.
    """
    with parsing("zip"), zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = set(archive.namelist())
        unpacked = sum(info.file_size for info in archive.infolist())
    if unpacked > MAX_UNPACKED_BYTES:
        raise DataError(
            f"the file unpacks to {unpacked} bytes; at most {MAX_UNPACKED_BYTES} are read", "file"
        )
    parts = {"word/document.xml": ".docx", "ppt/presentation.xml": ".pptx", "xl/workbook.xml": ".xlsx"}
    return next((suffix for part, suffix in parts.items() if part in names), None)


def refuse_old_container(data: bytes) -> NoReturn:
    """Raises Unprocessable for a protected file, DataError for one from before 2007: both are in the old container."""
    if "EncryptedPackage".encode("utf-16-le") in data:
        raise Unprocessable(
            "the file is protected by a password; save a copy without one", "file", "protected_file"
        )
    raise DataError(
        "the file is in the Office format from before 2007; save it as .docx, .pptx or .xlsx",
        "file",
        "unsupported_file",
    )


def markdown_table(rows: Iterable[list[str]]) -> str:
    """Rows as a pipe table, the first as its header; bars and line breaks inside cells become spaces."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    if lines:
        lines.insert(1, "|" + "---|" * (lines[0].count(" | ") + 1))
    return "\n".join(lines)


def _table(start: int, text: str, caption: str = "") -> Table:
    """A table as `markdown_table` writes one, from `start` on."""
    return Table(start, start + len(text), "\n".join(text.split("\n")[:2]), caption)


def _slide(slide: Any) -> tuple[str, str, list[Table]]:
    """Title and whole text of a slide, and where in it tables are."""
    title = slide.shapes.title
    parts = list(_shape_texts(slide.shapes))
    # The page of notes stays when its text box is deleted.
    if slide.has_notes_slide and (notes := slide.notes_slide.notes_text_frame) is not None:
        parts.append((notes.text, False))
    text, tables = "", []
    for part, is_table in parts:
        part = clean(part).strip()
        if part:
            text += "\n\n" if text else ""
            if is_table:
                tables.append(_table(len(text), part))
            text += part
    return (" ".join(clean(title.text).split()) if title is not None else ""), text, tables


def _shape_texts(shapes: Any) -> Iterator[tuple[str, bool]]:
    """The text of each shape, and whether it is a table."""
    for shape in shapes:
        if shape.has_text_frame:
            yield shape.text_frame.text, False
        elif getattr(shape, "has_table", False):
            yield markdown_table([_cells(cell.text for cell in row.cells) for row in shape.table.rows]), True
        elif hasattr(shape, "shapes"):  # a group
            yield from _shape_texts(shape.shapes)


def _cells(values: Iterable[Any]) -> list[str]:
    texts = (clean(_shown(value)) for value in values)
    return [" ".join(text.replace("|", " ").split()) for text in texts]


def _shown(value: Any) -> str:
    """A cell's value as a reader of the sheet sees it: nothing where it is empty, a day without its midnight."""
    if value is None:
        return ""
    if isinstance(value, datetime) and value.time() == time.min:
        return str(value.date())
    return str(value)
