"""Models and their losses, in torch. One module a task, each with the same forward.

A module's forward takes a padded batch and returns `(loss_sum, predictions)`: the *sum* of the loss over
the batch's targets, never a mean. The caller divides by the targets of the whole global batch, so that the
gradient does not depend on how that batch was cut over workers and micro-batches. (transformers' own models
return a mean and its Trainer corrects it by the number of processes, which doubles the loss of models that
ignore the correction.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional

from cluster.errors import JobFailed
from cluster.references import resolve_model
from cluster.storage import local_folder
from training.config import FinetuneConfig, Method, Precision, TaskName
from training.encoder_modules import EmbeddingModule, MaskedModule, collate_texts
from training.examples import IGNORE, Example, pad_token_id
from training.language_modules import LanguageModule, PreferenceModule
from training.packing import positions, split
from training.precision import dtype_of
from training.sentence_files import sentence_form
from training.tokenizer import load_tokenizer

CPU = torch.device("cpu")


class ClassificationModule(nn.Module):
    """Cross entropy over classes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """`labels: [batch], int64` -> `(loss_sum: [], float32; predictions: [batch], int64)`.

        With `weights: [batch], float32` each row's loss counts so often. The caller still divides by rows, not by
        the sum of weights, which would differ from batch to batch: over the training rows they are 1 on average.
        """
        inputs = {name: value for name, value in batch.items() if name not in ("labels", "weights")}
        logits = self.model(**inputs).logits.float()
        losses = functional.cross_entropy(logits, batch["labels"], ignore_index=IGNORE, reduction="none")
        loss_sum = (losses * batch["weights"]).sum() if "weights" in batch else losses.sum()
        return loss_sum, logits.argmax(dim=-1)


def build_module(
    config: FinetuneConfig, folder: Path, labels: Sequence[str], *, frozen_dtype: torch.dtype
) -> nn.Module:
    """The task's module on the base weights in `folder`, ready to train.

    Trained weights are float32. The frozen base of an adapter is kept in `frozen_dtype`: nothing is added
    to it, so half the memory and no cast per step cost no accuracy beyond that of the forward pass. Under
    QLoRA its linear layers are kept in 4 bits on the GPU.
    """
    dtype = frozen_dtype if config.method.trains_adapter else torch.float32
    is_4bit = config.method is Method.QLORA
    model = load_base(config.task, folder, labels, dtype, may_lack_head=True, is_4bit=is_4bit)
    if config.dropout is not None:
        set_dropout(model, config.dropout)
    if config.neftune_noise_alpha is not None:
        add_embedding_noise(model, config.neftune_noise_alpha)
    if config.method.trains_adapter:
        model = add_adapter(model, config)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return _module_of(config, model, folder)


def _module_of(config: FinetuneConfig, model: Any, folder: Path) -> nn.Module:
    """The task's loss around a model whose files are in `folder`."""
    if config.task is TaskName.CLASSIFICATION:
        return ClassificationModule(model)
    if config.task is TaskName.MLM:
        return MaskedModule(model)
    if config.task is TaskName.DPO:
        return PreferenceModule(model, config.dpo.beta)
    if config.task is TaskName.EMBEDDING:
        return EmbeddingModule(model, uses_first_token=sentence_form(folder).uses_first_token)
    return LanguageModule(model)


def load_base(
    task: TaskName,
    folder: Path,
    labels: Sequence[str],
    dtype: torch.dtype,
    *,
    may_lack_head: bool = False,
    is_4bit: bool = False,
) -> Any:
    """The base model of a task, from safetensors only.

    `may_lack_head` lets a classifier start with a new head, also in place of one for other classes.
    `is_4bit` quantizes its linear layers on the way to the GPU. Raises JobFailed when any other weight would
    have to be made up: such a model answers at random.
    """
    from transformers import (
        AutoModel,
        AutoModelForCausalLM,
        AutoModelForMaskedLM,
        AutoModelForSequenceClassification,
    )
    from transformers.utils import logging

    # A base has no classification head yet; its report of that as a fault would alarm for nothing.
    logging.set_verbosity_error()
    logging.disable_progress_bar()

    options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, "local_files_only": True}
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    if is_4bit:
        options |= in_4bit(dtype)
    if task.is_generative:
        load = AutoModelForCausalLM.from_pretrained
    elif task is TaskName.MLM:
        load = AutoModelForMaskedLM.from_pretrained
    elif task is TaskName.EMBEDDING:
        load = AutoModel.from_pretrained
    else:
        load = AutoModelForSequenceClassification.from_pretrained
        options["num_labels"] = len(labels)
        options["id2label"] = dict(enumerate(labels))
        options["label2id"] = {name: index for index, name in enumerate(labels)}
    try:
        model, report = load(folder, **options)
    except SafetensorError as exc:
        raise JobFailed(f"the weights in {folder} cannot be read: {exc}; fetch or export them again") from exc
    made_up = sorted({*report["missing_keys"], *(key[0] for key in report["mismatched_keys"])})
    if task is TaskName.EMBEDDING:
        made_up = [name for name in made_up if "pooler" not in name]  # no vector passes through it
    if made_up and not (may_lack_head and task in (TaskName.CLASSIFICATION, TaskName.MLM)):
        raise JobFailed(f"the model in {folder} lacks {len(made_up)} weights, such as {made_up[0]}")
    if task is TaskName.CLASSIFICATION and getattr(model.config, "pad_token_id", None) is None:
        # A base that writes reads the class at the last token before the padding, and must know that.
        model.config.pad_token_id = pad_token_id(load_tokenizer(folder, str(folder)))
    return model


