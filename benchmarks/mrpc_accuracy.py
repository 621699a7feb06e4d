"""Accuracy on MRPC: Hamlet against transformers' Trainer with the same settings, over several seeds.

    python benchmarks/mrpc_accuracy.py --data ../shared/mrpc --json accuracy.json

Needs a running head (`python -m cluster up`) and MSR's two files. Each run trains `builtin:minilm` for three
epochs at batch 8 on one worker, learning rate 5e-5, as the usual recipe does. The file of figures is written
after every run, and runs that it holds are not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cluster.connection import prepare_client

EPOCHS, BATCH, LEARNING_RATE = 3, 8, 5e-5


def hamlet(data: Path, seed: int, epochs: int) -> dict[str, float]:
    from training.config import FinetuneConfig
    from training.run import run

    config = FinetuneConfig.model_validate(
        {
            "name": "mrpc-accuracy",
            "task": "classification",
            "model": "builtin:minilm",
            "data": {
                "path": data / "msr_paraphrase_train.txt",
                "validation_path": data / "msr_paraphrase_test.txt",
            },
            "epochs": epochs,
            "learning_rate": LEARNING_RATE,
            "batch": {"micro_batch_size_per_gpu": BATCH},
            "scaling": {"cpus_per_worker": 2, "zero_stage": 0},
            "seed": seed,
        }
    )
    started = time.monotonic()
    card = run(config)
    return {name: card.metrics[name] for name in ("accuracy", "f1")} | {"seconds": time.monotonic() - started}


def recipe(data: Path, seed: int, epochs: int) -> dict[str, float]:
    """transformers' Trainer as its documentation shows it, with dynamic padding."""
    from datasets import Dataset
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    from cluster.references import resolve_model
    from training.classification import classification_metrics
    from training.sources import read_rows

    folder = resolve_model("builtin:minilm")
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def load(name: str) -> Any:
        rows = [row.columns for row in read_rows(data / name)]
        texts = tokenizer(
            [row["sentence1"] for row in rows], [row["sentence2"] for row in rows], truncation=True
        )
        return Dataset.from_dict({**texts, "labels": [int(row["label"]) for row in rows]})

    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        trainer = Trainer(
            model_init=lambda: AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2),
            args=TrainingArguments(
                scratch,
                num_train_epochs=epochs,
                per_device_train_batch_size=BATCH,
                learning_rate=LEARNING_RATE,
                seed=seed,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
            ),
            train_dataset=load("msr_paraphrase_train.txt"),
            eval_dataset=load("msr_paraphrase_test.txt"),
            data_collator=DataCollatorWithPadding(tokenizer),
            compute_metrics=lambda output: classification_metrics(
                output.predictions.argmax(-1).tolist(), output.label_ids.tolist(), 2
            ),
        )
        trainer.train()
        seconds = time.monotonic() - started
        metrics = trainer.evaluate()
    return {"accuracy": metrics["eval_accuracy"], "f1": metrics["eval_f1"], "seconds": seconds}


def compare(data: Path, seeds: list[int], epochs: int, kept: Path | None) -> dict[str, Any]:
    """The report: every run, and a row per metric. The two take turns, so that a machine that slows down slows both."""
    report: dict[str, Any] = {
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "versions": {name: version(name) for name in ("torch", "transformers", "deepspeed", "ray")},
        "epochs": epochs,
        "runs": {},
    }
    if kept and kept.exists():
        before = json.loads(kept.read_text(encoding="utf-8"))
        if all(before.get(name) == report[name] for name in ("machine", "versions", "epochs")):
            report["runs"] = before["runs"]
    for seed in seeds:
        for name, train in (("hamlet", hamlet), ("trainer", recipe)):
            run = f"{name}, seed {seed}"
            if run not in report["runs"]:
                report["runs"][run] = train(data, seed, epochs)
                write(report, kept)
            figures = ", ".join(f"{metric} {value:.4f}" for metric, value in report["runs"][run].items())
            print(f"{run}: {figures}", flush=True)
    ours, theirs = (
        [report["runs"][f"{name}, seed {seed}"] for seed in seeds] for name in ("hamlet", "trainer")
    )
    rows = []
    for name, unit in (("accuracy", "share"), ("f1", "share"), ("seconds", "s")):
        values, baseline = [run[name] for run in ours], [run[name] for run in theirs]
        rows.append(
            {
                "metric": f"mrpc_{name}",
                "value": statistics.mean(values),
                "unit": unit,
                "baseline": statistics.mean(baseline),
                "ratio": statistics.mean(values) / statistics.mean(baseline),
                "spread": max(values) - min(values),
            }
        )
    report["metrics"] = rows
    write(report, kept)
    return report


def write(report: dict[str, Any], path: Path | None) -> None:
    if path:
        path.write_text(json.dumps(report, indent=2), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with MSR's two files")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    parser.add_argument("--quick", action="store_true", help="one seed, one epoch")
    parser.add_argument("--json", type=Path, help="also keep the figures here")
    arguments = parser.parse_args()
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    prepare_client()
    seeds, epochs = ([arguments.seeds[0]], 1) if arguments.quick else (arguments.seeds, EPOCHS)
    for row in compare(arguments.data, seeds, epochs, arguments.json)["metrics"]:
        print(
            f"{row['metric']:14} {row['value']:9.4f}  trainer {row['baseline']:9.4f}  spread {row['spread']:.4f}"
        )


if __name__ == "__main__":
    main()
