"""How many threads a model computes with.

Ray sets OMP_NUM_THREADS to the CPUs that a replica reserves. On a laptop that is a share of one, so that
several replicas and a training run fit, and it would leave a core idle that nobody else uses.
"""

from __future__ import annotations

import os

from cluster.processor import num_cores


def set_thread_variable(configured: int | None) -> None:
    """Let a library that is about to be imported choose its threads as it would without Ray."""
    if configured is None:
        os.environ.pop("OMP_NUM_THREADS", None)
    else:
        os.environ["OMP_NUM_THREADS"] = str(configured)


def use_threads(configured: int | None) -> None:
    """Let torch compute with that many threads in this process."""
    import torch

    torch.set_num_threads(configured or num_cores())
