"""The tables of a base model: how many token ids and positions it has a row for. Reads headers, not weights.

An index past a table ends a run in the model, on a GPU in an assertion of the device that names no row.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from cluster.errors import InvalidInput
from training.config import FinetuneConfig
from training.examples import Dataset

# Names under which models keep learned positions. Rotary and relative ones have no table, and no end.
POSITION_TABLES = ("position_embeddings.weight", "wpe.weight", "embed_positions.weight")
# Models that count positions from behind the padding token's id.
COUNT_FROM_PADDING = (
    "camembert",
    "data2vec-text",
    "ibert",
    "longformer",
    "luke",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
)


@dataclass(frozen=True)
class Tables:
    """Rows that a model has. None where it has no such table."""

    token_ids: int | None
    positions: int | None


def read_tables(folder: Path) -> Tables:
    """The tables of the model in `folder`. Raises InvalidInput when it has no config, or weights that are damaged."""
    if not (folder / "config.json").is_file():
        raise InvalidInput(
            f"{folder} has no config.json; save the model's config beside its weights", "model"
        )
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = config.get("text_config", config)
    shapes = weight_shapes(folder)
    positions = next((shape[0] for name, shape in shapes.items() if name.endswith(POSITION_TABLES)), None)
    if positions is not None:
        # OPT's and BART's tables have two rows more than they use.
        positions = min(positions, config.get("max_position_embeddings") or positions)
        if config.get("model_type") in COUNT_FROM_PADDING:
            positions -= config.get("pad_token_id", 1) + 1
    return Tables(config.get("vocab_size"), positions)


def refuse_what_has_no_row(
    tables: Tables, config: FinetuneConfig, dataset: Dataset, num_token_ids: int
) -> None:
    """Raises InvalidInput for a tokenizer of more ids, or a text of more tokens, than the tables have rows for.

    `dataset` is not packed yet: packed rows begin at position 0 each.
    """
    if tables.token_ids is not None and num_token_ids > tables.token_ids:
        raise InvalidInput(
            f"the tokenizer of {config.model} has {num_token_ids} token ids, and its weights have rows for "
            f"{tables.token_ids}; save the tokenizer that belongs to the weights beside them",
            "model",
        )
    if tables.positions is None or config.max_length_tokens <= tables.positions:
        return
    longest = longest_text(dataset, config)
    if longest > tables.positions:
        raise InvalidInput(
            f"a row has {longest} tokens, and {config.model} has {tables.positions} positions; set "
            f"max_length_tokens={tables.positions}",
            "max_length_tokens",
        )


def longest_text(dataset: Dataset, config: FinetuneConfig) -> int:
    """Tokens of the longest sequence that the model sees: a whole row, or one of the several that a row holds."""
    sides = (dataset.train, dataset.validation)
    if not config.task.holds_several_texts:
        return max(max(side.lengths, default=0) for side in sides)
    return max(max(Counter(row.segment_ids).values()) for side in sides for row in side)


def weight_shapes(folder: Path) -> dict[str, list[int]]:
    """The shape of each weight of the model in `folder`, by its name. Raises InvalidInput when one file is damaged."""
    shapes: dict[str, list[int]] = {}
    try:
        for file in _weight_files(folder):
            with safe_open(file, framework="numpy") as weights:
                shapes |= {name: weights.get_slice(name).get_shape() for name in weights.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, FileNotFoundError) as exc:  # of several files one may not have arrived
        raise InvalidInput(
            f"the weights in {folder} cannot be read: {exc}; fetch or export them again", "model"
        ) from exc
    return shapes


def _weight_files(folder: Path) -> list[Path]:
    """What transformers loads; a repository may hold the same weights in another form (consolidated.safetensors)."""
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file():
        return [whole]
    if index.is_file():
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return [folder / name for name in sorted(names)]
    return sorted(folder.glob("*.safetensors"))
