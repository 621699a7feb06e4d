"""Training speed: Hamlet against the usual scripts, with the same rows and settings, in one run on one machine.

    python benchmarks/train_throughput.py --json train.json
    python benchmarks/train_throughput.py --only minilm_train_vs_recipe sft_vs_trl --quick

Needs a running head (`python -m cluster up`). The peers, each in a process of its own:
- the slides' recipe: transformers' Trainer, every row padded to 128 tokens, batch 8, float32;
- plain torchrun: our module, batches and precision under torch's own DistributedDataParallel;
- trl's SFTTrainer (`pip install trl==1.16.0`), all weights, answers only, bf16, batch 8, never packed.
Speed is that of the steps alone, after the first few; `submit_to_first_step` is the whole way, beside that of the
recipe's script from its start. `two_workers_vs_two_threads` compares Hamlet with itself: the same global batch by two
workers of one thread, and by one worker of two. Spread is the largest value of ours less the smallest.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from cluster.connection import prepare_client
from cluster.versions import installed_version

REPOSITORY = Path(__file__).parents[1]
PAIRS = REPOSITORY / "examples" / "paraphrase" / "train.tsv"
WARM_UP_STEPS = 3
WORDS = ["the", "of", "and", "in", "that", "it", "was", "for", "on", "with", "they", "be", "at", "one"]


def write_chats(path: Path, count: int) -> Path:
    """Short chats of 10 to 60 words, the form in which packing pays."""
    draw = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            question, answer = (" ".join(draw.choices(WORDS, k=draw.randint(5, 30))) for _ in range(2))
            messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"messages": messages}) + "\n")
    return path


def write_bert_base(folder: Path) -> Path:
    """BERT-base with random weights, and MiniLM's tokenizer, whose vocabulary is BERT's."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    from cluster.references import resolve_model

    torch.manual_seed(0)
    BertModel(BertConfig()).save_pretrained(folder)
    AutoTokenizer.from_pretrained(resolve_model("builtin:minilm")).save_pretrained(folder)
    return folder


def config_of(model: str, task: str, data: Path, steps: int, **changes: Any) -> Any:
    from training.config import FinetuneConfig

    values = {
        "name": "bench",
        "task": task,
        "model": model,
        "data": {"path": str(data)},
        "epochs": 1000,
        "max_steps": steps,
        "max_length_tokens": 128 if task == "classification" else 512,
        "batch": {"micro_batch_size_per_gpu": 8},
        "scaling": {"cpus_per_worker": 2, "zero_stage": 0},
    }
    return FinetuneConfig.model_validate(values | changes)


def hamlet(config: Any) -> dict[str, float]:
    """Speed and peak memory of a run without export, through Ray Train and DeepSpeed."""
    import ray

    from cluster.connection import connect
    from cluster.storage import delete_folder, storage_uri
    from training.examples import pad_token_id
    from training.fit import Fit
    from training.loop_state import LoopInputs
    from training.prepare import prepare
    from training.progress import EventLog, StepEvent

    connect()
    prepared = prepare(config)
    uri = storage_uri("runs", f"bench-{time.time_ns()}")
    steps: list[tuple[float, StepEvent]] = []
    log = ray.remote(num_cpus=0)(EventLog).remote(600.0)
    inputs = LoopInputs(config, ray.put(prepared.dataset), pad_token_id(prepared.tokenizer), uri, None, log)

    def keep(event: Any) -> None:
        if isinstance(event, StepEvent) and event.step > WARM_UP_STEPS:
            steps.append((time.monotonic(), event))

    try:
        result = Fit(config, inputs, "bench", [keep]).run()
    finally:
        delete_folder(uri)
    examples = [event.examples_per_s for _, event in steps]
    tokens = [event.tokens_per_s for _, event in steps]
    return {
        "examples_per_s": statistics.median(examples),
        "tokens_per_s": statistics.median(tokens),
        "step_s": config.global_batch_size / statistics.median(examples),
        "peak_memory_bytes": float(result.peak_memory_bytes),
    }


