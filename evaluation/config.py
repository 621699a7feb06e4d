"""What a comparison is: one frozen model, read from YAML, with `key=value` overrides."""

from __future__ import annotations

import os
import re
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from cluster.errors import ConfigError
from cluster.router_policy import RAG_SUFFIX
from cluster.storage import expanded, local_copy
from cluster.yaml_config import Endpoint, Section, load_yaml_config
from evaluation.indexing import documents_digest
from evaluation.questions import Text


def _on_this_machine(location: object) -> object:
    """A file that is given as an fsspec URI is fetched; others are left for pydantic to read."""
    return local_copy(location) if isinstance(location, str) else location


Location = Annotated[Path, BeforeValidator(_on_this_machine)]
LocalPath = Annotated[Path, AfterValidator(expanded)]
CellName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_+.-]{1,40}$")]
Share = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]

# In a cell's model name: a model that this comparison trains.
TUNED = "{tuned}"  # on the rows as they are
RAFT = "{raft}"  # on the same rows below passages, so that it learns to read
PLACEHOLDERS = (TUNED, RAFT)


class Maker(StrEnum):
    """Who makes training questions from documents."""

    MODEL = "model"
    GAPS = "gaps"


class Weights(Section):
    """How much each of the six rows counts in the overall verdict; scaled to a sum of 1.

    The default lets a right answer count four times as much as all else together: a cell that answers at
    once, for nothing and wrongly must not win. A row that was not measured is left out.
    """

    customization: float = Field(0.8, ge=0, description="Right answers, and the form asked for.")
    data_dependency: float = Field(0.04, ge=0, description="Right answers with little data.")
    computational_cost: float = Field(0.04, ge=0, description="Money for a query, training included.")
    adaptability: float = Field(0.04, ge=0, description="Time until a changed fact is answered rightly.")
    inference_time: float = Field(0.04, ge=0, description="Time until the whole answer is there.")
    scalability: float = Field(0.04, ge=0, description="Answers for each second under load.")

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


