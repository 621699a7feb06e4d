"""The losses of models that write, in torch: next tokens, and preferences. Forward as in `training/modules.py`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.examples import IGNORE, MILLIONTHS

# Causal models that rescale their logits after the head; those must run whole.
LOGIT_SCALING = ("final_logit_softcapping", "lm_head_multiplier", "logits_scaling", "logit_scale")


class LanguageModule(nn.Module):
    """Cross entropy over next tokens, with the vocabulary projected only where there is a target.

    The head of a small model is a fifth of its work, and most positions of a chat row are prompt.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        config = model.config
        self.runs_whole = any(getattr(config, name, None) not in (None, 1.0) for name in LOGIT_SCALING)

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """`labels: [batch, seq_len], int64` -> `(loss_sum: [], float32; predictions: [num_targets], int64)`."""
        targets, has_target = next_tokens(batch["labels"])
        logits = self.logits(batch, has_target)
        return functional.cross_entropy(logits, targets[has_target], reduction="sum"), logits.argmax(dim=-1)

    def logits(self, batch: dict[str, Tensor], has_target: Tensor) -> Tensor:
        """[num_targets, vocabulary], float32: of the positions where `has_target` [batch, seq_len - 1] is true."""
        # Of packed rows only their positions are given: from these, and only where there is no mask,
        # transformers makes one that keeps the rows apart.
        inputs: dict[str, Any] = {name: value for name, value in batch.items() if name != "labels"}
        inputs["use_cache"] = False
        if self.runs_whole:
            logits = self.model(**inputs).logits[:, :-1][has_target]
        else:
            causal = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
            hidden = causal.get_decoder()(**inputs).last_hidden_state
            logits = causal.get_output_embeddings()(hidden[:, :-1][has_target])
        float_logits: Tensor = logits.float()
        return float_logits


class PreferenceModule(LanguageModule):
    """Direct preference optimisation of an adapter, with the base below it as the reference.

    The reference runs in the same batch with the adapter switched off, so that no second copy of the model
    is kept, nothing is computed before the first step, and the loss begins at exactly ln 2.
    """

    def __init__(self, model: Any, beta: float) -> None:
        super().__init__(model)
        self._beta = beta

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Preferred sequences, then the others in the same order -> `(loss_sum: [], float32; predictions: [num_rows])`.

        `labels: [2 x num_rows, seq_len], int64`. Predictions are the reward margins in millionths, int64.
        """
        reference = self._reference(batch)
        margins = reward_margins(self._log_probabilities(batch), reference, self._beta)
        has_weight = (batch["labels"] != IGNORE).any(dim=1)[: len(margins)]
        losses = -functional.logsigmoid(margins)
        return (losses * has_weight).sum(), (margins.detach() * MILLIONTHS).round().long()

    def _log_probabilities(self, batch: dict[str, Tensor]) -> Tensor:
        """Of the answer of each sequence, in nats: [2 x num_rows], float32."""
        targets, has_target = next_tokens(batch["labels"])
        losses = functional.cross_entropy(
            self.logits(batch, has_target), targets[has_target], reduction="none"
        )
        return -losses.new_zeros(targets.shape).masked_scatter(has_target, losses).sum(dim=1)

    @torch.no_grad()
    def _reference(self, batch: dict[str, Tensor]) -> Tensor:
        """`_log_probabilities` of the base, without dropout."""
        is_training = self.model.training
        self.model.eval()
        with self.model.disable_adapter():
            found = self._log_probabilities(batch)
        self.model.train(is_training)
        return found


def next_tokens(labels: Tensor) -> tuple[Tensor, Tensor]:
    """`(targets, has_target)`, each [batch, seq_len - 1]: the hidden state at t predicts the token at t + 1."""
    targets = labels[:, 1:]
    return targets, targets != IGNORE


def reward_margins(policy: Tensor, reference: Tensor, beta: float) -> Tensor:
    """How much more the policy than the reference leans to the preferred answer of each row: [num_rows].

    `policy`, `reference`: [2 x num_rows], log-probabilities of the preferred answers, then of the others.
    margin = beta x ((policy - reference) of the preferred - (policy - reference) of the other), of which the
    loss is -ln sigmoid(margin) (Rafailov et al., Direct Preference Optimization, 2023, equation 7).

    >>> margin = reward_margins(torch.tensor([-10.0, -12.0]), torch.tensor([-11.0, -11.0]), beta=0.1)
    >>> round(margin.item(), 4), round(-functional.logsigmoid(margin).item(), 4)
    (0.2, 0.5981)
    """
    preferred, other = (policy - reference).chunk(2)
    return beta * (preferred - other)
