"""What becomes of the memory that a training step frees."""

from __future__ import annotations

import ctypes

NEVER = ctypes.c_ssize_t(-1)


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, for its next step; whether its allocator (jemalloc) can be told so.

    Given back to the kernel, it is cleared page by page when the next step takes it: under jemalloc's settings for
    workers 350,000 page faults, about a second, in each step of 5 s. A worker ends with its run, so nothing is kept
    for long. Source: jemalloc(3), arena.<i>.dirty_decay_ms.
    """
    control = getattr(ctypes.CDLL(None), "mallctl", None)
    if control is None:
        return False
    num_arenas, size = ctypes.c_uint(), ctypes.c_size_t(ctypes.sizeof(ctypes.c_uint))
    control(b"arenas.narenas", ctypes.byref(num_arenas), ctypes.byref(size), None, ctypes.c_size_t(0))
    # Those that come, and those that are there; one that was never used refuses, and is of the first kind.
    for place in ("arenas", *(f"arena.{number}" for number in range(num_arenas.value))):
        value = ctypes.byref(NEVER), ctypes.c_size_t(ctypes.sizeof(NEVER))
        control(f"{place}.dirty_decay_ms".encode(), None, None, *value)
    return True
