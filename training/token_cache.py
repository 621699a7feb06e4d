"""Tokenised data sets on disk, by all that they follow from.

A second run of the same rows tokenises nothing, nor does one that goes on, or that follows its plan.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from cluster.settings import settings
from cluster.storage import appearing_whole, keep_last_used
from training.config import FinetuneConfig, TaskName
from training.examples import Dataset
from training.sources import Census

# Data sets that are kept, the last used ones.
NUM_KEPT = 8
# What of a model's folder tokens follow from: tokenizer, template, prompts; its weights are none of them.
TOKENIZER_SUFFIXES = (".json", ".jinja", ".model", ".txt")


def remembered(config: FinetuneConfig, base: Path, census: Census, make: Callable[[], Dataset]) -> Dataset:
    """The data set of these rows from the cache, where it is kept once it is made. `base` is the model's folder."""
    folder = settings().cache_dir / "tokens" / _key(config, base, census)
    if folder.exists():
        os.utime(folder)
    else:
        with appearing_whole(folder) as draft:
            make().save(draft)
        keep_last_used(folder.parent, NUM_KEPT)  # a run that has mapped others still has them
    return Dataset.load(folder)


def form_of_tokens(config: FinetuneConfig) -> str:
    """What of a config, beside rows and model, its tokens follow from."""
    data = config.data
    seed = config.seed if config.task is TaskName.MLM else None  # it chooses the masked tokens
    columns = (data.text_columns, data.label_column)
    return repr((config.task, config.max_length_tokens, config.packing, config.class_weight, columns, seed))


def _key(config: FinetuneConfig, base: Path, census: Census) -> str:
    digest = hashlib.sha256(repr((form_of_tokens(config), census)).encode())
    # The code itself counts: a mended template or mask must not meet tokens from before.
    for file in (*_files(base, TOKENIZER_SUFFIXES), *_files(Path(__file__).parent, (".py",))):
        digest.update(f"{file.name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}".encode())
    digest.update("".join(map(version, ("tokenizers", "transformers"))).encode())
    return digest.hexdigest()[:32]


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix in suffixes)
