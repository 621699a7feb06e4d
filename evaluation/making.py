"""Training questions from documents alone: split by document, made of each passage, sifted, written as chats.

The split comes first: no question is made from a held-out document, so what is asked about it afterwards was
never taught. Every reply is kept, so that a run that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from math import ceil
from pathlib import Path, PurePosixPath

from cluster.errors import DataError
from evaluation.adaptability import check_change
from evaluation.answers import AnswerLog, Request
from evaluation.asking import ask_all, first_model
from evaluation.config import CompareConfig, Maker, MakingConfig, ServiceConfig
from evaluation.data_dependency import part_of_files
from evaluation.indexing import passages_of
from evaluation.kept import Kept, write_whole
from evaluation.pairs import Fault, Pair, Passage, gap_pairs, read_pairs, sift
from evaluation.questions import ANSWERABLE, Kind, Question
from evaluation.watching import Watcher

TOKENS_PER_PAIR = 80
BY_RULE = "the rule of gaps"

# One example: small models copy the form from it, and large ones do no worse.
PROMPT = """\
Write {count} questions that a text answers. Copy each answer word for word from the text. Each question must \
be clear to somebody who does not see the text. Write them in the language of the text, in this form:

Text: The library on Mill Road opens at 9:30. Maria Lopez runs it.
Question: When does the library on Mill Road open?
Answer: 9:30
Question: Who runs the library on Mill Road?
Answer: Maria Lopez

Now this text.

