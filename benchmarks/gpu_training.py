"""Training on a GPU: speed, share of peak and memory by model and ZeRO stage, against transformers' Trainer.

    python benchmarks/gpu_training.py --json gpu.json
    python benchmarks/gpu_training.py --quick --only llm_360m

Needs a running head (`python -m cluster up`) that sees one NVIDIA GPU. BERT-base classifies pairs in batches
of 64; a language model of 0.36 billion parameters (SmolLM2-360M's shape, random weights) trains all of them
on rows of 1,024 tokens, 16 at a time. Everything in bf16. The peer is transformers' Trainer with `bf16=True`, the
same batches padded to their longest row, in a process of its own. The file of figures is written after each row.

Share of peak: 6 floating-point operations for each weight of a matrix product and token, and
12 x layers x width x length for attention (Chowdhery et al., PaLM, 2022, appendix B), over what one product
of two 8,192 x 8,192 matrices reaches in this run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from train_throughput import (
    PACKAGES,
    PAIRS,
    WORDS,
    config_of,
    hamlet,
    step_clock,
    training_arguments,
    version_of,
    write_bert_base,
)

from cluster.connection import prepare_client

ROW_TOKENS = 1024
STAGES = (0, 2, 3)


def write_language_model(folder: Path) -> Path:
    """SmolLM2-360M's shape with random weights, and the tokenizer of its smaller sister."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from cluster.references import resolve_model

    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=49_152,
        hidden_size=960,
        intermediate_size=2_560,
        num_hidden_layers=32,
        num_attention_heads=15,
        num_key_value_heads=5,
        max_position_embeddings=8_192,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(shape).to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(resolve_model("builtin:smollm2")).save_pretrained(folder)
    return folder


def write_texts(path: Path, count: int) -> Path:
    """Rows of 1,024 tokens: as many words, each of which is one token."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            words = [WORDS[(number + place) % len(WORDS)] for place in range(ROW_TOKENS)]
            file.write(json.dumps({"text": " ".join(words)}) + "\n")
    return path


def write_pairs(path: Path, count: int) -> Path:
    """The project's example pairs over and over, so that an epoch with its evaluation outlasts the measurement."""
    header, *pairs = PAIRS.read_text(encoding="utf-8").splitlines()
    rows = (pairs[number % len(pairs)] for number in range(count))
    path.write_text("\n".join([header, *rows]), encoding="utf-8")
    return path


def trainer(config: Any) -> dict[str, float]:
    """The peer: the rows that Hamlet prepares, through transformers' Trainer."""
    import torch
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

    from cluster.references import resolve_model
    from training.config import TaskName
    from training.modules import load_base
    from training.prepare import prepare

    prepared = prepare(config)
    is_generative = config.task is TaskName.SFT
    rows: list[dict[str, Any]] = [
        {
            "input_ids": row.input_ids,
            "labels": row.labels if is_generative else row.labels[0],
            **({} if is_generative else {"token_type_ids": row.segment_ids}),
        }
        for row in prepared.dataset.train
    ]
    model = load_base(
        config.task, resolve_model(config.model), prepared.dataset.labels, torch.float32, may_lack_head=True
    )
    pad = DataCollatorWithPadding(prepared.tokenizer)
    clock, median_s = step_clock()
    with tempfile.TemporaryDirectory() as scratch:
        arguments = training_arguments(
            config, TrainingArguments, scratch, bf16=True, dataloader_num_workers=2
        )
        Trainer(model=model, args=arguments, train_dataset=rows, data_collator=pad, callbacks=[clock]).train()
    lengths = statistics.mean(len(row["input_ids"]) for row in rows)
    examples = config.batch.micro_batch_size_per_gpu / median_s()
    return {"examples_per_s": examples, "tokens_per_s": examples * lengths}


def flops_per_token(folder: Path, length: float, *, is_generative: bool) -> float:
    from training.memory import read_shape

    shape = read_shape(folder)
    weights = sum(rows * columns for rows, columns in shape.matrices)
    if is_generative:
        weights += shape.vocabulary_size * shape.hidden_size
    return 6 * weights + 12 * shape.num_layers * shape.hidden_size * length


