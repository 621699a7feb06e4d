"""What one replica and one worker were measured to do and to take, and where: what capacity is computed from.

A benchmark's `--json` replaces a figure by the user's own; the metrics have the benchmarks' names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, ValidationError

from cluster.errors import ConfigError
from cluster.yaml_config import Section


class Speed(Section):
    """One measured figure."""

    value: float = Field(gt=0)
    unit: str
    baseline: float | None = Field(None, gt=0, description="The peer's figure of the same run.")
    num_cpus: int = Field(gt=0, description="Cores that it was measured on, with everything on them.")
    where: str = Field(description="Machine and source.")


class Gpu(Section):
    """A GPU as its data sheet describes it; none of these was measured with Hamlet."""

    memory_gb: float = Field(gt=0, description="Memory in 10^9 bytes.")
    bandwidth_gb_per_s: float = Field(gt=0, description="Memory bandwidth in 10^9 bytes/s.")
    tflops: float = Field(gt=0, description="Dense bfloat16 operations in 10^12/s.")


# The models that the figures below were measured with.
MEASURED_PARAMETERS = 135e6  # builtin:smollm2
MEASURED_BYTES_PER_PARAMETER = 2  # bfloat16
MEASURED_BATCH = 16  # generations at once
MEASURED_PROMPT_TOKENS = 114  # of each, which the figure includes
MEASURED_CACHE_BYTES = 2**30  # generator.kv_cache_gib
MEASURED_CHUNKS = 100_000
MEASURED_DIMENSIONS = 384  # builtin:minilm

_MACHINE = "2 cores of an Intel Xeon with AMX, 25 November 2026"
_SERVING = f"{_MACHINE}; serve_load.py --quick, docs/serving.md"

MEASURED: Mapping[str, Speed] = {
    "generate_tps_16": Speed(value=176, unit="tokens/s", baseline=213, num_cpus=2, where=_SERVING),
    "embed_rps_vs_infinity": Speed(value=177, unit="requests/s", num_cpus=2, where=_SERVING),
    "embed_rps_vs_ceiling": Speed(value=535, unit="texts/s", baseline=595, num_cpus=2, where=_SERVING),
    "classify_rps_vs_ceiling": Speed(value=176, unit="texts/s", baseline=206, num_cpus=2, where=_SERVING),
    "echo_p50": Speed(value=0.91, unit="ms", num_cpus=2, where=_SERVING),
    "router_share_p50": Speed(value=4.6, unit="ms", num_cpus=2, where=_SERVING),
    "search_p50_100k": Speed(
        value=1.30, unit="ms", num_cpus=2, where=f"{_MACHINE}; the engine itself, docs/retrieval.md"
    ),
    "sft_vs_trl": Speed(
        value=254,
        unit="tokens/s",
        baseline=145,
        num_cpus=2,
        where="the same cores on 26 November 2026; LoRA, train_throughput.py --quick, docs/training.md",
    ),
    # What no other process shares, after the benchmark's load.
    **{
        f"memory_{part}": Speed(value=mebibytes, unit="MiB", num_cpus=2, where=_SERVING)
        for part, mebibytes in (
            ("router", 191),
            ("generator", 3344),  # with its weights and 1 GiB of KV cache
            ("embedder", 676),
            ("classifier", 626),
            ("retriever", 175),
        )
    },
}

GPUS: Mapping[str, Gpu] = {
    "l4": Gpu(memory_gb=24, bandwidth_gb_per_s=300, tflops=121),
    "a100": Gpu(memory_gb=80, bandwidth_gb_per_s=2039, tflops=312),
    "h100": Gpu(memory_gb=80, bandwidth_gb_per_s=3350, tflops=989),
}


def with_measured(speeds: Mapping[str, Speed], files: list[Path]) -> dict[str, Speed]:
    """`speeds` with what benchmarks wrote by `--json`; metrics that capacity does not use are left out.

    Raises ConfigError when a file is not such a report, or has none of the metrics.
    """
    known = dict(speeds)
    for file in files:
        try:
            report = json.loads(file.read_text(encoding="utf-8"))
            cores, rows = report["machine"]["cores"], report["metrics"]
            where = f"{report['machine']['processor']}, {cores} cores; {file.name}"
            found = {
                row["metric"]: Speed(
                    value=row["value"],
                    unit=row["unit"],
                    baseline=row.get("baseline"),
                    num_cpus=cores,
                    where=where,
                )
                for row in rows
                if row["metric"] in known
            }
        except OSError as exc:
            raise ConfigError(
                f"cannot read {file}: {exc.strerror}; give what a benchmark wrote with --json", "measured"
            ) from exc
        except (ValueError, KeyError, TypeError, ValidationError) as exc:
            raise ConfigError(
                f"{file} is no report of ours; make one with: python benchmarks/serve_load.py --json {file.name}",
                "measured",
            ) from exc
        if not found:
            raise ConfigError(f"{file} has none of {', '.join(known)}", "measured")
        known |= found
    return known