def peer(kind: str, config: Any, *launcher: str) -> dict[str, float]:
    """The same settings through another trainer, in a process of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        request, answer = Path(scratch) / "request.json", Path(scratch) / "answer.json"
        request.write_text(config.model_dump_json(), encoding="utf-8")
        program = launcher or (sys.executable,)
        command = [*program, str(Path(__file__).resolve()), "--peer", kind, str(request), str(answer)]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "2"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{kind} failed: {done.stderr.strip()[-2000:]}")
        return dict(json.loads(answer.read_text(encoding="utf-8")))


def step_clock() -> tuple[Any, Callable[[], dict[str, float]]]:
    """A Trainer callback that notes when steps end, and what follows from them: `step_s`, the median after the
    warm-up, and `first_step_at`, by the clock of the machine."""
    from transformers import TrainerCallback

    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.time())

    def figures() -> dict[str, float]:
        late = ends[WARM_UP_STEPS:] if len(ends) > WARM_UP_STEPS + 1 else ends
        step_s = statistics.median(b - a for a, b in itertools.pairwise(late))
        return {"step_s": step_s, "first_step_at": ends[0]}

    return Clock(), figures


def training_arguments(config: Any, kind: type, scratch: str, **more: Any) -> Any:
    return kind(
        scratch,
        max_steps=config.max_steps,
        per_device_train_batch_size=config.batch.micro_batch_size_per_gpu,
        learning_rate=config.learning_rate,
        seed=config.seed,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        **more,
    )


def recipe(config: Any) -> dict[str, float]:
    from datasets import Dataset
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        Trainer,
        TrainingArguments,
    )

    from cluster.references import resolve_model
    from training.sources import read_rows

    folder = resolve_model(config.model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = [row.columns for row in read_rows(config.data.path)]
    texts = [[row[name] for row in rows] for name in ("sentence1", "sentence2")]
    encoded = tokenizer(*texts, truncation=True, padding="max_length", max_length=128)
    data = Dataset.from_dict({**encoded, "labels": [int(row["label"]) for row in rows]})
    clock, figures_of = step_clock()
    with tempfile.TemporaryDirectory() as scratch:
        model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
        arguments = training_arguments(config, TrainingArguments, scratch)
        Trainer(model=model, args=arguments, train_dataset=data, callbacks=[clock]).train()
    figures = figures_of()
    return figures | {"examples_per_s": config.batch.micro_batch_size_per_gpu / figures["step_s"]}


def trl(config: Any) -> dict[str, float]:
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from cluster.references import resolve_model
    from training.sources import read_rows

    folder = resolve_model(config.model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chats = [row.columns["messages"] for row in read_rows(config.data.path)]
    data = Dataset.from_list([{"prompt": chat[:-1], "completion": chat[-1:]} for chat in chats])
    with tempfile.TemporaryDirectory() as scratch:
        arguments = training_arguments(
            config,
            SFTConfig,
            scratch,
            bf16=True,
            use_cpu=not torch.cuda.is_available(),
            max_length=config.max_length_tokens,
        )
        clock, figures_of = step_clock()
        trainer = SFTTrainer(
            model=AutoModelForCausalLM.from_pretrained(folder, dtype="float32"),
            args=arguments,
            train_dataset=data,
            processing_class=tokenizer,
            callbacks=[clock],
        )
        trainer.train()
    # Tokens of a mean row: trl counts none of its own that leaves the padding out.
    lengths = [len(tokenizer.apply_chat_template(chat, return_dict=True)["input_ids"]) for chat in chats]
    tokens = statistics.mean(lengths) * config.batch.micro_batch_size_per_gpu
    figures = figures_of()
    return figures | {"tokens_per_s": tokens / figures["step_s"]}


def torchrun(config: Any) -> dict[str, float]:
    """Our module and batches, but torch's DistributedDataParallel and nothing else."""
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    from cluster.references import resolve_model
    from training.batching import plan_epoch
    from training.engine import parameter_groups
    from training.examples import pad_token_id
    from training.modules import build_module, collate
    from training.precision import choose_precision
    from training.prepare import prepare
    from training.seeds import seed_everything

    dist.init_process_group("gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    torch.set_num_threads(max(1, int(config.scaling.cpus_per_worker)))
    seed_everything(config.seed)
    use_bf16 = choose_precision(config.precision, on_gpu=False) == "bf16"
    prepared = prepare(config)
    rows, labels = prepared.dataset.train, prepared.dataset.labels
    module = build_module(config, resolve_model(config.model), labels, frozen_dtype=torch.float32)
    parallel = DistributedDataParallel(module)
    groups = parameter_groups(module, config.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)
    lengths = [len(row.input_ids) for row in rows]
    pad, seconds, done = pad_token_id(prepared.tokenizer), [], 0
    for epoch in range(config.epochs):
        plan = plan_epoch(
            lengths,
            global_batch_size=config.global_batch_size,
            micro_batch_size=config.batch.micro_batch_size_per_gpu,
            world_size=world_size,
            seed=config.seed,
            epoch=epoch,
        )
        for step in plan[: config.max_steps - done]:
            started = time.monotonic()
            batch = collate([rows[index] for index in step.rows[rank][0]], config.task, pad)
            with torch.autocast("cpu", torch.bfloat16, enabled=use_bf16):
                loss_sum, _ = parallel(batch)
            (loss_sum * world_size / len(step.row_indices)).backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), config.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            seconds.append(time.monotonic() - started)
            done += 1
        if done >= config.max_steps:
            break
    dist.destroy_process_group()
    return {"step_s": statistics.median(seconds[WARM_UP_STEPS:])}


