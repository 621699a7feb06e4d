"""The ranks of the equality tests: `rank_worker.py FOLDER WORLD_SIZE...`, a group for each world size, all at once.

A group runs every case of its world size on tiny models, on a GPU where it sees one, and leaves what it
measured in FOLDER, by case. Then, of two groups, each goes on from the other's checkpoints.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from ranks import OTHER_WORKERS, VARIANTS
from torch.multiprocessing import start_processes

from cluster.ports import free_port
from training.batching import Step, plan_epoch
from training.config import FinetuneConfig, Method, Precision, TaskName
from training.engine import Engine
from training.examples import IGNORE, Example, Preference
from training.export import export_model
from training.modules import build_module, collate, weightless
from training.packing import join
from training.seeds import seed_everything

# A global batch of 8 each, cut in three ways: micro batch, accumulation, workers.
CUTS = [(8, 1, 1), (2, 4, 1), (2, 2, 2)]
STAGES = [0, 2, 3]
VARIED = (8, 1, 1) if torch.cuda.is_available() else (2, 2, 2)
# Three steps of 8 rows and one of 3, in which a rank is left without rows for its second micro-batch.
NUM_ROWS = 27
LABELS = ("a", "b")
METHODS = {
    TaskName.CLASSIFICATION: Method.FULL,
    TaskName.SFT: Method.FULL,
    TaskName.DPO: Method.LORA,
}


def examples_of(task: TaskName) -> list[Example]:
    """Rows of 4 to 16 tokens; chats of 1 to 7 trained tokens, classes that alternate, pairs of such chats."""
    draw = torch.Generator().manual_seed(7)
    rows = []
    if task is TaskName.DPO:
        chats = examples_of(TaskName.SFT)
        return [preference(chats[n], chats[(3 * n + 1) % NUM_ROWS]) for n in range(NUM_ROWS)]
    for number in range(NUM_ROWS):
        length = 4 + (number * 5) % 13
        ids = torch.randint(8, 90, (length,), generator=draw).tolist()
        if task is TaskName.CLASSIFICATION:
            rows.append(Example(ids, [number % 2], []))
        else:
            answer = 1 + number % min(7, length - 1)
            rows.append(Example(ids, [IGNORE] * (length - answer) + ids[-answer:], []))
    return rows


def preference(preferred: Example, other: Example) -> Preference:
    pair = join([preferred, other])
    return Preference(pair.input_ids, pair.labels, pair.segment_ids)


class Run:
    """One engine on the rows of a task; every rank makes the same calls."""

    def __init__(
        self,
        folder: Path,
        task: TaskName,
        method: Method,
        cut: tuple[int, int, int],
        stage: int,
        *,
        offload: str = "none",
        gradient_checkpointing: bool = False,
    ) -> None:
        micro, accumulation, workers = cut
        self.config = FinetuneConfig.model_validate(
            {
                "name": "equality",
                "task": task,
                "method": method,
                "model": str(folder / task),
                "data": {"path": "none"},
                "batch": {"micro_batch_size_per_gpu": micro, "gradient_accumulation_steps": accumulation},
                "scaling": {"num_workers": workers, "zero_stage": stage, "offload": offload},
                "gradient_checkpointing": gradient_checkpointing,
                "learning_rate": 5e-3,
                "warmup_share": 0.0,
                "schedule": "constant",
                "weight_decay": 0.01,
                "dropout": 0.0,
                "epochs": 1,
            }
        )
        self.rank, self.workers = dist.get_rank(), workers
        self.rows = examples_of(task)
        self.plan = plan_epoch(
            [len(row.input_ids) for row in self.rows],
            global_batch_size=self.config.global_batch_size,
            micro_batch_size=micro,
            world_size=workers,
            seed=1,
            epoch=0,
        )
        # The short step last, so that what follows it cannot hide what it did.
        self.plan.sort(key=lambda step: len(step.row_indices), reverse=True)
        seed_everything(3)
        self.module = build_module(self.config, folder / task, LABELS, frozen_dtype=torch.float32)
        self.engine = Engine(
            self.module,
            self.config,
            precision=Precision.FLOAT32,
            total_steps=len(self.plan),
            world_size=workers,
        )

    def train(self, first: int = 0, last: int | None = None) -> list[tuple[float, float]]:
        """`(loss, gradient norm)` of each step, the loss a mean over the targets of all ranks."""
        return [self._step(step) for step in self.plan[first:last]]

    def _step(self, step: Step) -> tuple[float, float]:
        num_targets = sum(self.rows[index].num_targets for index in step.row_indices)
        spare = weightless(self.rows[step.row_indices[0]])
        batches = [self.collate([self.rows[i] for i in mine] or [spare]) for mine in step.rows[self.rank]]
        loss_sum = self.engine.step(batches, num_targets)
        dist.all_reduce(loss_sum)
        return float(loss_sum) / num_targets, self.engine.grad_norm

    def collate(self, rows: list[Example]) -> dict[str, torch.Tensor]:
        return collate(rows, self.config.task, pad_token_id=0)

    def state(self) -> dict[str, torch.Tensor] | None:
        return self.engine.gathered_state(self.rank == 0)


def compare_cuts(folder: Path, workers: int) -> None:
    """Losses, norms and final weights of every task, cut and stage; exports of the runs of two workers."""
    for task, method in METHODS.items():
        for cut in [cut for cut in CUTS if cut[2] == workers]:
            cases = {str(stage): (stage, {}) for stage in STAGES} | (VARIANTS if cut == VARIED else {})
            for case, (stage, settings) in cases.items():
                run = Run(folder, task, method, cut, stage, **settings)
                steps = run.train()
                name = f"{task}-{'x'.join(map(str, cut))}-{case}"
                leave(folder / f"{name}.pt", {"steps": steps, "state": run.state()})
                if workers == 2:
                    export(folder, run, name)


def export(folder: Path, run: Run, name: str) -> None:
    """Export a run, beside what its engine says of some rows before."""
    batch = run.collate(run.rows[:6])
    measured = run.engine.evaluate(batch)
    export_model(run.engine, run.module, run.config, str(folder / name), is_writer=run.rank == 0)
    leave(
        folder / f"{name}.measured.pt",
        {"batch": batch, "measured": measured, "config": run.config.model_dump_json()},
    )


def export_adapters(folder: Path) -> None:
    for task in (TaskName.CLASSIFICATION, TaskName.SFT):
        for stage in (0, 3):
            run = Run(folder, task, Method.LORA, (2, 2, 2), stage)
            run.train()
            export(folder, run, f"{task}-lora-{stage}")


def resume(folder: Path) -> None:
    """Save after two steps, go on with a fresh engine, and beside it without a break."""
    cases = [(TaskName.CLASSIFICATION, Method.FULL, stage) for stage in STAGES]
    cases.append((TaskName.DPO, Method.LORA, 2))
    for task, method, stage in cases:
        whole = Run(folder, task, method, (2, 2, 2), stage)
        whole.train(last=2)
        saved = folder / f"checkpoint-{task}-{stage}"
        whole.engine.save(saved, {"epoch": 1})
        dist.barrier()
        undisturbed = whole.train(first=2)
        state = whole.state()
        again = Run(folder, task, method, (2, 2, 2), stage)
        progress = again.engine.load(saved, folder)
        resumed = again.train(first=2)
        found: dict[str, Any] = {"undisturbed": (undisturbed, state), "resumed": (resumed, again.state())}
        leave(folder / f"resume-{task}-{stage}.pt", {**found, "progress": progress})


def save_for_others(folder: Path, workers: int) -> None:
    """Save after two steps, for a group of another size, and go on without a break."""
    for name, run in _runs_of_other_workers(folder, workers):
        run.train(last=2)
        run.engine.save(folder / f"{workers}-{name}", {"epoch": 1})
        leave(
            folder / f"{workers}-{name}.undisturbed.pt", {"steps": run.train(first=2), "state": run.state()}
        )


def resume_from_others(folder: Path, workers: int) -> None:
    """Go on from what the group of the other size saved."""
    saved_by = {1: 2, 2: 1}[workers]
    for name, run in _runs_of_other_workers(folder, workers):
        run.engine.load(folder / f"{saved_by}-{name}", folder)
        leave(folder / f"{saved_by}-{name}.resumed.pt", {"steps": run.train(first=2), "state": run.state()})


def _runs_of_other_workers(folder: Path, workers: int) -> Iterator[tuple[str, Run]]:
    cut = next(cut for cut in reversed(CUTS) if cut[2] == workers)
    for name, (task, method, stage, offload) in OTHER_WORKERS.items():
        yield name, Run(folder, task, method, cut, stage, offload=offload)


def leave(path: Path, value: Any) -> None:
    if dist.get_rank() == 0:
        torch.save(value, path)


def measure(folder: Path, world_size: int) -> None:
    compare_cuts(folder, world_size)
    if world_size == 2:
        export_adapters(folder)
        resume(folder)


def run_rank(rank: int, act: Callable[[Path, int], None], folder: Path, world_size: int, port: int) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"WORLD_SIZE": str(world_size), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    torch.set_num_threads(1)
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    act(folder, world_size)
    dist.destroy_process_group()


def run_groups(act: Callable[[Path, int], None], folder: Path, world_sizes: list[int]) -> None:
    # Imports are most of what a rank of tiny models does: forks have them already, but cannot use CUDA.
    method = "spawn" if torch.cuda.is_available() else "fork"
    groups = [
        start_processes(
            run_rank, (act, folder, size, free_port("127.0.0.1")), size, join=False, start_method=method
        )
        for size in world_sizes
    ]
    for group in groups:
        while not group.join():
            pass


def main(folder: Path, world_sizes: list[int]) -> None:
    run_groups(measure, folder, world_sizes)
    if len(world_sizes) == 2:
        run_groups(save_for_others, folder, world_sizes)
        run_groups(resume_from_others, folder, world_sizes)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(size) for size in sys.argv[2:]])
