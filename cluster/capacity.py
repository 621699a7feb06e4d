"""From a load to replicas, CPUs, GPUs, memory, nodes and cost: pure arithmetic on measured figures.

Each line says what it rests on:
    measured    a figure of a benchmark, used on the hardware and model that it was measured with
    computed    follows exactly from the load
    projected   a measured figure carried over to another model, or a formula with an assumed share
    set         what the load or the manifests say

Not modelled: bursts within a second, how pods fit onto nodes beyond their sums, cores and memory of GPU nodes,
network, disk, ingestion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import ceil, log

from cluster import speeds as measured
from cluster.capacity_load import GIB, Load
from cluster.errors import ConfigError
from cluster.speeds import GPUS, Gpu, Speed

# Assumed shares of what a data sheet promises; measure with your model and give model.tokens_per_s instead.
GPU_BANDWIDTH_SHARE = 0.6
GPU_DECODE_SHARE = 0.4
GPU_TRAINING_SHARE = 0.3
GPU_MEMORY_SHARE = 0.9  # vLLM's, generator.memory_utilization
GPU_WORKSPACE_BYTES = 2e9  # activations and CUDA graphs
MAX_BATCH = 64  # generator.max_num_seqs

HNSW_LINKS = 24  # `m` of our collections
INDEX_OVERHEAD = 1.5  # what Qdrant's documentation adds to the bare vectors
BYTES_PER_TRAINING_TOKEN = 10  # pickled: an id of at most 5 bytes, a label of at most 5
TRAINING_PROCESS_BYTES = 3.6 * GIB  # measured peak of 4.1 GiB less the float32 weights of builtin:smollm2
USABLE_SHARE = 0.9  # of a node; the rest is Kubernetes' and the system's
HOURS_PER_MONTH = 730.0
NIGHTS_PER_MONTH = HOURS_PER_MONTH / 24


class Basis(StrEnum):
    MEASURED = "measured"
    COMPUTED = "computed"
    PROJECTED = "projected"
    SET = "set"


@dataclass(frozen=True)
class Part:
    """A deployment or database. CPUs, GPUs and memory are of one replica."""

    name: str
    replicas: int
    num_cpus: float
    num_gpus: int
    memory_bytes: float
    basis: Basis
    how: str


@dataclass(frozen=True)
class Figure:
    """A number beside the parts, in `unit`."""

    name: str
    value: float
    unit: str
    basis: Basis
    how: str


@dataclass(frozen=True)
class Plan:
    """What a load needs. `training` is None without nightly rows; costs are None without a price."""

    parts: tuple[Part, ...]
    training: Part | None
    figures: tuple[Figure, ...]
    nodes: int
    gpu_nodes: int
    training_nodes: int
    cost_per_month: float | None


@dataclass(frozen=True)
class Generation:
    """What one replica of the generator does: tokens/s of `batch` answers together."""

    tokens_per_s: float
    prompt_tokens_per_s: float
    extra_prompt_tokens: float
    batch: int
    basis: Basis
    how: str

    def seconds_per_answer(self, answer_tokens: int) -> float:
        """Seconds of the whole replica that one answer costs."""
        return self.extra_prompt_tokens / self.prompt_tokens_per_s + answer_tokens / self.tokens_per_s


def plan(load: Load, speeds: Mapping[str, Speed] = measured.MEASURED) -> Plan:
    """What serves `load` and trains its nightly rows. Raises ConfigError where no such machine can."""
    generation = generation_of(load, speeds)
    parts = (
        _router(load, speeds),
        _generator(load, generation, speeds),
        _embedder(load, speeds),
        _retriever(load, speeds),
        _classifier(load, speeds),
        _vectors(load),
        Part("PostgreSQL", 1, 0.2, 0, 0.5 * GIB, Basis.SET, "k8s/postgres"),
        Part("Ray heads", 2, 1, 0, 3 * GIB, Basis.SET, "k8s/pods: one serves, one takes jobs"),
    )
    training = _training(load, speeds)
    store = object_store(load)
    on_cpus = [part for part in parts if part.num_gpus == 0]
    num_gpus = sum(part.replicas * part.num_gpus for part in parts)
    # Copies of the index lie on different nodes, and so do the replicas that are to survive the loss of one.
    nodes = max(_nodes(load, on_cpus, store.value), load.index.copies, load.min_replicas)
    gpu_nodes = ceil(num_gpus / load.machines.gpus_per_node)
    training_nodes = _training_nodes(load, training, store.value)
    return Plan(
        parts,
        training,
        (*_figures(load, generation), store),
        nodes,
        gpu_nodes,
        training_nodes,
        _cost(load, nodes, gpu_nodes, training_nodes),
    )


def generation_of(load: Load, speeds: Mapping[str, Speed]) -> Generation:
    """One replica's speed: given, of the GPU's data sheet, or measured and scaled by the bytes of the weights.

    On a CPU a prompt's token counts like an answer's, which is its upper bound.
    >>> round(generation_of(Load(), measured.MEASURED).tokens_per_s)
    176
    """
    chat, model = load.chat, load.model
    if model.tokens_per_s is not None:
        return Generation(
            model.tokens_per_s, model.tokens_per_s, 0, model.batch, Basis.SET, "model.tokens_per_s"
        )
    if load.machines.gpu is not None:
        return _on_gpu(load, load.machines.gpu, GPUS[load.machines.gpu])
    speed = speeds["generate_tps_16"]
    measured_bytes = measured.MEASURED_PARAMETERS * measured.MEASURED_BYTES_PER_PARAMETER
    scale = measured_bytes / model.weight_bytes
    is_same = 0.99 < scale < 1.01
    tokens_per_s = speed.value * (1 if is_same else scale)
    extra_tokens = max(0, chat.prompt_tokens - measured.MEASURED_PROMPT_TOKENS)
    how = f"{speed.value:g} tokens/s" + ("" if is_same else f" x {scale:.3g}, the ratio of weight bytes")
    how += f"; {extra_tokens} more prompt tokens than measured" if extra_tokens else ""
    basis = Basis.PROJECTED if extra_tokens or not is_same else Basis.MEASURED
    return Generation(tokens_per_s, tokens_per_s, extra_tokens, measured.MEASURED_BATCH, basis, how)


def object_store(load: Load) -> Figure:
    """Of each Ray worker: room for the tokenised rows of a run, which every training worker reads."""
    training = load.training
    rows = training.rows_per_night * training.tokens_per_row * BYTES_PER_TRAINING_TOKEN
    least = 4 * GIB if load.machines.gpu else GIB
    how = f"{rows / GIB:.2g} GiB of rows at most; k8s/ gives {least // GIB} GiB"
    return Figure("Ray object store of a worker", max(least, rows), "bytes", Basis.COMPUTED, how)


def _on_gpu(load: Load, name: str, gpu: Gpu) -> Generation:
    """The slower of reading weights and cache, and computing, for the batch that fits (roofline)."""
    model, chat = load.model, load.chat
    room = gpu.memory_gb * 1e9 * GPU_MEMORY_SHARE - GPU_WORKSPACE_BYTES - model.weight_bytes
    cache = (chat.prompt_tokens + chat.answer_tokens) * model.kv_bytes_per_token
    batch = min(MAX_BATCH, int(room // cache))
    if batch < 1:
        raise ConfigError(
            f"model.parameters: {model.weight_bytes / 1e9:.0f} GB of weights and one answer's cache do not fit "
            f"one {name} of {gpu.memory_gb:g} GB; take a larger GPU or a smaller model",
            "model.parameters",
        )
    compute_per_s = gpu.tflops * 1e12 * GPU_DECODE_SHARE / (2 * model.parameters)
    reading_s = (model.weight_bytes + batch * cache) / (gpu.bandwidth_gb_per_s * 1e9 * GPU_BANDWIDTH_SHARE)
    step_s = max(reading_s, batch / compute_per_s)
    how = f"data sheet of {name}: {GPU_BANDWIDTH_SHARE:.0%} of its bandwidth, {GPU_DECODE_SHARE:.0%} of its operations"
    return Generation(batch / step_s, compute_per_s, chat.prompt_tokens, batch, Basis.PROJECTED, how)


def _router(load: Load, speeds: Mapping[str, Speed]) -> Part:
    """One core's time: for each chat, for each streamed token, for each other request."""
    token_ms = token_ms_of(speeds["generate_tps_16"])
    chat_ms, other_ms = speeds["router_share_p50"].value, speeds["echo_p50"].value
    others = load.texts.embeddings_per_s + load.texts.classifications_per_s + load.texts.searches_per_s
    chats = load.chat.requests_per_s
    busy = (chats * (chat_ms + load.chat.answer_tokens * token_ms) + others * other_ms) / 1000
    how = f"{chat_ms:g} ms a chat, {token_ms:.2g} ms a token, {other_ms:g} ms another request, on one core"
    return Part("router", _replicas(load, busy), 1, 0, _memory(speeds, "router"), Basis.PROJECTED, how)


