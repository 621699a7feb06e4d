"""What a deployed application is: models, resources and limits of each deployment.

The same document is `args` in `examples/serve.yaml` and in KubeRay's `serveConfigV2`. Defaults fit a
laptop whose Ray head has 4 logical CPUs and must be able to train with 2 workers while it serves.
"""

from __future__ import annotations

import re
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from cluster.cards import slug
from cluster.router_policy import DEFAULT_SCORE_THRESHOLD

# As browsers send it: in small letters, nothing behind the port.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@*\sA-Z]+")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DeploymentConfig(_Frozen):
    """Resources, scaling and admission of one Serve deployment."""

    num_cpus: float = Field(0.1, ge=0, description="Logical CPUs that each replica reserves.")
    num_gpus: float = Field(0, ge=0, description="GPUs that each replica reserves.")
    min_replicas: int = Field(1, ge=0, description="Replicas kept when idle; 0 scales to zero.")
    max_replicas: int = Field(1, ge=1, description="Replicas at most.")
    max_replicas_per_node: int | None = Field(
        None,
        ge=1,
        le=100,
        description="Of those on one node of Ray's: 1 keeps them apart, so none goes with another.",
    )
    max_ongoing_requests: int = Field(64, ge=1, description="Requests that one replica works on at a time.")
    max_queued_requests: int = Field(
        256, ge=0, description="Requests that wait per caller beyond those; more are refused with 503."
    )
    target_ongoing_requests: float = Field(
        32, gt=0, description="Ongoing requests per replica that autoscaling aims at."
    )
    look_back_period_s: float = Field(30, gt=0, description="Window over which load is averaged, in seconds.")
    upscale_delay_s: float = Field(30, ge=0, description="Seconds of high load before a replica is added.")
    downscale_delay_s: float = Field(300, ge=0, description="Seconds of low load before one is removed.")
    health_check_period_s: float = Field(5, gt=0, description="Seconds between health checks of a replica.")
    health_check_timeout_s: float = Field(30, gt=0, description="Seconds after which a check has failed.")
    graceful_shutdown_timeout_s: float = Field(
        30, ge=0, description="Seconds a replica that is taken away has to finish what it is answering."
    )
    max_surge_percent: int = Field(
        100,
        ge=0,
        le=100,
        description="Replicas that a redeploy starts before it stops those they replace, in percent; 0 stops "
        "the old ones first, where there is no room for both.",
    )

    @model_validator(mode="after")
    def _scaling_settles(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas {self.min_replicas} exceeds max_replicas {self.max_replicas}")
        if self.target_ongoing_requests > self.max_ongoing_requests:
            raise ValueError(
                f"target_ongoing_requests {self.target_ongoing_requests:g} exceeds max_ongoing_requests "
                f"{self.max_ongoing_requests}: no replica would ever be added"
            )
        # A delay shorter than the window reacts twice to the same burst, and the count swings.
        for name in ("upscale_delay_s", "downscale_delay_s"):
            delay_s = getattr(self, name)
            if self.min_replicas != self.max_replicas and delay_s < self.look_back_period_s:
                raise ValueError(
                    f"{name} {delay_s:g} is shorter than look_back_period_s {self.look_back_period_s:g}: the "
                    "replica count would swing at steady load; raise the delay or shorten the window"
                )
        return self


class ModelDeploymentConfig(DeploymentConfig):
    """A deployment that computes."""

    num_threads: int | None = Field(
        None, ge=1, description="Threads to compute with on CPU; by default every core of the machine."
    )


class GeneratorConfig(ModelDeploymentConfig):
    """A language model and its engine."""

    num_cpus: float = Field(0.5, ge=0, description="Logical CPUs that each replica reserves.")
    model: str = Field(
        "builtin:smollm2",
        description="Model reference of the base that adapters load onto, or the name of a registered model "
        "that was tuned with method: full.",
    )
    engine: Literal["auto", "vllm", "transformers"] = Field(
        "auto", description="auto takes vLLM where it is installed, transformers elsewhere."
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto",
        description="Type of the weights. auto takes bfloat16 where the GPU or processor multiplies it itself, "
        "else float16 on a GPU and float32 on a processor.",
    )
    max_model_len_tokens: int = Field(
        2048,
        ge=64,
        description="Longest prompt and answer together. Of a model with fewer positions the transformers engine takes "
        "these, and vLLM does not start.",
    )
    max_num_seqs: int = Field(64, ge=1, description="Sequences in one batch of the engine.")
    default_max_tokens: int = Field(
        512, ge=1, description="Answer length when a request names none; less where less is left."
    )
    max_loras: int = Field(4, ge=1, description="LoRA adapters in one batch; more wait on the host.")
    max_lora_rank: Literal[8, 16, 32, 64, 128, 256] = Field(
        32, description="Highest rank of an adapter; higher costs memory for every adapter."
    )
    memory_utilization: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Share of the memory for vLLM; by default 0.15 on CPU, 0.9 on GPU.",
    )
    kv_cache_gib: int = Field(1, ge=1, description="Size of vLLM's KV cache on CPU, in GiB.")
    tool_parser: str | None = Field(
        None,
        description="How the model writes function calls, by the name of vLLM's parser: hermes (Qwen, SmolLM3), "
        "llama3_json, mistral, …. Without it `tools` with functions are refused.",
    )


