"""Hamlet on several hosts: a head, workers, PostgreSQL and Redis, each on one of its own (tests/e2e/hosts.py).

Everything is started by the commands that a user has: `python -m cluster up` on the head's host, `python -m
cluster join` on the workers'.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from hosts import Host, make_bridge, missing, remove_bridge

REPOSITORY = Path(__file__).parents[2]
USER_CACHE = Path("~/.hamlet/cache").expanduser()
RAY_PORT, DASHBOARD_PORT, DATABASE_PORT, REDIS_PORT = 6379, 8265, 5432, 6379
DEADLINE_S = 120.0


def missing_parts() -> str | None:
    """Why there can be no such cluster here, or None."""
    programs = {"initdb": "PostgreSQL", "redis-server": "Redis (Debian: apt install redis-server)"}
    absent = [f"needs {what}" for program, what in programs.items() if shutil.which(program) is None]
    return missing() or (absent[0] if absent else None)


class SeveralHosts:
    """The cluster; `folder` has a short name, in which Ray's sockets fit, and is on every host."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.head = Host("head", "10.213.0.1")
        self.workers = [Host("worker-1", "10.213.0.2"), Host("worker-2", "10.213.0.3")]
        self.database = Host("database", "10.213.0.4")
        self.redis = Host("redis", "10.213.0.5")
        self.token_path = folder / "token"
        self._secret = secrets.token_hex(8)

    @property
    def hosts(self) -> list[Host]:
        return [self.head, *self.workers, self.database, self.redis]

    @property
    def dashboard_url(self) -> str:
        return f"http://{self.head.address}:{DASHBOARD_PORT}"

    @property
    def database_url(self) -> str:
        return f"postgresql+psycopg://hamlet:{self._secret}@{self.database.address}:{DATABASE_PORT}/postgres"

    def start(self) -> None:
        self.folder.chmod(0o755)  # PostgreSQL and Redis enter it as users of their own
        self.token_path.write_text(secrets.token_hex(32))
        self.token_path.chmod(0o600)
        make_bridge()
        for host in (self.database, self.redis):
            host.start()
        self._start_database()
        self._start_redis()
        self.head.start()
        self.up()
        for worker in self.workers:
            worker.start()
            self.join(worker)
        self.wait_for_nodes(1 + len(self.workers))

    def stop(self) -> None:
        for host in self.hosts:
            host.kill()
        remove_bridge()

    def up(self) -> str:
        """Start the head; returns what `up` says."""
        return self.head.run(
            ["python", "-m", "cluster", "up"], self.environment(self.head, cpus=0), REPOSITORY
        )

    def join(self, worker: Host) -> None:
        """Let a worker join the head, as a service manager would: started again whenever it ends."""
        join = f"python -m cluster join {self.head.address}:{RAY_PORT}"
        service = ["bash", "-c", f"while true; do {join}; sleep 1; done"]
        with self.log(worker).open("ab") as output:
            worker.begin(service, self.environment(worker, cpus=1), REPOSITORY, output)

    def replace(self, worker: Host) -> None:
        """A new host in a dead one's place."""
        worker.start()
        self.join(worker)

    def environment(self, host: Host, cpus: int | None = None) -> dict[str, str]:
        """What a process on a host has in its environment: nothing of ours but what a user would set."""
        home = self.folder / host.name
        home.mkdir(exist_ok=True)
        if not (home / "cache").exists():
            (home / "cache").symlink_to(USER_CACHE)
        variables = {
            "PATH": f"{Path(sys.executable).parent}:{os.defpath}:/usr/sbin",
            "HOME": str(home),
            "PYTHONPATH": str(REPOSITORY),
            "OMP_NUM_THREADS": "1",  # the hosts share this machine's cores
            "RAY_AUTH_TOKEN_PATH": str(self.token_path),
            "HAMLET_HOME": str(home),
            "HAMLET_HOST": host.address,
            "HAMLET_HUB_OFFLINE": "1",
            "HAMLET_STORAGE": str(self.folder / "storage"),
            "HAMLET_DATABASE_URL": self.database_url,
            "HAMLET_REDIS_URL": f"redis://:{self._secret}@{self.redis.address}:{REDIS_PORT}",
        }
        return variables | ({} if cpus is None else {"HAMLET_NUM_CPUS": str(cpus)})

    def client_environment(self) -> dict[str, str]:
        """Of a process outside, as `up` prints it for another shell; with its own home."""
        home = self.folder / "client"
        home.mkdir(exist_ok=True)
        return {
            "PATH": f"{Path(sys.executable).parent}:{os.defpath}",
            "HOME": str(home),
            "HAMLET_HOME": str(home),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_path),
            "RAY_API_SERVER_ADDRESS": self.dashboard_url,
        }

    def client(
        self, *command: str | Path, environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command outside, on this machine itself."""
        return subprocess.run(
            [str(word) for word in command],
            env=environment or self.client_environment(),
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )

    def wait_for_nodes(self, count: int) -> float:
        """Until so many nodes live; returns the seconds that it took."""
        return wait_for(lambda: self.num_living() == count, f"{count} living nodes")

    def num_living(self) -> int:
        """How many nodes `python -m cluster status` shows as living."""
        return self.client("python", "-m", "cluster", "status").stdout.count("  ALIVE")

    def log(self, host: Host) -> Path:
        return self.folder / f"{host.name}.log"

    def _start_database(self) -> None:
        host, folder = self.database, self.folder / "database"
        folder.mkdir()
        shutil.chown(folder, "postgres")
        environment = {"PATH": os.environ["PATH"]}
        password = folder / "password"
        password.write_text(self._secret)
        as_user = ["runuser", "-u", "postgres", "--"]
        initdb = [
            "initdb",
            "-A",
            "scram-sha-256",
            "-U",
            "hamlet",
            f"--pwfile={password}",
            "-D",
            folder / "data",
        ]
        host.run([*as_user, *initdb], environment, folder)
        with (folder / "data/pg_hba.conf").open("a") as rules:
            rules.write("host all all 10.213.0.0/24 scram-sha-256\n")
        options = ["-p", str(DATABASE_PORT), "-c", f"listen_addresses={host.address}", "-k", folder]
        with self.log(host).open("wb") as output:
            host.begin([*as_user, "postgres", "-D", folder / "data", *options], environment, folder, output)
        host.wait_for_port(DATABASE_PORT)

    def _start_redis(self) -> None:
        host = self.redis
        options = [
            "--port",
            str(REDIS_PORT),
            "--bind",
            host.address,
            "--requirepass",
            self._secret,
            "--save",
            "",
        ]
        with self.log(host).open("wb") as output:
            host.begin(["redis-server", *options], {"PATH": os.environ["PATH"]}, Path("/"), output)
        host.wait_for_port(REDIS_PORT)


def wait_for(is_so: Callable[[], bool], what: str, deadline_s: float = DEADLINE_S) -> float:
    """Poll until something is so; returns the seconds that it took."""
    began = time.monotonic()
    while not is_so():
        assert time.monotonic() < began + deadline_s, f"still waiting for {what} after {deadline_s:.0f} s"
        time.sleep(0.2)
    return time.monotonic() - began
