"""From a comparison to rows that a classifier of routes learns from. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from cluster.router_policy import ANSWER_ROUTES as BY_COST
from evaluation.results import Line


def route_rows(lines: Sequence[Line]) -> Iterator[dict[str, str]]:
    """`{text, label}` of each question: the cheapest of the routes that were right most often, over all seeds.

    A question that no route answered says nothing of routes, and is left out.
    """
    for line in lines:
        outcomes: defaultdict[str, list[bool]] = defaultdict(list)
        for name, answer in line.answers.items():
            if answer.route in BY_COST:
                outcomes[answer.route].append(line.scores[name].is_right)
        shares = {route: sum(right) / len(right) for route, right in outcomes.items()}
        best = max(shares, key=lambda route: (shares[route], -BY_COST.index(route)), default=None)
        if best is not None and shares[best] > 0:
            yield {"text": line.question.question, "label": best}
