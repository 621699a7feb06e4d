"""A sentence-embedding model by OpenVINO, on the CPU: converted once from torch, and loaded without it."""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.processor import num_threads
from retrieval.padding import CPU_BOUNDS
from retrieval.sentence_model import ModelInfo

if TYPE_CHECKING:
    from retrieval.torch_sentence_model import TorchSentenceModel

MODEL_FILE = "model.xml"


class OpenVinoSentenceModel:
    """A `SentenceModel` that `convert` wrote to a folder, in bfloat16 where the processor multiplies it itself."""

    bounds = CPU_BOUNDS

    def __init__(self, folder: Path) -> None:
        self.info = ModelInfo.read(folder)
        core = _core()
        has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        options = {
            "INFERENCE_PRECISION_HINT": "bf16" if has_bf16 else "f32",
            # All threads on one batch at a time, free to move: other processes compute on the same cores.
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": num_threads(),
            "ENABLE_CPU_PINNING": False,
        }
        self._request = core.compile_model(folder / MODEL_FILE, "CPU", options).create_infer_request()

    def vectors(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        [vectors] = self._request.infer(inputs).values()
        with np.errstate(invalid="ignore"):  # a vector of zeros becomes one of NaN, which the caller refuses
            normalised: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return normalised


def convert(model: TorchSentenceModel, folder: Path) -> None:
    """Write the model to `folder` for OpenVINO, in float32. Raises whatever a model that it does not know leads to."""
    openvino = _openvino()
    import torch
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    # Two texts, one padded: what is different from row to row is traced as such.
    example = {
        "input_ids": torch.ones(2, 8, dtype=torch.long),
        "attention_mask": torch.ones(2, 8, dtype=torch.long),
    }
    example["attention_mask"][1, 4:] = 0
    with _silence(), torch.inference_mode():
        decoder = TorchScriptPythonDecoder(model.module, example_input=example)
    # Not by `openvino.convert_model`, which does this and reports it to its makers.
    frontend = FrontEndManager().load_by_framework("pytorch")
    converted = frontend.convert(frontend.load(decoder))
    converted.reshape({name: [-1, -1] for name in example})
    openvino.save_model(converted, folder / MODEL_FILE, compress_to_fp16=False)
    model.info.write(folder)


def machine() -> str:
    """8 hex digits of what a choice depends on: the processor and OpenVINO's version."""
    text = f"{_core().get_property('CPU', 'FULL_DEVICE_NAME')} {_openvino().__version__}"
    return hashlib.sha256(text.encode()).hexdigest()[:8]


@contextmanager
def _silence() -> Iterator[None]:
    """The tracer doubts every shape, and reads attributes that warn of their age; the result is compared afterwards."""
    loggers = [logging.getLogger(name) for name in ("sentence_transformers", "transformers")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@cache  # each one loads the CPU's plugin
def _core() -> Any:
    return _openvino().Core()


def _openvino() -> Any:
    # At import it would tell its makers that it was imported, unless this package is not there.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    # Else its TBB looks up allocators past the jemalloc that Ray preloads, and aborts when it frees what came from it.
    os.environ.setdefault("TBB_ENABLE_SANITIZERS", "1")
    import openvino

    return openvino