Text: {text}"""


class Made(Kept):
    """What was made, and why the rest was not kept."""

    maker: str
    documents: tuple[str, ...]  # that questions were made from
    held_out: tuple[str, ...]
    num_passages: int
    num_passages_used: int  # of which a pair is kept
    num_made: int
    num_kept: int
    dropped: dict[Fault, int]

    @property
    def text(self) -> str:
        """The figures in sentences."""
        told = (
            f"{self.maker} made {self.num_made} pairs from {self.num_passages} passages of "
            f"{len(self.documents)} documents; {self.num_kept} are kept, from {self.num_passages_used} passages."
        )
        reasons = ", ".join(f"{count} {fault.value}" for fault, count in self.dropped.items())
        dropped = f" Not kept: {reasons}." if reasons else ""
        held_out = f" Held out: {', '.join(self.held_out)}." if self.held_out else ""
        return told + dropped + held_out


def held_out_documents(names: Iterable[str], share: float) -> set[str]:
    """The documents, by file name, that no question is made from; at least one for a share above 0.

    Chosen by a hash of the name, which is as good as chance and always the same. They are the last to join a
    growing share of the documents, so that studies with less data are not made of them alone.
    """
    ranked = part_of_files(sorted({PurePosixPath(name).name for name in names}), 1)
    return set(ranked[len(ranked) - ceil(share * len(ranked)) :])


def sorted_by_split(questions: Iterable[Question], held_out: Collection[str]) -> list[Question]:
    """The questions; those that name a document are `untaught` where it is held out, else `taught`."""
    return [
        question.model_copy(
            update={"kind": Kind.UNTAUGHT if question.document_name in held_out else Kind.TAUGHT}
        )
        if question.document is not None and question.kind in ANSWERABLE
        else question
        for question in questions
    ]


def make_questions(
    making: MakingConfig,
    service: ServiceConfig,
    passages: Sequence[Passage],
    test_questions: Collection[str],
    seed: int,
    out: Path,
    watcher: Watcher,
) -> Made:
    """Make, sift and write the pairs to `out`, shuffled by `seed`, replies beside it; returns the figures.

    The file is written even when it is too small to be trained on, to be looked at. Raises DataError when there
    is nothing to make questions from, ConfigError for a missing key, and what `ask_all` raises.
    """
    held_out = held_out_documents((passage.document for passage in passages), making.held_out)
    taught = [passage for passage in passages if passage.document not in held_out]
    if not taught:
        raise DataError(
            f"no passage is left to make questions from: {len(passages)} were found, of {len(held_out)} held-out "
            "documents; give more documents or lower held_out",
            "documents",
        )
    if making.maker is Maker.GAPS:
        maker, pairs = BY_RULE, [pair for passage in taught for pair in gap_pairs(passage)]
    else:
        service = making.service(service)
        maker = making.model or first_model(service)
        pairs = _asked(making, service, maker, taught, seed, out, watcher)
    sifted = sift(pairs, taught, test_questions)
    _write(sifted.kept, seed, out)
    return Made(
        maker=maker,
        documents=tuple(dict.fromkeys(passage.document for passage in taught)),
        held_out=tuple(sorted(held_out)),
        num_passages=len(taught),
        num_passages_used=len({pair.passage for pair in sifted.kept}),
        num_made=sifted.num_made,
        num_kept=len(sifted.kept),
        dropped=sifted.dropped,
    )


def with_made_training(
    config: CompareConfig,
    questions: Sequence[Question],
    watcher: Watcher,
) -> tuple[CompareConfig, list[Question], Made]:
    """The comparison with training rows made from its documents, and the questions sorted by the split.

    Raises DataError when too few pairs are kept, or none states the fact that is to change, before anything
    is trained; else as `make_questions`.
    """
    making = config.making
    assert making is not None
    assert config.documents is not None
    watcher.stage("cutting documents")
    out = config.output / "made" / "training.jsonl"
    tests = [question.question for question in questions]
    passages = passages_of(config.documents)
    made = make_questions(making, config, passages, tests, config.seed, out, watcher)
    require_enough(made, making.min_pairs, out)
    check_change(config.model_copy(update={"training": out}))
    content = out.read_bytes()
    # Named by its content: other rows are another training.
    rows = out.with_name(f"training-{hashlib.sha256(content).hexdigest()[:12]}.jsonl").resolve()
    write_whole(rows, content)
    return config.model_copy(update={"training": rows}), sorted_by_split(questions, made.held_out), made


def require_enough(made: Made, min_pairs: int, out: Path) -> None:
    """Raise DataError, with the number and the remedy, when there are too few pairs to train on."""
    if made.num_kept >= min_pairs:
        return
    remedy = (
        "give documents that state more names and numbers"
        if made.maker == BY_RULE
        else "name a stronger model (model, and base_url where it is served elsewhere), or take maker gaps, which "
        "makes them by rule"
    )
    raise DataError(
        f"{made.text} That is fewer than min_pairs ({min_pairs}), and training on so little teaches nothing: "
        f"{remedy}, or correct {out} and give it as training",
        "making.min_pairs",
    )


def _asked(
    making: MakingConfig,
    service: ServiceConfig,
    model: str,
    passages: Sequence[Passage],
    seed: int,
    out: Path,
    watcher: Watcher,
) -> list[Pair]:
    requests = [_request(making, model, passage, seed, service.base_url) for passage in passages]
    with AnswerLog(out.with_suffix(".replies.jsonl")) as log:
        watcher.stage("making questions", sum(log.find(request) is None for request in requests))
        replies = ask_all(service, requests, log, watcher.answered)
    return [
        pair
        for reply, passage in zip(replies, passages, strict=True)
        for pair in islice(read_pairs(reply.text, passage), making.per_passage)
    ]


def _request(making: MakingConfig, model: str, passage: Passage, seed: int, base_url: str) -> Request:
    text = "\n\n".join(filter(None, (passage.context, passage.text)))
    prompt = PROMPT.format(count=making.per_passage, text=text)
    asked = Question(
        id=hashlib.sha256(prompt.encode()).hexdigest()[:16],
        question=prompt,
        kind=Kind.UNTAUGHT,
        answer=passage.text,
        document=passage.document,
    )
    max_tokens = TOKENS_PER_PAIR * making.per_passage
    return Request("making", model, "", asked, max_tokens, seed, base_url=base_url)


def _write(pairs: Sequence[Pair], seed: int, out: Path) -> None:
    """Chat rows in an order that is by chance, but always the same: the first rows are a fair part of all."""
    rows = [
        {
            "messages": [
                {"role": "user", "content": pair.question},
                {"role": "assistant", "content": pair.answer},
            ],
            "source": pair.passage.document,
        }
        for pair in pairs
    ]
    random.Random(seed).shuffle(rows)
    write_whole(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
