"""What Hamlet's serving costs above the engines beneath it, in one run on one machine.

    python benchmarks/serve_load.py --quick --json serve.json

Starts a private Ray head, deploys `examples/serve.yaml`, measures it, ends it, and then measures the peers
with the same weights and settings: vLLM's own server, and the embedder and classifier called in process.
infinity is measured where `--infinity-python` names the Python of an environment that has it.

`--soak MINUTES` measures something else, without peers: the memory of each part under a steady mixed load.

Texts are streamed in the generation figures. All clients are `light_client`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import yaml
from light_client import Answer, run

sys.path.pop(0)  # this folder, whose retrieval.py would be found before the package

REPOSITORY = Path(__file__).parents[1]
CONCURRENCIES = (1, 4, 8, 16)
NEW_TOKENS = 64
WORDS_PER_TEXT = 24
START_DEADLINE_S = 240.0

WORDS = [
    *("river", "copper", "window", "garden", "letter", "signal", "market", "winter", "engine", "paper"),
    *("bridge", "harbour", "lantern", "orchard", "valley", "meadow", "station", "kettle", "pencil", "mirror"),
    *("blanket", "compass", "feather", "thunder", "ribbon", "anchor", "basket", "candle"),
]

Figures = dict[str, list[float]]


def text(seed: int, num_words: int = WORDS_PER_TEXT) -> str:
    chosen = random.Random(seed)
    return " ".join(chosen.choice(WORDS) for _ in range(num_words))


def chat(seed: int, model: str, **options: Any) -> dict[str, Any]:
    question = f"Write a long story of a journey in which all of this occurs: {text(seed, 70)}."
    options = {"max_tokens": NEW_TOKENS, "temperature": 0} | options
    return {"model": model, "messages": [{"role": "user", "content": question}], **options}


def measure_generation(url: str, model: str, quick: bool, figures: Figures) -> None:
    """Tokens per second at each concurrency, and time to first token one at a time."""
    stream = {"stream": True, "stream_options": {"include_usage": True}}
    seeds = iter(range(10**6))
    for repeat in range(2 if quick else 4):
        for concurrency in CONCURRENCIES:
            count = max(3, concurrency)
            bodies = [chat(next(seeds), model, **stream) for _ in range(count)]
            seconds, answers = asyncio.run(run(url, "/v1/chat/completions", bodies, concurrency))
            if repeat == 0:
                continue  # the first round warms up
            num_tokens = sum(usage_of(answer) for answer in answers)
            figures.setdefault(f"generate_tps_{concurrency}", []).append(num_tokens / seconds)
    bodies = [chat(next(seeds), model, **stream, max_tokens=4) for _ in range(20 if quick else 60)]
    _, answers = asyncio.run(run(url, "/v1/chat/completions", bodies, 1))
    figures["ttft_ms"] = [first_token_ms(answer) for answer in answers]


def usage_of(answer: Answer) -> int:
    last = answer.body.strip().split(b"\n\n")[-2]
    return int(json.loads(last.removeprefix(b"data: "))["usage"]["completion_tokens"])


def first_token_ms(answer: Answer) -> float:
    for seconds, piece in answer.pieces:
        if b'"content":"' in piece.replace(b'"content":""', b""):
            return float(seconds) * 1000
    raise RuntimeError("a stream without text")


def measure_router(url: str, quick: bool, figures: Figures) -> None:
    """An empty request through the whole path, and what of a grounded answer is the router's own."""
    _, answers = asyncio.run(run(url, "/healthz", [None] * (300 if quick else 2000), 1))
    figures["echo_p50"] = [answer.seconds * 1000 for answer in answers]
    questions = ["How many days of leave do I have?", "Which agency books flights?", "When is lunch served?"]
    bodies = [
        {
            "model": "smollm2+rag",
            "messages": [{"role": "user", "content": questions[number % 3]}],
            "max_tokens": 4,
            "hamlet": {"score_threshold": -1},
        }
        for number in range(12 if quick else 100)
    ]
    _, answers = asyncio.run(run(url, "/v1/chat/completions", bodies, 1))
    shares = []
    for answer in answers[2:]:
        stages = json.loads(answer.body)["hamlet"]["stage_ms"]
        shares.append(answer.seconds * 1000 - stages["embed"] - stages["search"] - stages["generate"])
    figures["router_share_p50"] = shares


def measure_texts(url: str, path: str, make: Callable[[list[int]], dict[str, Any]], quick: bool) -> Figures:
    """Requests of one text, 32 at once, and texts per second in requests of 32, 8 at once."""
    figures: Figures = {"single": [], "batch": []}
    for repeat in range(3 if quick else 6):
        ones = [make([1000 * repeat + number]) for number in range(128 if quick else 512)]
        seconds, _ = asyncio.run(run(url, path, ones, 32))
        many = [make([50_000 + 1000 * repeat + 32 * number + i for i in range(32)]) for number in range(16)]
        batch_seconds, _ = asyncio.run(run(url, path, many, 8))
        if repeat:  # the first round warms up
            figures["single"].append(len(ones) / seconds)
            figures["batch"].append(32 * len(many) / batch_seconds)
    return figures


