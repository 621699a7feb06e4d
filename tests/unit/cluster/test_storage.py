"""Folders in storage: on this disk, and in fsspec's memory store for one that is elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest

from cluster import storage
from cluster.blobs import blobs_below, delete_blob, modified_at, open_blob, place_bytes, read_blob
from cluster.errors import NotFound, Unavailable
from cluster.storage import (
    MARKER,
    delete_folder,
    folder_exists,
    folder_names,
    local_copy,
    local_folder,
    reaching,
    storage_uri,
    upload_folder,
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "tokenizer" / "vocab.txt").write_text("a\nb\n")
    return folder


@pytest.fixture(params=["disk", "memory"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "disk":
        yield str(tmp_path / "storage" / "models" / "one")
        return
    yield f"memory://{tmp_path.name}/models/one"
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != MARKER)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_what_is_uploaded_is_what_is_found(model: Path, uri: str) -> None:
    assert not folder_exists(uri)
    assert upload_folder(model, uri) == uri
    assert folder_exists(uri)
    assert contents(local_folder(uri)) == contents(model)


def test_a_folder_without_its_marker_is_not_there(model: Path, uri: str) -> None:
    upload_folder(model, uri)
    filesystem, path = fsspec.core.url_to_fs(uri)
    filesystem.rm_file(f"{path}/{MARKER}")
    assert not folder_exists(uri)
    with pytest.raises(NotFound, match="never completely written"):
        local_folder(uri)


def test_every_file_is_on_the_disk_before_the_marker_says_so(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, bool]] = []
    target = tmp_path / "stored"

    def sync(path: Path) -> None:
        synced.append((path.name, (target / MARKER).exists()))

    monkeypatch.setattr(storage, "sync", sync)
    upload_folder(model, str(target))
    first = {name for name, is_marked in synced if not is_marked}
    assert first == {path.name for path in model.rglob("*")}
    assert {name for name, is_marked in synced if is_marked} == {MARKER, "stored", tmp_path.name}


def test_an_earlier_folder_is_replaced_whole(model: Path, uri: str) -> None:
    upload_folder(model, uri)
    (model / "model.safetensors").rename(model / "other.safetensors")
    upload_folder(model, uri)
    filesystem, path = fsspec.core.url_to_fs(uri)
    names = {name.rsplit("/", 1)[1] for name in filesystem.find(path)}
    assert names == {"other.safetensors", "vocab.txt", MARKER}


def test_deleting_removes_it_and_deleting_again_is_no_error(model: Path, uri: str) -> None:
    upload_folder(model, uri)
    delete_folder(uri)
    assert not folder_exists(uri)
    delete_folder(uri)


def test_a_folder_on_this_disk_is_used_where_it_lies(model: Path, tmp_path: Path) -> None:
    uri = upload_folder(model, str(tmp_path / "storage"))
    assert local_folder(uri) == tmp_path / "storage"


def test_replicas_that_start_at_once_share_one_copy(
    model: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A folder of this disk, taken for one that is elsewhere: fsspec's memory store bears no threads.
    monkeypatch.setattr("cluster.storage._protocols", lambda filesystem: ("elsewhere",))
    (home / "cache").unlink()
    uri = upload_folder(model, str(tmp_path / "shared"))
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(local_folder(uri))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert contents(found[0]) == contents(model)
    assert list(found[0].parent.iterdir()) == [found[0]]  # no half copy is left behind


def test_a_store_that_cannot_be_written_is_named(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="HAMLET_STORAGE"):
        upload_folder(model, str(tmp_path / "file" / "x"))


@pytest.mark.parametrize(
    "verb",
    [
        lambda uri: upload_folder(Path("/nowhere"), uri),
        local_folder,
        local_copy,
        folder_exists,
        delete_folder,
        folder_names,
        lambda uri: place_bytes(b"", uri),
        open_blob,
        read_blob,
        delete_blob,
        blobs_below,
        modified_at,
    ],
)
def test_a_store_that_does_not_answer_is_unavailable(store_away: str, verb: Callable[[str], object]) -> None:
    with pytest.raises(
        Unavailable, match=rf"^cannot \w+ {store_away}/one \(no answer\); check .* permissions$"
    ):
        verb(f"{store_away}/one")


def test_a_fault_of_ours_is_not_taken_for_the_stores(tmp_path: Path) -> None:
    with pytest.raises(TypeError), reaching(str(tmp_path), "read"):
        raise TypeError


def test_a_store_without_a_driver_is_named(model: Path) -> None:
    with pytest.raises(Unavailable, match="install the fsspec driver"):
        upload_folder(model, "nosuchstore://bucket/x")


def test_uris_lie_below_the_configured_storage(home: Path) -> None:
    assert storage_uri("models", "one") == f"{home}/storage/models/one"
