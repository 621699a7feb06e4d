"""Files: rows in SQL, bytes in storage."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.blobs import place_bytes, read_blob, remove_staged, staging_path
from cluster.errors import NotFound, Overloaded, Unavailable
from cluster.files import File, Files
from cluster.settings import settings


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def files(clock: Clock) -> Files:
    return Files(clock=clock)


def _create(files: Files, tenant: str = "us", name: str = "rows.jsonl", **more: object) -> File:
    return files.add(files.stored(tenant, name, "fine-tune", b"rows", **more))  # type: ignore[arg-type]


def test_a_file_comes_back_as_it_was_given(files: Files) -> None:
    file = files.add(files.stored("us", "Rows.JSONL", "fine-tune", b"\xef\xbb\xbfrows", details={"rows": 1}))
    assert Files().get("us", file.id) == file
    assert files.open(file).read() == b"\xef\xbb\xbfrows"
    assert file.num_bytes == 7
    assert Path(file.uri).suffix == ".jsonl"  # readers choose by it


def test_a_staged_file_is_moved_and_not_copied(files: Files) -> None:
    staged = staging_path(".txt")
    staged.write_bytes(b"text")
    number = staged.stat().st_ino
    file = files.add(files.stored("us", "a.txt", "user_data", staged))
    assert not staged.exists()
    assert Path(file.uri).stat().st_ino == number


def test_another_tenants_file_is_an_unknown_one(files: Files) -> None:
    theirs = _create(files, "them")
    with pytest.raises(NotFound) as refused:
        files.get("us", theirs.id)
    with pytest.raises(NotFound) as unknown:
        files.get("us", "file-0")
    assert str(refused.value).replace(theirs.id, "file-0") == str(unknown.value)
    with pytest.raises(NotFound):
        files.delete("us", theirs.id)
    assert files.list("us").data == []
    with pytest.raises(NotFound):
        files.list("us", after=theirs.id)


def test_many_files_are_found_together_in_the_order_asked_for(files: Files) -> None:
    made = [files.add(files.stored("us", f"{number}.txt", "user_data", b"x")) for number in range(3)]
    ids = [made[2].id, made[0].id, *[made[1].id] * 600]
    assert [file.filename for file in files.some("us", ids)] == ["2.txt", "0.txt", *["1.txt"] * 600]
    with pytest.raises(NotFound, match="'file-0'"):
        files.some("us", [made[0].id, "file-0", "file-1"])
    with pytest.raises(NotFound, match=made[0].id):
        files.some("them", [made[0].id])


def test_a_deleted_file_leaves_neither_row_nor_bytes(files: Files) -> None:
    file = _create(files)
    files.delete("us", file.id)
    with pytest.raises(NotFound):
        files.get("us", file.id)
    assert not Path(file.uri).exists()
    with pytest.raises(NotFound):
        files.delete("us", file.id)


@pytest.mark.parametrize("ascending", [False, True])
def test_paging_gives_each_file_once_though_others_come_and_go(files: Files, ascending: bool) -> None:
    kept = [_create(files).id for _ in range(7)]
    seen: list[str] = []
    after = None
    while True:
        page = files.list("us", after=after, limit=2, ascending=ascending)
        seen += [file.id for file in page.data]
        after = page.data[-1].id
        if len(seen) == 2:
            files.delete("us", seen[0])  # the cursor is the last one seen, which stays
        _create(files, "them")
        if not page.has_more:
            break
    assert seen == (kept if ascending else kept[::-1])


def test_files_are_listed_by_purpose(files: Files) -> None:
    _create(files)
    other = files.add(files.stored("us", "a.pdf", "assistants", b"x"))
    assert [file.id for file in files.list("us", purpose="assistants").data] == [other.id]


def test_an_expired_file_is_unknown_before_it_is_removed(files: Files, clock: Clock) -> None:
    file = _create(files, expires_at=2000.0)
    assert files.get("us", file.id) == file
    clock.now = 2000.0
    with pytest.raises(NotFound):
        files.get("us", file.id)
    assert files.list("us").data == []
    assert files.expired() == [file]
    files.remove([file, file])
    assert files.expired() == []
    assert not Path(file.uri).exists()


def test_a_file_that_cannot_be_placed_is_not_listed(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Unavailable, match="no space left"):
        _create(files)
    monkeypatch.undo()
    assert files.list("us").data == []


def test_storage_elsewhere_works_as_a_folder_does(
    files: Files, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    monkeypatch.setenv("HAMLET_STORAGE", "memory://bucket/prefix")
    settings.cache_clear()
    file = _create(files)
    assert file.uri.startswith("memory://")
    assert files.open(file).read() == b"rows"
    files.delete("us", file.id)
    with pytest.raises(NotFound):
        files.open(file)
    place_bytes(b"one", "memory://bucket/object")
    assert read_blob("memory://bucket/object") == b"one"


def test_only_staged_files_that_nobody_writes_any_more_are_removed() -> None:
    old, new = staging_path(), staging_path()
    for path in (old, new):
        path.touch()
    os.utime(old, (1, 1))
    remove_staged(before=time.time() - 3600)
    assert not old.exists()
    assert new.exists()


def test_bytes_that_no_row_names_are_removed_once_they_are_old(files: Files, home: Path) -> None:
    kept = files.add(files.stored("us", "rows.jsonl", "batch", b"kept"))
    orphan = files.stored("them", "rows.jsonl", "batch", b"its process was killed before the row was written")
    foreign = Path(kept.uri).with_name("notes.txt")
    foreign.write_text("nobody's business of ours")
    assert files.remove_orphans(before=time.time() - 60) == []
    (removed,) = files.remove_orphans(before=time.time() + 60)
    assert removed.endswith(orphan.uri)
    assert not Path(orphan.uri).exists()
    assert files.open(kept).read() == b"kept"
    assert foreign.exists()
    assert files.remove_orphans(before=time.time() + 60) == []


def test_bytes_under_a_name_of_before_are_no_orphans_of_their_row(files: Files) -> None:
    new = files.stored("us", "rows.jsonl", "batch", b"kept")
    uri = str(Path(new.uri).with_name(f"{new.id}.jsonl"))
    Path(new.uri).rename(uri)
    old = files.add(replace(new, uri=uri))
    assert files.remove_orphans(before=time.time() + 60) == []
    assert files.open(old).read() == b"kept"


def test_a_storage_without_files_has_no_orphans(files: Files) -> None:
    assert files.remove_orphans(before=time.time()) == []


def test_a_file_for_which_a_tenant_has_no_room_is_refused_and_its_bytes_are_removed(files: Files) -> None:
    held = files.add(files.stored("us", "held.txt", "user_data", b"x" * 60))
    files.require_room("us", 40, 100)
    with pytest.raises(Overloaded, match="take 60 bytes and may take 100") as refused:
        files.require_room("us", 41, 100)
    assert refused.value.code == "insufficient_quota"
    more = files.stored("us", "more.txt", "user_data", b"x" * 41)
    with pytest.raises(Overloaded, match="60 bytes"):
        files.add(more, max_bytes=100)
    assert not Path(more.uri).exists()
    assert files.list("us").data == [held]
    files.add(files.stored("them", "theirs.txt", "user_data", b"x" * 41), max_bytes=100)
    files.add(files.stored("us", "fits.txt", "user_data", b"x" * 40), max_bytes=100)
