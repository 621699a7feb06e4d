from __future__ import annotations

import pytest

from serving.policy import Available, Features, RouteKind, Rule, choose, sentence_pair

RULE = Rule(score_threshold=0.34, grounded_route=RouteKind.RAG)
ALL = Available("base", "tuned", "pairs", retrieval=True)


@pytest.mark.parametrize(
    ("features", "available", "rule", "kind", "model", "degraded"),
    [
        (Features(None, 0.6), ALL, RULE, "rag", "base", False),
        (Features(None, 0.34), ALL, RULE, "rag", "base", False),
        (Features(None, 0.2), ALL, RULE, "plain", "base", False),
        (Features(("a", "b"), None), ALL, RULE, "classifier", "pairs", False),
        (Features(("a", "b"), 0.1), Available("base", None, None, True), RULE, "plain", "base", False),
        (Features(None, None), Available("base", None, None, False), RULE, "plain", "base", True),
        (Features(None, 0.6), ALL, Rule(0.34, RouteKind.TUNED), "tuned", "tuned", False),
        (Features(None, 0.6), ALL, Rule(0.34, RouteKind.TUNED_RAG), "tuned+rag", "tuned", False),
        (
            Features(None, 0.6),
            Available("base", None, None, True),
            Rule(0.34, RouteKind.TUNED_RAG),
            "rag",
            "base",
            True,
        ),
        (
            Features(None, 0.6),
            Available("base", None, None, True),
            Rule(0.34, RouteKind.TUNED),
            "plain",
            "base",
            True,
        ),
    ],
)
def test_route_follows_from_features_and_what_is_available(
    features: Features, available: Available, rule: Rule, kind: str, model: str, degraded: bool
) -> None:
    route = choose(features, available, rule)
    assert (route.kind.value, route.model, route.degraded) == (kind, model, degraded)
    assert route.reason


@pytest.mark.parametrize(
    "text",
    [
        "Sentence 1: He left.\nSentence 2: He went away.",
        'Do "He left." and "He went away." mean the same?',
        "Are these paraphrases? “He left.” “He went away.”",
    ],
)
def test_two_sentences_to_compare_are_found(text: str) -> None:
    assert sentence_pair(text) == ("He left.", "He went away.")


@pytest.mark.parametrize(
    "text",
    [
        "What does “per diem” mean?",
        'Who said "to be" or "not to be"?',
        "Do these mean the same?",
        "Sentence 1: x y z",
    ],
)
def test_other_questions_are_no_pairs(text: str) -> None:
    assert sentence_pair(text) is None
