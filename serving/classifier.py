"""Registered classifiers: loaded when first asked for, the least recently used one given back.

A text above the model's length is cut to it and the answer says `truncated`: the beginning of a text
mostly decides its class, and a caller who wants another rule can cut it first.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from cluster.cards import ModelCard
from cluster.errors import Unprocessable
from cluster.references import resolve_model
from cluster.storage import local_folder
from retrieval.padding import bounds_of
from serving.adapters import require_fit
from serving.backends import Classified
from serving.batching import Batcher, OnBatch, on_a_thread
from serving.config import ClassifierConfig

log = logging.getLogger(__name__)


class _Encoded(NamedTuple):
    token_ids: dict[str, list[int]]  # model input name -> ids of one text or pair, without padding
    truncated: bool = False

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids["input_ids"])


class SequenceClassifier:
    """One classifier in memory. Raises Unprocessable when its weights are not all there."""

    def __init__(self, card: ModelCard, config: ClassifierConfig, on_batch: OnBatch | None = None) -> None:
        import torch
        from transformers import AutoTokenizer

        folder = local_folder(card.weights_uri)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        # It keeps the bound of a call in itself, where another thread's call would change it.
        self._tokenizing = threading.Lock()
        model = _load(card, folder).to(device, getattr(torch, config.dtype)).eval()
        positions = getattr(model.config, "max_position_embeddings", card.max_length_tokens)
        self._max_tokens = min(card.max_length_tokens, positions)
        self._labels = card.labels
        # Of the model and not of this object, which would then hold itself and stay in memory until a look for garbage.
        forward = partial(_probabilities, model, self._tokenizer)
        pass_tokens = bounds_of(on_gpu=device == "cuda").pass_tokens
        self._batcher = Batcher(on_a_thread(forward), config.max_batch_tokens, pass_tokens, on_batch=on_batch)

    async def classify(self, inputs: Sequence[tuple[str, ...]]) -> list[Classified]:
        """The verdict on each text or pair of texts."""
        # On a thread of its own, so that the next batch is tokenised while one is computed.
        encoded = await asyncio.to_thread(self._encode, inputs)
        scores = await self._batcher.submit(encoded, [item.num_tokens for item in encoded])
        return [
            Classified(self._ranked(row), item.num_tokens, item.truncated)
            for row, item in zip(scores, encoded, strict=True)
        ]

    def _encode(self, inputs: Sequence[tuple[str, ...]]) -> list[_Encoded]:
        """All texts of a call at once, and once more those that have to be cut."""
        with self._tokenizing:
            encoded = self._tokenized(inputs)
            too_long = [index for index, item in enumerate(encoded) if item.num_tokens > self._max_tokens]
            cut = self._tokenized(
                [inputs[index] for index in too_long], truncation="longest_first", max_length=self._max_tokens
            )
        for index, item in zip(too_long, cut, strict=True):
            encoded[index] = item._replace(truncated=True)
        return encoded

    def _tokenized(self, inputs: Sequence[tuple[str, ...]], **options: Any) -> list[_Encoded]:
        if not inputs:
            return []
        batch = self._tokenizer(*map(list, zip(*inputs, strict=True)), verbose=False, **options)
        return [_Encoded(dict(zip(batch, rows, strict=True))) for rows in zip(*batch.values(), strict=True)]

    def _ranked(self, row: Sequence[float]) -> tuple[tuple[str, float], ...]:
        return tuple(sorted(zip(self._labels, row, strict=True), key=lambda entry: -entry[1]))


def _probabilities(model: Any, tokenizer: Any, items: Sequence[_Encoded]) -> list[list[float]]:
    """[num_items, num_labels]"""
    import torch

    batch = tokenizer.pad([item.token_ids for item in items], return_tensors="pt").to(model.device)
    with torch.inference_mode():
        logits = model(**batch).logits.float()
    probabilities: list[list[float]] = logits.softmax(dim=-1).tolist()
    return probabilities


def _load(card: ModelCard, folder: Path) -> Any:
    from transformers import AutoModelForSequenceClassification

    source = resolve_model(card.base_model) if card.is_adapter else folder
    model: Any
    model, info = AutoModelForSequenceClassification.from_pretrained(
        source, num_labels=len(card.labels), output_loading_info=True
    )
    # A head that is not in the file would be random, and answer all the same.
    if info["missing_keys"] and not card.is_adapter:
        raise Unprocessable(
            f"{card.id} lacks weights {sorted(info['missing_keys'])}; export it again", "model"
        )
    if not card.is_adapter:
        return model
    from peft import PeftModel

    require_fit(lambda: type(model)(model.config), folder, card.id, info["missing_keys"])
    adapted: Any = PeftModel.from_pretrained(model, folder)
    if not adapted.peft_config["default"].modules_to_save:
        raise Unprocessable(f"{card.id} holds no classification head; export it again", "model")
    return adapted.merge_and_unload()


class Classifier:
    """All classifiers of one replica."""

    def __init__(self, config: ClassifierConfig, on_batch: OnBatch | None = None) -> None:
        self._config = config
        self._on_batch = on_batch
        self._models: OrderedDict[str, asyncio.Task[SequenceClassifier]] = OrderedDict()

    async def classify(self, card: ModelCard, inputs: Sequence[tuple[str, ...]]) -> list[Classified]:
        """The verdict on each input by the model of `card`, loaded if it is not."""
        return await (await self._model(card)).classify(inputs)

    async def check_health(self) -> None:
        """Nothing to check: a classifier lives in this process."""

    async def _model(self, card: ModelCard) -> SequenceClassifier:
        loading = self._models.get(card.id)
        if loading is None:
            # A task, so that callers who come meanwhile wait for the same load.
            load = asyncio.to_thread(SequenceClassifier, card, self._config, self._on_batch)
            loading = self._models[card.id] = asyncio.ensure_future(load)
            loading.add_done_callback(partial(self._forget_failed, card.id))
            while len(self._models) > self._config.max_models:
                evicted, _ = self._models.popitem(last=False)
                log.info("classifier %s leaves memory", evicted)
        self._models.move_to_end(card.id)
        return await asyncio.shield(loading)

    def _forget_failed(self, card_id: str, loading: asyncio.Task[SequenceClassifier]) -> None:
        """Let the next caller try again, since the storage may have been away, also where the first one has left."""
        if (loading.cancelled() or loading.exception()) and self._models.get(card_id) is loading:
            del self._models[card_id]
