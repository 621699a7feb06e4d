"""Files to documents: which reader a file gets, by its content first and its name second.

A reader is a function from bytes to `Content`. It raises DataError for a damaged file and Unprocessable for
one without usable text; neither ever enters the index.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import PurePosixPath

from cluster.errors import DataError, Unprocessable
from retrieval.documents import Content, Document, MetadataValue
from retrieval.readers.code import read_python
from retrieval.readers.html import read_html
from retrieval.readers.markdown import read_markdown
from retrieval.readers.office import office_reader_name, read_docx, read_pptx, read_xlsx, refuse_old_container
from retrieval.readers.pdf import read_pdf
from retrieval.readers.records import read_csv, read_json, read_jsonl
from retrieval.readers.text import read_text

Reader = Callable[[bytes], Content]

BINARY_READERS: Mapping[str, Reader] = {
    ".pdf": read_pdf,
    ".docx": read_docx,
    ".pptx": read_pptx,
    ".xlsx": read_xlsx,
}

READERS: Mapping[str, Reader] = {
    **BINARY_READERS,
    ".md": read_markdown,
    ".markdown": read_markdown,
    ".html": read_html,
    ".htm": read_html,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".json": read_json,
    ".jsonl": read_jsonl,
    ".py": read_python,
    **dict.fromkeys([".txt", ".text", ".rst", ".log"], read_text),
    **dict.fromkeys(
        [".c", ".h", ".cc", ".cpp", ".hpp", ".cs", ".go", ".java", ".js", ".kt", ".php"], read_text
    ),
    **dict.fromkeys([".rb", ".rs", ".scala", ".sh", ".sql", ".swift", ".ts", ".tsx"], read_text),
    **dict.fromkeys([".yaml", ".yml", ".toml", ".ini", ".cfg", ".xml", ".tex"], read_text),
}

OLD_OFFICE_MAGIC = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"


def read_document(
    data: bytes,
    document_id: str,
    uri: str,
    metadata: Mapping[str, MetadataValue] | None = None,
) -> Document:
    """The document in a file's bytes. One that does not name itself is titled by the file's name.

    Raises DataError for a format without a reader or a damaged file, Unprocessable for a file that is empty,
    protected, or without text. The message names the file.
    """
    try:
        if not data.strip():
            raise Unprocessable("the file is empty", "file", "empty_file")
        content = reader_for(uri, data)(data)
        if not content.text.strip() or not content.sections:
            raise Unprocessable("the file has no text", "file", "no_text")
    except (DataError, Unprocessable) as exc:
        raise type(exc)(f"{uri}: {exc.message}", exc.param, exc.code) from exc
    except RecursionError as exc:
        raise DataError(f"{uri}: its parts lie too deep in one another", "file", "damaged_file") from exc
    name = PurePosixPath(uri).name
    return Document(document_id, content.title or name, uri, content, dict(metadata or {}))


def reader_for(uri: str, data: bytes) -> Reader:
    """The reader of a file: by what its bytes say that it is, else by its suffix.

    A web page saved under a wrong name is read as the web page it is. Raises DataError when nothing fits.
    """
    suffix = PurePosixPath(uri).suffix.lower()
    is_text = suffix in READERS and suffix not in BINARY_READERS
    # A PDF may have other bytes before its mark, but a text may speak of the mark.
    if b"%PDF-" in (data[:5] if is_text else data[:1024]):
        return read_pdf
    if data.startswith(OLD_OFFICE_MAGIC):
        refuse_old_container(data)
    if data.startswith(b"PK\x03\x04"):
        office = office_reader_name(data)
        if office is not None:
            return BINARY_READERS[office]
    if not is_text:
        if looks_like_html(data):
            return read_html
        if suffix in BINARY_READERS:
            raise DataError(f"it is named {suffix} but is not one", "file", "unsupported_file")
        raise DataError(
            f"no reader for {suffix or 'files without suffix'}; known are {' '.join(sorted(READERS))}",
            "file",
            "unsupported_file",
        )
    return READERS[suffix]


def looks_like_html(data: bytes) -> bool:
    start = data[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return start.startswith((b"<!doctype html", b"<html"))
