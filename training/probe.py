"""A few real steps of a run's model in this process, without Ray and DeepSpeed: how fast will it be?"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from cluster.references import resolve_model
from training.batching import plan_epoch
from training.config import FinetuneConfig, Precision
from training.engine import parameter_groups
from training.meter import own_peak_memory_bytes
from training.modules import build_module, collate, pad_token_id
from training.prepare import Prepared

# Micro-batches after the first, which warms up; and seconds after which no further one is begun.
NUM_PROBED = 6
PROBE_SECONDS = 15.0


@dataclass(frozen=True)
class Probed:
    """What was measured: tokens (padding not counted) per second of one worker."""

    num_micro_batches: int
    tokens_per_s: float
    precision: Precision
    peak_memory_bytes: int


def probe(config: FinetuneConfig, prepared: Prepared) -> Probed:
    """Run forward, backward and update on the first batches that training would see."""
    has_gpu = torch.cuda.is_available() and config.scaling.use_gpu is not False
    device = torch.device("cuda" if has_gpu else "cpu")
    if not has_gpu:
        torch.set_num_threads(max(1, int(config.scaling.cpus_per_worker)))
    precision = _precision(config.precision, has_gpu)
    is_bf16 = precision is Precision.BF16
    module = build_module(
        config,
        resolve_model(config.model),
        prepared.dataset.labels,
        frozen_dtype=torch.bfloat16 if is_bf16 else torch.float32,
    ).to(device)
    optimizer = torch.optim.AdamW(parameter_groups(module, config.weight_decay), lr=1e-12, fused=True)
    num_tokens, done, since = 0, 0, 0.0
    module.train()
    for number, rows in enumerate(_micro_batches(config, prepared)):
        if number == 1:
            since = time.monotonic()
        examples = [prepared.dataset.train[index] for index in rows]
        batch = collate(examples, config.task, pad_token_id(prepared.tokenizer))
        with torch.autocast(device.type, torch.bfloat16, enabled=is_bf16):
            loss_sum, _ = module({name: value.to(device) for name, value in batch.items()})
        loss_sum.backward()
        if (number + 1) % config.batch.gradient_accumulation_steps == 0:
            optimizer.step()
            optimizer.zero_grad()
        loss_sum.item()  # waits for the device
        if number:
            num_tokens, done = num_tokens + sum(len(e.input_ids) for e in examples), done + 1
            if time.monotonic() - since > PROBE_SECONDS:
                break
    seconds = max(time.monotonic() - since, 1e-9)
    return Probed(done, num_tokens / seconds, precision, own_peak_memory_bytes(device))


def _micro_batches(config: FinetuneConfig, prepared: Prepared) -> list[list[int]]:
    """The first micro-batches of rank 0, repeated where the data holds fewer."""
    plan = plan_epoch(
        [len(example.input_ids) for example in prepared.dataset.train],
        global_batch_size=config.global_batch_size,
        micro_batch_size=config.batch.micro_batch_size_per_gpu,
        world_size=config.scaling.num_workers,
        seed=config.seed,
        epoch=0,
    )
    found = [rows for step in plan for rows in step.rows[0] if rows]
    return [found[number % len(found)] for number in range(NUM_PROBED + 1)]


def _precision(wanted: Precision, has_gpu: bool) -> Precision:
    if wanted is not Precision.AUTO:
        return wanted
    has_bf16 = (
        torch.cuda.is_bf16_supported() if has_gpu else bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )
    return Precision.BF16 if has_bf16 else Precision.FLOAT32
