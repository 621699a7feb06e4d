"""The token that every call to our Ray head must carry.

It lies where Ray's own command lines look for it (`~/.ray/auth_token`), so that `ray job submit` and
`serve deploy` work from any shell of the same user and from nobody else's.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from cluster.errors import ConfigError

# Set for the head and for every client of ours before Ray is imported: Ray reads it once, at import.
AUTH_ENVIRONMENT = {"RAY_AUTH_MODE": "token"}


def token_path() -> Path:
    """The file that Ray reads the token from."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()


def read_token() -> str | None:
    """The token in Ray's own order (RAY_AUTH_TOKEN, then the file), or None when there is none."""
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token
    try:
        return token_path().read_text().strip() or None
    except OSError:
        return None


def ensure_token() -> Path | None:
    """Make a token where there is none; returns the file, or None when RAY_AUTH_TOKEN holds it.

    `ray get-auth-token --generate` does the same 2 s slower, leaves the file readable by others, and
    refuses a RAY_AUTH_TOKEN_PATH that does not exist yet. Raises ConfigError if the file cannot be written.
    """
    path = token_path()
    if os.environ.get("RAY_AUTH_TOKEN"):
        return None
    if read_token() is not None:
        return path
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # an empty file: Ray refuses it
        # Made with its mode, so that there is no moment in which others can read it; and under another
        # name, so that there is none in which it is empty. The link keeps the first of two.
        draft = path.with_name(f"{path.name}.{os.getpid()}")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
        with suppress(FileExistsError):
            path.hardlink_to(draft)
        draft.unlink()
    except OSError as exc:
        raise ConfigError(
            f"the Ray token cannot be written to {path} ({exc.strerror}); make the folder writable or set "
            "RAY_AUTH_TOKEN_PATH to another file",
            "RAY_AUTH_TOKEN_PATH",
        ) from exc
    return path


def auth_headers() -> dict[str, str]:
    """HTTP headers for Ray's dashboard and jobs API; empty when there is no token."""
    token = read_token()
    return {"Authorization": f"Bearer {token}"} if token else {}
