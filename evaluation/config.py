"""What a comparison is: one frozen model, read from YAML, with `key=value` overrides."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cluster.errors import ConfigError

CellName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_+.-]{1,40}$")]


class Section(BaseModel):
    """Base of every part of the file: immutable, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Weights(Section):
    """How much each measured row counts in the overall verdict; scaled to a sum of 1.

    The default lets a right answer count four times as much as all savings together: a cell that
    answers at once, for nothing and wrongly must not win.
    """

    customization: float = Field(0.8, ge=0, description="Share of right answers.")
    computational_cost: float = Field(0.1, ge=0, description="Tokens read and written for each question.")
    inference_time: float = Field(0.1, ge=0, description="Milliseconds until the whole answer is there.")

    @model_validator(mode="after")
    def _something_counts(self) -> Self:
        if not sum(self.model_dump().values()):
            raise ValueError("weights are all 0; give at least one row a weight")
        return self

    @property
    def shares(self) -> dict[str, float]:
        """Row to weight, summing to 1."""
        given = self.model_dump()
        return {row: weight / sum(given.values()) for row, weight in given.items()}


class CompareConfig(Section):
    """A comparison: which questions, which cells, how they are asked and how they are judged."""

    name: str = Field("comparison", description="Title of the report.")
    questions: Path = Field(
        description="JSONL: id, question, answer, accept, kind, document; see examples/handbook/README.md."
    )
    training: Path | None = Field(
        None, description="JSONL that the tuned model was trained on; test questions found in it are refused."
    )
    base_url: str = Field("http://127.0.0.1:8000/v1", description="OpenAI-compatible endpoint.")
    cells: dict[CellName, str] = Field(
        min_length=1, description="Cell to model name as asked over HTTP, such as rag: smollm2+rag."
    )
    system_prompts: dict[CellName, str] = Field(
        {}, description="System message of a cell; a cell without one is asked the bare question."
    )
    concurrency: int = Field(4, ge=1, le=256, description="Questions in flight.")
    timeout_s: float = Field(120, gt=0, description="Longest wait for one attempt, in seconds.")
    max_retries: int = Field(6, ge=0, description="Further attempts after 429, 503 or a lost connection.")
    max_tokens: int = Field(48, ge=1, description="Answer length in tokens.")
    seed: int = Field(0, ge=0, description="Of the sampling of answers and of the bootstrap.")
    confidence: float = Field(
        0.95, gt=0.5, lt=1, description="Of intervals; 1 - confidence is the test level."
    )
    num_resamples: int = Field(5000, ge=200, description="Bootstrap and permutation samples.")
    numeric_tolerance: float = Field(0.0, ge=0, description="Relative error allowed in a numeric answer.")
    weights: Weights = Field(default_factory=Weights)
    output: Path = Field(description="Folder for answers.jsonl, results.json and report.html.")

    @model_validator(mode="after")
    def _prompts_have_cells(self) -> Self:
        if unknown := set(self.system_prompts) - set(self.cells):
            raise ValueError(f"system_prompts names {sorted(unknown)}, which are no cells")
        return self


def load_config(path: Path, overrides: list[str]) -> CompareConfig:
    """Read a YAML file and apply `dotted.key=value` overrides, whose values are YAML too.

    Raises ConfigError naming the key and the remedy.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(f"cannot read {path}: {exc.strerror}; give the path of a YAML file") from exc
    except (UnicodeDecodeError, yaml.YAMLError) as exc:
        raise ConfigError(f"{path} is not YAML in UTF-8: {exc}") from exc
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} must hold keys and values, such as `questions: test.jsonl`")
    for override in overrides:
        _apply_override(raw, override)
    try:
        return CompareConfig.model_validate(raw)
    except ValidationError as exc:
        faults = [(".".join(map(str, error["loc"])), error["msg"]) for error in exc.errors()]
        text = "; ".join(f"{key}: {message}" if key else message for key, message in faults)
        raise ConfigError(f"{path}: {text}", faults[0][0] or None) from exc


def _apply_override(raw: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"override {override!r} is not of the form key=value, such as concurrency=2")
    *parents, leaf = key.split(".")
    node = raw
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise ConfigError(f"override {override!r}: {parent} is a value, not a section", key)
    try:
        node[leaf] = yaml.safe_load(value)
    except yaml.YAMLError as exc:
        raise ConfigError(f"override {override!r} is not YAML: {exc}", key) from exc
