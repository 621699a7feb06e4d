"""API keys: who may call the HTTP API, for which tenant, with which scopes, and until when.

Owns the rows and what a key means. Does not own HTTP: `serving/authentication.py` asks here.

Only the SHA-256 of a secret is kept. A slow hash guards passwords, which can be guessed; a secret here is 32
random bytes, which cannot, and it is checked on every request.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from sqlalchemy import JSON, Column, Double, String, Table, insert, select, update
from sqlalchemy.engine import Engine, RowMapping
from sqlalchemy.exc import SQLAlchemyError

from cluster.database import METADATA, open_database, reading
from cluster.errors import InvalidInput, NotFound, Unavailable
from cluster.tenants import require_tenant

MAX_NAME = 128

API_KEYS = Table(
    "api_keys",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("tenant", String(64), nullable=False, index=True),
    Column("name", String(MAX_NAME), nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("secret_sha256", String(64), nullable=False, unique=True),
    Column("hint", String(8), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("revoked_at", Double),
)

# `sk-` is what log redaction, secret scanners and clients take for a key.
SECRET_PREFIX = "sk-hamlet-"
SECRET_BYTES = 32
HINT_CHARACTERS = 4
ROTATION_GRACE_S = 24 * 3600.0


class Area(StrEnum):
    """A part of the API that a scope opens. `admin` opens all of them, and what belongs to none."""

    INFERENCE = "inference"
    FILES = "files"
    FINE_TUNING = "fine_tuning"
    VECTOR_STORES = "vector_stores"
    ADMIN = "admin"


READ_SUFFIX = ":read"
SCOPES = tuple(scope for area in Area for scope in (area.value, area.value + READ_SUFFIX))
DEFAULT_SCOPES = tuple(area.value for area in Area if area is not Area.ADMIN)


@dataclass(frozen=True)
class ApiKey:
    """One key. `hint` is the end of its secret, by which its owner knows it again; times are Unix seconds."""

    id: str
    tenant: str
    name: str
    scopes: tuple[str, ...]
    secret_sha256: str
    hint: str
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None

    def is_valid(self, now: float) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    def allows(self, area: Area, writes: bool) -> bool:
        """Whether a scope of this key opens a part of the API for reading, or for reading and writing.

        >>> make_key("ann", ["files:read"])[0].allows(Area.FILES, writes=True)
        False
        """
        if Area.ADMIN.value in self.scopes or area.value in self.scopes:
            return True
        return not writes and area.value + READ_SUFFIX in self.scopes


def secret_digest(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()


def make_key(
    tenant: str,
    scopes: Iterable[str] = DEFAULT_SCOPES,
    name: str = "",
    expires_at: float | None = None,
    now: float | None = None,
) -> tuple[ApiKey, str]:
    """A new key and its secret. Raises InvalidInput for a tenant, name or scope that cannot be one."""
    require_tenant(tenant)
    chosen = tuple(dict.fromkeys(scopes))
    if len(name) > MAX_NAME:
        raise InvalidInput(
            f"the name has {len(name)} characters; at most {MAX_NAME} are kept: shorten it", "name"
        )
    unknown = [scope for scope in chosen if scope not in SCOPES]
    if unknown or not chosen:
        what = f"unknown scope {unknown[0]!r}" if unknown else "no scope"
        raise InvalidInput(f"{what}; choose from {', '.join(SCOPES)}", "scope")
    secret = SECRET_PREFIX + secrets.token_urlsafe(SECRET_BYTES)
    key = ApiKey(
        id=f"key_{secrets.token_hex(8)}",
        tenant=tenant,
        name=name,
        scopes=chosen,
        secret_sha256=secret_digest(secret),
        hint=secret[-HINT_CHARACTERS:],
        created_at=time.time() if now is None else now,
        expires_at=expires_at,
    )
    return key, secret


class ApiKeys:
    """Keys in the state database. Every method is one transaction."""

    def __init__(self, engine: Engine | None = None, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine or open_database()
        self._clock = clock

    def create(
        self,
        tenant: str,
        scopes: Iterable[str] = DEFAULT_SCOPES,
        name: str = "",
        expires_in_s: float | None = None,
    ) -> tuple[ApiKey, str]:
        """Add a key; returns it with its secret, which is kept nowhere. Raises InvalidInput."""
        now = self._clock()
        expires_at = None if expires_in_s is None else now + expires_in_s
        key, secret = make_key(tenant, scopes, name, expires_at, now)
        with self._engine.begin() as connection:
            connection.execute(insert(API_KEYS).values(**_row(key)))
        return key, secret

    def list(self, tenant: str | None = None) -> list[ApiKey]:
        """All keys, or those of a tenant, oldest first; also expired and revoked ones. Raises Unavailable."""
        query = select(API_KEYS).order_by(API_KEYS.c.created_at, API_KEYS.c.id)
        if tenant is not None:
            query = query.where(API_KEYS.c.tenant == tenant)
        try:
            with reading(self._engine) as connection:
                return [_key(row) for row in connection.execute(query).mappings()]
        except SQLAlchemyError as exc:
            raise Unavailable(
                f"the state database does not answer ({exc.__class__.__name__}); try again shortly"
            ) from exc

    def rotate(self, key_id: str, grace_s: float = ROTATION_GRACE_S) -> tuple[ApiKey, str]:
        """A new key with the tenant, scopes, name and lifetime of another, which ends after `grace_s`.

        Raises NotFound for an unknown key, InvalidInput for one that is not valid any more.
        """
        now = self._clock()
        with self._engine.begin() as connection:
            # Locked: a key that is being revoked gets no successor.
            found = select(API_KEYS).where(API_KEYS.c.id == key_id).with_for_update()
            row = connection.execute(found).mappings().first()
            if row is None:
                raise _unknown(key_id)
            old = _key(row)
            if not old.is_valid(now):
                raise InvalidInput(f"{key_id} is expired or revoked; create a new key instead", "key")
            lifetime_s = None if old.expires_at is None else old.expires_at - old.created_at
            expires_at = None if lifetime_s is None else now + lifetime_s
            key, secret = make_key(old.tenant, old.scopes, old.name, expires_at, now)
            ends_at = min(now + grace_s, old.expires_at or now + grace_s)
            connection.execute(update(API_KEYS).where(API_KEYS.c.id == key_id).values(expires_at=ends_at))
            connection.execute(insert(API_KEYS).values(**_row(key)))
        return key, secret

    def revoke(self, key_id: str) -> ApiKey:
        """End a key for good; again: nothing changes. Raises NotFound."""
        with self._engine.begin() as connection:
            connection.execute(
                update(API_KEYS)
                .where(API_KEYS.c.id == key_id, API_KEYS.c.revoked_at.is_(None))
                .values(revoked_at=self._clock())
            )
            row = connection.execute(select(API_KEYS).where(API_KEYS.c.id == key_id)).mappings().first()
        if row is None:
            raise _unknown(key_id)
        return _key(row)


def _unknown(key_id: str) -> NotFound:
    return NotFound(f"no key {key_id!r}; python -m cluster keys list shows them", "key", "key_not_found")


def _row(key: ApiKey) -> dict[str, object]:
    return {**vars(key), "scopes": list(key.scopes)}


def _key(row: RowMapping) -> ApiKey:
    return replace(ApiKey(**row), scopes=tuple(row["scopes"]))
