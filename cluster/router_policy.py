"""The calibrated policy of `auto`: written by an evaluation, read by every router replica.

One JSON object in storage, replaced as a whole. Without it, the router goes by its own configuration.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cluster.blobs import delete_blob, place_bytes, read_blob
from cluster.errors import Unavailable
from cluster.storage import storage_uri

# What a chat request names as its model: the router decides, or this model with passages of the documents.
AUTO = "auto"
RAG_SUFFIX = "+rag"
# Until an evaluation has calibrated it, and where that had no small talk to calibrate with.
DEFAULT_SCORE_THRESHOLD = 0.34

AnswerRoute = Literal["plain", "tuned", "rag", "tuned+rag"]
# From the cheapest: passages cost more prompt tokens than a tuned model costs anything.
ANSWER_ROUTES: tuple[AnswerRoute, ...] = get_args(AnswerRoute)


class RouterPolicy(BaseModel):
    """How `auto` answers what the documents cover, and from which similarity on they do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    grounded_route: AnswerRoute
    score_threshold: float = Field(ge=-1, le=1, description="Least cosine similarity of the best hit.")
    tuned_model: str | None = Field(None, description="Card id for the tuned routes.")
    route_model: str | None = Field(
        None, description="Card id of the classifier of routes that decides in place of the threshold."
    )
    report: str = Field("", description="Id of the report that it rests on.")
    made_at: datetime = Field(default_factory=lambda: datetime.now(UTC))


def policy_uri() -> str:
    return storage_uri("policies", "auto.json")


def read_policy() -> RouterPolicy | None:
    """The policy in force, or None. Raises Unavailable when it cannot be read."""
    content = read_blob(policy_uri())
    if content is None:
        return None
    try:
        return RouterPolicy.model_validate_json(content)
    except ValidationError as exc:
        raise Unavailable(f"{policy_uri()} is no router policy; promote an evaluation again") from exc


def write_policy(policy: RouterPolicy) -> RouterPolicy | None:
    """Put a policy in force; returns the one before, for going back to it, or None where that cannot be read."""
    try:
        before = read_policy()
    except Unavailable:
        before = None  # a broken one is replaced; where storage is away, the write says so
    place_bytes(policy.model_dump_json(indent=2).encode(), policy_uri())
    return before


def remove_policy() -> None:
    """Let the router go by its configuration again."""
    delete_blob(policy_uri())
