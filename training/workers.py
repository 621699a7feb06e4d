"""How Ray Train starts the process group: on the interface that owns each node's Ray address.

gloo otherwise picks whatever address the host name resolves to, often 127.0.0.1, and dies across hosts.
"""

from __future__ import annotations

import os
from typing import Any

from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

from cluster.network import communication_environment


class _InterfaceBackend(_TorchBackend):
    # Ray has no public hook between a worker's start and its process group; env_vars of the run would
    # give every node the same interface name.
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(_choose_interface)
        super().on_start(worker_group, backend_config)


class _InterfaceTorchConfig(TorchConfig):
    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _InterfaceBackend


def torch_config(hang_timeout_s: float) -> TorchConfig:
    """Ray Train's torch configuration with the interface chosen on each worker.

    A collective that a rank does not come to fails on the others after `hang_timeout_s`, which restarts
    the workers from their last checkpoint. One worker alone has none: see `training/heartbeat.py`.
    """
    return _InterfaceTorchConfig(timeout_s=max(1, round(hang_timeout_s)))


def _choose_interface() -> None:
    os.environ.update(communication_environment())
