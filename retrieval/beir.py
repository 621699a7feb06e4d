"""Questions with known answers, in the form of the BEIR benchmark.

corpus.jsonl     {"_id": "d1", "title": "…", "text": "…"}
queries.jsonl    {"_id": "q1", "text": "…"}
qrels/test.tsv   query-id <tab> corpus-id <tab> score, with a header line
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import DataError, NotFound
from cluster.json_lines import read_rows, text_lines
from retrieval.documents import Content, Document, Section


@dataclass(frozen=True)
class JudgedQuestions:
    """`questions` by id; `relevant[question id][document id]` is how relevant (0: judged, and not)."""

    documents: tuple[Document, ...]
    questions: Mapping[str, str]
    relevant: Mapping[str, Mapping[str, int]]


def read_beir(folder: Path, split: str = "test") -> JudgedQuestions:
    """The questions of a split and all documents that have a title or a text.

    Raises NotFound for a missing file, and DataError naming file and line of a bad one, or what has nothing in it.
    """
    everything = (_document(where, record) for where, record in _records(folder / "corpus.jsonl"))
    # Benchmarks hold documents without a word, which nothing can find.
    documents = tuple(document for document in everything if document.text)
    texts = {
        _required(where, record, "_id"): _required(where, record, "text")
        for where, record in _records(folder / "queries.jsonl")
    }
    relevant = _judgements(folder / "qrels" / f"{split}.tsv")
    if not documents or not relevant:
        empty = (
            "corpus.jsonl has no document with a text"
            if not documents
            else f"qrels/{split}.tsv judges no question"
        )
        raise DataError(f"{folder}: {empty}, so there is nothing to measure")
    unknown = sorted(set(relevant) - set(texts))
    if unknown:
        raise DataError(f"{folder}: qrels name questions that queries.jsonl lacks, such as {unknown[0]!r}")
    return JudgedQuestions(documents, {id_: texts[id_] for id_ in relevant}, relevant)


def _document(where: str, record: Mapping[str, Any]) -> Document:
    id_, text = _required(where, record, "_id"), _required(where, record, "text")
    title = str(record.get("title") or "").strip()
    # A document may be a title alone.
    text = text if text.strip() else title
    return Document(id_, title, id_, Content(text, (Section(0, len(text)),), title))


def _required(where: str, record: Mapping[str, Any], key: str) -> str:
    if record.get(key) is None:
        raise DataError(f"{where} has no {key!r}")
    return str(record[key])


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file, each with its file and line."""
    if not path.is_file():
        raise NotFound(f"no file {path}; a BEIR folder has corpus.jsonl, queries.jsonl and qrels/")
    for number, record in read_rows(path):
        yield f"{path} line {number}", record


def _judgements(path: Path) -> dict[str, dict[str, int]]:
    if not path.is_file():
        raise NotFound(f"no file {path}; a BEIR folder has qrels/<split>.tsv")
    relevant: dict[str, dict[str, int]] = {}
    for number, line in text_lines(path):
        row = line.split("\t")
        if number == 1 and not row[-1].lstrip("-").isdigit():
            continue  # the header
        try:
            question, document, score = row
            relevant.setdefault(question, {})[document] = int(score)
        except ValueError as exc:
            raise DataError(f"{path} line {number}: {row} is not query-id, corpus-id, score") from exc
    return relevant
