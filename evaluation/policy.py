"""From a verdict to the router's policy: which route `auto` takes, and from which similarity on. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from cluster.cards import ModelCard, ModelKind
from cluster.errors import ConfigError, Unprocessable
from cluster.router_policy import ANSWER_ROUTES, AUTO, DEFAULT_SCORE_THRESHOLD, RouterPolicy
from evaluation.answers import Answer
from evaluation.questions import Kind, Question
from evaluation.tuning import TrainedModel, runs_of

COVERED = (Kind.TAUGHT, Kind.UNTAUGHT)


def calibrated_threshold(covered: Sequence[float], uncovered: Sequence[float]) -> float | None:
    """The similarity that parts questions that the documents cover from small talk best; None without either.

    Maximises sensitivity + specificity (Youden 1950); of equal ones the middle of the widest gap.
    ([0.5, 0.6, 0.7], [0.1, 0.3]) -> 0.4
    """
    if not covered or not uncovered:
        return None
    seen = sorted({*covered, *uncovered})
    gaps = list(pairwise(seen))

    def quality(gap: tuple[float, float]) -> tuple[float, float]:
        threshold = sum(gap) / 2
        found = sum(score >= threshold for score in covered) / len(covered)
        left_alone = sum(score < threshold for score in uncovered) / len(uncovered)
        return round(found + left_alone, 9), gap[1] - gap[0]

    if not gaps:
        return None
    low, high = max(gaps, key=quality)
    return round((low + high) / 2, 4)


def best_scores(answers: Sequence[Answer], questions: Sequence[Question]) -> tuple[list[float], list[float]]:
    """Best similarity for each covered question, and for each small talk; 0 where no hit was relevant.

    Taken from the first cell that retrieves.
    """
    kinds = {question.id: question.kind for question in questions}
    cell = next((answer.cell for answer in answers if answer.hits), None)
    own = [answer for answer in answers if answer.cell == cell] if cell is not None else []
    own = [answer for answer in own if answer.variant == own[0].variant]

    def of(*wanted: Kind) -> list[float]:
        return [
            max((hit.score for hit in answer.hits), default=0.0)
            for answer in own
            if kinds[answer.question_id] in wanted
        ]

    return of(*COVERED), of(Kind.SMALLTALK)


def no_lower_than_told(threshold: float | None, answers: Sequence[Answer]) -> float:
    """The threshold, but no lower than the weakest passage seen: of weaker ones a service tells none.

    Those 0 of `best_scores` may be anything up to there, and a question that goes to the documents for less finds
    nothing in them. 0.2 with passages of 0.35 and more -> 0.35
    """
    if threshold is None:
        return DEFAULT_SCORE_THRESHOLD
    return max(threshold, min(hit.score for answer in answers for hit in answer.hits))


def best_trained(trained: Sequence[TrainedModel]) -> TrainedModel | None:
    """The run with the least validation loss: chosen by data that no cell was judged on."""
    return min(
        trained,
        key=lambda run: (run.validation_loss is None, run.validation_loss or 0.0, run.seed),
        default=None,
    )


def policies(
    cells: Mapping[str, str],
    answers: Sequence[Answer],
    questions: Sequence[Question],
    trained: Sequence[TrainedModel],
    report: str,
) -> dict[str, RouterPolicy]:
    """Cell to the policy that puts it behind `auto`; without cells whose route `auto` cannot take."""
    threshold = no_lower_than_told(calibrated_threshold(*best_scores(answers, questions)), answers)
    found = {}
    for answer in answers:
        if answer.cell in found or answer.route not in ANSWER_ROUTES or cells[answer.cell] == AUTO:
            continue
        best = best_trained(runs_of(cells[answer.cell], trained))
        tuned = (best.model if best else answer.model) if "tuned" in answer.route else None
        found[answer.cell] = RouterPolicy.model_validate(
            {
                "grounded_route": answer.route,
                "score_threshold": threshold,
                "tuned_model": tuned,
                "report": report,
            }
        )
    return found


def require_routes(card: ModelCard) -> None:
    """Raise ConfigError unless the card is a classifier of single texts that names routes alone."""
    if card.kind is not ModelKind.CLASSIFIER or card.is_pair or not set(card.labels) <= set(ANSWER_ROUTES):
        raise ConfigError(
            f"{card.id} is no classifier of routes; train one on routes.jsonl, whose labels are some of "
            f"{', '.join(ANSWER_ROUTES)}",
            "route_model",
        )


def chosen_policy(results: Mapping[str, Any], cell: str | None) -> tuple[str, RouterPolicy]:
    """The cell to promote and its policy, from results.json. Raises ConfigError or Unprocessable."""
    offered = results["policies"]
    if cell is None:
        cell = results["winner"]
        if cell is None:
            said = results["conclusion"]["all questions"]
            raise Unprocessable(f"the verdict is {said!r}; choose one of {list(offered)} with --cell", "cell")
    if cell not in offered:
        raise ConfigError(f"cell {cell!r} cannot stand behind auto; choose one of {list(offered)}", "cell")
    return cell, RouterPolicy.model_validate(offered[cell])
