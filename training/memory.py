"""How much memory a worker needs: from the shapes of the weights, without loading them."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.tables import weight_shapes

# A worker before its model: Python, torch, DeepSpeed and Ray. A round figure for CPU, to be held against
# `measured.json` of a run.
PROCESS_BYTES = 900 * 2**20
FLOAT32, BF16 = 4, 2
# A weight in 4-bit NormalFloat with its share of doubly quantized scales: 4.127 bits (Dettmers et al., QLoRA,
# 2023, section 3).
NF4 = 4.127 / 8
# Modules that adapters leave alone although their weights are matrices.
NO_ADAPTER = ("embed", "wte", "wpe", "lm_head", "classifier", "score", "pooler", "position")


@dataclass(frozen=True)
class ModelShape:
    """The numbers of a model that its memory follows from. `matrices` are (rows, columns) of linear layers."""

    num_parameters: int
    hidden_size: int
    num_layers: int
    vocabulary_size: int
    matrices: tuple[tuple[int, int], ...]

    def frozen_bytes_in_4bit(self, rest_bytes: int) -> float:
        """Mean bytes of a weight when the linear layers are quantized and the rest takes `rest_bytes` each."""
        quantized = sum(rows * columns for rows, columns in self.matrices)
        return (quantized * NF4 + (self.num_parameters - quantized) * rest_bytes) / self.num_parameters

    def adapter_parameters(self, rank: int) -> int:
        """Weights of a LoRA adapter on all linear layers: rank x (rows + columns) of each."""
        return sum(rank * (rows + columns) for rows, columns in self.matrices)


@dataclass(frozen=True)
class Memory:
    """Bytes of one worker at its peak, by what holds them."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    process: int = PROCESS_BYTES

    @property
    def total(self) -> int:
        return sum(asdict(self).values())

    def to_json(self) -> dict[str, int]:
        return {**asdict(self), "total": self.total}


def read_shape(folder: Path) -> ModelShape:
    """The shape of the model in `folder`, from its config and its weights' headers. Raises as `weight_shapes`."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = config.get("text_config", config)
    shapes = weight_shapes(folder)
    return ModelShape(
        num_parameters=sum(math.prod(shape) for shape in shapes.values()),
        hidden_size=_first(config, "hidden_size", "n_embd", "d_model", "dim"),
        num_layers=_first(config, "num_hidden_layers", "n_layer", "num_layers", "n_layers"),
        vocabulary_size=_first(config, "vocab_size"),
        matrices=tuple(
            (shape[0], shape[1])
            for name, shape in shapes.items()
            if len(shape) == 2 and not any(word in name for word in NO_ADAPTER)
        ),
    )


def state_memory(
    num_frozen: int, num_trained: int, *, zero_stage: int, num_workers: int, frozen_bytes: float = FLOAT32
) -> tuple[float, float, float]:
    """`(weights, gradients, optimizer)` in bytes for each worker.

    Weights that train are float32 (4 bytes each), as are gradients (4) and Adam's two moments (8). From
    stage 1 on DeepSpeed keeps one more float32 copy of the weights beside the moments (4). Stage 1 divides
    the optimizer by the workers, stage 2 the gradients too, stage 3 the weights too. Source: Rajbhandari et
    al., ZeRO (2020), section 5, with float32 in place of its 16-bit weights.

    >>> state_memory(0, 100, zero_stage=0, num_workers=4)
    (400.0, 400.0, 800.0)
    >>> state_memory(0, 100, zero_stage=2, num_workers=4)
    (400.0, 100.0, 300.0)
    >>> state_memory(0, 100, zero_stage=3, num_workers=4)
    (100.0, 100.0, 300.0)
    """
    weights = float(num_frozen * frozen_bytes + num_trained * FLOAT32)
    gradients, optimizer = float(num_trained * FLOAT32), float(num_trained * (8 if zero_stage == 0 else 12))
    return (
        weights / num_workers if zero_stage >= 3 else weights,
        gradients / num_workers if zero_stage >= 2 else gradients,
        optimizer / num_workers if zero_stage >= 1 else optimizer,
    )


def activation_memory(
    shape: ModelShape,
    *,
    tokens: int,
    targets: int,
    value_bytes: int,
    has_vocabulary_head: bool,
    keeps_layers: bool = True,
) -> int:
    """Bytes kept from the forward pass for the backward one, for `tokens` = rows x padded length.

    34 x hidden size bytes for each token and layer at 16 bits, twice that at 32 (Korthikanti et al.,
    Reducing Activation Recomputation, 2022, equation 2, without its attention scores, which fused attention
    never stores). A vocabulary head adds logits, their float32 copy and its gradient where there is a target.
    Without `keeps_layers` (gradient checkpointing) each layer keeps its input alone, and one layer at a time
    the rest.
    """
    layer = tokens * shape.hidden_size * 34 * value_bytes // 2
    layers = shape.num_layers * layer
    if not keeps_layers:
        layers = layer + shape.num_layers * tokens * shape.hidden_size * value_bytes
    head = targets * shape.vocabulary_size * (value_bytes + 2 * FLOAT32) if has_vocabulary_head else 0
    return layers + head


def _first(config: dict[str, Any], *names: str) -> int:
    return int(next((config[name] for name in names if config.get(name)), 0))
