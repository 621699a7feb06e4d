"""What a fine-tuning run is: one frozen model, read from YAML, with `key=value` overrides.

Numbers that follow from others (the global batch, the adapter's alpha) are derived here and never
configured twice.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from cluster.aliases import ALIAS_PATTERN, RESERVED
from cluster.yaml_config import Section, load_yaml_config


class TaskName(StrEnum):
    CLASSIFICATION = "classification"
    SFT = "sft"
    DPO = "dpo"
    MLM = "mlm"
    EMBEDDING = "embedding"

    @property
    def is_generative(self) -> bool:
        """Whether what comes out writes text: its rows go through a chat template."""
        return self in (TaskName.SFT, TaskName.DPO)

    @property
    def holds_several_texts(self) -> bool:
        """Whether a row is several sequences for the model, told apart by their segments."""
        return self in (TaskName.DPO, TaskName.EMBEDDING)

    @property
    def methods(self) -> tuple[Method, ...]:
        """The methods that train it, from the largest memory down."""
        if self in (TaskName.MLM, TaskName.EMBEDDING):
            return (Method.FULL,)
        if self is TaskName.DPO:
            return (Method.LORA, Method.QLORA)
        return tuple(Method) if self.is_generative else (Method.FULL, Method.LORA)


class Method(StrEnum):
    FULL = "full"
    LORA = "lora"
    QLORA = "qlora"

    @property
    def trains_adapter(self) -> bool:
        """Whether the base stays as it is and low-rank matrices beside it are trained."""
        return self is not Method.FULL


class Offload(StrEnum):
    """What waits in the host's memory while the GPU does not need it."""

    NONE = "none"
    OPTIMIZER = "optimizer"
    ALL = "all"


class Precision(StrEnum):
    AUTO = "auto"
    BF16 = "bf16"
    FLOAT32 = "float32"


class Schedule(StrEnum):
    LINEAR = "linear"
    COSINE = "cosine"
    CONSTANT = "constant"


# A path or an fsspec URI. Not a Path: that would make one slash of the two in `s3://bucket`.
Location = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, Path) else value)]


class DataConfig(Section):
    """Where rows come from: `path` when given, else `hub` when reachable, else `fallback_path`."""

    path: Location | None = Field(
        None,
        description="Training file or folder, or the fsspec URI of one: JSONL, JSON, CSV, TSV, Parquet, text.",
    )
    validation_path: Location | None = Field(
        None, description="Validation file; without it, a share is split off."
    )
    hub: str | None = Field(
        None, description="Hub data set as `id` or `id:config`, for example nyu-mll/glue:mrpc."
    )
    fallback_path: Location | None = Field(
        None, description="Training file used when the hub cannot be reached."
    )
    fallback_validation_path: Location | None = Field(None, description="Validation file that goes with it.")
    text_columns: tuple[str, ...] = Field(
        (), max_length=2, description="One or two text columns; found by their usual names when empty."
    )
    label_column: str = Field("label", description="Column of the class (classification).")
    validation_share: float = Field(
        0.1, gt=0, lt=1, description="Share split off by hash when there is no validation file."
    )
    limit: int | None = Field(None, gt=0, description="Use only the first rows, for a quick trial.")

    @model_validator(mode="after")
    def _has_a_source(self) -> Self:
        if not (self.path or self.hub or self.fallback_path):
            raise ValueError("data needs one of path, hub or fallback_path")
        return self


class LoraConfig(Section):
    """Low-rank adapters (Hu et al. 2021), used when `method: lora` or `qlora`."""

    rank: int = Field(16, gt=0, le=256, description="Rank of the update matrices.")
    alpha: int | None = Field(None, gt=0, description="Scale numerator; twice the rank when unset.")
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: str | tuple[str, ...] = Field("all-linear", description="Module names, or all-linear.")

    @property
    def scale_numerator(self) -> int:
        return self.alpha or 2 * self.rank


class DpoConfig(Section):
    """Direct preference optimisation (Rafailov et al. 2023), used when `task: dpo`."""

    beta: float = Field(
        0.1, gt=0, le=2, description="How much it costs to move away from the base: higher stays nearer."
    )