class ClassifierConfig(ModelDeploymentConfig):
    """Registered classifiers, loaded when they are first asked for."""

    dtype: Literal["bfloat16", "float32"] = Field("float32", description="Type of the weights.")
    max_models: int = Field(4, ge=1, description="Models in memory; the least recently used leaves first.")
    max_batch_tokens: int = Field(4096, ge=64, description="Tokens in one batch, padding included.")


class EmbedderConfig(ModelDeploymentConfig):
    """The sentence embedder, for `/v1/embeddings` and for the queries of retrieval."""

    model: str = Field("builtin:minilm", description="Model reference, the same that ingested the documents.")
    max_batch_tokens: int = Field(2048, ge=64, description="Tokens in one batch, padding included.")
    max_ongoing_requests: int = Field(256, ge=1, description="Requests that one replica works on at a time.")
    target_ongoing_requests: float = Field(
        2,
        gt=0,
        description="Ongoing calls per replica that autoscaling aims at; routers join small requests.",
    )


class RetrieverConfig(DeploymentConfig):
    """Search in the vector store."""

    collection: str = Field("default", description="Collection that is searched when a request names none.")
    top_k: int = Field(4, ge=1, le=50, description="Hits put in the prompt when a request names no number.")
    rerank_candidates: int = Field(
        20, ge=1, le=50, description="Hits that a reranker chooses from when a request names one."
    )
    # The highest step of 0.05 that loses no answer of the built-in embedder's (docs/serving.md has the figures).
    least_score: float = Field(
        0.30, ge=-1, le=1, description="Cosine similarity below which a hit is taken for irrelevant."
    )


class IngesterConfig(DeploymentConfig):
    """Reading the files of vector stores, apart from searches: a document may take all of a process's memory."""

    num_cpus: float = Field(0.05, ge=0, description="Logical CPUs that each replica reserves.")
    num_workers: int = Field(2, ge=1, description="Files that one replica reads at a time.")


