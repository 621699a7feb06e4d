"""An embedder that is spread over the cluster: workers that hold the model, and one front that embeds like any other.

Only embedding is spread, which is where the time goes. Reading, cutting and writing stay in the process that ingests,
and with them order, durability, progress and report.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from cluster import connection
from cluster.errors import HamletError, InvalidInput, Unavailable
from retrieval.vectorizer import EmbedderInfo, renumbered

# Embedding may be repeated, so a worker that was lost is started again and asked again.
MAX_RETRIES = 3
# Until all workers have a place and their model: hub models are fetched meanwhile.
START_TIMEOUT_S = 600.0


class Worker:
    """The actor: one model, loaded at the first call, so that an error of loading reaches the caller as itself."""

    def __init__(self, reference: str) -> None:
        self._reference = reference
        self._embedder: Any = None

    def describe(self) -> EmbedderInfo:
        return EmbedderInfo.of(self._loaded())

    def embed(self, verb: str, texts: Sequence[str], truncate: bool) -> np.ndarray:
        vectors: np.ndarray = getattr(self._loaded(), verb)(texts, truncate)
        return vectors

    def process_id(self) -> int:
        return os.getpid()

    def _loaded(self) -> Any:
        if self._embedder is None:
            from retrieval.embedding import Embedder

            self._embedder = Embedder(self._reference)
        return self._embedder


class EmbeddingWorkers:
    """A `TextEmbedder` on `num_workers` processes of the cluster, one CPU each, or one GPU where it has any.

    Raises Unavailable when no cluster is up or it stays busy, InvalidInput when it has too few CPUs or GPUs, and what
    `Embedder` raises when the model cannot be loaded. Close it (or use `with`) to give them back.
    """

    def __init__(self, reference: str, num_workers: int) -> None:
        connection.connect()
        import ray

        has = ray.cluster_resources()
        kind = "GPU" if has.get("GPU") else "CPU"
        if num_workers > has.get(kind, 0):
            raise InvalidInput(
                f"{num_workers} workers need {num_workers} {kind}s and the cluster has {has.get(kind, 0):.0f}; "
                "ask for fewer",
                "workers",
            )
        options: dict[str, Any] = {
            "num_cpus": 1,
            "num_gpus": 1 if kind == "GPU" else 0,
            "scheduling_strategy": "SPREAD",
            "max_restarts": -1,
            "max_task_retries": MAX_RETRIES,
        }
        actor = ray.remote(Worker).options(**options)
        self._workers = [actor.remote(reference) for _ in range(num_workers)]
        # All of them: the clock of the first window should not run while models are loaded.
        try:
            calls = [worker.describe.remote() for worker in self._workers]
            found: EmbedderInfo = self._gather(calls, timeout_s=START_TIMEOUT_S)[0]
        except HamletError:
            self.close()
            raise
        self.name = found.name
        self.fingerprint = found.fingerprint
        self.dimension = found.dimension
        self.max_tokens = found.max_tokens
        self.special_tokens = found.special_tokens
        self._tokenizer = Tokenizer.from_str(found.tokenizer_json)

    @property
    def tokenizer(self) -> Tokenizer:
        return self._tokenizer

    def embed_queries(self, texts: Sequence[str], truncate: bool = False) -> np.ndarray:
        return self._embed("embed_queries", texts, truncate)

    def embed_documents(self, texts: Sequence[str], truncate: bool = False) -> np.ndarray:
        return self._embed("embed_documents", texts, truncate)

    def process_ids(self) -> list[int]:
        """Where the workers are, on their hosts."""
        return self._gather([worker.process_id.remote() for worker in self._workers])

    def close(self) -> None:
        import ray

        for worker in self._workers:
            ray.kill(worker)

    def __enter__(self) -> EmbeddingWorkers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _embed(self, verb: str, texts: Sequence[str], truncate: bool) -> np.ndarray:
        parts = shares([len(text) for text in texts], len(self._workers))
        calls = [
            worker.embed.remote(verb, [texts[index] for index in part], truncate)
            for worker, part in zip(self._workers, parts, strict=True)
            if part
        ]
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        for part, found in zip(parts, self._gather(calls, parts), strict=False):
            vectors[part] = found
        return vectors

    def _gather(
        self, calls: Sequence[Any], parts: Sequence[Sequence[int]] = (), timeout_s: float | None = None
    ) -> list[Any]:
        import ray

        results = []
        for number, call in enumerate(calls):
            with _translated(parts[number] if parts else ()):
                results.append(ray.get(call, timeout=timeout_s))
        return results


def shares(lengths: Sequence[int], num_workers: int) -> list[list[int]]:
    """Indices of texts for each worker, as many and as long for one as for another.

    >>> shares([5, 90, 7, 80, 6], 2)
    [[1, 2, 0], [3, 4]]
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    return [order[first::num_workers] for first in range(num_workers)]


@contextmanager
def _translated(part: Sequence[int]) -> Iterator[None]:
    """Ray wraps an error of a worker in its own; callers get the one that was raised, with their own index."""
    from ray.exceptions import GetTimeoutError, RayError, RayTaskError, UnserializableException

    try:
        yield
    except RayTaskError as exc:
        if isinstance(exc.cause, HamletError):
            raise renumbered(exc.cause, part) from None
        raise
    except GetTimeoutError as exc:
        raise Unavailable(
            f"the embedding workers did not start within {START_TIMEOUT_S:g} s: the cluster is busy (see "
            "python -m cluster status); ask for fewer, or wait until something has ended"
        ) from exc
    except UnserializableException:
        raise  # an error of the code that could not be read here
    except RayError as exc:  # a worker is lost, or its node or memory
        raise Unavailable(
            "an embedding worker was lost and could not be started again; run the same command again, and it "
            "goes on where it ended"
        ) from exc
