"""What `ray job submit --working-dir` would upload, measured before it is uploaded.

Ray packs the folder, holds the package in the head's memory, and refuses it beyond 512 MiB without
saying which folder is to blame. Its own default leaves out `.git`, `.venv`, `venv` and `__pycache__` only.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

from cluster.errors import DataError

MAX_PACKAGE_BYTES = 512 * 1024**2  # Ray's own limit (its largest message)
MAX_PACKAGE_FILES = 20_000  # packed one by one, twice: 200,000 would take minutes before anything is said

# Gitignore patterns. Without a trailing slash: Ray then skips the folder instead of walking through it.
# Weights by their endings and not by a folder's name: `models/` may well be Python code.
EXCLUDES = (
    *("*.egg-info", "node_modules"),
    *(".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis", ".cache", ".ipynb_checkpoints"),
    *("checkpoints", "checkpoint-*", "checkpoint_*", "wandb", "mlruns", "ray_results"),
    *("*.safetensors", "*.gguf", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.onnx"),
)

# What Ray leaves out unasked.
RAY_EXCLUDES = (".git", ".venv", "venv", "__pycache__")

IGNORE_FILES = (".gitignore", ".rayignore")  # Ray reads both, in every folder


@dataclass(frozen=True)
class Package:
    """What would be uploaded. `bytes_by_path` and `files_by_path` are keyed by the first path part."""

    bytes_by_path: Counter[str]
    files_by_path: Counter[str]

    @property
    def total_bytes(self) -> int:
        return self.bytes_by_path.total()

    @property
    def num_files(self) -> int:
        return self.files_by_path.total()

    @property
    def is_too_large(self) -> bool:
        return self.total_bytes > MAX_PACKAGE_BYTES or self.num_files > MAX_PACKAGE_FILES

    def largest(self) -> str:
        """The five paths with the most bytes, largest first: `data (1.9 GiB, 200,000 files), …`."""
        return ", ".join(
            f"{path} ({format_bytes(size)}, {self.files_by_path[path]:,} files)"
            for path, size in self.bytes_by_path.most_common(5)
        )


def excludes_for(folder: Path) -> tuple[str, ...]:
    """What to leave out of `folder`: EXCLUDES, unless its own `.rayignore` says it."""
    return () if (folder / ".rayignore").exists() else EXCLUDES


def measure_package(folder: Path) -> Package:
    """Add up what Ray would pack of `folder`. Raises DataError when it is no folder."""
    if not folder.is_dir():
        raise DataError(f"the working directory {folder} is not a folder", "working_dir")
    sizes: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for path in _packed_files(folder, (*RAY_EXCLUDES, *excludes_for(folder))):
        first = path.relative_to(folder).parts[0]
        sizes[first] += path.stat().st_size
        counts[first] += 1
    return Package(sizes, counts)


def check_working_dir(folder: Path) -> Package:
    """Measure `folder`; raise DataError with total, limit and the five largest paths if it is too large."""
    package = measure_package(folder)
    if package.is_too_large:
        raise DataError(
            f"{folder} is too large to upload: {format_bytes(package.total_bytes)} in "
            f"{package.num_files:,} files, the limit is {format_bytes(MAX_PACKAGE_BYTES)} and "
            f"{MAX_PACKAGE_FILES:,} files; largest: {package.largest()}; list what the job does not need in "
            f"{folder / '.rayignore'}, and give data by an absolute path or URI",
            "working_dir",
        )
    return package


def format_bytes(count: int) -> str:
    """
    >>> format_bytes(2_000_000_000)
    '1.9 GiB'
    """
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def _packed_files(folder: Path, excludes: Sequence[str]) -> Iterator[Path]:
    specs = {folder: GitIgnoreSpec.from_lines(excludes)}
    seen: set[str] = set()

    def is_excluded(path: Path, suffix: str) -> bool:
        return any(
            spec.match_file(path.relative_to(base).as_posix() + suffix)
            for base, spec in specs.items()
            if path.is_relative_to(base)
        )

    # Links are followed, as Ray does; `seen` ends the loops that they can form.
    for root, folders, files in os.walk(folder, followlinks=True):
        here = Path(root)
        real = os.path.realpath(here)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        lines = [line for name in IGNORE_FILES for line in _lines(here / name)]
        if lines:
            inherited = list(excludes) if here == folder else []
            specs[here] = GitIgnoreSpec.from_lines([*inherited, *lines])
        folders[:] = [name for name in folders if not is_excluded(here / name, "/")]
        yield from (
            here / name for name in files if (here / name).is_file() and not is_excluded(here / name, "")
        )


def _lines(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines() if path.is_file() else []
