"""Which library computes an embedding model on this machine: measured once, then remembered.

sentence-transformers on torch knows every model, and GPUs. OpenVINO takes a model that was loaded so: on a CPU it is
mostly the faster one, and it starts within a second or two, since nothing of torch is imported.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer

from cluster.child import run_module
from cluster.errors import Unavailable
from cluster.last_words import last_line
from cluster.processor import has_gpu
from cluster.settings import settings
from cluster.storage import appearing_whole, keep_last_used
from retrieval.sentence_model import Inputs, ModelInfo, SentenceModel, padded_inputs

if TYPE_CHECKING:
    from retrieval.torch_sentence_model import TorchSentenceModel

log = logging.getLogger(__name__)

# What both are measured with and compared on: a question, a passage, and a batch of both; and a text of full length.
QUESTION = "How many days of paid leave does an employee have in the first year?"
PASSAGE = """Whoever joins before the first of July has twenty-five days of paid leave in that year, later ones twelve.
Days that are left at the end of December may be taken until the thirty-first of March, unless the manager and the
employee agree otherwise in writing. A day of illness is no day of leave when a doctor's note is handed in."""
NUM_PAIRS = 8
LONGEST_TOKENS = 512
NUM_ROUNDS = 3

# torch has to be this much faster: it takes 12 s more to start here, and 400 MB more.
TORCH_MARGIN = 1.2

# How far a vector may lie from that of float32, as 1 - cosine.
MAX_DISTANCE = 1e-3

# Converted models in the cache, the last used ones; each is as large as its weights in float32.
NUM_KEPT = 8

CHOICE_FILE = "choice.json"
TORCH, OPENVINO = "torch", "openvino"


def load_sentence_model(folder: Path, fingerprint: str) -> SentenceModel:
    """The model in `folder` by the faster library, as near to float32 as `MAX_DISTANCE`.

    To find out takes some seconds, once for a model on a kind of machine; the converted model is kept in the cache.
    """
    if settings().embedder_backend == TORCH or find_spec("openvino") is None or has_gpu():
        return _load_torch(folder)
    from retrieval.openvino_sentence_model import OpenVinoSentenceModel, machine

    remembered = settings().cache_dir / "embedders" / f"{fingerprint}-{machine()}"
    if not remembered.exists():
        _choose_in_child(folder, remembered)
    with suppress(OSError):
        os.utime(remembered)
    return _load_torch(folder) if _chosen(remembered) == TORCH else OpenVinoSentenceModel(remembered)


def choose(folder: Path, target: Path) -> None:
    """Convert the model in `folder`, measure both, and write what came of it to `target`.

    Raises what a model that OpenVINO does not know leads to, and ValueError where its vectors are others.
    """
    from retrieval.openvino_sentence_model import OpenVinoSentenceModel, convert

    known = _load_torch(folder)
    batches = sample_batches(known.info)
    with appearing_whole(target) as written:
        written.mkdir()
        convert(known, written)
        converted = OpenVinoSentenceModel(written)
        cosines = [converted.vectors(*batch) * known.vectors(*batch, in_float32=True) for batch in batches]
        distance = 1 - min(float(rows.sum(axis=1).min()) for rows in cosines)
        if not distance <= MAX_DISTANCE:
            raise ValueError(f"its vectors are {distance:.4f} off those of float32")
        seconds = measure({TORCH: known, OPENVINO: converted}, batches)
        choice = {"backend": faster(seconds), "seconds": seconds}
        (written / CHOICE_FILE).write_text(json.dumps(choice), encoding="utf-8")
    keep_last_used(target.parent, NUM_KEPT)


def _choose_in_child(folder: Path, target: Path) -> None:
    """Let a process of its own `choose`: torch's memory goes with it, and a converter that aborts ends nothing else."""
    log.info("converting the embedding model for this machine, once")
    done = run_module("retrieval.embedding_backend", folder, target)
    if done.returncode:
        reason = last_line(done.stderr, f"exit code {done.returncode}")
        log.warning("OpenVINO does not compute this embedding model, torch does: %s", reason)
        if done.returncode == -signal.SIGKILL:  # memory was short: with more of it the next load may succeed
            return
        with suppress(OSError, Unavailable), appearing_whole(target) as written:
            written.mkdir()
            choice = {"backend": TORCH, "reason": reason}
            (written / CHOICE_FILE).write_text(json.dumps(choice), encoding="utf-8")


def _chosen(remembered: Path) -> str:
    """The name of the backend; torch where nothing was written."""
    try:
        backend: str = json.loads((remembered / CHOICE_FILE).read_text(encoding="utf-8"))["backend"]
    except OSError:
        return TORCH
    return backend


def _load_torch(folder: Path) -> TorchSentenceModel:
    # Imported late: torch and transformers take ten seconds and more on a slow machine.
    from retrieval.torch_sentence_model import TorchSentenceModel

    return TorchSentenceModel(folder)


def faster(seconds: Mapping[str, float]) -> str:
    """The name of the backend to use, by the seconds that each takes.

    >>> faster({"torch": 1.0, "openvino": 1.1}), faster({"torch": 1.0, "openvino": 1.3})
    ('openvino', 'torch')
    """
    return OPENVINO if seconds[OPENVINO] <= TORCH_MARGIN * seconds[TORCH] else TORCH


def measure(models: Mapping[str, SentenceModel], batches: Sequence[Inputs]) -> dict[str, float]:
    """Seconds that each model takes for all batches: of each batch its fastest of a few rounds, taken in turns."""
    seconds = {name: np.full((NUM_ROUNDS, len(batches)), np.inf) for name in models}
    for round_ in range(-1, NUM_ROUNDS):  # the first warms up
        for name, model in models.items():
            for number, batch in enumerate(batches):
                start = time.perf_counter()
                model.vectors(*batch)
                if round_ >= 0:
                    seconds[name][round_, number] = time.perf_counter() - start
    return {name: float(taken.min(axis=0).sum()) for name, taken in seconds.items()}


def sample_batches(info: ModelInfo) -> list[Inputs]:
    """Batches of the sample texts, each cut to what the model reads."""
    tokenizer = Tokenizer.from_str(info.tokenizer_json)
    tokenizer.enable_truncation(min(info.max_tokens, LONGEST_TOKENS))
    longest = " ".join([PASSAGE] * (LONGEST_TOKENS // 50))
    groups = [[QUESTION], [PASSAGE], [QUESTION, PASSAGE] * NUM_PAIRS, [longest]]
    return [padded_inputs(tokenizer.encode_batch(group), info.pad_token_id) for group in groups]


if __name__ == "__main__":
    choose(Path(sys.argv[1]), Path(sys.argv[2]))
