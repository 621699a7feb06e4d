"""LoRA adapters: whether a file holds all that its adapter needs, and nothing that its base has no place for.

A weight that lacks stays as peft begins it, which changes nothing, and vLLM leaves out what it has no place for: the
base would answer under the adapter's name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from cluster.errors import Unprocessable

# Adapters kept in host memory beside each that runs in a batch; the least recently used leaves first.
HOST_ADAPTERS_PER_SLOT = 4
WEIGHTS_FILE = "adapter_model.safetensors"
# Before the names of a model's own weights in an adapter's file.
PREFIX = "base_model.model."

Shapes = dict[str, tuple[int, ...]]  # by the names of weights


def require_fit(make_base: Callable[[], Any], folder: Path, name: str, lacking: Collection[str] = ()) -> None:
    """Raise Unprocessable unless the weights of the adapter `name` in `folder` are those that its base needs.

    `make_base` makes the base anew, and is called where that takes no memory. `lacking` are weights that the base has
    from no file, so that the adapter must have them. Of the file, names and shapes are read.
    """
    needed, known = _shapes_for(make_base, folder, name, lacking)
    held = _shapes_in(folder / WEIGHTS_FILE)
    strange = sorted(key for key, shape in held.items() if known.get(key) != shape)
    if strange:
        raise Unprocessable(
            f"{name} does not fit its base, which has no place for {len(strange)} of its weights, such as {strange[0]} "
            f"of shape {list(held[strange[0]])}; it was tuned on another model",
            "model",
        )
    missing = sorted(needed.keys() - held.keys())
    if missing:
        raise Unprocessable(
            f"{name} lacks {len(missing)} of its weights, such as {missing[0]}; export it again", "model"
        )


def _shapes_for(
    make_base: Callable[[], Any], folder: Path, name: str, lacking: Collection[str]
) -> tuple[Shapes, Shapes]:
    """What a file must hold, and what it may: the base's embeddings too, which peft writes where they are tuned."""
    import torch
    from peft import PeftConfig, get_peft_model, get_peft_model_state_dict

    # Asked of a model without weights: the one that answers must not be left with half an adapter.
    with torch.device("meta"):
        base = make_base()
        own = base.state_dict()
        try:
            adapted = get_peft_model(base, PeftConfig.from_pretrained(folder))
        except ValueError as exc:  # none of the modules that it tunes are there
            raise Unprocessable(f"{name} does not fit its base: {exc}", "model") from exc
    needed = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    needed |= {PREFIX + key: own[key] for key in lacking}
    known = needed | get_peft_model_state_dict(adapted, save_embedding_layers=True)
    return _shapes_of(needed), _shapes_of(known)


def _shapes_of(weights: dict[str, Any]) -> Shapes:
    return {key: tuple(weight.shape) for key, weight in weights.items()}


def _shapes_in(file: Path) -> Shapes:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as weights:
        return {key: tuple(weights.get_slice(key).get_shape()) for key in weights.keys()}  # noqa: SIM118 - no mapping
