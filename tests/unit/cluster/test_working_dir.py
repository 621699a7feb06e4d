"""What would be uploaded, and the message when it is too much."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cluster.errors import DataError
from cluster.working_dir import check_working_dir, format_bytes, measure_package


def make(folder: Path, files: dict[str, int]) -> Path:
    """Files of the given sizes; sparse, so that gigabytes take no room."""
    for name, size in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.truncate(path, size)
    return folder


def test_repositories_environments_caches_checkpoints_and_weights_do_not_count(tmp_path: Path) -> None:
    make(
        tmp_path,
        {
            "train.py": 100,
            "package/models/net.py": 50,
            ".git/objects/pack": 300 * 2**20,
            ".venv/lib/torch.so": 900 * 2**20,
            "__pycache__/train.pyc": 1000,
            "package/__pycache__/net.pyc": 1000,
            "checkpoints/step-1/weights": 2 * 2**30,
            "runs/checkpoint-500/state": 2 * 2**30,
            "models/base/model.safetensors": 2 * 2**30,
        },
    )
    package = check_working_dir(tmp_path)
    assert dict(package.bytes_by_path) == {"train.py": 100, "package": 50}


def test_too_much_is_refused_with_total_limit_and_the_five_largest_paths(tmp_path: Path) -> None:
    sizes = {"data": 900, "logs": 70, "images": 60, "notes": 50, "docs": 40, "small": 1}
    make(tmp_path, {f"{name}/file": size * 2**20 for name, size in sizes.items()})
    with pytest.raises(DataError) as refused:
        check_working_dir(tmp_path)
    message = str(refused.value)
    assert "1.1 GiB in 6 files, the limit is 512.0 MiB and 20,000 files" in message
    named = [name for name in sizes if f"{name} (" in message]
    assert named == ["data", "logs", "images", "notes", "docs"]
    assert "data (900.0 MiB, 1 files)" in message
    assert ".rayignore" in message


def test_many_small_files_are_too_much_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.working_dir.MAX_PACKAGE_FILES", 20)
    make(tmp_path, {f"data/{number}.txt": 1 for number in range(30)})
    with pytest.raises(DataError, match=r"30 files, the limit .* 20 files; largest: data \(30 B, 30 files\)"):
        check_working_dir(tmp_path)


def test_ignore_files_count_in_the_folder_where_they_lie(tmp_path: Path) -> None:
    make(tmp_path, {"a/keep": 1, "a/raw/x": 10, "b/raw/x": 100, "big.bin": 1000})
    (tmp_path / "a" / ".gitignore").write_text("raw/\n.gitignore\n")
    (tmp_path / ".gitignore").write_text(".gitignore\n")
    assert dict(measure_package(tmp_path).bytes_by_path) == {"a": 1, "b": 100}


def test_a_rayignore_replaces_our_list_but_not_rays_own(tmp_path: Path) -> None:
    make(tmp_path, {"weights.bin": 10, "data/x": 100, ".git/x": 1000})
    (tmp_path / ".rayignore").write_text("data\n.rayignore\n")
    assert dict(measure_package(tmp_path).bytes_by_path) == {"weights.bin": 10}


def test_a_link_back_to_its_own_folder_does_not_count_for_ever(tmp_path: Path) -> None:
    make(tmp_path, {"a/x": 5})
    (tmp_path / "a" / "loop").symlink_to(tmp_path / "a")
    assert measure_package(tmp_path).total_bytes == 5


def test_a_dangling_link_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    assert measure_package(tmp_path).num_files == 0


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (3 * 2**40, "3072.0 GiB")]
)
def test_bytes_are_written_in_binary_units(count: int, text: str) -> None:
    assert format_bytes(count) == text
