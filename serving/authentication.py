"""Who calls: an API key from the request's header, its tenant, and what its scopes open.

ASGI middleware. It puts `tenant`, `key_id` and `allowance` into `request.state`; what is behind it takes the
tenant from there and from nowhere else. Without any key in the database everybody is the tenant `default`,
and only callers of 127.0.0.1 are answered.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster.api_keys import ApiKey, Area, secret_digest
from cluster.audit_log import AuditEvent
from cluster.errors import Forbidden, HamletError, Overloaded, Unauthenticated
from cluster.tenants import DEFAULT_TENANT
from serving.config import LimitsConfig
from serving.errors import error_response
from serving.limits import Allowance, Limits

log = logging.getLogger(__name__)

ANONYMOUS = "anonymous"
# A key that was made a moment ago is looked up afresh; guesses can cause no more reads than this allows.
UNKNOWN_KEY_TTL_S = 0.05
# The id of what a call made is read from answers up to this size.
AUDITED_BODY_BYTES = 64 * 1024

READING_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
PUBLIC_PATHS = frozenset(
    {"/", "/healthz", "/readyz", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"}
)
DOCS_ASSETS = "/docs/assets"
PUBLIC_PREFIXES = ("/page/", f"{DOCS_ASSETS}/")


@dataclass(frozen=True, slots=True)
class Access:
    """What a call needs. `area` None: any key."""

    area: Area | None
    writes: bool


AREAS: Mapping[str, Area] = {
    "/v1/chat": Area.INFERENCE,
    "/v1/completions": Area.INFERENCE,
    "/v1/embeddings": Area.INFERENCE,
    "/v1/classify": Area.INFERENCE,
    "/v1/rerank": Area.INFERENCE,
    "/v1/batches": Area.INFERENCE,
    "/v1/files": Area.FILES,
    "/v1/fine_tuning": Area.FINE_TUNING,
    "/v1/models": Area.FINE_TUNING,
    "/v1/aliases": Area.FINE_TUNING,
    "/v1/vector_stores": Area.VECTOR_STORES,
    "/v1/evaluations": Area.FINE_TUNING,
    "/reports": Area.FINE_TUNING,
}
# Whoever may call at all may see which models there are and whether the cluster is well.
READABLE_BY_ALL = ("/v1/models", "/v1/aliases", "/v1/cluster")


def access_of(method: str, path: str) -> Access:
    """What a call needs; a path that nobody has thought of needs `admin`. Pure.

    >>> access_of("POST", "/v1/vector_stores/vs_1/search")
    Access(area=<Area.VECTOR_STORES: 'vector_stores'>, writes=False)
    """
    writes = method not in READING_METHODS
    prefix = "/".join(path.split("/")[:3]) if path.startswith("/v1/") else "/" + path.split("/")[1]
    if not writes and prefix in READABLE_BY_ALL:
        return Access(None, writes=False)
    if method == "POST" and prefix == "/v1/vector_stores" and path.endswith("/search"):
        writes = False
    return Access(AREAS.get(prefix, Area.ADMIN), writes)


def is_audited(access: Access, path: str) -> bool:
    """Whether a call changes what is kept: an answer leaves nothing behind, a batch does. Pure.

    >>> [is_audited(Access(Area.INFERENCE, writes=True), path) for path in ("/v1/rerank", "/v1/batches")]
    [False, True]
    """
    return access.writes and (access.area is not Area.INFERENCE or path.startswith("/v1/batches"))


def is_public(path: str) -> bool:
    return path in PUBLIC_PATHS or path.startswith(PUBLIC_PREFIXES)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address that is listened on.

    >>> is_loopback("127.0.0.1"), is_loopback("0.0.0.0")
    (True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Keyring:
    """The keys of the database, read again after `ttl_s` when they are asked for. For one event loop."""

    def __init__(
        self,
        read: Callable[[], Sequence[ApiKey]],
        ttl_s: float = 1.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._read = read
        self._ttl_s = ttl_s
        self._clock = clock
        self._by_digest: dict[str, ApiKey] = {}
        self._read_at = float("-inf")
        self._reading: asyncio.Future[None] | None = None

    async def is_empty(self) -> bool:
        """Whether no key was ever made: also an expired or revoked one closes the door."""
        return not await self._current(self._ttl_s)

    async def find(self, secret: str) -> ApiKey | None:
        """The valid key with this secret."""
        digest = secret_digest(secret)  # looked up by it: how near a guess comes cannot be timed
        for max_age_s in (self._ttl_s, min(self._ttl_s, UNKNOWN_KEY_TTL_S)):
            key = (await self._current(max_age_s)).get(digest)
            if key is not None:
                return key if key.is_valid(self._clock()) else None
        return None

    async def _current(self, max_age_s: float) -> dict[str, ApiKey]:
        if not 0 <= self._clock() - self._read_at < max_age_s:  # below 0 where the clock was set back
            # One read for all who wait, and they go on together. Shielded: one of them may leave.
            self._reading = self._reading or asyncio.ensure_future(self._refresh())
            await asyncio.shield(self._reading)
        return self._by_digest

    async def _refresh(self) -> None:
        read_at = self._clock()
        try:
            keys = await asyncio.to_thread(self._read)
        finally:
            self._reading = None
        self._by_digest = {key.secret_sha256: key for key in keys}
        self._read_at = read_at


@dataclass(frozen=True, slots=True)
class Caller:
    """Whom a request is answered for."""

    tenant: str
    key_id: str
    allowance: Allowance


class Gate:
    """Decides on each call. `host` is the address that is listened on, `audit` takes state-changing calls."""

    def __init__(
        self,
        keyring: Keyring | None = None,
        limits: Limits | None = None,
        audit: Callable[[AuditEvent], None] = lambda _: None,
        host: str = "127.0.0.1",
        allow_no_keys: bool = False,
    ) -> None:
        self._keyring = keyring or Keyring(list)
        self.limits = limits or Limits(LimitsConfig())
        self._host = host
        self._open_without_keys = allow_no_keys or is_loopback(host)
        self.audit = audit

    @property
    def without_keys(self) -> str:
        """What is answered, and to whom, while no key exists."""
        if self._open_without_keys:
            return f"no API key exists: whoever reaches {self._host} is answered, as project {DEFAULT_TENANT}"
        return (
            f"no API key exists yet, and this server listens on {self._host}, which others can reach: nobody is "
            "answered; make a key with: python -m cluster keys create"
        )

    def allowance(self, key_id: str, tenant: str) -> Allowance:
        """What a caller may still ask for."""
        return self.limits.allowance(key_id, tenant)

    async def caller(self, headers: Headers, access: Access) -> Caller:
        """Who calls. Raises Unauthenticated or Forbidden."""
        key = await self._key(headers)
        if key is None:
            return Caller(DEFAULT_TENANT, ANONYMOUS, self.allowance(ANONYMOUS, DEFAULT_TENANT))
        if access.area is not None and not key.allows(access.area, access.writes):
            needed = access.area.value if access.writes else f"{access.area.value}:read"
            raise Forbidden(f"key {key.id} has not the scope {needed}; it has {', '.join(key.scopes)}")
        return Caller(key.tenant, key.id, self.allowance(key.id, key.tenant))

    async def _key(self, headers: Headers) -> ApiKey | None:
        """The caller's key; None where none is needed."""
        if await self._keyring.is_empty():
            if self._open_without_keys:
                return None
            raise Unauthenticated(self.without_keys)
        key = await self._keyring.find(bearer_secret(headers))
        if key is None:
            raise Unauthenticated(
                "incorrect, expired or revoked API key; python -m cluster keys list shows all"
            )
        return key