class RouterConfig(DeploymentConfig):
    """The HTTP front and its decisions."""

    max_ongoing_requests: int = Field(512, ge=1, description="Requests that one replica works on at a time.")
    catalogue_ttl_s: float = Field(
        1.0, ge=0, description="Seconds until a newly registered or promoted model is noticed."
    )
    score_threshold: float = Field(
        DEFAULT_SCORE_THRESHOLD,
        ge=-1,
        le=1,
        description="`auto` retrieves when the best hit's cosine similarity reaches this.",
    )
    grounded_route: Literal["rag", "tuned", "tuned+rag"] = Field(
        "rag",
        description="How `auto` answers what the documents cover; measure it with an evaluation.",
    )
    tuned_model: str | None = Field(
        None, description="Registered name or alias that `auto` takes for tuned routes."
    )
    route_model: str | None = Field(
        None,
        description="Registered classifier of single texts whose labels are routes (plain, rag, tuned, tuned+rag): "
        "it decides in place of score_threshold.",
    )
    max_waiting_requests: int = Field(
        128, ge=1, description="Requests to models in progress per router replica; more get 429 at once."
    )
    part_timeout_s: float = Field(
        10,
        gt=0,
        description="Seconds a part may take to begin on an answer, or for 32 texts to embed, classify or "
        "rerank; then 503, as for one that is down.",
    )
    request_timeout_s: float = Field(
        300, gt=0, description="Seconds from a request on until its answer is given up with 503."
    )
    base_url: str = Field(
        "http://127.0.0.1:8000", description="Where evaluations that are started over HTTP ask this service."
    )
    keys_ttl_s: float = Field(1.0, ge=0, description="Seconds until a new or revoked API key is noticed.")
    allow_no_keys: bool = Field(
        False,
        description="Answer on other addresses than 127.0.0.1 while no API key exists: whoever reaches the "
        "router may then use it, so a gateway must ask who they are.",
    )
    allowed_origins: tuple[str, ...] = Field(
        (),
        description="Web pages of other origins whose scripts browsers let call this service, as "
        "https://app.example.org; * alone stands for all of them.",
    )

    @field_validator("allowed_origins")
    @classmethod
    def _can_be_compared(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "*" in value and len(value) > 1:
            raise ValueError("* stands for every origin; leave the others out, or * itself")
        for origin in value:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} would equal no browser's origin; write scheme://host[:port] in small letters, "
                    "without a path or a slash at the end"
                )
        return value


class LimitsConfig(_Frozen):
    """How much one API key and one tenant may ask for; nothing is limited by default.

    Jobs and batches are limited by their `max_waiting_per_tenant`.
    """

    requests_per_minute_per_key: int | None = Field(None, ge=1, description="Requests of one key.")
    requests_per_minute_per_tenant: int | None = Field(None, ge=1, description="Requests of one tenant.")
    tokens_per_minute_per_key: int | None = Field(
        None, ge=1, description="Prompt and answer tokens of one key."
    )
    tokens_per_minute_per_tenant: int | None = Field(
        None, ge=1, description="Prompt and answer tokens of one tenant."
    )
    storage_bytes_per_tenant: int | None = Field(None, ge=1, description="Bytes of one tenant's files.")


class FilesConfig(_Frozen):
    """Uploads to `/v1/files`."""

    max_bytes: int = Field(512 * 1024**2, ge=1, description="Size of the largest file that is taken.")
    validation_timeout_s: float = Field(
        600, gt=0, description="Seconds that the check of a training file may take."
    )


class BatchesConfig(_Frozen):
    """Batches of `/v1/batches`: requests that nobody waits for, answered beside those that somebody does."""

    max_rows: int = Field(50_000, ge=1, description="Requests in one batch.")
    max_rows_at_once: int = Field(
        4, ge=1, description="Requests of all batches that one router replica has answered at a time."
    )
    max_waiting_per_tenant: int = Field(
        100, ge=1, description="Batches of one tenant that have not ended; more are refused with 429."
    )


class FineTuningConfig(_Frozen):
    """Jobs of `/v1/fine_tuning/jobs`: what may be tuned, with what, and how many at a time."""

    bases: tuple[str, ...] = Field(
        (), description="References of the models that may be tuned; by default generator.model alone."
    )
    launcher: Literal["ray", "local"] = Field(
        "ray", description="ray runs each job as a Ray job; local as a process beside the router, for trials."
    )
    max_running: int = Field(1, ge=1, description="Jobs that train at a time; more wait in the queue.")
    max_running_per_tenant: int = Field(1, ge=1, description="Of those, jobs of one tenant.")
    max_waiting_per_tenant: int = Field(
        100, ge=1, description="Jobs of one tenant that have not ended; more are refused with 429."
    )
    max_losses: int = Field(
        5, ge=0, description="Times that a job whose process was lost goes on from its newest checkpoint."
    )
    launch_timeout_s: float = Field(
        300, gt=0, description="Seconds in which a job's process must have been started, or the job fails."
    )
    max_wait_s: float | None = Field(
        None, gt=0, description="Seconds that a job may be queued, then it fails; without a limit by default."
    )
    num_workers: int = Field(1, ge=1, description="Data-parallel workers of a job at most.")
    cpus_per_worker: float = Field(1, gt=0, description="Logical CPUs of each worker.")
    micro_batch_size_per_gpu: int = Field(16, ge=1, description="Rows per forward pass of a worker at most.")
    max_length_tokens: int = Field(1024, gt=1, description="Rows with more tokens than this are left out.")
    lora_rank: int = Field(16, ge=1, le=256, description="Rank of the adapters.")
    learning_rate: float = Field(
        5e-4, gt=0, le=1, description="What a job's learning_rate_multiplier multiplies."
    )
    dpo_learning_rate: float = Field(
        5e-5, gt=0, le=1, description="The same for method dpo, which takes smaller steps."
    )
    price_per_hour: float | None = Field(
        None, ge=0, description="Price of one hour of training, for plans; in a currency of your choice."
    )


