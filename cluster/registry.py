"""The registry of ModelCards, in SQL: SQLite by default, PostgreSQL by URL.

Owns cards and aliases, each of one tenant or (SHARED) of all. Weights stay in storage; a model that is
deleted leaves a note of its folder, which is removed when no request can be using it any more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Double,
    ForeignKey,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    delete,
    insert,
    select,
    true,
    update,
)
from sqlalchemy.engine import Engine
from sqlalchemy.exc import IntegrityError

from cluster.aliases import require_alias
from cluster.cards import ModelCard, ModelKind
from cluster.database import METADATA, open_database, reading
from cluster.errors import Conflict, NotFound, some_of

# Databases take a bounded number of values in one query, PostgreSQL 65,535.
IDS_AT_ONCE = 500

# Tenant of what the command line registers: seen by every tenant.
SHARED = ""

CARDS = Table(
    "model_cards",
    METADATA,
    Column("id", String(255), primary_key=True),
    Column("kind", String(32), nullable=False, index=True),
    Column("created_at", String(40), nullable=False, index=True),
    Column("body", Text, nullable=False),
    Column("tenant", String(64), nullable=False, server_default=SHARED),
)

ALIASES = Table(
    "model_aliases",
    METADATA,
    Column("tenant", String(64), server_default=SHARED),
    Column("alias", String(255)),
    Column("card_id", String(255), ForeignKey("model_cards.id", ondelete="CASCADE"), nullable=False),
    Column("previous_id", String(255), ForeignKey("model_cards.id", ondelete="SET NULL")),
    PrimaryKeyConstraint("tenant", "alias", name="pk_model_aliases"),
)

RETIRED = Table(
    "retired_weights",
    METADATA,
    Column("uri", String(2048), primary_key=True),
    Column("retired_at", Double, nullable=False),
)


class Registry:
    """Cards by id and by alias. Every method is one transaction, safe from several processes."""

    def __init__(self, engine: Engine | None = None, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine or open_database()
        self._clock = clock
        self._cards: dict[str, ModelCard] = {}

    def register(self, card: ModelCard, tenant: str = SHARED) -> None:
        """Add a card; it is durable on return. Raises Conflict if the id exists or parity was not proven."""
        with self._engine.begin() as connection:
            add_card(connection, card, tenant)

    def get(self, name: str, tenant: str | None = None) -> ModelCard:
        """The card with this id or alias. Raises NotFound, listing what there is.

        `tenant` here and below: of what that tenant has and what is shared; None: of everything. A tenant's own
        alias goes before a shared one, but to None the shared one goes before those of tenants.
        """
        target = (
            select(ALIASES.c.card_id)
            .where(ALIASES.c.alias == name, _of(ALIASES, tenant))
            .order_by(ALIASES.c.tenant if tenant is None else ALIASES.c.tenant.desc())  # SHARED sorts first
            .limit(1)
            .scalar_subquery()
        )
        query = select(CARDS.c.body).where(_of(CARDS, tenant), (CARDS.c.id == name) | (CARDS.c.id == target))
        with reading(self._engine) as connection:
            body = connection.scalar(query)
        if body is None:
            known = some_of(self._ids(tenant)) or "none yet"
            raise NotFound(
                f"no model named {name!r} is registered (registered: {known})", "model", "model_not_found"
            )
        return ModelCard.model_validate_json(body)

    def list(self, kind: ModelKind | None = None, tenant: str | None = None) -> list[ModelCard]:
        """Cards, newest first."""
        query = select(CARDS.c.body).where(_of(CARDS, tenant)).order_by(CARDS.c.created_at.desc(), CARDS.c.id)
        if kind is not None:
            query = query.where(CARDS.c.kind == kind.value)
        with reading(self._engine) as connection:
            return [ModelCard.model_validate_json(body) for body in connection.scalars(query)]

    def owned(self) -> Sequence[tuple[str, ModelCard]]:
        """Every card with its tenant, newest first. Cheap to ask again: cards never change, and are kept."""
        order = select(CARDS.c.id, CARDS.c.tenant).order_by(CARDS.c.created_at.desc(), CARDS.c.id)
        with reading(self._engine) as connection:
            rows = [(id_, tenant) for id_, tenant in connection.execute(order)]
            missing = [id_ for id_, _ in rows if id_ not in self._cards]
            for start in range(0, len(missing), IDS_AT_ONCE):
                ids = missing[start : start + IDS_AT_ONCE]
                bodies = connection.execute(select(CARDS.c.id, CARDS.c.body).where(CARDS.c.id.in_(ids)))
                self._cards |= {id_: ModelCard.model_validate_json(body) for id_, body in bodies}
        # One may have been deleted between the two looks.
        self._cards = {id_: self._cards[id_] for id_, _ in rows if id_ in self._cards}
        return [(tenant, self._cards[id_]) for id_, tenant in rows if id_ in self._cards]

    def aliases(self, tenant: str = SHARED) -> dict[str, str]:
        """Alias -> card id, of one tenant; by default the shared ones."""
        query = select(ALIASES).where(ALIASES.c.tenant == tenant)
        with reading(self._engine) as connection:
            return {row.alias: row.card_id for row in connection.execute(query)}

    def aliases_by_tenant(self) -> dict[str, dict[str, str]]:
        """Tenant -> alias -> card id."""
        found: dict[str, dict[str, str]] = {}
        with reading(self._engine) as connection:
            for row in connection.execute(select(ALIASES)):
                found.setdefault(row.tenant, {})[row.alias] = row.card_id
        return found

    def promote(self, alias: str, name: str, tenant: str = SHARED) -> str | None:
        """Point a tenant's alias at a card in one step; returns the id it pointed at before.

        Raises NotFound for a card that the tenant does not see, InvalidInput for what is no alias, and Conflict for
        a name that every deployment reads otherwise.
        """
        require_alias(alias)
        visible = None if tenant == SHARED else tenant
        try:
            return self._point(alias, self.get(name, visible).id, tenant)
        except IntegrityError:
            # Between our look and our write another process made the alias (now it can be changed), or
            # deleted the card (now `get` says so).
            return self._point(alias, self.get(name, visible).id, tenant)

    def _point(self, alias: str, card_id: str, tenant: str) -> str | None:
        mine = (ALIASES.c.tenant == tenant) & (ALIASES.c.alias == alias)
        with self._engine.begin() as connection:
            before: str | None = connection.scalar(select(ALIASES.c.card_id).where(mine).with_for_update())
            if before is None:
                connection.execute(insert(ALIASES).values(tenant=tenant, alias=alias, card_id=card_id))
            elif before != card_id:
                connection.execute(update(ALIASES).where(mine).values(card_id=card_id, previous_id=before))
        return before

    def roll_back(self, alias: str, tenant: str = SHARED) -> str:
        """Point an alias at the card it meant before, in one step; again: forward. Returns that card's id.

        Raises NotFound for an unknown alias, Conflict when it never meant another card or that one is gone.
        """
        mine = (ALIASES.c.tenant == tenant) & (ALIASES.c.alias == alias)
        with self._engine.begin() as connection:
            row = connection.execute(select(ALIASES).where(mine).with_for_update()).first()
            if row is None:
                raise _no_alias(alias)
            if row.previous_id is None:
                raise Conflict(
                    f"{alias} has meant no other model before, or that one is deleted; promote the model that it "
                    "shall mean",
                    "alias",
                )
            swapped = {"card_id": row.previous_id, "previous_id": row.card_id}
            connection.execute(update(ALIASES).where(mine).values(**swapped))
        return str(row.previous_id)

    def remove_alias(self, alias: str, tenant: str = SHARED) -> None:
        """Raises NotFound."""
        with self._engine.begin() as connection:
            mine = (ALIASES.c.tenant == tenant) & (ALIASES.c.alias == alias)
            if not connection.execute(delete(ALIASES).where(mine)).rowcount:
                raise _no_alias(alias)

    def delete(self, name: str) -> ModelCard:
        """Remove a card and its aliases, and note that its weights can go; returns it. Raises NotFound."""
        card = self.get(name)
        with self._engine.begin() as connection:
            if not connection.execute(delete(CARDS).where(CARDS.c.id == card.id)).rowcount:
                raise NotFound(f"{card.id} has just been deleted", "model", "model_not_found")
            connection.execute(delete(RETIRED).where(RETIRED.c.uri == card.weights_uri))
            connection.execute(insert(RETIRED).values(uri=card.weights_uri, retired_at=self._clock()))
        return card

    def may_change(self, card_id: str, tenant: str) -> bool:
        """Whether a card is this tenant's own, and not a shared one."""
        with reading(self._engine) as connection:
            return connection.scalar(select(CARDS.c.tenant).where(CARDS.c.id == card_id)) == tenant

    def retired_weights(self, older_than_s: float = 0) -> Sequence[str]:
        """Folders of models that were deleted at least so long ago."""
        query = select(RETIRED.c.uri).where(RETIRED.c.retired_at <= self._clock() - older_than_s)
        with reading(self._engine) as connection:
            return list(connection.scalars(query))

    def forget_weights(self, uri: str) -> None:
        """The folder is removed."""
        with self._engine.begin() as connection:
            connection.execute(delete(RETIRED).where(RETIRED.c.uri == uri))

    def _ids(self, tenant: str | None) -> Sequence[str]:
        """Of all cards that a tenant sees, newest first."""
        query = select(CARDS.c.id).where(_of(CARDS, tenant)).order_by(CARDS.c.created_at.desc(), CARDS.c.id)
        with reading(self._engine) as connection:
            return connection.scalars(query).all()


def add_card(connection: Connection, card: ModelCard, tenant: str) -> None:
    """`Registry.register` in the caller's transaction, which a Conflict ends."""
    if not card.parity.passed:
        raise Conflict(f"{card.id} is not registered: its parity check failed: {card.parity.detail}")
    row = {
        "id": card.id,
        "kind": card.kind.value,
        "created_at": card.created_at.isoformat(),
        "body": card.model_dump_json(),
        "tenant": tenant,
    }
    try:
        connection.execute(insert(CARDS).values(**row))
    except IntegrityError as exc:
        raise Conflict(f"a model named {card.id} is registered already; ids are never reused") from exc


def _of(table: Table, tenant: str | None) -> ColumnElement[bool]:
    """Rows that a tenant sees: its own and the shared ones."""
    return true() if tenant is None else table.c.tenant.in_((tenant, SHARED))


def _no_alias(alias: str) -> NotFound:
    return NotFound(
        f"there is no alias {alias!r}; list them with GET /v1/aliases", "alias", "alias_not_found"
    )
