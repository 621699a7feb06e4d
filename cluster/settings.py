"""The one reader of the environment. Everything else is configured in YAML."""

from __future__ import annotations

from functools import cache
from ipaddress import IPv4Address
from pathlib import Path
from typing import Literal

from pydantic import Field, RedisDsn, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from cluster.errors import ConfigError
from cluster.yaml_config import Endpoint

# `ray start`'s own defaults of --min-worker-port and --max-worker-port.
WORKER_PORTS = range(10_002, 20_000)


class Settings(BaseSettings):
    """What differs between a laptop and a cluster, read from `HAMLET_*` variables.

    >>> Settings(home="/srv/hamlet").storage_uri
    '/srv/hamlet/storage'
    """

    model_config = SettingsConfigDict(
        env_prefix="HAMLET_", env_ignore_empty=True, frozen=True, extra="forbid"
    )

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
    qdrant_url: Endpoint | None = Field(
        None, description="URL of a Qdrant server; the embedded engine by default."
    )
    qdrant_api_key: str | None = Field(None, repr=False, description="API key of that server.")
    qdrant_grpc_port: int | None = Field(
        None, ge=1, le=65535, description="Port of its gRPC, which is then used instead of HTTP."
    )
    qdrant_shards: int | None = Field(
        None, ge=1, description="Shards of a new collection there; the server's default when not set."
    )
    qdrant_replicas: int | None = Field(
        None, ge=1, description="Copies of each shard of a new collection; the server's default when not set."
    )
    qdrant_quantize: bool = Field(
        False,
        description="Search 8-bit copies of a new collection's vectors in memory, and rescore by the originals.",
    )
    qdrant_on_disk: bool = Field(
        False, description="Leave the originals of a new collection's vectors on disk; goes with quantize."
    )
    webhook_url: Endpoint | None = Field(
        None, description="URL that is told of each job's and batch's end; nothing is sent by default."
    )
    webhook_secret: str | None = Field(
        None, repr=False, description="Secret that signs those messages, in the form whsec_<base64>."
    )
    hub_offline: bool = Field(False, description="Never ask a model or data hub; use what is cached.")
    host: IPv4Address = Field(
        IPv4Address("127.0.0.1"),
        description="Address of this machine that its part of the cluster listens on; with an outer one, other "
        "machines can join the head of `cluster up`.",
    )
    redis_url: RedisDsn | None = Field(
        None,
        repr=False,
        description="redis[s]://[user:password@]host:port, where that head keeps its state: killed, it comes back "
        "with applications, jobs and nodes. In memory by default.",
    )
    ray_port: int = Field(
        6379, ge=1024, le=65535, description="Port of the Ray head started by `cluster up`."
    )
    dashboard_port: int = Field(
        8265, ge=1024, le=65535, description="Port of Ray's dashboard and jobs API on that head."
    )
    num_cpus: int | None = Field(
        None,
        ge=0,
        description="Logical CPUs of this machine; at least 4 by default, so that a laptop can train while it "
        "serves. 0 keeps work off a head that has workers.",
    )
    embedder_backend: Literal["auto", "torch"] = Field(
        "auto",
        description="What computes embedding models. auto measures torch and OpenVINO when a model is first loaded "
        "on a machine without a GPU, and takes the faster.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Level of our loggers."
    )

    @field_validator("home")
    @classmethod
    def _can_be_a_folder(cls, value: Path) -> Path:
        if (folder := _absolute(value)).is_file():
            raise ValueError("it is a file; name a folder")
        return folder

    @field_validator("storage")
    @classmethod
    def _is_the_same_everywhere(cls, value: str | None) -> str | None:
        return value if value is None or "://" in value else str(_absolute(Path(value)))

    @field_validator("database_url")
    @classmethod
    def _names_one_file(cls, value: str | None) -> str | None:
        _, is_sqlite, file = (value or "").partition("sqlite:///")
        if is_sqlite and not file.startswith(("/", ":memory:")):
            raise ValueError(
                "each process would have a file of its own; write its path out, behind four slashes"
            )
        return value

    @field_validator("host")
    @classmethod
    def _is_one_address(cls, value: IPv4Address) -> IPv4Address:
        if value.is_unspecified:
            raise ValueError("others must be told where to call; give one address of this machine")
        return value

    @field_validator("ray_port", "dashboard_port")
    @classmethod
    def _is_no_port_of_workers(cls, value: int) -> int:
        if value in WORKER_PORTS:
            raise ValueError(
                f"Ray gives ports {WORKER_PORTS.start} to {WORKER_PORTS[-1]} to its workers; take another"
            )
        return value

    @field_validator("dashboard_port")
    @classmethod
    def _is_not_the_other_port(cls, value: int, info: ValidationInfo) -> int:
        if value == info.data.get("ray_port"):
            raise ValueError("HAMLET_RAY_PORT is the same; take another")
        return value

    @field_validator("redis_url")
    @classmethod
    def _fits_ray(cls, value: RedisDsn | None, info: ValidationInfo) -> RedisDsn | None:
        if value is None:
            return None
        if value.path not in (None, "/", "/0"):
            raise ValueError("Ray keeps its state in database 0; leave the path out")
        host = info.data.get("host")
        if host is not None and host.is_loopback:
            raise ValueError(
                "the state is kept under the head's address, and every machine has a 127.0.0.1: set HAMLET_HOST too"
            )
        return value

    @property
    def home_dir(self) -> Path:
        return _absolute(self.home).resolve()

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


def _absolute(path: Path) -> Path:
    """As the process that read it means it: workers have working directories of their own."""
    try:
        return path.expanduser().absolute()
    except RuntimeError as exc:
        raise ValueError("there is no such user; write the path out") from exc


@cache
def settings() -> Settings:
    """The settings of this process, read once.

    Raises ConfigError naming the variable when one does not validate.
    """
    try:
        return Settings()
    except ValidationError as exc:
        first = exc.errors()[0]
        name = str(first["loc"][0])
        variable = f"HAMLET_{name.upper()}"
        # What is not shown with the settings may hold a password.
        value = repr(first["input"]) if Settings.model_fields[name].repr else "…"
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{variable}={value}: {message}; correct it or unset it", variable) from exc
