"""A whole HAMLET_HOME backed up and put back somewhere else, by the commands, on SQLite and on PostgreSQL."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import create_engine, insert, text

from cluster.audit_log import AUDIT_EVENTS, AuditLog
from cluster.backup import ROWS_AT_ONCE, back_up
from cluster.cards import ModelCard, ModelKind, Parity
from cluster.database import open_database
from cluster.files import Files
from cluster.registry import Registry
from cluster.settings import settings

REPOSITORY = Path(__file__).parents[3]
NUM_CALLS = 2 * ROWS_AT_ONCE + 1
ROWS = '{"text": "Grüße", "label": 1}\n'.encode()
QUESTION = "How many days of paid leave does the company grant?"


def hamlet(package: str, *arguments: str, code: int = 0, **variables: str) -> str:
    """What the command prints, on either stream."""
    done = subprocess.run(
        [sys.executable, "-m", package, *arguments],
        cwd=REPOSITORY,
        env=dict(os.environ) | variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def card_of(weights: Path) -> ModelCard:
    return ModelCard(
        id="ft:kept",
        kind=ModelKind.CLASSIFIER,
        base_model="builtin:minilm",
        weights_uri=str(weights),
        max_length_tokens=128,
        config_sha256="c",
        data_sha256="d",
        code_version="1",
        parity=Parity(passed=True, max_metric_difference=0.0),
    )


@pytest.fixture
def filled(home: Path) -> Path:
    """A home with a model and its alias, an uploaded file, and more audited calls than are read at once."""
    weights = home / "storage" / "models" / "ft-kept"
    weights.mkdir(parents=True)
    (weights / "model.safetensors").write_bytes(os.urandom(3000))
    Registry().register(card_of(weights))
    Registry().promote("prod", "ft:kept")
    call = {"at": 1.0, "tenant": "default", "actor": "a", "action": "b", "object_id": "c", "status": 200}
    with open_database().begin() as connection:
        connection.execute(insert(AUDIT_EVENTS), [call | {"request_id": str(n)} for n in range(NUM_CALLS)])
    files = Files()
    files.add(files.stored("default", "Grüße\u2028rows.jsonl", "fine-tune", ROWS))
    return home


def searched() -> list[str]:
    """What a search prints, but for the line of its times."""
    return hamlet("retrieval", "search", QUESTION, "--collection", "handbook").splitlines()[:-1]


def rows_of(backup: Path) -> dict[str, int]:
    rows: dict[str, int] = json.loads((backup / "manifest.json").read_text())["rows"]
    assert rows["model_cards"] == rows["files"] == 1
    assert rows["audit_events"] == NUM_CALLS
    return rows


@pytest.fixture
def backup(filled: Path, tmp_path: Path) -> Path:
    target = tmp_path / "backup"
    back_up(str(target))
    return target


def use(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "cache").symlink_to(settings().home_dir / "cache")
    monkeypatch.setenv("HAMLET_HOME", str(home))
    settings.cache_clear()


@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgresql", marks=pytest.mark.soak)])
def test_what_was_backed_up_answers_from_another_home(
    database: str,
    filled: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    hamlet("retrieval", "ingest", "examples/handbook/docs/leave.md", "--collection", "handbook")
    backup = tmp_path / "backup"
    hamlet("cluster", "backup", str(backup))
    found = searched()
    card, [file] = Registry().get("prod"), Files().list("default", limit=10).data
    second = tmp_path / "second"
    second.mkdir()
    use(second, monkeypatch)
    if database == "postgresql":
        monkeypatch.setenv("HAMLET_DATABASE_URL", request.getfixturevalue("postgres"))
        settings.cache_clear()
    hamlet("retrieval", "restore", "--all", str(backup / "collections"))  # so far it came, and was cut off
    hamlet("cluster", "restore", str(backup))
    again = Registry().get("prod")
    assert again.model_copy(update={"weights_uri": card.weights_uri}) == card
    assert again.weights_uri == str(second / "storage" / "models" / "ft-kept")
    weights = "model.safetensors"
    assert (Path(again.weights_uri) / weights).read_bytes() == (Path(card.weights_uri) / weights).read_bytes()
    calls = AuditLog().newest(NUM_CALLS + 1)
    assert [call.request_id for call in calls] == [str(n) for n in reversed(range(NUM_CALLS))]
    [file_again] = Files().list("default", limit=10).data
    assert (file_again.id, file_again.filename) == (file.id, file.filename)
    with Files().open(file_again) as stored:
        assert stored.read() == ROWS
    assert searched() == found
    hamlet("cluster", "backup", str(tmp_path / "again"))
    assert rows_of(tmp_path / "again") == rows_of(backup)
    # It was put back once; what is there now is not overwritten.
    assert "holds" in hamlet("cluster", "restore", str(backup), code=2)


@pytest.mark.parametrize("harm", ["changed", "lost", "unfinished", "older"])
def test_a_backup_that_is_not_whole_restores_nothing(
    harm: str, backup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = backup / "storage" / "models" / "ft-kept" / "model.safetensors"
    manifest = backup / "manifest.json"
    if harm == "changed":
        weights.write_bytes(b"x" * 3000)
    elif harm == "lost":
        weights.unlink()
    elif harm == "unfinished":
        manifest.unlink()
    else:
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"revision": "0001"}))
    second = tmp_path / "second"
    second.mkdir()
    use(second, monkeypatch)
    told = hamlet("cluster", "restore", str(backup), code=2)
    assert {"changed": "not what was written", "lost": "lacks", "unfinished": "never completed"}.get(
        harm, "0001"
    ) in told
    assert not (second / "storage").exists()
    with create_engine(f"sqlite:///{second}/hamlet.db").connect() as connection:
        tables = connection.execute(text("SELECT count(*) FROM sqlite_master WHERE name = 'model_cards'"))
        if tables.scalar():
            assert not connection.scalar(text("SELECT count(*) FROM model_cards"))


def test_a_backup_needs_a_folder_of_its_own(filled: Path, backup: Path) -> None:
    assert "not empty" in hamlet("cluster", "backup", str(backup), code=2)
    assert "lies in the storage" in hamlet("cluster", "backup", str(filled / "storage" / "b"), code=2)
