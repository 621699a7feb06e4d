"""The registry of ModelCards, in SQL: SQLite by default, PostgreSQL by URL.

Owns cards and aliases. Weights stay in storage; deleting a card does not delete its folder here.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import (
    Column,
    ForeignKey,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    delete,
    event,
    insert,
    select,
    update,
)
from sqlalchemy.engine import Engine, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, OperationalError, ProgrammingError, SQLAlchemyError
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random

from cluster.cards import ModelCard, ModelKind
from cluster.errors import ConfigError, Conflict, NotFound, Unavailable
from cluster.settings import Settings, settings

METADATA = MetaData()

CARDS = Table(
    "model_cards",
    METADATA,
    Column("id", String(255), primary_key=True),
    Column("kind", String(32), nullable=False, index=True),
    Column("created_at", String(40), nullable=False, index=True),
    Column("body", Text, nullable=False),
)

ALIASES = Table(
    "model_aliases",
    METADATA,
    Column("alias", String(255), primary_key=True),
    Column("card_id", String(255), ForeignKey("model_cards.id", ondelete="CASCADE"), nullable=False),
)


def open_database(config: Settings | None = None) -> Engine:
    """An engine on the state database, its tables made where they are missing.

    Raises ConfigError for a URL that names no database, Unavailable when the database cannot be opened.
    """
    engine = _engine((config or settings()).database)
    url = engine.url
    if url.drivername.startswith("sqlite"):
        event.listen(engine, "connect", _durable_sqlite)
    try:
        if url.drivername.startswith("sqlite") and url.database:
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        _create_tables(engine)
    except (OSError, SQLAlchemyError) as exc:
        where = url.render_as_string(hide_password=True)
        raise Unavailable(
            f"the state database {where} cannot be opened ({exc.__class__.__name__}); "
            "check HAMLET_DATABASE_URL, its server and the folder's permissions",
            "HAMLET_DATABASE_URL",
        ) from exc
    return engine


def _engine(url: str) -> Engine:
    try:
        return create_engine(make_url(url))
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


# Processes that open a new database at once race between "is the table there?" and making it, and for
# SQLite's switch to WAL; whoever loses finds it made.
@retry(
    retry=retry_if_exception_type((OperationalError, ProgrammingError, IntegrityError)),
    stop=stop_after_attempt(5),
    wait=wait_random(0.02, 0.2),
    reraise=True,
)
def _create_tables(engine: Engine) -> None:
    METADATA.create_all(engine)


def _durable_sqlite(connection: object, _record: object) -> None:
    cursor = connection.cursor()  # type: ignore[attr-defined]
    # The timeout first, as the others may have to wait. WAL lets replicas read while one writes; FULL
    # makes what was acknowledged survive a power cut.
    for pragma in ("busy_timeout=30000", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


class Registry:
    """Cards by id and by alias. Every method is one transaction, safe from several processes."""

    def __init__(self, engine: Engine | None = None) -> None:
        self._engine = engine or open_database()

    def register(self, card: ModelCard) -> None:
        """Add a card; it is durable on return. Raises Conflict if the id exists or parity was not proven."""
        if not card.parity.passed:
            raise Conflict(f"{card.id} is not registered: its parity check failed: {card.parity.detail}")
        row = {
            "id": card.id,
            "kind": card.kind.value,
            "created_at": card.created_at.isoformat(),
            "body": card.model_dump_json(),
        }
        try:
            with self._engine.begin() as connection:
                connection.execute(insert(CARDS).values(**row))
        except IntegrityError as exc:
            raise Conflict(f"a model named {card.id} is registered already; ids are never reused") from exc

    def get(self, name: str) -> ModelCard:
        """The card with this id or alias. Raises NotFound, listing what there is."""
        target = select(ALIASES.c.card_id).where(ALIASES.c.alias == name).scalar_subquery()
        with self._engine.begin() as connection:
            body = connection.scalar(
                select(CARDS.c.body).where((CARDS.c.id == name) | (CARDS.c.id == target))
            )
        if body is None:
            known = ", ".join(card.id for card in self.list()) or "none yet"
            raise NotFound(
                f"no model named {name!r} is registered (registered: {known})", "model", "model_not_found"
            )
        return ModelCard.model_validate_json(body)

    def list(self, kind: ModelKind | None = None) -> list[ModelCard]:
        """All cards, newest first."""
        query = select(CARDS.c.body).order_by(CARDS.c.created_at.desc(), CARDS.c.id)
        if kind is not None:
            query = query.where(CARDS.c.kind == kind.value)
        with self._engine.begin() as connection:
            return [ModelCard.model_validate_json(body) for body in connection.scalars(query)]

    def aliases(self) -> dict[str, str]:
        """Alias -> card id."""
        with self._engine.begin() as connection:
            return {row.alias: row.card_id for row in connection.execute(select(ALIASES))}

    def promote(self, alias: str, name: str) -> str | None:
        """Point `alias` at a card in one step; returns the id it pointed at before, for rolling back."""
        try:
            return self._point(alias, self.get(name).id)
        except IntegrityError:
            # Between our look and our write another process made the alias (now it can be changed), or
            # deleted the card (now `get` says so).
            return self._point(alias, self.get(name).id)

    def _point(self, alias: str, card_id: str) -> str | None:
        with self._engine.begin() as connection:
            before = connection.scalar(select(ALIASES.c.card_id).where(ALIASES.c.alias == alias))
            if before is None:
                connection.execute(insert(ALIASES).values(alias=alias, card_id=card_id))
            else:
                connection.execute(update(ALIASES).where(ALIASES.c.alias == alias).values(card_id=card_id))
        return before

    def delete(self, name: str) -> ModelCard:
        """Remove a card and its aliases; returns it. Raises NotFound."""
        card = self.get(name)
        with self._engine.begin() as connection:
            connection.execute(delete(CARDS).where(CARDS.c.id == card.id))
        return card
