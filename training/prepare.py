"""Everything known before a worker starts: rows, tokens and the tokenizer. Imports neither Ray nor torch."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cluster.errors import DataError
from cluster.references import pinned_reference, resolve_model
from training.classification import balanced_weights, prepare_classification
from training.config import FinetuneConfig, TaskName
from training.examples import Dataset
from training.mlm import prepare_mlm
from training.packing import packed
from training.pairs import prepare_pairs
from training.preferences import prepare_preferences
from training.sentence_files import sentence_form
from training.sft import prepare_sft
from training.sources import Rows, load_rows
from training.tables import Tables, read_tables, refuse_what_has_no_row
from training.token_cache import remembered
from training.tokenizer import load_tokenizer


@dataclass(frozen=True)
class Prepared:
    """The rows of a run, what its task made of them, and the base model's tokenizer and commit on its hub."""

    rows: Rows
    dataset: Dataset
    tokenizer: Any
    base_revision: str | None = None


def pinned(config: FinetuneConfig) -> FinetuneConfig:
    """The config of a run that begins now: an alias as its model, which may be moved, is the id that it names."""
    return config.model_copy(update={"model": pinned_reference(config.model)})


def prepare(config: FinetuneConfig) -> Prepared:
    """Fetch the base model's tokenizer and the data, and tokenise; every input error is raised here."""
    base = resolve_model(config.model)
    tables = read_tables(base)
    tokenizer = load_tokenizer(base, config.model)
    is_labelled = config.task is TaskName.CLASSIFICATION
    rows = load_rows(config.data, config.data.label_column if is_labelled else None)
    dataset = remembered(config, base, rows.census, lambda: _tokenise(config, base, tables, tokenizer, rows))
    # As the hub's cache names its folders: models--org--name/snapshots/<commit>.
    revision = base.name if base.parent.name == "snapshots" else None
    return Prepared(rows, dataset, tokenizer, revision)


def _tokenise(config: FinetuneConfig, base: Path, tables: Tables, tokenizer: Any, rows: Rows) -> Dataset:
    dataset = _examples(config, base, tokenizer, rows)
    refuse_what_has_no_row(tables, config, dataset, len(tokenizer))
    counted_anew = replace(rows).census
    if counted_anew != rows.census:  # tokens would be kept under the digest of other rows
        raise DataError(
            "the rows changed while they were read; run it again once the file is at rest", "data"
        )
    return packed(dataset, config.max_length_tokens) if config.packing else dataset


def _examples(config: FinetuneConfig, base: Path, tokenizer: Any, rows: Rows) -> Dataset:
    if config.task is TaskName.CLASSIFICATION:
        dataset = prepare_classification(rows, config.data, tokenizer, config.max_length_tokens)
        if config.class_weight is not None:
            counts = Counter(example.labels[0] for example in dataset.train)
            num_rows = {name: counts[index] for index, name in enumerate(dataset.labels)}
            dataset = replace(dataset, class_weights=balanced_weights(num_rows))
        return dataset
    if config.task is TaskName.MLM:
        return prepare_mlm(rows, tokenizer, config.max_length_tokens, config.seed)
    if config.task is TaskName.EMBEDDING:
        return prepare_pairs(rows, tokenizer, config.max_length_tokens, sentence_form(base))
    if config.task is TaskName.DPO:
        return prepare_preferences(rows, tokenizer, config.max_length_tokens)
    return prepare_sft(rows, tokenizer, config.max_length_tokens)
