"""From a trained engine to a folder of safetensors in storage, complete or absent."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import GenerationConfig
from transformers.utils import GENERATION_CONFIG_NAME

from cluster.errors import JobFailed
from cluster.references import resolve_model
from cluster.storage import upload_folder
from training.config import FinetuneConfig, TaskName
from training.engine import Engine
from training.modules import build_module
from training.sentence_files import write_sentence_files
from training.tokenizer import load_tokenizer


def export_model(
    engine: Engine, module: nn.Module, config: FinetuneConfig, uri: str, *, is_writer: bool
) -> None:
    """Gather the trained weights from all ranks and write them, with config and tokenizer, to `uri`.

    Every rank calls this; `is_writer` writes. The adapter of a model that writes is kept apart, to be loaded
    onto its base; any other model is written whole, adapters merged. Raises JobFailed when a weight is missing.
    """
    state = engine.gathered_state(is_writer)
    if state is None:
        return
    _require_complete(module, state)
    prefix = "model."
    weights = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _save(module.model, weights, config, folder)
        tokenizer = load_tokenizer(resolve_model(config.model), config.model)
        if config.task is TaskName.CLASSIFICATION and tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token  # as in training; serving pads its batches too
        tokenizer.save_pretrained(folder)
        if config.task is TaskName.EMBEDDING:
            write_sentence_files(resolve_model(config.model), folder, config.max_length_tokens)
        upload_folder(folder, uri)


def _save(model: Any, weights: dict[str, Tensor], config: FinetuneConfig, folder: Path) -> None:
    if not config.method.trains_adapter:
        if config.task.is_generative:
            # transformers refuses to write settings that it only warned of when it read them.
            model.generation_config = GenerationConfig()
        # Weights that do not train (buffers, tied heads) come from the model; others are empty there under ZeRO 3.
        own = {name: tensor for name, tensor in model.state_dict().items() if tensor.numel()}
        model.save_pretrained(folder, state_dict={**own, **weights})
        if config.task.is_generative:
            _copy_generation_config(resolve_model(config.model), folder)
        return
    if not config.exports_adapter:
        model = _whole_copy(model, config)
        model.load_state_dict(weights, strict=False)
        model.merge_and_unload().save_pretrained(folder)
        return
    # From the gathered state and never the model, of which a rank has only slices under ZeRO 3.
    model.save_pretrained(folder, state_dict=weights)
    adapter = folder / "adapter_config.json"
    content = json.loads(adapter.read_text(encoding="utf-8"))
    # The reference, not the path it had on this machine: the card's base is what serving resolves.
    content["base_model_name_or_path"] = config.model
    adapter.write_text(json.dumps(content, indent=2), encoding="utf-8")


def _copy_generation_config(base: Path, folder: Path) -> None:
    """How the model in `folder` samples and where it stops: as its base, also where that leaves it to its config."""
    (folder / GENERATION_CONFIG_NAME).unlink()
    if (base / GENERATION_CONFIG_NAME).is_file():
        shutil.copy(base / GENERATION_CONFIG_NAME, folder)


def _whole_copy(model: Any, config: FinetuneConfig) -> Any:
    """The adapted model as training began with it: under ZeRO 3 the engine's has only a slice of each weight."""
    frozen_dtype = next(parameter.dtype for parameter in model.parameters() if not parameter.requires_grad)
    labels = tuple(model.config.id2label.values()) if config.task is TaskName.CLASSIFICATION else ()
    return build_module(config, resolve_model(config.model), labels, frozen_dtype=frozen_dtype).model


def _require_complete(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Every trained weight is there with its full shape: a slice left by ZeRO 3 has none."""
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        shape = tuple(getattr(parameter, "ds_shape", parameter.shape))
        if name not in state or tuple(state[name].shape) != shape:
            raise JobFailed(f"export incomplete: {name} should be {shape}; nothing was written")