def in_4bit(dtype: torch.dtype) -> dict[str, Any]:
    """Options of `from_pretrained` for linear layers in 4-bit NormalFloat with doubly quantized scales.

    Products run in `dtype`. Source: Dettmers et al., QLoRA: Efficient Finetuning of Quantized LLMs (2023).
    """
    from transformers import BitsAndBytesConfig

    if not torch.cuda.is_available():
        raise JobFailed("method qlora needs a GPU on every worker; use method: lora")
    if find_spec("bitsandbytes") is None:
        raise JobFailed("method qlora needs bitsandbytes: pip install 'hamlet[qlora]'")
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": quantization, "device_map": {"": torch.cuda.current_device()}}


def add_adapter(model: Any, config: FinetuneConfig) -> Any:
    """Wrap `model` with the configured LoRA adapter; its weights are float32."""
    from peft import LoraConfig, TaskType, get_peft_model

    targets = config.lora.target_modules
    adapter = LoraConfig(
        task_type=TaskType.CAUSAL_LM if config.task.is_generative else TaskType.SEQ_CLS,
        r=config.lora.rank,
        lora_alpha=config.lora.scale_numerator,
        lora_dropout=config.lora.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
    )
    wrapped = get_peft_model(model, adapter)
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    for module in wrapped.modules():
        # peft would cast each input to float32 and autocast right back: a seventh of a step on this model.
        if hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = False
    return wrapped


def set_dropout(model: nn.Module, probability: float) -> None:
    """Give every dropout of the model the same probability."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability
        # Attention reads its probability from a plain attribute, under one of these names.
        for name in ("dropout_prob", "attention_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, probability)


def add_embedding_noise(model: Any, alpha: float) -> None:
    """While training, move every token embedding by uniform noise of at most alpha / sqrt(tokens x width).

    Tokens are those of the padded batch's rows. Source: Jain et al., NEFTune: Noisy Embeddings Improve Instruction
    Finetuning (2023).
    """

    def noisy(embedding: nn.Module, _inputs: Any, vectors: Tensor) -> Tensor:
        if not embedding.training:
            return vectors
        bound = alpha / (vectors.size(-2) * vectors.size(-1)) ** 0.5
        return vectors + torch.empty_like(vectors).uniform_(-bound, bound)

    model.get_input_embeddings().register_forward_hook(noisy)


def collate(examples: Sequence[Example], task: TaskName, pad_token_id: int) -> dict[str, Tensor]:
    """Right-pad examples to their longest.

    Returns `input_ids`, `attention_mask` (and `token_type_ids` for pairs) of [batch, seq_len], int64, and
    `labels`: [batch] class indices, or [batch, seq_len] with IGNORE at padding. Padding is told by
    position, not by token id, since many models pad with their end token. Packed rows have `position_ids`
    of [batch, seq_len] in place of a mask. Preferences become two sequences each: first all preferred ones,
    then the others.
    """
    if task is TaskName.EMBEDDING:
        return collate_texts(examples, pad_token_id)
    if task is TaskName.DPO:
        pairs = [split(example) for example in examples]
        return collate([pair[side] for side in (0, 1) for pair in pairs], TaskName.SFT, pad_token_id)
    width = max(len(example.input_ids) for example in examples)

    def padded(values: Sequence[list[int]], fill: int) -> Tensor:
        return torch.tensor([value + [fill] * (width - len(value)) for value in values])

    batch = {
        "input_ids": padded([example.input_ids for example in examples], pad_token_id),
        "attention_mask": padded([[1] * len(example.input_ids) for example in examples], 0),
    }
    if examples[0].segment_ids and task is TaskName.SFT:
        del batch["attention_mask"]
        batch["position_ids"] = torch.tensor([positions(row.segment_ids, width) for row in examples])
    elif examples[0].segment_ids:
        batch["token_type_ids"] = padded([example.segment_ids for example in examples], 0)
    if task is TaskName.CLASSIFICATION:
        batch["labels"] = torch.tensor([example.labels[0] for example in examples])
    else:
        batch["labels"] = padded([example.labels for example in examples], IGNORE)
    return batch


def weightless(example: Example) -> Example:
    """The same row without targets: what a rank runs when a step leaves it no row of its own."""
    return replace(example, labels=[IGNORE] * len(example.labels))


def reload_module(
    config: FinetuneConfig,
    export_uri: str,
    labels: Sequence[str],
    *,
    precision: Precision,
    device: torch.device = CPU,
) -> tuple[nn.Module, int]:
    """An exported model, loaded as serving would, and its pad token id. Raises JobFailed as `load_base`."""
    from transformers import AutoTokenizer

    folder = local_folder(export_uri)
    if config.exports_adapter:
        from peft import PeftModel

        is_4bit = config.method is Method.QLORA
        base = load_base(
            config.task, resolve_model(config.model), labels, dtype_of(precision), is_4bit=is_4bit
        )
        module = _module_of(config, PeftModel.from_pretrained(base, folder), folder)
    else:
        model = load_base(config.task, folder, labels, torch.float32)
        module = _module_of(config, model, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return module.eval().to(device), pad_token_id(tokenizer)