class BatchConfig(Section):
    """How a global batch is cut: micro batch x accumulation x workers."""

    micro_batch_size_per_gpu: int = Field(8, gt=0, description="Rows per forward pass on one worker.")
    gradient_accumulation_steps: int = Field(1, gt=0, description="Forward passes per optimizer step.")
    global_batch_size: int | Literal["auto"] | None = Field(
        None, description="Rows per optimizer step over all workers; checked when it is a number."
    )


class ScalingConfig(Section):
    """How many workers, and what each gets."""

    num_workers: int = Field(1, gt=0, description="Data-parallel workers.")
    min_workers: int | None = Field(
        None,
        gt=0,
        description="Elastic: go on with as few as this while the cluster has no room for num_workers.",
    )
    cpus_per_worker: float = Field(1, gt=0, description="Logical CPUs, and so threads, of each worker.")
    use_gpu: bool | None = Field(None, description="One GPU per worker; by default when the cluster has one.")
    zero_stage: int = Field(
        2,
        ge=0,
        le=3,
        description="DeepSpeed ZeRO: 0 none, 1 optimizer, 2 + gradients, 3 + parameters sharded.",
    )
    offload: Offload = Field(
        Offload.NONE,
        description="Kept in the host's memory: the optimizer (ZeRO 1 to 3), or all, weights too (ZeRO 3).",
    )
    max_failures: int = Field(
        2, ge=0, description="Worker losses survived by resuming from the last checkpoint."
    )
    max_preemptions: int | None = Field(
        None,
        ge=0,
        description="Nodes taken back by their provider, survived like losses and counted apart; unset: no limit.",
    )
    start_timeout_s: float = Field(
        14_400, gt=0, description="Seconds that a run waits for room for its workers before it fails."
    )
    hang_timeout_s: float = Field(
        600,
        gt=0,
        description="Seconds without progress after which a stuck rank is named and ended, as if lost.",
    )

    @property
    def fewest_workers(self) -> int:
        """Without so many a run does not go on."""
        return self.min_workers or self.num_workers


