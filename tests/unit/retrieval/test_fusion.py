from __future__ import annotations

import numpy as np

from retrieval.fusion import maximal_marginal_relevance, reciprocal_rank_fusion


def test_what_two_rankings_agree_on_comes_before_what_one_puts_first() -> None:
    scores = reciprocal_rank_fusion([["a", "b", "c"], ["d", "b", "e"]])
    assert max(scores, key=lambda id_: scores[id_]) == "b"
    assert all(0 < score <= 1 for score in scores.values())


def test_diversity_passes_over_a_copy_of_what_was_chosen() -> None:
    vectors = np.asarray([[1, 0, 0], [1, 0, 0], [0.8, 0.6, 0]], dtype=np.float32)
    query = np.asarray([0.95, 0.31, 0], dtype=np.float32)
    assert maximal_marginal_relevance(query, vectors, 2, relevance_weight=1.0) == [0, 1]
    assert maximal_marginal_relevance(query, vectors, 2, relevance_weight=0.3) == [0, 2]
    assert maximal_marginal_relevance(query, vectors, 9, relevance_weight=0.3) == [0, 2, 1]
