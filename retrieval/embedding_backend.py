"""Which library computes an embedding model on this machine: measured once, then remembered.

sentence-transformers on torch knows every model, and GPUs. OpenVINO takes a model that was loaded so: on a CPU it is
mostly the faster one, and it starts within a second or two, since nothing of torch is imported.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer

from cluster.processor import has_gpu
from cluster.settings import settings
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
        known = _load_torch(folder)
        try:
            return _choose(known, remembered)
        except OSError as exc:
            log.warning("cannot write the embedding model into the cache (%s); torch computes it", exc)
            return known
    with suppress(OSError):
        os.utime(remembered)
    choice = json.loads((remembered / CHOICE_FILE).read_text(encoding="utf-8"))
    return _load_torch(folder) if choice["backend"] == TORCH else OpenVinoSentenceModel(remembered)


def _load_torch(folder: Path) -> TorchSentenceModel:
    # Imported late: torch and transformers take ten seconds and more on a slow machine.
    from retrieval.torch_sentence_model import TorchSentenceModel

    return TorchSentenceModel(folder)


def _choose(known: TorchSentenceModel, target: Path) -> SentenceModel:
    """The faster of a model and its conversion; what came of it is written to `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".convert-") as scratch:
        folder = Path(scratch) / "model"
        folder.mkdir()
        models: dict[str, SentenceModel] = {TORCH: known}
        if (converted := _converted(known, folder)) is not None:
            models[OPENVINO] = converted
        seconds = measure(models, sample_batches(known.info))
        backend = faster(seconds)
        log.info("%s embeds; seconds for a sample: %s", backend, seconds)
        choice = {"backend": backend, "seconds": seconds}
        (folder / CHOICE_FILE).write_text(json.dumps(choice), encoding="utf-8")
        # One rename makes it visible, whole; the loser of a race keeps the winner's.
        try:
            folder.rename(target)
        except OSError:
            if not target.exists():
                raise
    for unused in sorted(target.parent.glob("[!.]*"), key=lambda path: -path.stat().st_mtime)[NUM_KEPT:]:
        shutil.rmtree(unused, ignore_errors=True)
    return models[backend]


def _converted(known: TorchSentenceModel, folder: Path) -> SentenceModel | None:
    """The same model by OpenVINO, written to `folder`; None when it cannot take it, or computes something else."""
    from retrieval.openvino_sentence_model import OpenVinoSentenceModel, convert

    try:
        convert(known, folder)
        model = OpenVinoSentenceModel(folder)
        distance = max(
            1 - float((model.vectors(*batch) * known.vectors(*batch, in_float32=True)).sum(axis=1).min())
            for batch in sample_batches(known.info)
        )
    except Exception as exc:  # noqa: BLE001 - a model that the converter does not know; torch computes it
        log.warning("OpenVINO cannot take this embedding model (%s); torch computes it", exc)
        return None
    if not distance <= MAX_DISTANCE:
        log.warning("OpenVINO's vectors of this model are %.4f off; torch computes it", distance)
        return None
    return model


def faster(seconds: Mapping[str, float]) -> str:
    """The name of the backend to use, by the seconds that each takes.

    >>> faster({"torch": 1.0, "openvino": 1.1}), faster({"torch": 1.0, "openvino": 1.3}), faster({"torch": 1.0})
    ('openvino', 'torch', 'torch')
    """
    return OPENVINO if seconds.get(OPENVINO, math.inf) <= TORCH_MARGIN * seconds[TORCH] else TORCH


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
