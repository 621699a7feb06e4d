"""What a worker tells its allocator, read back from it."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]

PROGRAM = """
import ctypes
from training.allocator import keep_freed_memory

print(keep_freed_memory())
for place in ("arenas", "arena.0"):
    value, size = ctypes.c_ssize_t(7), ctypes.c_size_t(8)
    read = ctypes.CDLL(None).mallctl
    print(read(f"{place}.dirty_decay_ms".encode(), ctypes.byref(value), ctypes.byref(size), None, 0), value.value)
"""


def test_jemalloc_keeps_what_is_freed_in_arenas_that_are_there_and_that_come() -> None:
    spec = find_spec("ray")
    assert spec is not None
    assert spec.origin is not None
    library = Path(spec.origin).with_name("core") / "libjemalloc.so"
    if not library.exists():
        pytest.skip("this Ray brings no jemalloc")
    environment = {**os.environ, "LD_PRELOAD": str(library), "MALLOC_CONF": "dirty_decay_ms:60000"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.stdout.split() == ["True", "0", "-1", "0", "-1"], done.stderr


def test_another_allocator_is_left_alone() -> None:
    program = "from training.allocator import keep_freed_memory; print(keep_freed_memory())"
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.stdout.strip() == "False", done.stderr
