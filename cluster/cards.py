"""The ModelCard: the one thing in which training and serving meet.

A card is JSON in the registry. It says what a model is, where its weights lie, how prompts are
rendered for it, and whether the exported artefact was proven equal to what training measured.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


class ModelKind(StrEnum):
    """What a model is served as."""

    GENERATOR = "generator"
    CLASSIFIER = "classifier"
    EMBEDDER = "embedder"
    BASE = "base"  # not served: a start for further fine-tuning


class Parity(BaseModel):
    """Proof that the exported artefact, loaded afresh, does what training measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    passed: bool
    max_metric_difference: float = Field(description="|validation loss after reload - in training|.")
    num_prompts: int = Field(0, description="Prompts whose token ids were compared (generators).")
    detail: str = Field("", description="Why it failed, in one sentence.")


class ModelCard(BaseModel):
    """One registered model. Immutable: a new training run makes a new card."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(description="ft:<base>:<org>:<suffix>:<id>, unique for ever.")
    kind: ModelKind
    base_model: str = Field(description="Model reference the training started from.")
    base_revision: str | None = Field(None, description="Commit of the base on its hub, when it has one.")
    weights_uri: str = Field(description="Folder (path or fsspec URI) of safetensors, tokenizer and config.")
    is_adapter: bool = Field(False, description="The folder holds a LoRA adapter to load onto `base_model`.")
    lora_rank: int | None = None
    chat_template: str | None = Field(None, description="Jinja template that training rendered prompts with.")
    chat_template_sha256: str | None = None
    labels: tuple[str, ...] = Field((), description="Class names by class index (classifiers).")
    is_pair: bool = Field(False, description="The classifier takes two texts (classifiers).")
    max_length_tokens: int = Field(gt=0, description="Longest sequence the model was trained for.")
    config_sha256: str
    data_sha256: str
    code_version: str
    metrics: dict[str, float] = Field(default_factory=dict, description="Final validation metrics.")
    trained_tokens: int = Field(0, ge=0, description="Tokens that carried loss, over all epochs.")
    parity: Parity
    file_sha256: dict[str, str] = Field(default_factory=dict, description="SHA-256 of each exported file.")
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))


def slug(reference: str) -> str:
    """A model reference as one name part: `builtin:smollm2` -> `smollm2`, `org/Name-1B` -> `name-1b`.

    >>> slug("HuggingFaceTB/SmolLM2-135M")
    'smollm2-135m'
    """
    last = reference.rstrip("/").replace(":", "/").rsplit("/", 1)[-1]
    return re.sub(r"[^a-z0-9.]+", "-", last.lower()).strip("-.") or "model"


def new_model_id(base: str, organization: str, suffix: str) -> str:
    """A fresh id in OpenAI's form, `ft:<base>:<org>:<suffix>:<id>`."""
    return f"ft:{slug(base)}:{organization}:{suffix}:{secrets.token_hex(4)}"


def folder_sha256(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below `folder`, keyed by its relative path."""
    digests = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb") as file:
            digests[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests
