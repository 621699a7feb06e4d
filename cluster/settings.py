"""The one reader of the environment. Everything else is configured in YAML."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from cluster.errors import ConfigError


class Settings(BaseSettings):
    """What differs between a laptop and a cluster, read from `HAMLET_*` variables.

    >>> Settings(home="/srv/hamlet").storage_uri
    '/srv/hamlet/storage'
    """

    model_config = SettingsConfigDict(env_prefix="HAMLET_", frozen=True, extra="forbid")

    home: Path = Field(
        Path("~/.hamlet"), description="Folder for state, storage, caches and logs when nothing else is set."
    )
    storage: str | None = Field(
        None, description="Folder or fsspec URI (s3://bucket/prefix) for weights, checkpoints and files."
    )
    database_url: str | None = Field(
        None, description="SQLAlchemy URL of the state database; SQLite in `home` by default."
    )
    organization: str = Field(
        "hamlet", pattern=r"^[a-z0-9-]{1,32}$", description="The <org> part of fine-tuned model names."
    )
    qdrant_url: str | None = Field(
        None, description="URL of a Qdrant server; the embedded engine by default."
    )
    qdrant_api_key: str | None = Field(None, repr=False, description="API key of that server.")
    webhook_url: str | None = Field(
        None, description="URL that is told of each fine-tuning job's end; nothing is sent by default."
    )
    webhook_secret: str | None = Field(
        None, repr=False, description="Secret that signs those messages, in the form whsec_<base64>."
    )
    hub_offline: bool = Field(False, description="Never ask a model or data hub; use what is cached.")
    ray_port: int = Field(
        6379, ge=1024, le=65535, description="Port of the Ray head started by `cluster up`."
    )
    dashboard_port: int = Field(
        8265, ge=1024, le=65535, description="Port of Ray's dashboard and jobs API on that head."
    )
    num_cpus: int | None = Field(
        None,
        ge=1,
        description="Logical CPUs of that head; at least 4, so that a laptop can train while it serves.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Level of our loggers."
    )

    @property
    def home_dir(self) -> Path:
        return self.home.expanduser().resolve()

    @property
    def storage_uri(self) -> str:
        return self.storage or str(self.home_dir / "storage")

    @property
    def database(self) -> str:
        return self.database_url or f"sqlite:///{self.home_dir / 'hamlet.db'}"

    @property
    def cache_dir(self) -> Path:
        """Per-node cache of model weights; safe to delete while nothing runs."""
        return self.home_dir / "cache"


@cache
def settings() -> Settings:
    """The settings of this process, read once.

    Raises ConfigError naming the variable when one does not validate.
    """
    try:
        return Settings()
    except ValidationError as exc:
        first = exc.errors()[0]
        variable = "HAMLET_" + "_".join(str(part) for part in first["loc"]).upper()
        raise ConfigError(
            f"{variable}={first['input']!r}: {first['msg']}; correct it or unset it", variable
        ) from exc
