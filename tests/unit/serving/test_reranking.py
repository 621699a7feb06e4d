from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cluster.cards import ModelCard, ModelKind
from serving.reranking import Relevance
from serving.scripted_parts import ScriptedApplication, scripted_passage

Post = Callable[..., Any]


def rerank(post: Post, **changes: Any) -> Any:
    body = {"model": "minilm", "query": "abcd", "documents": ["abcdefgh", "ab"]}
    return post("/v1/rerank", **(body | changes))


@pytest.mark.parametrize("labels", [("different", "equivalent"), ("equivalent", "different")])
def test_a_pair_classifier_ranks_by_the_probability_of_its_positive_class(
    world: ScriptedApplication, post: Post, pair_card: ModelCard, labels: tuple[str, ...]
) -> None:
    world.cards.append(pair_card.model_copy(update={"labels": labels}))
    body = rerank(post, model=pair_card.id, documents=["ab", "abcd", "x y"]).json()
    assert [(item["index"], item["relevance_score"]) for item in body["results"]] == [
        (1, 0.9),
        (0, 0.2),
        (2, 0.2),
    ]
    assert body["results"][0]["document"] == {"text": "abcd"}
    assert body["usage"] == {"prompt_tokens": 7, "total_tokens": 7}


def test_the_embedder_ranks_by_cosine(post: Post) -> None:
    # The scripted vector of a text is (its length, 0.5, -0.25, 1).
    scores = [item["relevance_score"] for item in rerank(post).json()["results"]]
    assert scores == [8 * 4 + 0.25 + 0.0625 + 1, 2 * 4 + 0.25 + 0.0625 + 1]


def test_top_n_and_texts_are_as_asked(post: Post) -> None:
    body = rerank(post, top_n=1, return_documents=False, documents=[{"text": "ab"}, "abcdefgh"]).json()
    (result,) = body["results"]
    assert result["index"] == 1
    assert "document" not in result


def test_equal_texts_keep_their_order() -> None:
    assert Relevance((0.5, 0.9, 0.5), 0).ranking() == [1, 0, 2]


@pytest.mark.parametrize(
    ("changes", "status", "param"),
    [
        ({"query": " "}, 400, "query"),
        ({"query": None}, 400, "query"),
        ({"documents": []}, 400, "documents"),
        ({"documents": "ab"}, 400, "documents"),
        ({"documents": ["a", ""]}, 400, "documents[1]"),
        ({"documents": [{"title": "a"}]}, 400, "documents[0]"),
        ({"documents": ["a", 7]}, 400, "documents[1]"),
        ({"documents": ["a", "w " * 51]}, 400, "documents[1]"),
        ({"top_n": 0}, 400, "top_n"),
        ({"model": "smollm2"}, 404, "model"),
        ({"model": "nobody"}, 404, "model"),
    ],
)
def test_what_cannot_be_ranked_is_refused_by_name(
    post: Post, changes: dict[str, Any], status: int, param: str
) -> None:
    response = rerank(post, **changes)
    assert response.status_code == status
    assert response.json()["error"]["param"] == param


def test_a_classifier_of_single_texts_does_not_rank(
    world: ScriptedApplication, post: Post, make_card: Callable[..., ModelCard]
) -> None:
    world.cards.append(
        make_card("ft:minilm:acme:mood:1", kind=ModelKind.CLASSIFIER, is_adapter=False, labels=("a", "b"))
    )
    response = rerank(post, model="ft:minilm:acme:mood:1")
    assert response.status_code == 400
    assert "classifies single texts" in response.json()["error"]["message"]


def test_an_answer_from_documents_takes_the_best_after_reranking(
    world: ScriptedApplication, chat: Callable[..., Any], pair_card: ModelCard
) -> None:
    world.cards.append(pair_card)
    # The passage that answers comes last by similarity.
    world.retriever.by_tenant["default"] = [
        scripted_passage(number, text, score)
        for number, (text, score) in enumerate([("other", 0.9), ("more", 0.8), ("Hi", 0.7)])
    ]
    body = chat(model="smollm2+rag", hamlet={"top_k": 1, "rerank": pair_card.id}).json()
    (hit,) = body["hamlet"]["hits"]
    assert (hit["text"], hit["score"]) == ("Hi", 0.7)
    assert body["hamlet"]["stages"] == ["route", "embed", "search", "rerank", "generate"]
    assert world.retriever.jobs[0].top_k == world.config.retriever.rerank_candidates


@pytest.mark.parametrize("model", ["smollm2+rag", "auto"])
def test_an_unknown_reranker_is_refused_and_not_left_out(
    world: ScriptedApplication, chat: Callable[..., Any], model: str
) -> None:
    world.retriever.by_tenant["default"] = [scripted_passage(1, "text")]
    response = chat(model=model, hamlet={"rerank": "nobody"})
    assert response.status_code == 404
    assert response.json()["error"]["param"] == "hamlet.rerank"
    assert "nobody" in response.json()["error"]["message"]
