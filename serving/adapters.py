"""LoRA adapters in models of transformers: whether a file holds all that its adapter needs.

A weight that lacks stays as peft begins it, which changes nothing: the base would answer under the adapter's name.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from cluster.errors import Unprocessable

# Before the names of a model's own weights in an adapter's file.
PREFIX = "base_model.model."


def require_whole(model: Any, folder: Path, name: str, lacking: Collection[str] = ()) -> None:
    """Raise Unprocessable with the weights that the adapter `name` in `folder` must hold for `model` and lacks.

    `lacking` are weights that `model` itself has from no file.
    """
    import torch
    from peft import PeftConfig, get_peft_model, get_peft_model_state_dict
    from safetensors import safe_open

    # Asked of a model without weights: the one that answers must not be left with half an adapter.
    with torch.device("meta"):
        adapted = get_peft_model(type(model)(model.config), PeftConfig.from_pretrained(folder))
    needed = get_peft_model_state_dict(adapted, save_embedding_layers=False).keys()
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
        missing = sorted({*needed, *(PREFIX + key for key in lacking)} - set(file.keys()))
    if missing:
        raise Unprocessable(
            f"{name} lacks {len(missing)} of its weights, such as {missing[0]}; export it again", "model"
        )