def embedding_body(seeds: list[int]) -> dict[str, Any]:
    return {"model": "minilm", "input": [text(seed) for seed in seeds], "encoding_format": "base64"}


def measure_hamlet(quick: bool) -> Figures:
    figures: Figures = {}
    with hamlet() as (url, classifier, ready_s, memory):
        figures["cold_start"] = [ready_s]
        measure_router(url, quick, figures)
        measure_generation(url, "smollm2", quick, figures)
        embedding = measure_texts(url, "/v1/embeddings", embedding_body, quick)
        figures["embed_rps"], figures["embed_tps"] = embedding["single"], embedding["batch"]
        figures["classify_tps"] = measure_texts(
            url,
            "/v1/classify",
            lambda seeds: {"model": classifier, "input": [[text(seed), text(-seed)] for seed in seeds]},
            quick,
        )["batch"]
        for name, mebibytes in memory().items():
            figures[f"memory_{name}"] = [mebibytes]
    return figures


def measure_soak(minutes: float) -> list[dict[str, Any]]:
    """The memory of each part after a first round of the load, at the end, and by how much it grows in an hour."""
    hours: list[float] = []
    samples: dict[str, list[float]] = {}
    with hamlet() as (url, classifier, _, memory):
        send_mixture(url, classifier, 0)
        started = time.monotonic()
        while len(hours) < 2 or hours[-1] * 60 < minutes:
            hours.append((time.monotonic() - started) / 3600)
            for part, mebibytes in memory().items():
                samples.setdefault(part, []).append(mebibytes)
            send_mixture(url, classifier, len(hours))
    rows = []
    for part, used in samples.items():
        growth = statistics.linear_regression(hours, used).slope
        rows += [
            metric(f"memory_{part}_start", "MiB", used[:1]),
            metric(f"memory_{part}_end", "MiB", used[-1:]),
            metric(f"memory_{part}_growth", "MiB/h", [growth]),
        ]
    return rows


def send_mixture(url: str, classifier: str, seed: int) -> None:
    """One round of requests of every kind, none of which was sent before, some of each at a time."""
    seeds = range(100 * seed, 100 * seed + 100)
    plain = [chat(seed, "smollm2", max_tokens=16) for seed in seeds[:8]]
    grounded = [chat(seed, "smollm2+rag", max_tokens=16) for seed in seeds[:4]]
    pairs = [{"model": classifier, "input": [[text(seed), text(-seed)]]} for seed in seeds]
    texts = [embedding_body([seed]) for seed in seeds]

    async def send() -> None:
        await asyncio.gather(
            run(url, "/v1/chat/completions", plain + grounded, 4),
            run(url, "/v1/classify", pairs, 4),
            run(url, "/v1/embeddings", texts, 4),
        )

    asyncio.run(send())


