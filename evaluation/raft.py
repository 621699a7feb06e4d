"""Training rows for a model that learns to read: each question below passages, worded as it will be served.

Source: RAFT, Zhang et al. 2024, arXiv:2403.10131: the passage that states the answer stands among others that do
not, and in a share of the rows it is missing. A model that is tuned on bare questions learns to pay passages no heed.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.errors import DataError
from cluster.grounding import grounded_question
from cluster.json_lines import read_rows
from evaluation.asking import search_all
from evaluation.config import CompareConfig, RaftConfig
from evaluation.kept import write_whole
from evaluation.metrics import normalise

# Beside those that are shown: what may stand in for the passage that states the answer.
SPARE_HITS = 2


def write_rows_with_passages(config: CompareConfig, rows: Path, collection: str) -> Path:
    """The rows with passages of the collection, in a file named by what went into it; written once.

    Raises DataError for a row that is no chat, and what `search_all` raises.
    """
    made_of = repr((rows.read_bytes(), collection, config.documents_digest, config.raft, config.seed))
    name = f"rows-{hashlib.sha256(made_of.encode()).hexdigest()[:12]}.jsonl"
    path = (config.output / "raft" / name).resolve()
    if not path.exists():
        chats = [_chat(row, rows, number) for number, row in read_rows(rows)]
        hits = search_all(
            config, collection, [_question(chat) for chat in chats], config.raft.passages + SPARE_HITS
        )
        shown = [
            json.dumps(with_passages(chat, found, config.raft, config.seed), ensure_ascii=False) + "\n"
            for chat, found in zip(chats, hits, strict=True)
        ]
        write_whole(path, "".join(shown).encode())
    return path


def with_passages(chat: dict[str, Any], hits: Sequence[str], config: RaftConfig, seed: int) -> dict[str, Any]:
    """A copy of a chat row whose last question stands below 1 to `passages` of the hits, in the order of rank."""
    at, question = _last_question(chat), _question(chat)
    chance = random.Random(f"{seed} {question}")
    count = chance.randint(1, config.passages)
    stating = stating_passage(question, chat["messages"][-1]["content"], hits)
    others = [number for number in range(len(hits)) if number != stating]
    if stating is None or chance.random() < config.distractors_only:
        chosen = others[:count]
    else:
        chosen = sorted([stating, *others[: count - 1]])
    content = grounded_question(question, [hits[number] for number in chosen])
    messages = [*chat["messages"]]
    messages[at] = {**messages[at], "content": content}
    return {**chat, "messages": messages}


def stating_passage(question: str, answer: str, passages: Sequence[str]) -> int | None:
    """Index of the passage with the most words of the answer that the question lacks; the better ranked of two.

    None when no passage has any: none of them states it.

    ("When is lunch?", "Lunch is at 12:15.", ["Dinner is late.", "Lunch begins at 12:15."]) -> 1
    """
    told = set(normalise(answer).split()) - set(normalise(question).split())
    shared = [len(told & set(normalise(passage).split())) for passage in passages]
    best = max(shared, default=0)
    return shared.index(best) if best else None


def _chat(row: dict[str, Any], rows: Path, number: int) -> dict[str, Any]:
    messages = row.get("messages")
    is_chat = (
        isinstance(messages, list)
        and len(messages) >= 2
        and all(isinstance(message, dict) and isinstance(message.get("content"), str) for message in messages)
        and messages[-1].get("role") == "assistant"
        and any(message.get("role") == "user" for message in messages)
    )
    if not is_chat:
        raise DataError(
            f"{rows} line {number} cannot be put below passages: it needs messages with text, of which one is the "
            "user's and the last the assistant's",
            "training",
        )
    return row


def _last_question(chat: dict[str, Any]) -> int:
    return max(number for number, message in enumerate(chat["messages"]) if message["role"] == "user")


def _question(chat: dict[str, Any]) -> str:
    question: str = chat["messages"][_last_question(chat)]["content"]
    return question
