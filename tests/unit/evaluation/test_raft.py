"""Rows below passages: which passage states the answer, and what a model is shown."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ConfigError
from cluster.grounding import grounded_question
from evaluation.config import RAFT, TUNED, RaftConfig, load_config
from evaluation.raft import stating_passage, with_passages
from evaluation.tuning import TrainedModel, named

EXAMPLE = Path(__file__).parents[3] / "examples" / "compare-handbook.yaml"
STATING = "Lunch begins at 12:15."
HITS = ["Dinner is served late.", STATING, "The library is open."]


def chat(question: str = "When is lunch?") -> dict[str, Any]:
    turns = [("system", "Be brief."), ("user", question), ("assistant", "Lunch is at 12:15.")]
    return {"messages": [{"role": role, "content": text} for role, text in turns], "source": "canteen.md"}


def asked(row: dict[str, Any]) -> str:
    text: str = row["messages"][1]["content"]
    return text


@pytest.mark.parametrize(
    ("passages", "index"),
    [
        (HITS, 1),
        (["Lunch is here.", "12:15 it is.", "At 12:15 the bell rings."], 2),
        (["12:15!", "Noon is 12:15."], 0),  # the better ranked of two that state it alike
        (["When is lunch?", "Nobody knows."], None),  # the words of the question prove nothing
        ([], None),
    ],
)
def test_the_passage_that_states_the_answer_is_known_by_its_new_words(
    passages: list[str], index: int | None
) -> None:
    assert stating_passage("When is lunch?", "Lunch is at 12:15.", passages) == index


def test_a_row_is_asked_as_it_will_be_served_and_keeps_all_else() -> None:
    row = with_passages(chat(), HITS, RaftConfig(passages=1, distractors_only=0), seed=0)
    assert asked(row) == grounded_question("When is lunch?", [STATING])
    assert row["messages"][0] == chat()["messages"][0]
    assert row["messages"][2] == chat()["messages"][2]
    assert row["source"] == "canteen.md"


def test_passages_stand_in_the_order_of_rank_and_are_one_to_as_many_as_asked_for() -> None:
    config = RaftConfig(passages=3, distractors_only=0)
    texts = {asked(with_passages(chat(f"When is lunch {n}?"), HITS, config, seed=0)) for n in range(60)}
    shown = Counter(tuple(number for number, hit in enumerate(HITS) if hit in text) for text in texts)
    assert set(shown) == {(1,), (0, 1), (0, 1, 2)}


def test_a_share_of_the_rows_lacks_the_passage_that_states_the_answer() -> None:
    config = RaftConfig(passages=2, distractors_only=0.25)
    texts = [asked(with_passages(chat(f"When is lunch {n}?"), HITS, config, seed=0)) for n in range(400)]
    assert 0.2 < sum(STATING not in text for text in texts) / 400 < 0.3
    assert all("[1]" in text for text in texts), "there is always something to read"


def test_the_same_row_gets_the_same_passages_and_another_seed_others() -> None:
    config = RaftConfig(passages=3, distractors_only=0.5)

    def rows(seed: int) -> list[str]:
        return [asked(with_passages(chat(f"When is lunch {n}?"), HITS, config, seed)) for n in range(20)]

    assert rows(0) == rows(0)
    assert rows(0) != rows(1)


def test_a_question_on_which_nothing_is_found_stays_as_it_is() -> None:
    assert with_passages(chat(), [], RaftConfig(), seed=0) == chat()


def test_a_cell_is_asked_of_the_model_that_its_name_stands_for() -> None:
    trained = [
        TrainedModel(
            variant="seed 1",
            placeholder=placeholder,
            seed=1,
            model=f"ft:{placeholder[1:-1]}",
            seconds=1,
            trained_tokens=1,
            validation_loss=None,
        )
        for placeholder in (TUNED, RAFT)
    ]
    assert named("{raft}+rag", trained) == [("seed 1", "ft:raft+rag")]
    assert named("{tuned}", trained) == [("seed 1", "ft:tuned")]
    assert named("smollm2+rag", trained) == [("", "smollm2+rag")]


def test_a_comparison_without_documents_cannot_train_on_passages() -> None:
    without = ["documents=null", "data_dependency=null", "adaptability=null"]
    assert load_config(EXAMPLE, without).placeholders == (TUNED,)
    assert load_config(EXAMPLE, ["cells.raft='{raft}+rag'"]).placeholders == (TUNED, RAFT)
    with pytest.raises(ConfigError, match="reads passages of the documents"):
        load_config(EXAMPLE, [*without, "cells.raft='{raft}+rag'"])