class OutputConfig(Section):
    """How the tuned model is named: `ft:<base>:<organization>:<suffix>:<id>`."""

    suffix: str = Field("tuned", pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")
    alias: str | None = Field(
        None,
        pattern=ALIAS_PATTERN,
        description="Name pointed at the model once it is registered.",
    )

    @field_validator("alias")
    @classmethod
    def _is_free(cls, alias: str | None) -> str | None:
        if alias in RESERVED:
            raise ValueError(f"{alias!r} names a base model or a route already; choose another name")
        return alias


# Options that one task alone has.
TASK_OF_OPTION = {
    "packing": TaskName.SFT,
    "neftune_noise_alpha": TaskName.SFT,
    "class_weight": TaskName.CLASSIFICATION,
}


class FinetuneConfig(Section):
    """One fine-tuning run, as it stands in a YAML file."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="Name of the run's folder.")
    task: TaskName
    model: str = Field(description="builtin:NAME, a local folder, a registered name or a hub id.")
    data: DataConfig
    method: Method = Method.FULL
    lora: LoraConfig = LoraConfig()
    dpo: DpoConfig = DpoConfig()
    batch: BatchConfig = BatchConfig()
    scaling: ScalingConfig = ScalingConfig()
    output: OutputConfig = OutputConfig()
    packing: bool = Field(
        False, description="Fill sequences of max_length_tokens with several rows each (sft)."
    )
    gradient_checkpointing: bool = Field(
        False, description="Compute activations again in the backward pass: less memory, a third more work."
    )
    epochs: int = Field(3, gt=0, le=1000)
    max_steps: int | None = Field(None, gt=0, description="Stop after this many optimizer steps.")
    early_stopping_patience: int | None = Field(
        None,
        gt=0,
        description="Stop after this many epochs without a lower validation loss, and keep the best epoch.",
    )
    checkpoint_every_steps: int | None = Field(
        None, gt=0, description="Also checkpoint within an epoch; at its end it is done anyway."
    )
    learning_rate: float = Field(5e-5, gt=0, le=1, description="Peak learning rate.")
    schedule: Schedule = Field(Schedule.LINEAR, description="Decay after warm-up.")
    warmup_share: float = Field(0.0, ge=0, lt=1, description="Share of all steps spent warming up.")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's decay, not applied to biases and norms.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm.")
    dropout: float | None = Field(None, ge=0, lt=1, description="Overrides every dropout of the model.")
    neftune_noise_alpha: float | None = Field(
        None, gt=0, description="sft: noise on the token embeddings while training (NEFTune); 5 is usual."
    )
    class_weight: Literal["balanced"] | None = Field(
        None,
        description="classification: balanced weighs rows by the rarity of their class, rows / (classes x rows of it).",
    )
    max_length_tokens: int = Field(
        512, gt=1, description="Longer rows are cut (classification) or left out (sft, dpo)."
    )
    precision: Precision = Field(Precision.AUTO, description="bf16 where the processor has it, else float32.")
    seed: int = Field(42, ge=0)

    @model_validator(mode="after")
    def _batch_equation(self) -> Self:
        if self.batch.global_batch_size not in (None, "auto", self.global_batch_size):
            raise ValueError(
                f"batch.global_batch_size is {self.batch.global_batch_size}, but micro_batch_size_per_gpu x "
                f"gradient_accumulation_steps x num_workers = {self.batch.micro_batch_size_per_gpu} x "
                f"{self.batch.gradient_accumulation_steps} x {self.scaling.num_workers} = {self.global_batch_size}; "
                "correct one of them or leave global_batch_size out"
            )
        return self

    @model_validator(mode="after")
    def _method_fits_task(self) -> Self:
        if self.method not in self.task.methods:
            reason = ""
            if self.task is TaskName.DPO:
                reason = (
                    " (its reference is the base with the adapter switched off; method full would need a second "
                    "copy of the model)"
                )
            raise ValueError(
                f"method {self.method} does not train task {self.task}{reason}; "
                f"write method: {' or '.join(self.task.methods)}"
            )
        return self

    @model_validator(mode="after")
    def _quantized_base_fits_scaling(self) -> Self:
        if self.method is Method.QLORA and self.scaling.use_gpu is False:
            raise ValueError(
                "method qlora needs a GPU, and scaling.use_gpu is false; use lora, whose frozen base is kept in "
                "bfloat16 where the processor has it"
            )
        if self.method is Method.QLORA and self.scaling.zero_stage == 3:
            raise ValueError(
                "method qlora cannot run at scaling.zero_stage 3: 4-bit weights are not cut over workers; "
                "use 2, at which every worker holds the small base whole"
            )
        return self

    @model_validator(mode="after")
    def _offload_fits_stage(self) -> Self:
        offload, stage = self.scaling.offload, self.scaling.zero_stage
        least = {Offload.NONE: 0, Offload.OPTIMIZER: 1, Offload.ALL: 3}[offload]
        if stage < least:
            raise ValueError(
                f"scaling.offload={offload} needs scaling.zero_stage {least} or more, not {stage}"
            )
        return self

    @model_validator(mode="after")
    def _options_fit_task(self) -> Self:
        for option, task in TASK_OF_OPTION.items():
            if getattr(self, option) and self.task is not task:
                raise ValueError(f"{option} is for task {task}; leave it out for {self.task}")
        return self

    @model_validator(mode="after")
    def _elastic_workers(self) -> Self:
        scaling = self.scaling
        if scaling.min_workers is None:
            return self
        if scaling.min_workers > scaling.num_workers:
            raise ValueError(
                f"scaling.min_workers is {scaling.min_workers}, more than num_workers, {scaling.num_workers}"
            )
        return self

    @property
    def exports_adapter(self) -> bool:
        """Whether the artefact is an adapter for its base, rather than whole weights."""
        return self.task.is_generative and self.method.trains_adapter

    @property
    def global_batch_size(self) -> int:
        """Rows per optimizer step."""
        cut = self.batch.micro_batch_size_per_gpu * self.batch.gradient_accumulation_steps
        return cut * self.scaling.num_workers

    def steps_per_epoch(self, num_rows: int) -> int:
        """Optimizer steps over all rows, the last of which may hold fewer than the global batch."""
        return -(-num_rows // self.global_batch_size)

    def total_steps(self, num_rows: int) -> int:
        """Optimizer steps of the whole run; early stopping may end it before."""
        steps = self.steps_per_epoch(num_rows) * self.epochs
        return min(steps, self.max_steps or steps)


def load_config(path: Path, overrides: list[str]) -> FinetuneConfig:
    """Read a YAML file and apply `dotted.key=value` overrides.

    Raises ConfigError naming the key and the remedy.
    """
    return load_yaml_config(FinetuneConfig, path, overrides)
