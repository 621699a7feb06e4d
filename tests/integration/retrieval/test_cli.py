"""The command line as a user runs it, on the real model and real files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.errors import HamletError
from retrieval.__main__ import app

REPOSITORY = Path(__file__).parents[3]
DOCS = REPOSITORY / "examples" / "handbook" / "docs"


@pytest.fixture(autouse=True)
def in_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("COLUMNS", "200")


def retrieval(*arguments: str | Path) -> str:
    """What a command prints. Raises what it raises."""
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def in_process_of_its_own(home: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "retrieval", *map(str, arguments)]
    environment = {**os.environ, "HAMLET_HOME": str(home)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_a_handbook_is_ingested_searched_explained_backed_up_and_deleted(home: Path, tmp_path: Path) -> None:
    made = in_process_of_its_own(home, "ingest", DOCS, "-c", "handbook", "-m", "year=2026")
    assert "12 documents added" in made.stdout, made.stderr
    again = retrieval("ingest", "./examples/handbook/docs", "-c", "handbook", "-m", "year=2026")
    assert "0 documents added, 0 updated, 12 unchanged" in again
    question = "until when can leave of the previous year be taken?"
    found = retrieval("search", question, "-c", "handbook", "--top-k", "3")
    assert found.startswith("1. Leave  examples/handbook/docs/leave.md [")
    assert "19 April" in found
    why = retrieval("explain", question, "examples/handbook/docs/leave.md", "-c", "handbook")
    assert "dense  rank 1" in why
    file = tmp_path / "handbook.parquet"
    retrieval("backup", "-c", "handbook", file)
    assert "1 documents with" in retrieval("delete", "-c", "handbook", "examples/handbook/docs/leave.md")
    assert "leave.md" not in retrieval("list", "handbook")
    retrieval("restore", file, "-c", "copy")
    assert "leave.md" in retrieval("list", "copy")
    assert "builtin:minilm" in retrieval("list")
    retrieval("delete", "-c", "copy", "--whole-collection")
    assert "copy" not in retrieval("list")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ingest", "missing-folder", "-c", "c"], "no file at missing-folder"),
        (["ingest", DOCS, "-c", "Not A Name"], "collection"),
        (
            ["ingest", DOCS, "-c", "c", "--chunk-tokens", "10", "--chunk-overlap-tokens", "10"],
            "(10) must be below",
        ),
        (["ingest", DOCS, "-c", "c", "-m", "year"], "KEY=VALUE"),
        (["search", "x", "-c", "nothing"], "no collection 'nothing'"),
        (["delete", "-c", "c"], "--whole-collection"),
        (["evaluate", "missing-folder"], "no file missing-folder/corpus.jsonl"),
    ],
)
def test_a_mistake_says_what_is_wrong(arguments: list[str | Path], words: str) -> None:
    with pytest.raises(HamletError) as caught:
        retrieval(*arguments)
    assert words in str(caught.value)


def test_a_mistake_is_one_line_without_a_traceback(home: Path) -> None:
    result = in_process_of_its_own(home, "ingest", "missing-folder", "-c", "c")
    assert result.returncode == 2
    assert result.stderr.startswith("error: no file at missing-folder")
    assert result.stderr.count("\n") == 1


def test_a_beir_folder_is_evaluated(tmp_path: Path) -> None:
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    rows = [
        json.dumps({"_id": file.stem, "title": file.stem, "text": file.read_text()})
        for file in DOCS.iterdir()
    ]
    (folder / "corpus.jsonl").write_text("\n".join(rows))
    (folder / "queries.jsonl").write_text(
        json.dumps({"_id": "q", "text": "How many days of leave do I have?"})
    )
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\tleave\t1\n")
    figures = json.loads(retrieval("evaluate", folder, "--json", "--plot", tmp_path / "r.png"))
    assert figures["hybrid"]["mrr_at_10"]["mean"] == 1.0
    assert (tmp_path / "r.png").stat().st_size > 1000


def test_chunks_are_printed_as_they_would_be_indexed_and_nothing_is() -> None:
    collections = retrieval("list")
    rows = [json.loads(line) for line in retrieval("chunks", DOCS / "leave.md").splitlines()]
    assert {row["document"] for row in rows} == {"examples/handbook/docs/leave.md"}
    [lapses] = [row for row in rows if "19 April" in row["text"]]
    assert lapses["context"] == "Leave"
    assert retrieval("list") == collections
