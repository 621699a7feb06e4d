"""The load that capacity is computed for: what is asked, of which model, on which machines."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cluster.yaml_config import Section

GIB = 2**30
BYTES_PER_PARAMETER = {"bfloat16": 2, "float16": 2, "float32": 4}


class Chat(Section):
    requests_per_s: float = Field(0, ge=0, le=1e6, description="Chats and completions in the busiest minute.")
    answer_tokens: int = Field(200, ge=1, description="Tokens of an answer, on average.")
    prompt_tokens: int = Field(500, ge=0, description="Tokens of a prompt with its passages, on average.")
    retrieving_share: float = Field(0.5, ge=0, le=1, description="Share of chats that search first.")
    concurrent_generations: int | None = Field(
        None, ge=1, description="Answers in progress at once that there must be room for."
    )


class Texts(Section):
    embeddings_per_s: float = Field(0, ge=0, le=1e6, description="Texts sent to /v1/embeddings, in batches.")
    classifications_per_s: float = Field(0, ge=0, le=1e6, description="Texts or pairs sent to /v1/classify.")
    searches_per_s: float = Field(0, ge=0, le=1e6, description="Searches beside those of chats.")


class Model(Section):
    """The language model; the defaults are builtin:smollm2's. A model's config.json has these numbers."""

    parameters: float = Field(135e6, ge=1e6, le=1e13, description="Number of weights: 8e9 for 8 billion.")
    layers: int = Field(30, ge=1, description="num_hidden_layers.")
    kv_heads: int = Field(3, ge=1, description="num_key_value_heads.")
    head_dim: int = Field(64, ge=1, description="hidden_size / num_attention_heads.")
    precision: Literal["bfloat16", "float16", "float32"] = Field("bfloat16", description="generator.dtype.")
    tokens_per_s: float | None = Field(
        None,
        ge=0.01,
        description="Of one replica, as you measured it with these prompts; projected if not given.",
    )
    batch: int = Field(16, ge=1, description="Generations at once in that measurement.")

    @property
    def weight_bytes(self) -> float:
        return self.parameters * BYTES_PER_PARAMETER[self.precision]

    @property
    def kv_bytes_per_token(self) -> int:
        """A key and a value for each layer and head.

        >>> Model().kv_bytes_per_token
        23040
        """
        return 2 * self.layers * self.kv_heads * self.head_dim * BYTES_PER_PARAMETER[self.precision]


class Index(Section):
    chunks: int = Field(0, ge=0, le=10**12, description="Chunks that are searched.")
    dimensions: int = Field(384, ge=1, description="Length of the embedder's vectors.")
    copies: int = Field(1, ge=1, description="Vector servers that each hold every chunk; 3 in gpu-ha.")


class Training(Section):
    rows_per_night: int = Field(0, ge=0, le=10**12, description="Rows of the nightly run.")
    tokens_per_row: int = Field(200, ge=1, description="Tokens of a row, on average.")
    epochs: float = Field(3, gt=0, le=1000, description="Passes over them.")
    window_h: float = Field(8, ge=0.1, le=24, description="Hours that the run may take.")


class Machines(Section):
    gpu: Literal["l4", "a100", "h100"] | None = Field(
        None, description="GPU of the generator; none: on CPUs."
    )
    gpus_per_node: int = Field(1, ge=1, description="GPUs of a GPU node.")
    node_cores: int = Field(8, ge=4, description="Cores of a CPU node.")
    node_memory_gib: float = Field(32, ge=8, description="Memory of a CPU node in GiB.")
    node_price_per_hour: float | None = Field(None, ge=0, description="Of a CPU node, in your currency.")
    gpu_node_price_per_hour: float | None = Field(None, ge=0, description="Of a GPU node.")


class Load(Section):
    """All of it. What is left out is not asked for, or as small as the built-in models."""

    chat: Chat = Chat()
    texts: Texts = Texts()
    model: Model = Model()
    index: Index = Index()
    training: Training = Training()
    machines: Machines = Machines()
    utilisation: float = Field(
        0.7, ge=0.05, le=1, description="Share of a replica's speed that is planned with."
    )
    min_replicas: int = Field(1, ge=1, description="Of each answering part; 2 survive the loss of a node.")
