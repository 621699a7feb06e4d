"""The state database: SQLite by default, PostgreSQL by URL, its schema brought up to date when it is opened.

Owns the connection, its transactions and the migrations. Tables stand on METADATA in the module that owns
their noun; what changes them stands in `migrations/versions`, one file per noun, applied in order.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, MetaData, create_engine, event, inspect, text
from sqlalchemy.engine import Engine, make_url
from sqlalchemy.exc import ArgumentError, OperationalError, SQLAlchemyError
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random

from cluster.errors import ConfigError, Unavailable
from cluster.settings import Settings, settings

METADATA = MetaData()

MIGRATIONS = Path(__file__).parent / "migrations"
VERSION_TABLE = "alembic_version"
# Key of PostgreSQL's advisory lock under which one process migrates; any constant of ours will do.
_MIGRATION_LOCK = 0x4861_6D6C_6574

_READ_ONLY = "hamlet_read_only"


def open_database(config: Settings | None = None) -> Engine:
    """An engine on the state database, its schema the newest.

    Several processes may open a new database at once. `engine.begin()` is a transaction that may write;
    `reading(engine)` one that waits for no writer. Raises ConfigError for a URL that names no database and
    for a schema that is newer than this code, Unavailable when the database cannot be opened.
    """
    engine = _engine((config or settings()).database)
    url = engine.url
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _durable_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    try:
        if engine.dialect.name == "sqlite" and url.database:
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        _migrate(engine)
    except (OSError, SQLAlchemyError) as exc:
        where = url.render_as_string(hide_password=True)
        reason = exc.strerror if isinstance(exc, OSError) else exc.__class__.__name__
        raise Unavailable(
            f"the state database {where} cannot be opened ({reason}); check HAMLET_DATABASE_URL and its server, "
            "or where it is not set, that HAMLET_HOME is a folder you may write to",
            "HAMLET_DATABASE_URL",
        ) from exc
    return engine


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that waits for no writer. It reads one state of SQLite; on PostgreSQL each statement the newest."""
    with engine.connect().execution_options(**{_READ_ONLY: True}) as connection, connection.begin():
        yield connection


def take_turns(connection: Connection, name: str) -> None:
    """Of transactions that call this with one name, one goes on at a time, until its end.

    What such a transaction counts therefore stays true until it has added to it.
    """
    if connection.dialect.name == "postgresql":  # SQLite lets one write at a time as it is
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": name})


def newest_revision() -> str:
    """The revision that this code works with: the number of the last migration."""
    return max(file.name.split("_", 1)[0] for file in (MIGRATIONS / "versions").glob("[0-9]*_*.py"))


def _engine(url: str) -> Engine:
    # A server that was set up in the C locale leaves texts as bytes, unless it is told what we read.
    encoding = {"client_encoding": "utf8"} if url.startswith("postgresql+psycopg") else {}
    try:
        return create_engine(make_url(url), pool_pre_ping=not url.startswith("sqlite"), connect_args=encoding)
    except ArgumentError as exc:
        raise ConfigError(
            "HAMLET_DATABASE_URL is no SQLAlchemy URL; it looks like postgresql+psycopg://user:password@host/name",
            "HAMLET_DATABASE_URL",
        ) from exc
    except ModuleNotFoundError as exc:
        raise ConfigError(
            f"HAMLET_DATABASE_URL needs the driver {exc.name}, which is not installed; run pip install {exc.name}",
            "HAMLET_DATABASE_URL",
        ) from exc


# Processes that open a new SQLite file at once race for its switch to WAL, which waits for no timeout.
@retry(
    retry=retry_if_exception_type(OperationalError),
    stop=stop_after_attempt(5),
    wait=wait_random(0.02, 0.2),
    reraise=True,
)
def _migrate(engine: Engine) -> None:
    with reading(engine) as connection:
        if _revision(connection) == newest_revision():
            return
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
        revision = _revision(connection)
        if revision is not None and revision > newest_revision():
            raise ConfigError(
                f"the state database is at revision {revision}, newer than this version of Hamlet, which knows "
                f"{newest_revision()}; install the newer version",
                "HAMLET_DATABASE_URL",
            )
        _upgrade(connection, revision)


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    revision: str | None = connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}"))
    return revision


def _upgrade(connection: Connection, revision: str | None) -> None:
    # Imported late: most processes find the schema up to date and need nothing of it.
    from alembic import command
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    if revision is None and inspect(connection).has_table("model_cards"):
        command.stamp(config, "0001")  # made before there were migrations
    command.upgrade(config, "head")


def _durable_sqlite(connection: object, _record: object) -> None:
    # Transactions begin and end where we say, not where sqlite3 guesses; so do changes of the schema.
    connection.isolation_level = None  # type: ignore[attr-defined]
    cursor = connection.cursor()  # type: ignore[attr-defined]
    # The timeout first, as the others may have to wait. WAL lets replicas read while one writes; FULL
    # makes what was acknowledged survive a power cut.
    for pragma in ("busy_timeout=30000", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads first and writes later would fail at once, whatever the timeout, when another
    # has written in between; so those that may write take their turn from the start.
    read_only = connection.get_execution_options().get(_READ_ONLY)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
