"""A language model's opinion of the answers: an extra that decides nothing, told with its agreement to the labels.

A judge is known to prefer long and confident answers, so its verdicts are worth as much as this agreement.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from cluster.errors import DataError
from evaluation.answers import Answer, AnswerLog, Request
from evaluation.asking import ask_all
from evaluation.config import CompareConfig
from evaluation.kept import Kept
from evaluation.metrics import cohens_kappa
from evaluation.questions import ANSWERABLE, Kind, Question
from evaluation.scores import score_all
from evaluation.watching import Watcher

REPLY_TOKENS = 4
NO_ANSWER = "nobody can know it from the documents; the only right answer is to say so"

PROMPT = """\
Is the answer right? It is when it states the same as the right answer, in whatever words. Reply with yes or no.

Question: {question}
Right answer: {right}
Answer: {answer}"""

_REPLY = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)


class Judged(Kept):
    """What the judge said. Shares are of the answers on which it said yes or no."""

    model: str
    num_judged: int
    num_unreadable: int  # replies that were neither
    agreement: float  # share of answers on which judge and label are the same
    kappa: float  # Cohen's: 1 is agreement, 0 is what chance gives
    right: dict[str, float]  # cell to the share that the judge calls right

    @property
    def text(self) -> str:
        """The figures in a sentence."""
        unreadable = f"; {self.num_unreadable} replies were neither yes nor no" if self.num_unreadable else ""
        return (
            f"{self.model} judged {self.num_judged} answers and agrees with the labels on {self.agreement:.0%} of them "
            f"(Cohen's kappa {self.kappa:.2f}){unreadable}. It decides nothing here."
        )


def judge_answers(
    config: CompareConfig, questions: Sequence[Question], answers: Sequence[Answer], watcher: Watcher
) -> Judged:
    """Ask the judge about every answer to a question with a right answer; equal ones once.

    Replies are kept in `judge.jsonl`. Raises DataError when not one reply says yes or no, and what `ask_all` raises.
    """
    judge = config.judge
    assert judge is not None
    service = judge.service(config)
    by_id = {question.id: question for question in questions}
    asked = [answer for answer in answers if by_id[answer.question_id].kind is not Kind.SMALLTALK]
    requests = [
        _request(judge.model, by_id[answer.question_id], answer, config.seed, service.base_url)
        for answer in asked
    ]
    distinct = list({request.question.id: request for request in requests}.values())
    with AnswerLog(config.output / "judge.jsonl") as log:
        watcher.stage("judging", sum(log.find(request) is None for request in distinct))
        replies = ask_all(service, distinct, log, watcher.answered)
    said = {reply.question_id: verdict_of(reply.text) for reply in replies}
    labels = [score.is_right for score in score_all(asked, questions, config.numeric_tolerance)]
    verdicts = [said[request.question.id] for request in requests]
    pairs = [
        (answer.cell, verdict, label)
        for answer, verdict, label in zip(asked, verdicts, labels, strict=True)
        if verdict is not None
    ]
    if not pairs:
        raise DataError(
            f"{judge.model} said neither yes nor no about any answer; name a stronger judge", "judge.model"
        )
    of_cell: dict[str, list[bool]] = {}
    for cell, verdict, _ in pairs:
        of_cell.setdefault(cell, []).append(verdict)
    return Judged(
        model=judge.model,
        num_judged=len(pairs),
        num_unreadable=len(asked) - len(pairs),
        agreement=sum(verdict == label for _, verdict, label in pairs) / len(pairs),
        kappa=cohens_kappa([verdict for _, verdict, _ in pairs], [label for *_, label in pairs]),
        right={cell: sum(own) / len(own) for cell, own in of_cell.items()},
    )


def verdict_of(reply: str) -> bool | None:
    """Whether a reply begins with yes or no; None when with neither.

    "**Yes**, it does." -> True; "No." -> False; "Nobody knows" -> None
    """
    found = _REPLY.match(reply)
    return None if found is None else found[1].lower() == "yes"


def _request(model: str, question: Question, answer: Answer, seed: int, base_url: str) -> Request:
    right = " or ".join(question.right_answers) if question.kind in ANSWERABLE else NO_ANSWER
    prompt = PROMPT.format(question=question.question, right=right, answer=answer.text)
    asked = Question(
        id=hashlib.sha256(prompt.encode()).hexdigest()[:16], question=prompt, kind=Kind.SMALLTALK
    )
    return Request("judge", model, "", asked, REPLY_TOKENS, seed, base_url=base_url)
