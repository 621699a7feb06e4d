"""The page's pure functions, each in the browser that will run it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

OpenPage = Callable[..., Any]

CITED = {"index": 1, "start_index": 6, "end_index": 9, "text": "[1]"}
WHOLE = {"index": 2, "start_index": 0, "end_index": 10, "text": "😀 yes [1]."}
OPTIONS = {"maxTokens": 9, "temperature": 0, "collection": "vs_1", "functions": ""}


def metric(number: int, step: int, **values: float) -> dict[str, Any]:
    data = {"step": step, "total_steps": 2, **values}
    return {"id": f"ftevent-1-{number}", "type": "metrics", "created_at": 5, "data": data}


CASES: list[tuple[str, str, list[Any], Any]] = [
    # Offsets count characters; a JavaScript string counts an emoji as two.
    (
        "ask/citations.js",
        "pieces",
        ["😀 yes [1].", [WHOLE, CITED]],
        [{"text": "😀 yes "}, {"citation": CITED}, {"text": "."}, {"citation": WHOLE}],
    ),
    (
        "ask/citations.js",
        "marked",
        ["The lunch is 4.70 euros", "What is the price? 4.70 Euros"],
        [
            {"text": "The lunch is ", "isMarked": False},
            {"text": "4.70", "isMarked": True},
            {"text": " ", "isMarked": False},
            {"text": "euros", "isMarked": True},
        ],
    ),
    (
        "ask/citations.js",
        "joined",
        [
            [
                {"text": "new end", "hamlet": {"start": 12, "end": 19}},
                {"text": "😀 one two", "hamlet": {"start": 0, "end": 9}},
                {"text": "two!", "hamlet": {"start": 6, "end": 10}},
            ]
        ],
        "😀 one two!\n\nnew end",
    ),
    ("ask/citations.js", "located", ["a b c", "b"], {"before": "a ", "passage": "b", "after": " c"}),
    ("ask/citations.js", "located", ["a b c", "d"], None),
    ("api.js", "eventData", ['event: message\ndata: {"a":\ndata: 1}'], '{"a":\n1}'),
    ("api.js", "eventData", [": a comment"], ""),
    (
        "finetune/form.js",
        "requestBody",
        [
            "smollm2",
            {"id": "file-1", "hamlet": {"task": "dpo"}},
            None,
            {"suffix": "", "seed": "", "n_epochs": "2"},
        ],
        {
            "model": "smollm2",
            "training_file": "file-1",
            "method": {"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 2}}},
        },
    ),
    (
        "documents/filters.js",
        "filterOf",
        [[{"key": "year", "type": "gte", "value": "2024"}, {"key": " ", "type": "eq", "value": "x"}]],
        {"key": "year", "type": "gte", "value": 2024},
    ),
    (
        "documents/filters.js",
        "filterOf",
        [[{"key": "a", "type": "eq", "value": "true"}, {"key": "b", "type": "ne", "value": '"12"'}]],
        {
            "type": "and",
            "filters": [{"key": "a", "type": "eq", "value": True}, {"key": "b", "type": "ne", "value": "12"}],
        },
    ),
    (
        # An attempt that went on from a checkpoint tells step 2 again.
        "finetune/metrics.js",
        "curves",
        [[metric(3, 2, train_loss=0.4), metric(2, 2, train_loss=9.0), metric(1, 1, train_loss=0.7)]],
        {"steps": [1, 2], "series": {"train_loss": [0.7, 0.4]}},
    ),
    (
        "finetune/plan.js",
        "figuresOf",
        [{"steps": 1200, "train_seconds": 40, "memory": {"worker_bytes": 2**20}, "cost": {"workers": None}}],
        [["steps", "1,200"], ["training time", "40.0 s"], ["memory of a worker", "1.0 MiB"]],
    ),
    # Put into an address of the API, whatever was typed leads to nothing but one object of its kind.
    ("route.js", "readRoute", ["#/verdict/..%2Fa b"], {"part": "verdict", "id": "..%2Fa%20b", "query": {}}),
    ("route.js", "linkTo", ["documents", "vs_manuals"], "#/documents/vs_manuals"),
    ("format.js", "milliseconds", [0.04], "0.0 ms"),
    ("format.js", "milliseconds", [90_000], "1 min 30 s"),
    ("format.js", "milliseconds", [7_200_000], "2 h"),
    ("format.js", "bytes", [1536], "1.5 KiB"),
]


@pytest.mark.parametrize(("module", "function", "arguments", "expected"), CASES)
def test_a_function_of_the_page(
    functions: Callable[..., Any], module: str, function: str, arguments: list[Any], expected: Any
) -> None:
    assert functions(module, function, arguments) == expected


def test_a_vector_store_is_named_to_the_ways_that_read_and_to_no_other(functions: Callable[..., Any]) -> None:
    def tools(model: str) -> Any:
        return functions("ask/request.js", "requestBody", ["Why?", model, [], OPTIONS]).get("tools")

    assert tools("smollm2+rag") == [{"type": "file_search", "vector_store_ids": ["vs_1"]}]
    assert tools("auto") is not None
    assert tools("smollm2") is None


def test_the_route_to_keep_is_the_newest_that_stood_in_for_nothing(functions: Callable[..., Any]) -> None:
    routes = [("plain", False), ("rag", False), ("classify", False), ("plain", True)]
    before = [
        {"answers": [{"model": "auto", "text": "", "hamlet": {"route": route, "degraded": degraded}}]}
        for route, degraded in routes
    ]

    def kept(model: str, **changes: Any) -> Any:
        return functions("ask/request.js", "requestBody", ["Why?", model, before, OPTIONS | changes])

    assert kept("auto", keepRoute=True)["hamlet"] == {"route": "rag"}
    assert "hamlet" not in kept("smollm2", keepRoute=True)
    assert "hamlet" not in kept("auto", keepRoute=False)