@contextlib.contextmanager
def hamlet() -> Iterator[tuple[str, str, float, Callable[[], dict[str, float]]]]:
    """The application on a head of its own: URL, a classifier's name, seconds until ready, memory by part."""
    from cluster.connection import client_environment
    from cluster.head import down, up
    from cluster.head_record import processes
    from cluster.ports import free_port

    folder = Path(os.environ["HAMLET_HOME"])
    record, _ = up()
    try:
        port = free_port("127.0.0.1")
        document = yaml.safe_load((REPOSITORY / "examples" / "serve.yaml").read_text())
        document["http_options"]["port"] = port
        (folder / "serve.yaml").write_text(yaml.safe_dump(document))
        environment = os.environ | client_environment(for_http=True)
        environment["RAY_DASHBOARD_ADDRESS"] = record.dashboard_url
        docs = str(REPOSITORY / "examples" / "handbook" / "docs")
        ingest = [sys.executable, "-m", "retrieval", "ingest", docs, "--collection", "handbook"]
        subprocess.run(ingest, check=True, env=environment, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
        classifier = register_classifier(folder)
        started = time.perf_counter()
        deploy = [str(Path(sys.executable).with_name("serve")), "deploy", str(folder / "serve.yaml")]
        subprocess.run(deploy, check=True, env=environment, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(f"{url}/readyz")
        ready_s = time.perf_counter() - started

        def memory() -> dict[str, float]:
            parts = ("router", "generator", "embedder", "classifier", "retriever")
            return {part: memory_mib(processes(record), f"ServeReplica:hamlet:{part}") for part in parts}

        yield url, classifier, ready_s, memory
    finally:
        down()


def memory_mib(running: list[psutil.Process], title: str) -> float:
    """Memory of the replica with this title and its children that nobody else shares."""
    found = [process for process in running if title in " ".join(process.cmdline())]
    tree = [member for process in found for member in (process, *process.children(recursive=True))]
    return sum(member.memory_full_info().uss for member in tree) / 2**20


def register_classifier(folder: Path) -> str:
    """A pair classifier with a random head: its speed is that of a trained one."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from cluster.cards import ModelCard, ModelKind, Parity, new_model_id
    from cluster.references import resolve_model
    from cluster.registry import Registry
    from cluster.storage import storage_uri, upload_folder

    base = resolve_model("builtin:minilm")
    exported = folder / "classifier"
    model: Any = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    model.save_pretrained(exported)
    AutoTokenizer.from_pretrained(base).save_pretrained(exported)
    card = ModelCard(
        id=new_model_id("builtin:minilm", "bench", "pairs"),
        kind=ModelKind.CLASSIFIER,
        base_model="builtin:minilm",
        weights_uri=upload_folder(exported, storage_uri("models", "bench-pairs")),
        labels=("different", "equivalent"),
        is_pair=True,
        max_length_tokens=256,
        config_sha256="0",
        data_sha256="0",
        code_version="0",
        parity=Parity(passed=True, max_metric_difference=0.0),
    )
    Registry().register(card)
    return card.id


def measure_vllm(quick: bool) -> Figures:
    """vLLM's own server with the settings of `examples/serve.yaml`, adapters included."""
    from cluster.ports import free_port
    from cluster.references import resolve_model
    from serving.config import GeneratorConfig
    from serving.engine import weights_dtype

    config = GeneratorConfig()
    port = free_port("127.0.0.1")
    arguments = {
        "model": str(resolve_model(config.model)),
        "served-model-name": "smollm2",
        "dtype": weights_dtype(config.dtype, on_gpu=False),
        "max-model-len": str(config.max_model_len_tokens),
        "max-num-seqs": str(config.max_num_seqs),
        "gpu-memory-utilization": "0.15",
        "max-loras": str(config.max_loras),
        "max-lora-rank": str(config.max_lora_rank),
        "host": "127.0.0.1",
        "port": str(port),
    }
    options = [f"--{name}={value}" for name, value in arguments.items()]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *options]
    command += ["--enforce-eager", "--enable-lora", "--disable-log-stats", "--disable-uvicorn-access-log"]
    environment = os.environ | {
        "VLLM_CPU_KVCACHE_SPACE": str(config.kv_cache_gib),
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "TORCHDYNAMO_DISABLE": "1",
    }
    figures: Figures = {}
    with server(command, environment, f"http://127.0.0.1:{port}/health"):
        measure_generation(f"http://127.0.0.1:{port}", "smollm2", quick, figures)
    return figures


def measure_infinity(python: Path, quick: bool) -> Figures:
    from cluster.ports import free_port
    from cluster.references import resolve_model

    port = free_port("127.0.0.1")
    # Its command beside that Python; the package cannot be run as a module.
    command = [
        str(python.with_name("infinity_emb")),
        "v2",
        "--model-id",
        str(resolve_model("builtin:minilm")),
    ]
    command += ["--served-model-name", "minilm", "--engine", "torch", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--no-model-warmup"]
    with server(command, dict(os.environ), f"http://127.0.0.1:{port}/health"):
        return {
            "embed_rps": measure_texts(f"http://127.0.0.1:{port}", "/embeddings", embedding_body, quick)[
                "single"
            ]
        }


@contextlib.contextmanager
def server(command: list[str], environment: dict[str, str], health: str) -> Iterator[None]:
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(command, env=environment, stdout=log, stderr=log) as process,
        contextlib.ExitStack() as at_end,
    ):
        at_end.callback(kill_tree, process.pid)
        try:
            wait_until_ready(health, lambda: process.poll() is None)
        except RuntimeError as exc:
            log.seek(0)
            raise SystemExit(f"{exc}; {command[0]} printed last:\n{log.read()[-2000:]}") from None
        yield


def kill_tree(process_id: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        found = psutil.Process(process_id)
        for member in [*found.children(recursive=True), found]:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()


def measure_ceilings(quick: bool, classifier: str) -> Figures:
    """Texts per second of the same embedder and classifier, called in this process, 32 at a time."""
    from cluster.registry import Registry
    from retrieval.embedding import Embedder
    from serving.classifier import SequenceClassifier
    from serving.config import ClassifierConfig

    embedder = Embedder("builtin:minilm")
    model = SequenceClassifier(Registry().get(classifier), ClassifierConfig())
    figures: Figures = {"embed_tps": [], "classify_tps": []}

    async def classify(seeds: range) -> None:
        await model.classify([(text(seed), text(-seed)) for seed in seeds])

    for repeat in range(3 if quick else 6):
        seeds = [range(32 * batch, 32 * (batch + 1)) for batch in range(16 * repeat, 16 * (repeat + 1))]
        started = time.perf_counter()
        for batch in seeds:
            embedder.embed_documents([text(seed) for seed in batch])
        embedded = time.perf_counter()
        for batch in seeds:
            asyncio.run(classify(batch))
        classified = time.perf_counter()
        if repeat:
            figures["embed_tps"].append(32 * len(seeds) / (embedded - started))
            figures["classify_tps"].append(32 * len(seeds) / (classified - embedded))
    return figures


def wait_until_ready(url: str, is_living: Callable[[], bool] = lambda: True) -> None:
    import httpx

    deadline = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < deadline and is_living():
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url, timeout=10).status_code == 200:
                return
        time.sleep(0.2)
    raise RuntimeError(f"{url} has ended, or was not ready within {START_DEADLINE_S:g} s")


def metric(name: str, unit: str, values: list[float], baseline: list[float] | None = None) -> dict[str, Any]:
    """One line of the report: the median, the peer's median, their ratio, and the spread (max - min)."""
    value = statistics.median(values)
    other = statistics.median(baseline) if baseline else None
    return {
        "metric": name,
        "value": value,
        "unit": unit,
        "baseline": other,
        "ratio": value / other if other else None,
        "spread": max(values) - min(values),
    }


def report(ours: Figures, vllm: Figures, ceiling: Figures, infinity: Figures) -> list[dict[str, Any]]:
    rows = [
        metric(name, "tokens/s", ours[name], vllm[name])
        for name in (f"generate_tps_{concurrency}" for concurrency in CONCURRENCIES)
    ]
    baseline_ms = statistics.median(vllm["ttft_ms"])
    extra = [value - baseline_ms for value in ours["ttft_ms"]]
    rows += [
        metric("generate_ttft_extra", "ms", extra),
        metric("embed_rps_vs_infinity", "requests/s", ours["embed_rps"], infinity.get("embed_rps")),
        metric("embed_rps_vs_ceiling", "texts/s", ours["embed_tps"], ceiling["embed_tps"]),
        metric("classify_rps_vs_ceiling", "texts/s", ours["classify_tps"], ceiling["classify_tps"]),
        metric("echo_p50", "ms", ours["echo_p50"]),
        metric("router_share_p50", "ms", ours["router_share_p50"]),
        metric("cold_start", "s", ours["cold_start"]),
    ]
    return rows + [metric(name, "MiB", ours[name]) for name in ours if name.startswith("memory_")]


def show(rows: list[dict[str, Any]]) -> None:
    print(f"{'metric':26}{'value':>10}  {'unit':11}{'peer':>10}{'ratio':>8}{'spread':>10}")
    for row in rows:
        peer = f"{row['baseline']:10.1f}" if row["baseline"] is not None else " " * 9 + "-"
        ratio = f"{row['ratio']:8.2f}" if row["ratio"] is not None else " " * 7 + "-"
        print(f"{row['metric']:26}{row['value']:10.2f}  {row['unit']:11}{peer}{ratio}{row['spread']:10.2f}")


def compare(quick: bool, infinity_python: Path | None) -> list[dict[str, Any]]:
    """Hamlet and its peers, one after the other."""
    # First, since this environment is the one that may not work.
    infinity = measure_infinity(infinity_python, quick) if infinity_python else {}
    ours = measure_hamlet(quick)
    from cluster.registry import Registry

    ceiling = measure_ceilings(quick, Registry().list()[0].id)
    return report(ours, measure_vllm(quick), ceiling, infinity)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer requests: under three minutes on 2 cores")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--infinity-python", type=Path, help="Python of an environment that has infinity_emb")
    parser.add_argument(
        "--soak", type=float, metavar="MINUTES", help="measure memory under a steady load instead"
    )
    arguments = parser.parse_args()

    folder = Path(tempfile.mkdtemp(prefix="hb-"))
    (folder / "cache").symlink_to(Path("~/.hamlet/cache").expanduser())
    os.environ["HAMLET_HOME"] = str(folder)
    from cluster.ports import free_port

    for name in ("HAMLET_RAY_PORT", "HAMLET_DASHBOARD_PORT"):
        os.environ[name] = str(free_port("127.0.0.1"))
    try:
        rows = (
            measure_soak(arguments.soak)
            if arguments.soak
            else compare(arguments.quick, arguments.infinity_python)
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    show(rows)
    if arguments.json:
        document = {
            "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
            "versions": {name: version(name) for name in ("ray", "torch", "transformers", "vllm-cpu")},
            "metrics": rows,
        }
        arguments.json.write_text(json.dumps(document, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