class Authentication:
    """ASGI middleware: asks the gate, tells the application who calls, and tells the audit log what was done."""

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or is_public(scope["path"]):
            await self._app(scope, receive, send)
            return
        access = access_of(scope["method"], scope["path"])
        try:
            caller = await self._gate.caller(Headers(scope=scope), access)
        except HamletError as exc:
            await error_response(exc)(scope, receive, send)
            return
        answer = _Answer(send, caller.allowance)
        try:
            caller.allowance.admit()
        except Overloaded as exc:
            await error_response(exc)(scope, receive, answer.pass_on)
            return
        state = {"tenant": caller.tenant, "key_id": caller.key_id, "allowance": caller.allowance}
        scope.setdefault("state", {}).update(state)
        if not is_audited(access, scope["path"]):
            await self._app(scope, receive, answer.pass_on)
            return
        try:
            await self._app(scope, receive, answer.watch)
        finally:
            await self._record(scope, caller, answer)
            await answer.finish()

    async def _record(self, scope: Scope, caller: Caller, answer: _Answer) -> None:
        """Write the audit event. The answer ends after it: what was acknowledged stands in the log."""
        event = AuditEvent(
            tenant=caller.tenant,
            actor=caller.key_id,
            action=f"{scope['method']} {scope['path']}",
            object_id=answer.object_id,
            status=answer.status,
            request_id=scope["state"].get("request_id", ""),
        )
        try:
            await asyncio.to_thread(self._gate.audit, event)
        except HamletError:
            log.exception("request %s is missing in the audit log: %s", event.request_id, event)


def tenant_of(request: Request) -> str:
    """Whose request this is."""
    return str(request.state.tenant)


def bearer_secret(headers: Headers) -> str:
    """The key of an `Authorization: Bearer` header. Raises Unauthenticated where there is none."""
    scheme, _, secret = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise Unauthenticated("no API key was sent; send one as Authorization: Bearer KEY")
    return secret.strip()


class _Answer:
    """One answer on its way out, with the caller's `x-ratelimit-*` headers, and what the audit log wants of it."""

    def __init__(self, send: Send, allowance: Allowance) -> None:
        self._send = send
        self._allowance = allowance
        self._body = b""
        self._last: Message | None = None
        self.status = 500

    async def pass_on(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            MutableHeaders(raw=message["headers"]).update(self._allowance.headers())
        await self._send(message)

    async def watch(self, message: Message) -> None:
        """As `pass_on`, but the end of the answer is held back for `finish`."""
        if message["type"] != "http.response.body":
            await self.pass_on(message)
            return
        if len(self._body) <= AUDITED_BODY_BYTES:
            self._body += message.get("body", b"")
        if message.get("more_body"):
            await self._send(message)
        else:
            self._last = message

    async def finish(self) -> None:
        if self._last is not None:
            await self._send(self._last)

    @property
    def object_id(self) -> str:
        """The `id` of the JSON object that was answered; empty where there is none."""
        try:
            body: Any = orjson.loads(self._body)
        except orjson.JSONDecodeError:
            return ""
        return str(body.get("id", "")) if isinstance(body, dict) else ""
