"""One rank's share of the rows, as tensors: what a step trains on, and what an evaluation reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.batching import Step, plan_epoch, plan_evaluation
from training.config import FinetuneConfig
from training.examples import IGNORE, Dataset, Example
from training.modules import collate, weightless


@dataclass(frozen=True, slots=True)
class Amounts:
    """What a step holds, over all ranks. `num_rows` are those of the data, of which a packed sequence holds several."""

    num_rows: int
    num_tokens: int
    num_trained_tokens: int
    num_targets: int


class Feed:
    """The rows of a data set, cut for one rank of `world_size`; see `training/batching.py`."""

    def __init__(
        self,
        dataset: Dataset,
        config: FinetuneConfig,
        pad_token_id: int,
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._dataset, self._config, self._pad_token_id = dataset, config, pad_token_id
        self._rank, self._world_size = rank, world_size
        train = dataset.train
        self._lengths = train.lengths
        # By numpy and once: every rank adds up the rows of all, which took a second for a step of 2 million tokens.
        rows = train.num_segments if config.packing else np.ones(len(train), np.int64)
        self._amounts = np.stack([rows, self._lengths, train.num_trained_tokens, train.num_targets])

    def plan(self, epoch: int) -> list[Step]:
        """The steps of an epoch (from 0), the same on every rank."""
        return plan_epoch(
            self._lengths,
            global_batch_size=self._config.global_batch_size,
            micro_batch_size=self._config.batch.micro_batch_size_per_gpu,
            world_size=self._world_size,
            seed=self._config.seed,
            epoch=epoch,
        )

    def amounts(self, step: Step) -> Amounts:
        """What a step holds."""
        return Amounts(*self._amounts[:, step.row_indices].sum(axis=1).tolist())

    def micro_batches(self, step: Step) -> Iterator[dict[str, Tensor]]:
        """This rank's part of a step; a row of weight zero where it has none.

        Each is made when it is asked for, while a GPU still computes the one before.
        """
        spare = weightless(self._dataset.train[step.row_indices[0]])
        for rows in step.rows[self._rank]:
            yield self.collate([self._dataset.train[index] for index in rows] or [spare])

    def validation(self) -> Iterator[tuple[list[Example], dict[str, Tensor]]]:
        """This rank's validation rows, batch by batch; each row once, whatever the world size.

        Every rank gets as many batches. One without rows is a row of weight zero, whose prediction is none.
        """
        rows = self._dataset.validation
        plan = plan_evaluation(
            rows.lengths,
            batch_size=2 * self._config.batch.micro_batch_size_per_gpu,  # nothing is kept for a backward pass
            world_size=self._world_size,
        )
        for step in plan:
            mine = [rows[index] for index in step.rows[self._rank][0]]
            yield mine, self.collate(mine or [weightless(rows[step.row_indices[0]])])

    def collate(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """The batch of some rows, with `weights: [batch], float32` where classes count differently."""
        batch = collate(examples, self._config.task, self._pad_token_id)
        weights = self._dataset.class_weights
        if weights:
            by_row = [weights[label] if label != IGNORE else 0.0 for label in batch["labels"].tolist()]
            batch["weights"] = torch.tensor(by_row)
        return batch