def token_ms_of(generation: Speed) -> float:
    """Milliseconds of a core that passing one token on costs: what Hamlet takes longer than its bare engine.

    >>> round(token_ms_of(Speed(value=176, unit="tokens/s", baseline=213, num_cpus=2, where="")), 2)
    1.97
    """
    if generation.baseline is None:
        return 0.0
    return max(0.0, (1 / generation.value - 1 / generation.baseline) * generation.num_cpus * 1000)


def _generator(load: Load, generation: Generation, speeds: Mapping[str, Speed]) -> Part:
    busy = load.chat.requests_per_s * generation.seconds_per_answer(load.chat.answer_tokens)
    replicas = _replicas(load, busy)
    if load.chat.concurrent_generations is not None:
        replicas = max(replicas, ceil(load.chat.concurrent_generations / generation.batch))
    measured_weights = measured.MEASURED_PARAMETERS * measured.MEASURED_BYTES_PER_PARAMETER
    process = _memory(speeds, "generator") - measured.MEASURED_CACHE_BYTES - measured_weights
    memory = load.model.weight_bytes + process
    if load.machines.gpu is not None:
        return Part("generator", replicas, 2, 1, memory, generation.basis, generation.how)
    memory += generation.batch * _cache_bytes(load)
    cpus = speeds["generate_tps_16"].num_cpus
    return Part("generator", replicas, cpus, 0, memory, generation.basis, generation.how)


