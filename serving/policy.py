"""How `auto` answers: a pure decision from the question, the best hit and what is available.

    the caller names a route, as of an earlier answer           -> that route
    two sentences to compare, a pair classifier is registered   -> classifier
    a classifier of routes is in force                          -> the route that it gives the question
    best hit at or above the threshold                          -> the calibrated grounded route
    otherwise                                                   -> plain

When a part is down the next route of this chain that can run is taken, and the answer says `degraded`:

    tuned+rag -> tuned -> rag -> plain          classifier -> plain
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

from cluster.router_policy import RouterPolicy
from serving.config import RouterConfig


class RouteKind(StrEnum):
    """Which parts answer."""

    PLAIN = "plain"
    TUNED = "tuned"
    RAG = "rag"
    TUNED_RAG = "tuned+rag"
    CLASSIFIER = "classifier"

    @property
    def retrieves(self) -> bool:
        return self in (RouteKind.RAG, RouteKind.TUNED_RAG)


class Preset(NamedTuple):
    """A route that is settled before anything is searched, and why."""

    kind: RouteKind
    reason: str


@dataclass(frozen=True, slots=True)
class Features:
    """What the decision sees of a request. `best_score` is None when nothing was or could be searched.

    `preset` is what the caller or a classifier of routes settled.
    """

    pair: tuple[str, str] | None
    best_score: float | None
    preset: Preset | None = None


@dataclass(frozen=True, slots=True)
class Available:
    """What could answer. `tuned` and `pair_classifier` are None when there is none; `down` did not answer."""

    base: str
    tuned: str | None
    pair_classifier: str | None
    retrieval: bool
    down: frozenset[str] = frozenset()

    def without(self, model: str) -> Available:
        return replace(self, down=self.down | {model})


@dataclass(frozen=True, slots=True)
class Rule:
    """Calibrated numbers of the decision, the model that answers tuned routes, and the one that learned routes."""

    score_threshold: float
    grounded_route: RouteKind
    tuned_model: str | None = None
    route_model: str | None = None


def rule_in_force(router: RouterConfig, promoted: RouterPolicy | None) -> Rule:
    """What an evaluation promoted goes before what the deployment configures.

    A promoted policy without models of its own leaves those that are configured.
    """
    if promoted is None:
        return Rule(
            router.score_threshold, RouteKind(router.grounded_route), router.tuned_model, router.route_model
        )
    return Rule(
        promoted.score_threshold,
        RouteKind(promoted.grounded_route),
        promoted.tuned_model or router.tuned_model,
        promoted.route_model or router.route_model,
    )


class Route(NamedTuple):
    """The decision. `model` is a catalogue name; `degraded` says that a better route was down."""

    kind: RouteKind
    model: str
    reason: str
    degraded: bool = False


_CHAIN = {
    RouteKind.TUNED_RAG: (RouteKind.TUNED_RAG, RouteKind.TUNED, RouteKind.RAG, RouteKind.PLAIN),
    RouteKind.TUNED: (RouteKind.TUNED, RouteKind.PLAIN),
    RouteKind.RAG: (RouteKind.RAG, RouteKind.PLAIN),
    RouteKind.CLASSIFIER: (RouteKind.CLASSIFIER, RouteKind.PLAIN),
    RouteKind.PLAIN: (RouteKind.PLAIN,),
}


def choose(features: Features, available: Available, rule: Rule) -> Route:
    """The route for a request with `features`, given what is `available`."""
    wanted, reason = _wanted(features, available, rule)
    models = {
        RouteKind.PLAIN: available.base,
        RouteKind.RAG: available.base if available.retrieval else None,
        RouteKind.TUNED: available.tuned,
        RouteKind.TUNED_RAG: available.tuned if available.retrieval else None,
        RouteKind.CLASSIFIER: available.pair_classifier,
    }
    # Each chain ends in the plain route, which can always be named: a base is always deployed, and never `down`.
    running = {
        kind: model for kind, model in models.items() if model is not None and model not in available.down
    }
    kind, model = next((kind, running[kind]) for kind in _CHAIN[wanted] if kind in running)
    lost = kind is not wanted
    degraded = lost or _lacks_a_part(features, wanted, rule)
    return Route(kind, model, f"{reason}; {wanted} cannot run" if lost else reason, degraded)


def _lacks_a_part(features: Features, wanted: RouteKind, rule: Rule) -> bool:
    """Whether the decision was made without what it should have asked: the classifier of routes, or the search."""
    if features.preset is not None or wanted is RouteKind.CLASSIFIER:
        return False
    return rule.route_model is not None or (features.best_score is None and features.pair is None)


def _wanted(features: Features, available: Available, rule: Rule) -> tuple[RouteKind, str]:
    if features.preset is not None:
        return features.preset
    if features.pair is not None and available.pair_classifier is not None:
        return RouteKind.CLASSIFIER, "two sentences to compare"
    if features.best_score is None:
        return RouteKind.PLAIN, "the documents could not be searched"
    if features.best_score >= rule.score_threshold:
        return (
            rule.grounded_route,
            f"best passage scores {features.best_score:.2f}, at or above {rule.score_threshold:.2f}",
        )
    return (
        RouteKind.PLAIN,
        f"best passage scores {features.best_score:.2f}, below {rule.score_threshold:.2f}",
    )


# No repeat may pass the next place where a match could begin: a long message would hold up every other request.
_QUOTED = re.compile(r'"([^"\n]{3,})"|“([^“”\n]{3,})”')
_LABELLED = re.compile(r"^[^\S\n]*sentence\s*([12ab])\s*[:.)]\s*(.{3,})$", re.IGNORECASE | re.MULTILINE)
_COMPARISON = re.compile(
    r"\b(paraphras\w*|equivalent\w*|same (?:thing|meaning)|mean(?:s|ing)? the same|similar in meaning|"
    r"say the same)\b",
    re.IGNORECASE,
)


def sentence_pair(text: str) -> tuple[str, str] | None:
    """The two sentences that a message asks to compare, or None.

    Either two labelled lines (`Sentence 1: …`, `Sentence 2: …`), or exactly two quoted texts beside words
    of comparison.

    >>> sentence_pair('Do "He left." and "He went away." mean the same?')
    ('He left.', 'He went away.')
    """
    labelled = [match[2].strip() for match in _LABELLED.finditer(text)]
    if len(labelled) == 2:
        return labelled[0], labelled[1]
    quoted = [match[1] or match[2] for match in _QUOTED.finditer(text)]
    if len(quoted) == 2 and _COMPARISON.search(_QUOTED.sub(" ", text)):
        return quoted[0], quoted[1]
    return None
