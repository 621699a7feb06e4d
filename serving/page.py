"""The page at `/`: static files, held in memory and compressed once, under a strict policy.

The files lie in `serving/page/` and are served as they lie: no template, no build step. The page is a client of
the public HTTP API like any other and has no route of its own beside its files.
"""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Request, Response

from cluster.errors import NotFound

FOLDER = Path(__file__).with_name("page")

# Nothing but our own files runs, nothing is fetched from elsewhere, and no string ever becomes markup or code.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
)

HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    # Asked for again each time and answered with 304: after an upgrade no browser mixes old files with new.
    "cache-control": "no-cache",
    "vary": "accept-encoding",
}

# Where a platform's own table has no entry, or a wrong one.
MEDIA_TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of the page. `etag` is quoted, as the header wants it."""

    body: bytes
    gzipped: bytes
    media_type: str
    etag: str


@cache
def read_assets(folder: Path = FOLDER) -> dict[str, Asset]:
    """Every file below `folder` by its relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _asset(path) for path in files}


def _asset(path: Path) -> Asset:
    body = path.read_bytes()
    media_type = MEDIA_TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "text/plain"
    etag = f'"{hashlib.sha256(body).hexdigest()[:20]}"'
    return Asset(body, gzip.compress(body, 9, mtime=0), media_type, etag)


def respond(asset: Asset, request_headers: Mapping[str, str]) -> Response:
    """An asset as an answer: 304 where the browser has it, else compressed where it may be."""
    headers = HEADERS | {"etag": asset.etag}
    if asset.etag in request_headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    body = asset.body
    if "gzip" in request_headers.get("accept-encoding", ""):
        body = asset.gzipped
        headers["content-encoding"] = "gzip"
    return Response(body, headers=headers, media_type=asset.media_type)


def router() -> APIRouter:
    """`GET /` and `GET /page/<file>`."""
    assets = read_assets()
    routes = APIRouter(include_in_schema=False)

    @routes.api_route("/", methods=["GET", "HEAD"])
    async def index(request: Request) -> Response:
        return respond(assets["index.html"], request.headers)

    @routes.api_route("/page/{path:path}", methods=["GET", "HEAD"])
    async def file(path: str, request: Request) -> Response:
        if path not in assets:
            raise NotFound(f"the page has no file {path!r}", code="unknown_url")
        return respond(assets[path], request.headers)

    return routes