def _embedder(load: Load, speeds: Mapping[str, Speed]) -> Part:
    batched, single = speeds["embed_rps_vs_ceiling"], speeds["embed_rps_vs_infinity"]
    busy = load.texts.embeddings_per_s / batched.value + searches_per_s(load) / single.value
    how = f"{batched.value:g} texts/s in batches, {single.value:g} questions/s one by one, MiniLM"
    is_measured = load.index.dimensions == measured.MEASURED_DIMENSIONS
    basis = Basis.MEASURED if is_measured else Basis.PROJECTED
    return Part(
        "embedder", _replicas(load, busy), batched.num_cpus, 0, _memory(speeds, "embedder"), basis, how
    )


def _retriever(load: Load, speeds: Mapping[str, Speed]) -> Part:
    speed = speeds["search_p50_100k"]
    growth = max(1.0, log(max(load.index.chunks, 2)) / log(measured.MEASURED_CHUNKS))
    growth *= max(1.0, load.index.dimensions / measured.MEASURED_DIMENSIONS)
    is_measured = growth == 1
    milliseconds = speed.value * growth
    how = f"{milliseconds:.2g} ms a search" + ("" if is_measured else ", grown by log(chunks) and dimensions")
    basis = Basis.MEASURED if is_measured else Basis.PROJECTED
    return Part(
        "retriever",
        _replicas(load, searches_per_s(load) * milliseconds / 1000),
        1,
        0,
        _memory(speeds, "retriever"),
        basis,
        how,
    )


def _classifier(load: Load, speeds: Mapping[str, Speed]) -> Part:
    speed = speeds["classify_rps_vs_ceiling"]
    replicas = _replicas(load, load.texts.classifications_per_s / speed.value)
    return Part(
        "classifier",
        replicas,
        speed.num_cpus,
        0,
        _memory(speeds, "classifier"),
        Basis.MEASURED,
        f"{speed.value:g} texts/s, MiniLM",
    )


def _memory(speeds: Mapping[str, Speed], part: str) -> float:
    """Bytes that one replica of a part was measured to hold for itself."""
    return speeds[f"memory_{part}"].value * 2**20


def _vectors(load: Load) -> Part:
    memory = max(index_bytes(load.index.chunks, load.index.dimensions), GIB)
    how = f"4 bytes a dimension and 8 a link ({HNSW_LINKS}) of each chunk, x {INDEX_OVERHEAD}; 1 GiB at least"
    return Part("Qdrant", load.index.copies, 1, 0, memory, Basis.PROJECTED, how)


def index_bytes(chunks: int, dimensions: int) -> float:
    """Memory of vectors and HNSW graph on one server; texts stay on disk.

    >>> index_bytes(100_000, 384)
    259200000.0
    """
    return chunks * (4 * dimensions + 8 * HNSW_LINKS) * INDEX_OVERHEAD


def searches_per_s(load: Load) -> float:
    return load.texts.searches_per_s + load.chat.requests_per_s * load.chat.retrieving_share