def matmul_flops() -> float:
    """Floating-point operations a second of a large bf16 product, best of ten."""
    import torch

    left, right = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    seconds = []
    for _ in range(13):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        left @ right
        end.record()
        end.synchronize()
        seconds.append(start.elapsed_time(end) / 1000)
    return float(2 * 8192**3 / min(seconds[3:]))


def compare(scratch: Path, repeats: int, scale: int, only: str | None) -> Iterator[dict[str, Any]]:
    """A row for each model and stage, as soon as it is known."""
    peak = in_process(matmul_flops)
    print(f"a product of 8,192 x 8,192 in bf16: {peak / 1e12:.0f} TFLOP/s", flush=True)
    pairs = write_pairs(scratch / "pairs.tsv", round(1.2 * 64 * 200 * scale))
    texts = write_texts(scratch / "texts.jsonl", round(1.2 * 16 * 40 * scale))
    cases = (
        ("bert_base", write_bert_base(scratch / "bert-base"), "classification", pairs, 64, 200 * scale),
        ("llm_360m", write_language_model(scratch / "llm"), "sft", texts, 16, 40 * scale),
    )
    for name, folder, task, data, batch, steps in cases:
        if only not in (None, name):
            continue
        make = partial(
            config_of,
            str(folder),
            task,
            data,
            steps,
            batch={"micro_batch_size_per_gpu": batch},
            precision="bf16",
            max_length_tokens=128 if task == "classification" else ROW_TOKENS,
        )
        peers = [in_process(partial(trainer, make())) for _ in range(repeats)]
        baseline = statistics.median(peer["tokens_per_s"] for peer in peers)
        for stage in STAGES:
            config = make(scaling={"cpus_per_worker": 4, "zero_stage": stage, "use_gpu": True})
            runs = [in_process(partial(hamlet, config)) for _ in range(repeats)]
            speeds = [run["tokens_per_s"] for run in runs]
            value = statistics.median(speeds)
            length = value / statistics.median(run["examples_per_s"] for run in runs)
            reached = value * flops_per_token(folder, length, is_generative=task == "sft")
            row = {
                "metric": f"{name}_zero{stage}",
                "value": value,
                "unit": "tokens/s",
                "baseline": baseline,
                "ratio": value / baseline,
                "spread": max(speeds) - min(speeds),
                "examples_per_s": value / length,
                "share_of_peak": reached / peak,
                "peak_memory_bytes": runs[-1]["peak_memory_bytes"],
            }
            print(
                f"{row['metric']:16} {value:10,.0f} tokens/s  {row['examples_per_s']:8,.0f} examples/s  "
                f"Trainer {baseline:10,.0f}  ratio {row['ratio']:.2f}  {row['share_of_peak']:.0%} of peak  "
                f"{row['peak_memory_bytes'] / 2**30:.1f} GiB",
                flush=True,
            )
            yield row


def in_process(function: Any) -> Any:
    """The answer of `function`, from a process of its own: none inherits another's CUDA memory."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function).result()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="once, half the steps")
    parser.add_argument("--only", choices=("bert_base", "llm_360m"), help="one of the two models")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        parser.error("no NVIDIA GPU is found; for processors there is benchmarks/train_throughput.py")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    prepare_client()
    device = torch.cuda.get_device_properties(0)
    report: dict[str, Any] = {
        "machine": {"gpu": device.name, "memory_bytes": device.total_memory},
        "versions": {name: version_of(name) for name in PACKAGES if name != "trl"},
        "metrics": [],
    }
    repeats, scale = (1, 1) if arguments.quick else (3, 2)
    with tempfile.TemporaryDirectory() as scratch:
        for row in compare(Path(scratch), repeats, scale, arguments.only):
            report["metrics"].append(row)
            if arguments.json:
                arguments.json.write_text(json.dumps(report, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