def own_peak() -> int:
    import torch

    from training.meter import own_peak_memory_bytes

    return own_peak_memory_bytes(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


PEERS = {"recipe": recipe, "trl": trl, "torchrun": torchrun}


def script_to_first_step(config: Any) -> float:
    """Seconds from the start of the recipe's script to the end of its first step."""
    started = time.time()
    return peer("recipe", config)["first_step_at"] - started


def submit_to_first_step(config: Any, scratch: Path) -> float:
    """Seconds from `ray job submit` to the end of the first step of a run."""
    from cluster.settings import settings
    from cluster.submission import submit, submit_command

    run = f"bench-submit-{time.time_ns()}"
    path = scratch / "submit.yaml"
    path.write_text(config.model_dump_json())  # JSON is YAML
    started = time.time()
    # A run of its own name, whose events are looked for.
    submit(submit_command(["python", "-m", "training", "run", str(path), "--run", run], REPOSITORY))
    metrics = settings().home_dir / "runs" / run / "metrics.jsonl"
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        lines = metrics.read_text(encoding="utf-8").splitlines(keepends=True) if metrics.exists() else []
        for line in lines:
            if line.endswith("\n") and json.loads(line)["kind"] == "step":
                return float(json.loads(line)["time"]) - started
        time.sleep(0.1)
    raise RuntimeError("no step within 180 s; see `ray job logs`")


def compare(only: set[str], steps: int, repeats: int, scratch: Path) -> list[dict[str, Any]]:
    """All metrics asked for; each pair of peers measured in turns, `repeats` times."""
    rows: list[dict[str, Any]] = []

    def measure(
        metric: str, unit: str, figure: str, ours: Callable[[], Any], theirs: Callable[[], Any]
    ) -> None:
        pairs = [(ours(), theirs()) for _ in range(repeats)]
        mine, other = ([pair[side][figure] for pair in pairs] for side in (0, 1))
        value, baseline, spread = statistics.median(mine), statistics.median(other), max(mine) - min(mine)
        row = {"metric": metric, "value": value, "unit": unit, "baseline": baseline}
        row |= {"ratio": value / baseline, "spread": spread}
        for name, side in zip(("peak_memory_bytes", "baseline_peak_memory_bytes"), pairs[-1], strict=True):
            if "peak_memory_bytes" in side:
                row[name] = side["peak_memory_bytes"]
        rows.append(row)
        print(
            f"{metric:26} {value:9.3f} {unit:12} baseline {baseline:9.3f}  ratio {value / baseline:5.2f}  "
            f"spread {spread:.3f}"
        )

    bases: dict[str, Callable[[], str]] = {
        "minilm_train_vs_recipe": lambda: "builtin:minilm",
        "bert_base_train_vs_recipe": lambda: str(write_bert_base(scratch / "bert-base")),
    }
    for metric, make in bases.items():
        if metric in only:
            config = config_of(make(), "classification", PAIRS, steps)
            measure(
                metric,
                "examples/s",
                "examples_per_s",
                partial(hamlet, config),
                partial(peer, "recipe", config),
            )
    if "train_step_vs_torchrun" in only:
        scaling = {"num_workers": 2, "cpus_per_worker": 1, "zero_stage": 0}
        config = config_of("builtin:minilm", "classification", PAIRS, steps, scaling=scaling)
        launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
        measure(
            "train_step_vs_torchrun",
            "s",
            "step_s",
            partial(hamlet, config),
            partial(peer, "torchrun", config, *launcher),
        )
    if "two_workers_vs_two_threads" in only:
        by_two, by_one = (
            config_of(
                "builtin:minilm",
                "classification",
                PAIRS,
                steps,
                batch={"micro_batch_size_per_gpu": 8, "gradient_accumulation_steps": passes},
                scaling={"num_workers": workers, "cpus_per_worker": threads, "zero_stage": 0},
            )
            for workers, threads, passes in ((2, 1, 1), (1, 2, 2))
        )
        measure(
            "two_workers_vs_two_threads",
            "examples/s",
            "examples_per_s",
            partial(hamlet, by_two),
            partial(hamlet, by_one),
        )
    chats = write_chats(scratch / "chats.jsonl", 400)
    for metric, packing in (("sft_vs_trl", False), ("sft_packed_vs_trl", True)):
        if metric not in only:
            continue
        if installed_version("trl") is None:
            print(f"{metric:26} left out: trl is not installed (pip install trl==1.16.0)")
            continue
        config = config_of("builtin:smollm2", "sft", chats, steps, packing=packing)
        plain = config.model_copy(update={"packing": False})
        measure(
            metric,
            "tokens/s",
            "tokens_per_s",
            partial(hamlet, config),
            partial(peer, "trl", plain),
        )
    if "submit_to_first_step" in only:
        config = config_of("builtin:minilm", "classification", PAIRS, 2)
        measure(
            "submit_to_first_step",
            "s",
            "first_step_s",
            lambda: {"first_step_s": submit_to_first_step(config, scratch)},
            lambda: {"first_step_s": script_to_first_step(config)},
        )
    return rows


METRICS = (
    "minilm_train_vs_recipe",
    "bert_base_train_vs_recipe",
    "train_step_vs_torchrun",
    "two_workers_vs_two_threads",
    "sft_vs_trl",
    "sft_packed_vs_trl",
    "submit_to_first_step",
)
PACKAGES = ("torch", "transformers", "deepspeed", "ray", "trl")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=METRICS, default=METRICS)
    parser.add_argument("--quick", action="store_true", help="few steps, once: under three minutes")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--peer", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        from training.config import FinetuneConfig

        kind, request, answer = arguments.peer
        config = FinetuneConfig.model_validate_json(Path(request).read_text(encoding="utf-8"))
        figures = PEERS[kind](config) | {"peak_memory_bytes": float(own_peak())}
        if int(os.environ.get("RANK", "0")) == 0:
            Path(answer).write_text(json.dumps(figures), encoding="utf-8")
        return
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    prepare_client()
    steps, repeats = (8, 1) if arguments.quick else (60, 3)
    with tempfile.TemporaryDirectory() as scratch:
        rows = compare(set(arguments.only), steps, repeats, Path(scratch))
    if arguments.json:
        report = {
            "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
            "versions": {name: installed_version(name) for name in PACKAGES},
            "metrics": rows,
        }
        arguments.json.write_text(json.dumps(report, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