def _training(load: Load, speeds: Mapping[str, Speed]) -> Part | None:
    """Workers that end the night's rows within the window; LoRA, float32 weights, ZeRO 3 where they must be cut."""
    training, weights = load.training, load.model.parameters * 4
    if training.rows_per_night == 0:
        return None
    tokens = training.rows_per_night * training.tokens_per_row * training.epochs
    window_s = training.window_h * 3600
    if load.machines.gpu is not None:
        gpu = GPUS[load.machines.gpu]
        speed = gpu.tflops * 1e12 * GPU_TRAINING_SHARE / (6 * load.model.parameters)
        for_memory = ceil(weights / (gpu.memory_gb * 1e9 * GPU_MEMORY_SHARE - 2 * GPU_WORKSPACE_BYTES))
        workers = max(ceil(tokens / speed / window_s / load.utilisation), for_memory)
        how = f"{speed:,.0f} tokens/s a GPU: {GPU_TRAINING_SHARE:.0%} of its operations, 6 a weight and token"
        return Part("training worker", workers, 6, 1, weights + 4 * GIB, Basis.PROJECTED, how)
    measured_speed = speeds["sft_vs_trl"]
    scale = measured.MEASURED_PARAMETERS / load.model.parameters
    is_measured = 0.99 < scale < 1.01
    speed = measured_speed.value * (1 if is_measured else scale)
    workers = ceil(tokens / speed / window_s / load.utilisation)
    how = f"{speed:.3g} tokens/s a worker" + ("" if is_measured else ", by the ratio of weights")
    basis = Basis.MEASURED if is_measured and workers == 1 else Basis.PROJECTED
    memory = weights + TRAINING_PROCESS_BYTES
    return Part("training worker", workers, measured_speed.num_cpus, 0, memory, basis, how)


def _figures(load: Load, generation: Generation) -> tuple[Figure, ...]:
    chat, model = load.chat, load.model
    busy = chat.requests_per_s * generation.seconds_per_answer(chat.answer_tokens)
    in_progress = ceil(busy * generation.batch)
    basis, how = Basis.PROJECTED, "arrivals x duration in a full batch (Little)"
    if chat.concurrent_generations is not None:
        in_progress, basis, how = chat.concurrent_generations, Basis.SET, "chat.concurrent_generations"
    cache, of_one = _cache_bytes(load), "2 x layers x heads x size, for each token"
    return (
        Figure("weights", model.weight_bytes, "bytes", Basis.COMPUTED, "parameters x bytes of one"),
        Figure("KV cache of an answer", cache, "bytes", Basis.COMPUTED, of_one),
        Figure("answers in progress", in_progress, "", basis, how),
        Figure("KV cache of these", in_progress * cache, "bytes", basis, "their product"),
        Figure(
            "one generator",
            generation.tokens_per_s,
            "tokens/s",
            generation.basis,
            f"{generation.batch} at once",
        ),
    )


def _cache_bytes(load: Load) -> float:
    return (load.chat.prompt_tokens + load.chat.answer_tokens) * load.model.kv_bytes_per_token


def _replicas(load: Load, busy: float) -> int:
    """Replicas for `busy` seconds of work a second, none of them above the planned utilisation."""
    return max(load.min_replicas, ceil(busy / load.utilisation))


def _nodes(load: Load, parts: list[Part], store_bytes: float) -> int:
    machines = load.machines
    cores = sum(part.replicas * part.num_cpus for part in parts) / (machines.node_cores * USABLE_SHARE)
    room = machines.node_memory_gib * GIB * USABLE_SHARE - store_bytes
    largest = max((part.memory_bytes for part in parts), default=0)
    if largest > room:
        raise ConfigError(
            f"machines.node_memory_gib: {machines.node_memory_gib:g} GiB hold no pod of "
            f"{largest / GIB:.0f} GiB beside Ray's object store; take larger nodes",
            "machines.node_memory_gib",
        )
    memory = sum(part.replicas * part.memory_bytes for part in parts) / room
    return max(ceil(cores), ceil(memory))


def _training_nodes(load: Load, training: Part | None, store_bytes: float) -> int:
    """Of the same kind as serving's, and only for the window of each night."""
    if training is None:
        return 0
    if training.num_gpus:
        return ceil(training.replicas / load.machines.gpus_per_node)
    return _nodes(load, [training], store_bytes)


def _cost(load: Load, nodes: int, gpu_nodes: int, training_nodes: int) -> float | None:
    cpu_price, gpu_price = load.machines.node_price_per_hour, load.machines.gpu_node_price_per_hour
    night_price = gpu_price if load.machines.gpu else cpu_price
    hours = HOURS_PER_MONTH, HOURS_PER_MONTH, NIGHTS_PER_MONTH * load.training.window_h
    bill = zip((nodes, gpu_nodes, training_nodes), (cpu_price, gpu_price, night_price), hours, strict=True)
    lines = [(count, price, hour) for count, price, hour in bill if count]
    if any(price is None for _, price, _ in lines):
        return None
    return sum(count * price * hour for count, price, hour in lines if price is not None)
