"""A few real steps of a run's model in this process, without Ray and DeepSpeed: how fast will it be?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cluster.references import resolve_model
from training.config import FinetuneConfig, Precision
from training.engine import parameter_groups
from training.examples import Example, pad_token_id
from training.feed import Feed
from training.meter import own_peak_memory_bytes
from training.modules import build_module
from training.precision import choose_precision, dtype_of
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
    precision = choose_precision(config.precision, on_gpu=has_gpu)
    module = build_module(
        config,
        resolve_model(config.model),
        prepared.dataset.labels,
        frozen_dtype=dtype_of(precision),
    ).to(device)
    optimizer = torch.optim.AdamW(parameter_groups(module, config.weight_decay), lr=1e-12, fused=True)
    num_tokens, done, since = 0, 0, 0.0
    module.train()
    feed = Feed(
        prepared.dataset,
        config,
        pad_token_id(prepared.tokenizer),
        world_size=config.scaling.num_workers,
    )
    for number, examples in enumerate(_micro_batches(feed, prepared.dataset.train)):
        if number == 1:
            since = time.monotonic()
        batch = feed.collate(examples)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision is Precision.BF16):
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


def _micro_batches(feed: Feed, train: Sequence[Example]) -> list[list[Example]]:
    """The first micro-batches of rank 0, repeated where the data holds fewer."""
    found = [[train[index] for index in rows] for step in feed.plan(epoch=0) for rows in step.rows[0] if rows]
    return [found[number % len(found)] for number in range(NUM_PROBED + 1)]