class TuningConfig(Section):
    """The training runs behind the cells that name `{tuned}`, one for each seed."""

    config: LocalPath = Field(description="YAML file for `python -m training run`.")
    seeds: tuple[int, ...] = Field((1, 2, 3), min_length=1, description="One training run for each.")
    overrides: tuple[str, ...] = Field((), description="key=value for every run, such as epochs=3.")

    def overrides_key(self, key: str) -> bool:
        return any(override.startswith(f"{key}=") for override in self.overrides)

    @model_validator(mode="after")
    def _seeds_differ(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {list(self.seeds)} repeat one; the same run twice measures nothing")
        return self


class RaftConfig(Section):
    """The rows behind the cells that name `{raft}`: each question below what the collection has on it."""

    passages: int = Field(2, ge=1, le=20, description="Most passages above a question; it gets 1 to so many.")
    distractors_only: float = Field(
        0.2, ge=0, lt=1, description="Share of the rows without the passage that states the answer."
    )
    overrides: tuple[str, ...] = Field(
        (), description="key=value for these runs beside those of tuning, such as max_length_tokens=1024."
    )


class FormConfig(Section):
    """The form that an answer should have, beside being right."""

    pattern: str = Field(description="Regular expression that the whole answer must match.")
    description: str = Field("the required form", description="The same in words, for the report.")
    weight: float = Field(0.2, ge=0, lt=1, description="Part of customization that the form makes up.")

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as exc:
            raise ValueError(
                f"form.pattern is no regular expression: {exc}; write \\ before a character that stands for itself"
            ) from exc
        return pattern


class CostConfig(Section):
    """What the machine costs: prices that only the user knows, so all of them are assumptions of the report."""

    price_per_hour: float = Field(0.10, ge=0, description="Of the machine that trains and serves.")
    currency: str = Field("USD", min_length=1, max_length=8)
    watts: float = Field(60, ge=0, description="Drawn by that machine under load; times seconds is energy.")
    queries: int = Field(100_000, ge=1, description="Queries over which the training is paid off.")


class DataDependencyConfig(Section):
    """Quality against a part of the training rows and of the documents."""

    shares: tuple[Share, ...] = Field(
        (0.125, 0.25, 0.5), min_length=1, description="Parts; all of it is measured anyway."
    )
    per_kind: int = Field(24, ge=1, description="Answerable questions of each kind that are asked.")


class AdaptabilityConfig(Section):
    """A fact that changes in a copy of the documents, and in the training rows that teach it."""

    document: str = Field(description="File below `documents` that states the fact.")
    find: str = Field(
        min_length=1, description="Text that is replaced, in that document and in training rows."
    )
    replace: str = Field(description="What it becomes.")
    question: str = Field(min_length=1)
    old: tuple[Text, ...] = Field(min_length=1, description="Answers that are right before.")
    new: tuple[Text, ...] = Field(min_length=1, description="Answers that are right after.")
    retrain: bool = Field(True, description="Train again too; false leaves the tuned cells without a time.")

    @model_validator(mode="after")
    def _something_changes(self) -> Self:
        if self.find == self.replace:
            raise ValueError(f"find and replace are both {self.find!r}; nothing would change")
        return self


class ScalabilityConfig(Section):
    """Throughput against requests at once, and search time against the size of the index."""

    at_once: tuple[Count, ...] = Field((1, 2, 4, 8), min_length=1, description="Requests in flight.")
    rounds: int = Field(2, ge=1, description="Answers at each level, in multiples of it.")
    index_chunks: tuple[Count, ...] = Field((), description="Sizes of made-up collections that are searched.")


class ServiceConfig(Section):
    """An OpenAI-compatible endpoint, and how it is asked."""

    base_url: Endpoint = Field("http://127.0.0.1:8000/v1", description="OpenAI-compatible endpoint.")
    api_key_env: str = Field(
        "OPENAI_API_KEY", description="Name of the environment variable with its key, where it asks for one."
    )
    ready_timeout_s: float = Field(300, ge=0, description="Longest wait for the service to become ready.")
    concurrency: int = Field(4, ge=1, le=256, description="Questions in flight.")
    timeout_s: float = Field(120, gt=0, description="Longest wait for one attempt, in seconds.")
    max_retries: int = Field(6, ge=0, description="Further attempts after 429, 503 or a lost connection.")


class OtherModel(Section):
    """A model that helps and is not compared: at the comparison's own service, or at an endpoint elsewhere."""

    base_url: Endpoint | None = Field(
        None, description="OpenAI-compatible endpoint of this model; the comparison's by default."
    )
    api_key_env: str | None = Field(
        None, description="Name of the environment variable with the key of that endpoint."
    )

    @model_validator(mode="after")
    def _key_has_an_endpoint(self) -> Self:
        if self.api_key_env is not None and self.base_url is None:
            raise ValueError("api_key_env names the key of base_url; give base_url too")
        return self

    def service(self, own: ServiceConfig) -> ServiceConfig:
        """Where it is asked. An endpoint elsewhere never sees the key of our service.

        Raises ConfigError when its key is not set.
        """
        if self.base_url is None:
            return own
        if self.api_key_env is not None and self.api_key_env not in os.environ:
            raise ConfigError(
                f"{self.api_key_env} is not set; export the key of {self.base_url}", "api_key_env"
            )
        return own.model_copy(update={"base_url": self.base_url, "api_key_env": self.api_key_env or ""})


class MakingConfig(OtherModel):
    """Training questions made from `documents`, where there are no training rows.

    Documents are split before any question is made: none is made from those that are held out.
    """

    maker: Maker = Field(Maker.MODEL, description="Who makes them: a model, or a rule without one.")
    model: str | None = Field(
        None, description="Model that is asked; by default the first that the service lists, its base."
    )
    per_passage: int = Field(3, ge=1, le=20, description="Questions asked for from each passage.")
    held_out: float = Field(0.25, ge=0, lt=1, description="Share of the documents that is held out.")
    min_pairs: int = Field(24, ge=1, description="Fewer than these are not trained on.")


class JudgeConfig(OtherModel):
    """A language model that is asked whether each answer is right. It decides nothing; its agreement is told."""

    model: str = Field(description="Model that is asked; stronger than those it judges.")


class CompareConfig(ServiceConfig):
    """A comparison: which questions, which cells, how they are asked and how they are judged."""

    name: str = Field("comparison", description="Title of the report.")
    questions: Location = Field(
        description="JSONL: id, question, answer, accept, kind, document; see examples/handbook/README.md."
    )
    training: Location | None = Field(
        None,
        description="JSONL that {tuned} and {raft} are trained on, in place of the rows that tuning.config names; "
        "test questions found in it are refused.",
    )
    documents: LocalPath | None = Field(None, description="Folder that is ingested before anything is asked.")
    collection: str | None = Field(
        None, pattern=r"^[a-z0-9][a-z0-9_-]{0,40}$", description="Collection that retrieval searches."
    )
    making: MakingConfig | None = Field(
        None, description="Make the training rows from documents, in place of `training`."
    )
    cells: dict[CellName, str] = Field(
        min_length=1,
        description="Cell to model name as asked over HTTP: rag: smollm2+rag, tuned: '{tuned}', raft: '{raft}+rag'.",
    )
    tuning: TuningConfig | None = Field(
        None, description="Training runs, for cells that name {tuned} or {raft}."
    )
    raft: RaftConfig = RaftConfig()
    system_prompts: dict[CellName, str] = Field(
        {}, description="System message of a cell; a cell without one is asked the bare question."
    )
    form: FormConfig | None = None
    forgetting: bool = Field(True, description="Ask cells that do not retrieve a fixed general set too.")
    cost: CostConfig = CostConfig()
    data_dependency: DataDependencyConfig | None = None
    adaptability: AdaptabilityConfig | None = None
    scalability: ScalabilityConfig | None = None
    judge: JudgeConfig | None = None
    limit_per_kind: int | None = Field(None, ge=1, description="Only so many questions of each kind.")
    max_tokens: int = Field(48, ge=1, description="Answer length in tokens.")
    seed: int = Field(0, ge=0, description="Of the sampling of answers and of the bootstrap.")
    confidence: float = Field(
        0.95, gt=0.5, lt=1, description="Of intervals; 1 - confidence is the test level."
    )
    num_resamples: int = Field(
        5000,
        ge=200,
        description="Bootstrap and permutation samples; permutations are more where many pairs of cells need them.",
    )
    numeric_tolerance: float = Field(0.0, ge=0, description="Relative error allowed in a numeric answer.")
    weights: Weights = Weights()
    output: LocalPath = Field(description="Folder for answers.jsonl, results.json and report.html.")

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        if unknown := set(self.system_prompts) - set(self.cells):
            raise ValueError(f"system_prompts names {sorted(unknown)}, which are no cells")
        if self.tuned_cells and self.tuning is None:
            raise ValueError(
                f"cells {list(self.tuned_cells)} name a model to be trained; give tuning.config, or a model"
            )
        needed = {
            "documents": ("collection",),
            "making": ("tuning", "documents"),
            "data_dependency": ("tuning", "documents"),
            "adaptability": ("documents",),
        }
        for part, others in needed.items():
            for other in others:
                if getattr(self, part) is not None and getattr(self, other) is None:
                    raise ValueError(f"{part} needs {other} too")
        for key in ("questions", "output"):
            place, documents = getattr(self, key), self.documents
            if documents is not None and place.resolve().is_relative_to(documents.resolve()):
                raise ValueError(
                    f"{key} {place} lies in documents {documents}: the answers would be ingested, and found; put it "
                    "elsewhere"
                )
        if self.training is not None and self.making is not None:
            raise ValueError("training and making both give the training rows; leave one of them out")
        if unmeasured := self._weights_without_rows():
            raise ValueError(
                f"weights count only {unmeasured}, of which none is measured here; give that study too, or a weight to "
                "customization"
            )
        has_rows = self.training is not None or self.making is not None
        if has_rows and self.tuning is not None and self.tuning.overrides_key("data.path"):
            raise ValueError("tuning.overrides names data.path; give those rows as training, and only there")
        if RAFT in self.placeholders and not (has_rows and self.documents is not None):
            raise ValueError(
                f"cells name {RAFT}, which reads passages of the documents above the rows of training; give "
                "documents and training too, or making"
            )
        if self.data_dependency is not None and not has_rows:
            raise ValueError("data_dependency needs training too, or making")
        retrains = self.adaptability is not None and self.adaptability.retrain and bool(self.tuned_cells)
        if retrains and not has_rows:
            raise ValueError("adaptability.retrain needs training, the rows in which the fact is changed")
        return self

    def _weights_without_rows(self) -> list[str]:
        """The rows with a weight, where all of them are studies that are not asked for."""
        weighed = [row for row, share in self.weights.shares.items() if share]
        return weighed if all(hasattr(self, row) and getattr(self, row) is None for row in weighed) else []

    @cached_property
    def documents_digest(self) -> str:
        """Of all documents, read once: answers, training rows and studies of a comparison are of the same ones."""
        return documents_digest(self.documents)

    @property
    def tuned_cells(self) -> dict[str, str]:
        """The cells that are answered by a model trained here."""
        return {cell: model for cell, model in self.cells.items() if placeholder_in(model) is not None}

    @property
    def placeholders(self) -> tuple[str, ...]:
        """What is trained here, each once however many cells name it."""
        named = {placeholder_in(model) for model in self.cells.values()}
        return tuple(placeholder for placeholder in PLACEHOLDERS if placeholder in named)


def placeholder_in(model: str) -> str | None:
    """The trained model that a cell's model name stands for; None for one that was there before."""
    return next((placeholder for placeholder in PLACEHOLDERS if placeholder in model), None)


def retrieves(model: str) -> bool:
    """Whether a model name asks for retrieval by name."""
    return model.endswith(RAG_SUFFIX)


def quick_form(config: CompareConfig) -> CompareConfig:
    """The same comparison in a fraction of the time: one training, fewer questions, more of them in flight.

    12 questions of a kind are kept, since on fewer hardly any two cells can be told apart after the correction for
    all pairs. What is left out stands in the report as not measured.
    """
    changes: dict[str, Any] = {
        "limit_per_kind": min(config.limit_per_kind or 12, 12),
        "data_dependency": None,
        "concurrency": max(config.concurrency, 16),
        "output": Path(f"{config.output}-quick"),
    }
    if config.tuning is not None:
        changes["tuning"] = config.tuning.model_copy(update={"seeds": config.tuning.seeds[:1]})
    if config.adaptability is not None:
        changes["adaptability"] = config.adaptability.model_copy(update={"retrain": False})
    if config.scalability is not None:
        levels = config.scalability.at_once
        small = {"index_chunks": (), "at_once": tuple(dict.fromkeys((levels[0], levels[-1]))), "rounds": 1}
        changes["scalability"] = config.scalability.model_copy(update=small)
    return config.model_copy(update=changes)


def load_config(path: Path, overrides: list[str]) -> CompareConfig:
    """Read a YAML file and apply `dotted.key=value` overrides.

    Raises ConfigError naming the key and the remedy.
    """
    return load_yaml_config(CompareConfig, path, overrides)
