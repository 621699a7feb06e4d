"""Several hosts on one machine: each with its own address, processes and shared memory, all on one bridge.

A host is a network namespace, and a process namespace in it whose first process takes all others with it. So a
cable can be pulled (`cut`), and a host can lose its power (`kill`) and be replaced (`start`). The files are this
machine's, as if every host mounted the same server.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import psutil

from cluster.ports import accepts_connections

BRIDGE = "hamlet0"
OUTSIDE = "10.213.0.254"  # this process's own address on the bridge
# The first process of a host, which collects what others leave behind, as an init does. A host knows its own
# name and asks nobody for others'.
INIT = """
set -e
hostname {name}
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /mnt
echo "127.0.0.1 localhost" > /mnt/hosts
echo "{address} {name}" >> /mnt/hosts
touch /mnt/resolv.conf
mount --bind /mnt/hosts /etc/hosts
mount --bind /mnt/resolv.conf "$(realpath /etc/resolv.conf)"
echo started
sleep infinity & wait
"""


def missing() -> str | None:
    """Why there can be no hosts here, or None."""
    if os.geteuid() != 0:
        return "needs root: it makes network namespaces"
    for program in ("ip", "nsenter", "unshare"):
        if shutil.which(program) is None:
            return f"needs {program} (Debian: iproute2, util-linux)"
    attempt = subprocess.run(["unshare", "--net", "--pid", "--fork", "true"], capture_output=True, text=True)
    return (
        None if attempt.returncode == 0 else f"network namespaces are not allowed: {attempt.stderr.strip()}"
    )


def make_bridge() -> None:
    remove_bridge()
    _ip("link", "add", BRIDGE, "type", "bridge")
    _ip("address", "add", f"{OUTSIDE}/24", "dev", BRIDGE)
    _ip("link", "set", BRIDGE, "up")


def remove_bridge() -> None:
    _ip("link", "delete", BRIDGE, check=False)


class Host:
    """One host, from `start` until `kill`; it can be started again."""

    def __init__(self, name: str, address: str) -> None:
        self.name, self.address = name, address
        self._namespace, self._cable = f"hamlet-{name}", f"hm-{name}"
        self._machine: subprocess.Popen[bytes] | None = None
        self._init = 0

    def start(self) -> None:
        """Switch it on: a new host at the same address."""
        self._remove_network()
        _ip("netns", "add", self._namespace)
        _ip("link", "add", self._cable, "type", "veth", "peer", "name", "eth0", "netns", self._namespace)
        _ip("link", "set", self._cable, "master", BRIDGE, "up")
        _ip("-n", self._namespace, "address", "add", f"{self.address}/24", "dev", "eth0")
        for interface in ("lo", "eth0"):
            _ip("-n", self._namespace, "link", "set", interface, "up")
        # Ray finds a host's address by the route to the world, which is not used.
        _ip("-n", self._namespace, "route", "add", "default", "via", OUTSIDE)
        isolate = ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "--uts"]
        shell = ["bash", "-c", INIT.format(name=self.name, address=self.address)]
        self._machine = subprocess.Popen(
            ["ip", "netns", "exec", self._namespace, *isolate, *shell],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._machine.stdout is not None
        assert self._machine.stdout.readline() == b"started\n"
        self._init = psutil.Process(self._machine.pid).children()[0].pid

    def kill(self) -> None:
        """Take its power away: nobody is told, since the cable is dead first."""
        if self._machine is not None:
            self.cut()
            os.kill(self._init, signal.SIGKILL)
            self._machine.wait(30)
            self._machine = None
        self._remove_network()

    def cut(self) -> None:
        """Pull its cable."""
        _ip("link", "set", self._cable, "down")

    def mend(self) -> None:
        """Plug its cable in again."""
        _ip("link", "set", self._cable, "up")

    def run(
        self,
        command: Sequence[str | Path],
        environment: Mapping[str, str],
        folder: Path,
        timeout_s: float = 120,
    ) -> str:
        """Run a command there to its end; returns what it printed, and fails with it."""
        result = subprocess.run(
            [*self._enter(folder), *map(str, command)],
            env=dict(environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
        )
        assert result.returncode == 0, f"{self.name}: {command}\n{result.stdout[-4000:]}"
        return result.stdout

    def begin(
        self, command: Sequence[str | Path], environment: Mapping[str, str], folder: Path, output: IO[Any]
    ) -> subprocess.Popen[bytes]:
        """Start a command there that goes on; it ends with the host at the latest."""
        return subprocess.Popen(
            [*self._enter(folder), *map(str, command)],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )

    def wait_for_port(self, port: int, deadline_s: float = 60) -> None:
        """Until something there listens on a port."""
        until = time.monotonic() + deadline_s
        while not accepts_connections(self.address, port):
            assert time.monotonic() < until, f"nothing listens on port {port} of {self.name}"
            time.sleep(0.1)

    def ports(self) -> set[int]:
        """Every TCP port there that another host can call: what is bound to its address, or to all."""
        listing = self.run(["ss", "-Hltn"], {"PATH": os.environ["PATH"]}, Path("/"))
        ends = [line.split()[3].rsplit(":", 1) for line in listing.splitlines()]
        return {
            int(port)
            for address, port in ends
            if not address.strip("[]").startswith(("127.", "::1", "::ffff:127."))
        }

    def _enter(self, folder: Path) -> list[str]:
        namespaces = ["--net", "--pid", "--mount", "--uts"]
        return ["nsenter", f"--target={self._init}", *namespaces, f"--wdns={folder}", "--"]

    def _remove_network(self) -> None:
        _ip("link", "delete", self._cable, check=False)
        _ip("netns", "delete", self._namespace, check=False)


def _ip(*arguments: str, check: bool = True) -> None:
    result = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    assert result.returncode == 0 or not check, f"ip {' '.join(arguments)}: {result.stderr}"
