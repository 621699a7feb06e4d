"""The one reader of the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.errors import ConfigError
from cluster.settings import Settings, settings


def test_everything_lies_below_the_home_by_default(home: Path) -> None:
    config = settings()
    assert config.storage_uri == str(home / "storage")
    assert config.database == f"sqlite:///{home / 'hamlet.db'}"
    assert config.cache_dir == home / "cache"


def test_storage_and_database_can_lie_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAMLET_STORAGE", "s3://bucket/prefix")
    monkeypatch.setenv("HAMLET_DATABASE_URL", "postgresql+psycopg://db/x")
    settings.cache_clear()
    assert settings().storage_uri == "s3://bucket/prefix"
    assert settings().database == "postgresql+psycopg://db/x"


def test_a_relative_path_stays_what_it_was_when_it_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HAMLET_HOME", "state")
    monkeypatch.setenv("HAMLET_STORAGE", "weights")
    settings.cache_clear()
    read = settings()
    monkeypatch.chdir("/")
    assert read.home_dir == tmp_path / "state"
    assert read.storage_uri == str(tmp_path / "weights")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HAMLET_RAY_PORT", "80"),
        ("HAMLET_DASHBOARD_PORT", "many"),
        ("HAMLET_RAY_PORT", "10002"),  # which Ray gives to its workers, as it does all up to 19999
        ("HAMLET_DASHBOARD_PORT", "19999"),
        ("HAMLET_NUM_CPUS", "-1"),
        ("HAMLET_LOG_LEVEL", "LOUD"),
        ("HAMLET_ORGANIZATION", "My Org"),
        ("HAMLET_HOST", "0.0.0.0"),
        ("HAMLET_HOST", "localhost"),
        ("HAMLET_HOME", __file__),
        ("HAMLET_QDRANT_URL", "qdrant:6333"),
        ("HAMLET_WEBHOOK_URL", "example.org/hook"),
        ("HAMLET_QDRANT_URL", "http://127.0.0.1:99999999"),
        ("HAMLET_HOME", "~nobody-of-that-name/hamlet"),
        ("HAMLET_STORAGE", "~nobody-of-that-name/hamlet"),
        ("HAMLET_DATABASE_URL", "sqlite:///state.db"),
        ("HAMLET_DASHBOARD_PORT", "6379"),  # Ray's own, by default
    ],
)
def test_a_wrong_value_is_refused_naming_variable_and_value(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    settings.cache_clear()
    with pytest.raises(ConfigError, match=f"{variable}='{value}': .*unset it"):
        settings()


def test_an_empty_variable_is_one_that_is_not_set(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAMLET_HOME", "")
    monkeypatch.setenv("HAMLET_QDRANT_SHARDS", "")
    settings.cache_clear()
    assert settings().home_dir == Path("~/.hamlet").expanduser().resolve()
    assert settings().qdrant_shards is None


def test_a_key_is_not_shown_with_the_settings() -> None:
    secrets = {"qdrant_api_key": "sesame", "redis_url": "redis://:sesame@10.0.0.5"}
    assert "sesame" not in repr(Settings(host="10.0.0.1", **secrets))


@pytest.mark.parametrize(
    ("host", "url", "reason"),
    [
        ("10.0.0.1", "10.0.0.5:6379", "valid URL"),
        ("10.0.0.1", "redis://:sesame@10.0.0.5/3", "database 0"),
        ("127.0.0.1", "redis://:sesame@10.0.0.5", "set HAMLET_HOST too"),
    ],
)
def test_a_redis_that_ray_cannot_use_is_refused_without_its_password(
    host: str, url: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAMLET_HOST", host)
    monkeypatch.setenv("HAMLET_REDIS_URL", url)
    settings.cache_clear()
    with pytest.raises(ConfigError, match=f"HAMLET_REDIS_URL=….*{reason}") as refused:
        settings()
    assert "sesame" not in str(refused.value)
