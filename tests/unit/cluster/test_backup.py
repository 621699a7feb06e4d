"""What a restore changes of the rows of a backup."""

from __future__ import annotations

import json

import pytest

from cluster.backup import _moved
from cluster.settings import settings


def test_files_are_named_by_where_storage_is_now_and_texts_of_users_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HAMLET_STORAGE", "s3://bucket/new")
    settings.cache_clear()
    row = {
        "uri": "/storage/files/a",
        "body": json.dumps({"weights_uri": "/storage/models/b", "note": "see http://x/storage/c"}),
        "filename": "from /storage/d.jsonl",
    }
    [moved] = _moved([json.dumps(row).encode()], "/storage")
    assert moved["uri"] == "s3://bucket/new/files/a"
    assert json.loads(moved["body"])["weights_uri"] == "s3://bucket/new/models/b"
    assert json.loads(moved["body"])["note"] == "see http://x/storage/c"
    assert moved["filename"] == row["filename"]
