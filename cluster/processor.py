"""What this machine computes with: GPUs, cores, and the numbers that they multiply themselves."""

from __future__ import annotations

import os
from pathlib import Path

# Where a GPU's driver shows itself: NVIDIA's, that of Windows' subsystem for Linux, AMD's.
GPU_DRIVERS = (Path("/dev/nvidiactl"), Path("/dev/dxg"), Path("/dev/kfd"))


def has_gpu() -> bool:
    """Whether torch sees a GPU; where there is no driver, that is known without importing it."""
    if not any(driver.exists() for driver in GPU_DRIVERS):
        return False
    import torch

    return torch.cuda.is_available()


def num_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def num_threads() -> int:
    """Threads to compute with, as torch decides: OMP_NUM_THREADS, which Ray sets to a worker's CPUs, or every core."""
    configured = os.environ.get("OMP_NUM_THREADS", "")
    return int(configured) if configured.isdigit() and int(configured) > 0 else num_cores()


def has_bf16(on_gpu: bool) -> bool:
    """Whether the GPU, or else the processor, multiplies bfloat16 by instructions of its own.

    Where they are lacking torch emulates them and says all the same that it has bfloat16: a Xeon of AVX-512
    alone then takes 3.5 times as long for a product as in float32.
    """
    import torch  # late: it takes seconds, and most of `cluster` computes nothing

    if on_gpu:
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))  # the last is ARM's
