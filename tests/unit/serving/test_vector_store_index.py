from __future__ import annotations

from typing import Any

import pytest

from cluster.errors import InvalidInput
from retrieval.filters import FieldType, matches, parse_filter
from retrieval.points import DocumentRecord
from retrieval.vectorizer import EmbedderInfo
from serving.vector_store_index import (
    Keys,
    chunking_of,
    document_id,
    file_id_of,
    filename_of,
    retrieval_config_of,
    store_filter,
    store_id_of,
    stored_metadata,
    typed_key,
)

INFO = EmbedderInfo("minilm", "abc", 384, 256, 2, "")
STORE = "vs_0123456789abcdef01234567"


def passes(attributes: dict[str, Any], raw: dict[str, Any], others: tuple[dict[str, Any], ...] = ()) -> bool:
    """Whether a file with these attributes passes a filter, by what the stores of chunks make of it."""
    files = [attributes, *others]
    stored = [stored_metadata(STORE, each) for each in files]
    fields = dict.fromkeys(("store",), FieldType.STRING)
    for each in files:
        for key, value in each.items():
            kind = typed_key(key, value).split("-")[0]
            fields[typed_key(key, value)] = FieldType(kind)
    keys = Keys({key for each in files for key in each}, fields)
    where = parse_filter(store_filter([STORE], raw, keys), fields)
    return matches(where, {"metadata": stored[0]})


def compare(kind: str, key: str, value: Any) -> dict[str, Any]:
    return {"type": kind, "key": key, "value": value}


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (compare("eq", "team", "hr"), True),
        (compare("ne", "team", "hr"), False),
        (compare("gte", "year", 2024), True),
        (compare("gt", "year", 2024), False),
        (compare("in", "year", [2023, 2024]), True),
        (compare("nin", "year", [2023, 2024]), False),
        (compare("eq", "open", True), True),
        (compare("eq", "año nuevo.x", "ja"), True),
        # Of another type: equals nothing, differs from everything.
        (compare("eq", "year", "2024"), False),
        (compare("ne", "year", "2024"), True),
        (compare("in", "year", ["2024", 2024]), True),
        (compare("nin", "year", ["2024", 2024]), False),
        ({"type": "and", "filters": [compare("eq", "team", "hr"), compare("lt", "year", 2025)]}, True),
        ({"type": "or", "filters": [compare("eq", "team", "it"), compare("eq", "open", False)]}, False),
    ],
)
def test_filters_mean_what_openai_says(raw: dict[str, Any], expected: bool) -> None:
    attributes = {"team": "hr", "year": 2024, "open": True, "año nuevo.x": "ja"}
    assert passes(attributes, raw) is expected


def test_a_name_may_hold_a_number_in_one_file_and_a_word_in_another() -> None:
    assert passes({"year": "2024"}, compare("eq", "year", "2024"), ({"year": 2024},))
    assert not passes({"year": "2024"}, compare("eq", "year", 2024), ({"year": 2024},))


@pytest.mark.parametrize(
    "raw",
    [
        compare("eq", "departmnt", "hr"),
        compare("eq", "store", "vs_other"),
        compare("like", "team", "hr"),
        compare("gt", "team", "hr"),
        compare("in", "team", "hr"),
        compare("in", "team", []),
        compare("eq", "team", None),
        compare("eq", "team", ["hr"]),
        compare("eq", "team", "hr") | {"tenant": "bob"},
        {"type": "and", "filters": []},
        {"type": "and", "filters": ["x"]},
        {"type": "and"},
    ],
)
def test_a_filter_that_cannot_be_meant_is_refused_with_its_place(raw: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as refused:
        passes({"team": "hr"}, raw)
    assert (refused.value.param or "").startswith("filters")


def test_the_stores_of_a_search_are_always_part_of_its_filter() -> None:
    raw = {"type": "or", "filters": [compare("ne", "team", "x"), compare("eq", "team", "x")]}
    where = parse_filter(
        store_filter(["vs_a"], raw, Keys({"team"}, [typed_key("team", "x")])),
        {"store": FieldType.STRING, typed_key("team", "x"): FieldType.STRING},
    )
    assert matches(where, {"metadata": stored_metadata("vs_a", {})})
    assert not matches(where, {"metadata": stored_metadata("vs_b", {"team": "x"})})


def test_a_filter_has_a_bounded_depth_and_size() -> None:
    deep = compare("eq", "team", "hr")
    for _ in range(20):
        deep = {"type": "and", "filters": [deep]}
    wide = {"type": "or", "filters": [compare("eq", "team", "hr")] * 1000}
    for raw in (deep, wide):
        with pytest.raises(InvalidInput, match="conditions"):
            passes({"team": "hr"}, raw)


def test_a_file_is_another_document_in_each_store() -> None:
    document = document_id(STORE, "file-1")
    assert (store_id_of(document), file_id_of(document)) == (STORE, "file-1")
    assert document != document_id("vs_" + "0" * 24, "file-1")
    assert file_id_of("vs_handbook/file-1") == "vs_handbook/file-1"


@pytest.mark.parametrize(("uri", "name"), [("s3://docs/hr/leave.md", "leave.md"), ("", "Leave")])
def test_a_document_without_an_address_is_named_by_its_title(uri: str, name: str) -> None:
    assert filename_of(DocumentRecord("d", "Leave", uri, 1, "", {})) == name


def test_chunks_are_cut_as_suits_the_embedder_or_as_asked_for() -> None:
    assert chunking_of(None, INFO).chunk_tokens == 192
    asked = chunking_of((100, 50), INFO)
    assert (asked.chunk_tokens, asked.overlap_tokens) == (100, 50)
    with pytest.raises(InvalidInput, match=r"800 exceeds the 252") as refused:
        chunking_of((800, 400), INFO)
    assert refused.value.param == "chunking_strategy.static.max_chunk_size_tokens"
    with pytest.raises(InvalidInput, match="half"):
        chunking_of((100, 51), INFO)


@pytest.mark.parametrize("chunk_tokens", [100, 192, 240, 252])
def test_chunk_and_context_always_fit_the_embedder(chunk_tokens: int) -> None:
    config = retrieval_config_of("ann", chunking_of((chunk_tokens, 0), INFO), INFO)
    assert config.collection == "vector-stores-ann"
    assert config.chunk_tokens + config.context_tokens + 4 <= 256
    assert not config.deduplicate
