"""How ranked lists become one: reciprocal rank fusion, and maximal marginal relevance. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Cormack, Clarke and Buettcher (SIGIR 2009) found 60 by trial and little change around it.
RRF_K = 60


def reciprocal_rank_fusion(rankings: Sequence[Sequence[str]], k: int = RRF_K) -> dict[str, float]:
    """Score of each id: the mean over rankings of (k + 1) / (k + rank), rank from 1, 0 where absent.

    Scaled so that the first of every ranking has 1.

    >>> reciprocal_rank_fusion([["a", "b"], ["a"]], k=1)
    {'a': 1.0, 'b': 0.3333333333333333}
    """
    scores: dict[str, float] = {}
    for ranking in rankings:
        for rank, item in enumerate(ranking, start=1):
            scores[item] = scores.get(item, 0.0) + (k + 1) / (k + rank) / len(rankings)
    return scores


def maximal_marginal_relevance(
    query: np.ndarray, vectors: np.ndarray, top_k: int, relevance_weight: float
) -> list[int]:
    """Indices of `top_k` of `vectors`, near to the query and unlike each other.

    `query`: [dimension], `vectors`: [n, dimension], float32, all L2-normalised. Each next one has the largest
    relevance_weight * cos(query, v) - (1 - relevance_weight) * max over chosen c of cos(c, v)
    (Carbonell and Goldstein, SIGIR 1998); ties go to the lower index.
    """
    relevance = relevance_weight * (vectors @ query)
    likeness = np.full(len(vectors), 0.0, dtype=np.float32)
    chosen: list[int] = []
    while len(chosen) < min(top_k, len(vectors)):
        gain = relevance - (1.0 - relevance_weight) * likeness
        gain[chosen] = -np.inf
        best = int(np.argmax(gain))
        closeness = vectors @ vectors[best]
        likeness = closeness if not chosen else np.maximum(likeness, closeness)
        chosen.append(best)
    return chosen
