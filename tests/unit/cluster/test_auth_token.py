"""The token file: made once, for its owner only, where Ray looks for it."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from cluster.auth_token import auth_headers, ensure_token, read_token
from cluster.errors import ConfigError


@pytest.fixture
def token_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    file = tmp_path / "ray" / "auth_token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    return file


def test_a_new_token_is_readable_by_its_owner_only(token_file: Path) -> None:
    assert ensure_token() == token_file
    assert stat.S_IMODE(token_file.stat().st_mode) == 0o600
    assert len(token_file.read_text()) == 64


def test_an_existing_token_is_kept(token_file: Path) -> None:
    ensure_token()
    before = token_file.read_text()
    ensure_token()
    assert token_file.read_text() == before
    assert auth_headers() == {"Authorization": f"Bearer {before}"}


def test_an_empty_file_is_replaced_because_ray_refuses_it(token_file: Path) -> None:
    token_file.parent.mkdir()
    token_file.touch()
    ensure_token()
    assert read_token()


def test_the_variable_goes_before_the_file(token_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "from-the-variable")
    assert ensure_token() is None
    assert not token_file.exists()
    assert read_token() == "from-the-variable"


def test_without_a_token_no_header_is_sent(token_file: Path) -> None:
    assert auth_headers() == {}


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "file" / "auth_token"))
    with pytest.raises(ConfigError, match=r"cannot be written to .*/file/auth_token .*RAY_AUTH_TOKEN_PATH"):
        ensure_token()
