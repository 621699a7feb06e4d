from __future__ import annotations

from typing import Any

import pytest

from cluster.errors import InvalidInput
from retrieval.filters import MAX_CONDITIONS, FieldType, matches, parse_filter

FIELDS = {"team": FieldType.STRING, "year": FieldType.NUMBER, "open": FieldType.BOOLEAN}


def eq(key: str, value: object) -> dict[str, Any]:
    return {"type": "eq", "key": key, "value": value}


def test_a_filter_in_openais_form_is_understood() -> None:
    where = parse_filter(
        {
            "type": "and",
            "filters": [
                eq("team", "hr"),
                {"type": "or", "filters": [eq("open", True), {"type": "gte", "key": "year", "value": 2024}]},
                {"type": "not", "filters": [{"type": "in", "key": "year", "value": [2025, 2026]}]},
            ],
        },
        FIELDS,
    )
    assert matches(where, {"metadata": {"team": "hr", "year": 2024}})
    assert matches(where, {"metadata": {"team": ["it", "hr"], "open": True}})
    assert not matches(where, {"metadata": {"team": "hr", "year": 2025}})
    assert not matches(where, {"metadata": {"team": "it", "year": 2024}})


def test_a_missing_key_equals_nothing() -> None:
    for kind, expected in [("eq", False), ("ne", True), ("gt", False), ("lte", False)]:
        where = parse_filter({"type": kind, "key": "year", "value": 1}, FIELDS)
        assert matches(where, {"metadata": {}}) is expected
    assert matches(parse_filter({"type": "nin", "key": "team", "value": ["a"]}, FIELDS), {})


def test_an_unknown_key_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidInput, match=r"'departmnt'.*known keys: open, team, year") as caught:
        parse_filter({"type": "or", "filters": [eq("team", "a"), eq("departmnt", "hr")]}, FIELDS)
    assert caught.value.param == "filters.filters[1].key"


@pytest.mark.parametrize("key", ["tenant", "document_id", "metadata.team", "position", ""])
def test_fields_of_ours_cannot_be_named(key: str) -> None:
    with pytest.raises(InvalidInput, match="known keys"):
        parse_filter(eq(key, "x"), FIELDS)


@pytest.mark.parametrize(
    ("raw", "param"),
    [
        (None, "filters"),
        ([], "filters"),
        ({"type": "like", "key": "team", "value": "x"}, "filters.type"),
        ({"type": "and", "filters": []}, "filters.filters"),
        ({"type": "and", "filters": "x"}, "filters.filters"),
        ({"type": "not", "filters": [eq("team", "a"), eq("team", "b")]}, "filters.filters"),
        ({**eq("team", "x"), "extra": 1}, "filters.extra"),
        (eq("year", "2024"), "filters.value"),
        (eq("year", True), "filters.value"),
        (eq("open", 1), "filters.value"),
        (eq("team", None), "filters.value"),
        (eq("team", ["hr"]), "filters.value"),
        ({"type": "ne", "key": "team", "value": ["hr"]}, "filters.value"),
        ({"type": "in", "key": "team", "value": [["hr"]]}, "filters.value"),
        (eq("year", float("nan")), "filters.value"),
        ({"type": "in", "key": "team", "value": "hr"}, "filters.value"),
        ({"type": "in", "key": "team", "value": []}, "filters.value"),
        ({"type": "gt", "key": "team", "value": "a"}, "filters.type"),
    ],
)
def test_what_is_wrong_is_refused_naming_the_place(raw: object, param: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_filter(raw, FIELDS)
    assert caught.value.param == param


def test_a_filter_of_unbounded_size_is_refused() -> None:
    deep: dict[str, Any] = eq("team", "x")
    for _ in range(50):
        deep = {"type": "not", "filters": [deep]}
    wide = {"type": "or", "filters": [eq("team", str(n)) for n in range(MAX_CONDITIONS + 1)]}
    for raw in (deep, wide):
        with pytest.raises(InvalidInput, match="conditions"):
            parse_filter(raw, FIELDS)
