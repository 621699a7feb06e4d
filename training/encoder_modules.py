"""The losses of encoders, in torch: masked tokens, and vectors of texts. Forward as in `training/modules.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.examples import IGNORE, MILLIONTHS, Example
from training.pairs import is_scored

# Cosines are multiplied by this before the softmax, as in sentence-transformers' MultipleNegativesRankingLoss.
SCALE = 20.0


class MaskedModule(nn.Module):
    """Cross entropy over the masked tokens, with the vocabulary projected only there."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """`labels: [batch, seq_len], int64` -> `(loss_sum: [], float32; predictions: [num_targets], int64)`."""
        has_target = batch["labels"] != IGNORE
        inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
        head = getattr(self.model, "cls", None) or getattr(self.model, "lm_head", None)
        if head is None:
            logits = self.model(**inputs).logits[has_target]
        else:
            logits = head(self.model.base_model(**inputs).last_hidden_state[has_target])
        logits, targets = logits.float(), batch["labels"][has_target]
        return functional.cross_entropy(logits, targets, reduction="sum"), logits.argmax(dim=-1)


class EmbeddingModule(nn.Module):
    """Vectors of texts: in-batch negatives for pairs and triplets, squared cosine error for scored pairs.

    In training every other passage of the micro-batch is a wrong one (Henderson et al. 2017), so that its
    size is part of the method: larger is harder, and better. In evaluation each question is ranked against
    the passages of its own row alone, so that figures do not depend on batches.
    """

    def __init__(self, model: Any, *, uses_first_token: bool) -> None:
        super().__init__()
        self.model = model
        self._uses_first_token = uses_first_token
        for name, parameter in model.named_parameters():
            if "pooler" in name:  # it feeds a classifier; no vector passes through it
                parameter.requires_grad_(False)

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """One sequence a text -> `(loss_sum: [], float32; predictions: [num_rows], int64)`.

        `row_ids`, `text_ids`: [num_texts], which row a text is of, and its number there (0 asks). `same_as`:
        [num_texts], the number of the first equal text in the batch. `labels`:
        [num_rows], RIGHT or a score in millionths. Predictions are 1 where the right passage is the nearest,
        or the cosine in millionths.
        """
        vectors = self._embed(batch["input_ids"], batch["attention_mask"])
        labels, row_ids, text_ids = batch["labels"], batch["row_ids"], batch["text_ids"]
        has_target = labels != IGNORE
        queries, passages = vectors[text_ids == 0], vectors[text_ids > 0]
        passage_rows = row_ids[text_ids > 0]
        cosines = queries @ passages.T
        # The first passage of a row is its own.
        own = torch.searchsorted(passage_rows, torch.arange(len(queries), device=labels.device))
        if bool(batch["is_scored"]):
            cosine = cosines.gather(1, own[:, None]).squeeze(1)
            error = (cosine - labels / MILLIONTHS) ** 2
            return (error * has_target).sum(), (cosine.detach() * MILLIONTHS).round().long()
        # The same passage may answer another question of the batch; it is not wrong for either.
        texts = batch["same_as"][text_ids > 0]
        is_double = (texts[None, :] == texts[own][:, None]) & (
            torch.arange(len(texts), device=labels.device)[None, :] != own[:, None]
        )
        cosines = cosines.masked_fill(is_double, -torch.inf)
        if not self.training:
            is_other = passage_rows[None, :] != torch.arange(len(queries), device=labels.device)[:, None]
            cosines = cosines.masked_fill(is_other, -torch.inf)
        losses = functional.cross_entropy(cosines * SCALE, own, reduction="none")
        return (losses * has_target).sum(), (cosines.argmax(dim=1) == own).long()

    def _embed(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """[num_texts, hidden], float32, of length 1."""
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state.float()
        if self._uses_first_token:
            return functional.normalize(hidden[:, 0], dim=-1)
        mask = attention_mask[:, :, None].float()
        return functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)


def collate_texts(examples: Sequence[Example], pad_token_id: int) -> dict[str, Tensor]:
    """The texts of rows as one right-padded batch, see `EmbeddingModule.forward`."""
    texts, row_ids, text_ids = [], [], []
    for row, example in enumerate(examples):
        for number in range(example.segment_ids[-1] + 1):
            places = [i for i, segment in enumerate(example.segment_ids) if segment == number]
            texts.append([example.input_ids[i] for i in places])
            row_ids.append(row)
            text_ids.append(number)
    width = max(map(len, texts))
    labels = [example.labels[0] for example in examples]
    first: dict[tuple[int, ...], int] = {}
    same_as = [first.setdefault(tuple(text), number) for number, text in enumerate(texts)]
    return {
        "input_ids": torch.tensor([text + [pad_token_id] * (width - len(text)) for text in texts]),
        "attention_mask": torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts]),
        "row_ids": torch.tensor(row_ids),
        "text_ids": torch.tensor(text_ids),
        "same_as": torch.tensor(same_as),
        "labels": torch.tensor(labels),
        "is_scored": torch.tensor(is_scored(labels)),
    }
