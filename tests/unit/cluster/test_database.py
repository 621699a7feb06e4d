"""The state database and its migrations, on SQLite; PostgreSQL's are in tests/integration/cluster."""

from __future__ import annotations

import importlib
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, inspect, text

from cluster.cards import ModelCard
from cluster.database import METADATA, newest_revision, open_database, reading
from cluster.errors import ConfigError, Unavailable
from cluster.registry import Registry
from cluster.settings import Settings

REPOSITORY = Path(__file__).parents[3]


BEFORE_MIGRATIONS = (
    "CREATE TABLE model_cards (id VARCHAR(255) PRIMARY KEY, kind VARCHAR(32) NOT NULL, "
    "created_at VARCHAR(40) NOT NULL, body TEXT NOT NULL)",
    "CREATE INDEX ix_model_cards_kind ON model_cards (kind)",
    "CREATE INDEX ix_model_cards_created_at ON model_cards (created_at)",
    "CREATE TABLE model_aliases (alias VARCHAR(255) PRIMARY KEY, "
    "card_id VARCHAR(255) NOT NULL REFERENCES model_cards (id) ON DELETE CASCADE)",
)


@pytest.fixture(autouse=True)
def _no_database_yet(home: Path) -> None:
    (home / "hamlet.db").unlink()


def _import_all_tables() -> None:
    for package in ("cluster", "retrieval", "serving", "training", "evaluation"):
        for file in (REPOSITORY / package).rglob("*.py"):
            if "import METADATA" in (source := file.read_text()) or "METADATA," in source:
                importlib.import_module(".".join(file.relative_to(REPOSITORY).with_suffix("").parts))


def test_the_tables_of_the_code_are_those_that_the_migrations_make() -> None:
    _import_all_tables()
    assert {"model_cards", "files", "fine_tuning_jobs", "leases"} <= set(METADATA.tables)
    with open_database().connect() as connection:
        differences = compare_metadata(
            MigrationContext.configure(connection, opts={"compare_type": True}), METADATA
        )
    assert differences == []


def test_a_database_from_before_migrations_keeps_its_models_and_aliases(
    home: Path, make_card: object
) -> None:
    card: ModelCard = make_card(id="ft:old")  # type: ignore[operator]
    with create_engine(f"sqlite:///{home}/hamlet.db").begin() as connection:
        for statement in BEFORE_MIGRATIONS:
            connection.execute(text(statement))
        values = {"id": card.id, "kind": "classifier", "at": "2026-01-01", "body": card.model_dump_json()}
        connection.execute(text("INSERT INTO model_cards VALUES (:id, :kind, :at, :body)"), values)
        connection.execute(text("INSERT INTO model_aliases VALUES ('prod', 'ft:old')"))
    models = Registry()
    assert models.get("prod") == card
    assert models.aliases() == {"prod": "ft:old"}


def test_opening_again_changes_nothing() -> None:
    open_database()
    with reading(open_database()) as connection:
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == newest_revision()


def test_a_schema_newer_than_this_code_is_left_alone() -> None:
    with open_database().begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigError, match="revision 9999, newer than this version"):
        open_database()


def test_a_reader_waits_for_no_writer() -> None:
    engine = open_database()
    with engine.begin() as writer:
        writer.execute(text("INSERT INTO leases VALUES ('a', 'me', 0)"))
        with reading(engine) as reader:
            assert reader.scalar(text("SELECT count(*) FROM leases")) == 0
    with reading(engine) as reader:
        assert reader.scalar(text("SELECT count(*) FROM leases")) == 1


def test_transactions_that_read_and_then_write_take_turns() -> None:
    engine = open_database()
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO leases VALUES ('counter', 'me', 0)"))

    def count() -> None:
        for _ in range(20):
            with engine.begin() as connection:
                seen = connection.scalar(text("SELECT expires_at FROM leases"))
                connection.execute(text("UPDATE leases SET expires_at = :next"), {"next": seen + 1})

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with reading(engine) as connection:
        assert connection.scalar(text("SELECT expires_at FROM leases")) == 80


def test_a_migration_that_fails_leaves_the_schema_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("alembic.op.create_index", fail)
    with pytest.raises(Unavailable, match="cannot be opened"):
        open_database()
    monkeypatch.undo()
    assert inspect(open_database()).has_table("files")


def test_processes_that_open_a_new_database_at_once_all_succeed(tmp_path: Path) -> None:
    code = (
        "import sys; from cluster.database import open_database; from cluster.settings import Settings;"
        "sys.stdout.write('ready\\n'); sys.stdout.flush(); sys.stdin.readline();"
        f"open_database(Settings(database_url='sqlite:///{tmp_path}/new.db'))"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        process.communicate("go\n")
    assert [process.returncode for process in processes] == [0, 0, 0, 0]


def test_a_url_that_is_none_is_refused_without_showing_it() -> None:
    with pytest.raises(ConfigError, match="HAMLET_DATABASE_URL") as refused:
        open_database(Settings(database_url="secret nonsense"))
    assert "secret" not in str(refused.value)


def test_a_missing_driver_is_named() -> None:
    with pytest.raises(ConfigError, match="pip install"):
        open_database(Settings(database_url="mssql+pymssql://server/database"))


def test_a_database_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match=r"sqlite:///.*file/hamlet\.db cannot be opened"):
        open_database(Settings(database_url=f"sqlite:///{tmp_path}/file/hamlet.db"))