class ServingConfig(_Frozen):
    """One application: `serving.app:build_app`."""

    generator: GeneratorConfig = GeneratorConfig()
    further_generators: tuple[GeneratorConfig, ...] = Field(
        (),
        description="Language models beside the first, which `auto` asks: each is a deployment of its own.",
    )
    classifier: ClassifierConfig = ClassifierConfig()
    embedder: EmbedderConfig = EmbedderConfig()
    retriever: RetrieverConfig = RetrieverConfig()
    ingester: IngesterConfig = IngesterConfig()
    router: RouterConfig = RouterConfig()
    limits: LimitsConfig = LimitsConfig()
    files: FilesConfig = FilesConfig()
    batches: BatchesConfig = BatchesConfig()
    fine_tuning: FineTuningConfig = FineTuningConfig()

    @model_validator(mode="after")
    def _names_each_generator_once(self) -> Self:
        names = [slug(generator.model) for generator in (self.generator, *self.further_generators)]
        for generator, name in zip(self.further_generators, names[1:], strict=True):
            if names.count(name) > 1:
                raise ValueError(
                    f"further_generators: {generator.model} would be the second model named {name}; leave one out"
                )
        return self

    @model_validator(mode="after")
    def _serves_what_it_tunes(self) -> Self:
        for generator in self.generators.values():
            if generator.model in self.tunable and self.fine_tuning.lora_rank > generator.max_lora_rank:
                raise ValueError(
                    f"fine_tuning.lora_rank {self.fine_tuning.lora_rank} exceeds max_lora_rank "
                    f"{generator.max_lora_rank} of the generator of {generator.model}: the tuned models could "
                    "not be served"
                )
        return self

    @property
    def generators(self) -> dict[str, GeneratorConfig]:
        """All language models by the names of their deployments; the first is the one that `auto` asks."""
        further = {f"generator-{slug(config.model)}": config for config in self.further_generators}
        return {"generator": self.generator} | further

    @property
    def base_names(self) -> frozenset[str]:
        """What the models of this document are asked for by: references and short names."""
        references = [*(generator.model for generator in self.generators.values()), self.embedder.model]
        return frozenset({*references, *map(slug, references)})

    @property
    def tunable(self) -> tuple[str, ...]:
        """References of the models that may be tuned."""
        return self.fine_tuning.bases or (self.generator.model,)


def deployment_options(config: DeploymentConfig) -> dict[str, Any]:
    """`config` as the options of a Serve deployment."""
    options: dict[str, Any] = {
        "ray_actor_options": {"num_cpus": config.num_cpus, "num_gpus": config.num_gpus},
        "max_replicas_per_node": config.max_replicas_per_node,
        "max_ongoing_requests": config.max_ongoing_requests,
        "max_queued_requests": config.max_queued_requests,
        "health_check_period_s": config.health_check_period_s,
        "health_check_timeout_s": config.health_check_timeout_s,
        "graceful_shutdown_timeout_s": config.graceful_shutdown_timeout_s,
        "max_surge_percent": config.max_surge_percent,
    }
    if config.min_replicas == config.max_replicas:
        return options | {"num_replicas": config.max_replicas}
    return options | {
        "autoscaling_config": {
            "min_replicas": config.min_replicas,
            "max_replicas": config.max_replicas,
            "target_ongoing_requests": config.target_ongoing_requests,
            "look_back_period_s": config.look_back_period_s,
            "upscale_delay_s": config.upscale_delay_s,
            "downscale_delay_s": config.downscale_delay_s,
        }
    }
