"""Preferences: what is refused, what becomes of a row, and the loss against the paper and trl."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from cluster.errors import DataError
from training.chat import Rendered, encode, render
from training.config import DataConfig, FinetuneConfig, TaskName
from training.examples import IGNORE, Example, Preference
from training.language_modules import LanguageModule, PreferenceModule, reward_margins
from training.modules import add_adapter, collate, weightless
from training.packing import split
from training.preferences import DPO, preference_faults, prepare_preferences
from training.sources import Row, Rows
from training.validation import Options, validate

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
USER = {"role": "user", "content": "how long?"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "r"}
MakeTokenizer = Callable[..., PreTrainedTokenizerFast]
MakeModel = Callable[..., Any]


def said(text: str, **more: Any) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": text, **more}]


def row(*messages: Any, preferred: Any = None, other: Any = None, **more: Any) -> dict[str, Any]:
    return {
        "input": {"messages": list(messages or (USER,)), **more},
        "preferred_output": said("7 days") if preferred is None else preferred,
        "non_preferred_output": said("Good question! 7 days") if other is None else other,
    }


@pytest.mark.parametrize(
    "columns",
    [
        row(),
        row({"role": "system", "content": "s"}, USER, *said("a"), USER),
        row(USER, CALLING, RESULT),
        row(preferred=[CALLING], tools=[{"type": "function", "function": {"name": "f"}}]),
        row(parallel_tool_calls=True) | {"id": "row-1", "metadata": None},
    ],
)
def test_rows_in_openais_form_are_accepted(columns: dict[str, Any]) -> None:
    assert list(preference_faults(columns)) == []


@pytest.mark.parametrize(
    ("columns", "params"),
    [
        ({"input": {"messages": []}}, ["input"]),
        ({"messages": [USER], **row()}, ["messages"]),
        (row() | {"input": [USER]}, ["input"]),
        (row() | {"chosen": "a"}, ["chosen"]),
        (row(temperature=1), ["input.temperature"]),
        (row(USER, *said("a")), ["input.messages[1]"]),
        (row({"role": "bot", "content": "x"}, USER), ["input.messages[0].role"]),
        (row(RESULT, USER), ["input.messages[0].tool_call_id"]),
        (row(preferred=said("")), ["preferred_output[0].content"]),
        (row(preferred=said("a", weight=1)), ["preferred_output[0].weight"]),
        (row(preferred=said("", weight=1)), ["preferred_output[0].weight", "preferred_output[0].content"]),
        (row(other=[USER]), ["non_preferred_output[0]"]),
        (row(other=said("a") + said("b")), ["non_preferred_output"]),
        (row(other="a"), ["non_preferred_output"]),
        (row(preferred=[None], other=[{}]), ["preferred_output[0]", "non_preferred_output[0].role"]),
        (row(preferred=said("a"), other=said("a")), ["non_preferred_output"]),
        (
            row({"role": "user", "content": 5}, preferred=[], other=said("a", nmae="x")),
            ["preferred_output", "input.messages[0].content", "non_preferred_output[0].nmae"],
        ),
    ],
)
def test_every_fault_of_a_row_is_named_once_and_in_its_place(
    columns: dict[str, Any], params: list[str]
) -> None:
    assert [fault.param for fault in preference_faults(columns)] == params


def test_the_names_of_other_libraries_are_translated() -> None:
    faults = preference_faults(row() | {"chosen": "a", "rejected": "b"})
    assert [fault.remedy for fault in faults] == [
        "write it as preferred_output",
        "write it as non_preferred_output",
    ]


def test_validate_finds_the_task_the_lines_and_the_columns(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    swapped = row() | {
        "preferred_output": row()["non_preferred_output"],
        "non_preferred_output": row()["preferred_output"],
    }
    rows = [row(), row(preferred=said("")), {"messages": [USER, *said("a")]}, swapped, row()]
    path.write_text("\n".join(map(json.dumps, rows)))
    report = validate(path, Options(DataConfig(path=str(path))))
    assert report.task is TaskName.DPO
    found = [(finding.fault.line, finding.fault.param) for finding in report.errors]
    assert found == [(2, "preferred_output[0].content"), (3, "input"), (3, "messages")]
    column = report.errors[0].fault.column
    assert column is not None
    assert path.read_text().splitlines()[1][column - 1 :].startswith('"content": ""')
    warnings = [finding.fault.reason for finding in report.warnings]
    assert "1 row is equal to an earlier row (line 5)" in warnings
    assert any("equal to another row but for the label" in reason for reason in warnings)
    assert report.statistics["messages"]["max"] == 2


def test_a_row_is_the_prompt_with_each_answer_and_only_these_are_trained(
    make_tokenizer: MakeTokenizer,
) -> None:
    tokenizer = make_tokenizer(CHATML)
    columns = row(USER, *said("an answer of before"), USER)
    (example,) = DPO.encode(columns, tokenizer, 200)
    for side, name in zip(split(example), ("preferred_output", "non_preferred_output"), strict=True):
        messages = [*columns["input"]["messages"], *columns[name]]
        (alone,) = encode([Rendered(render(messages, tokenizer))], tokenizer)
        assert side.input_ids == alone.input_ids
        trained = tokenizer.decode([label for label in side.labels if label != IGNORE])
        assert trained == columns[name][0]["content"] + "<|im_end|>"
    assert example.num_targets == 1
    assert example.num_trained_tokens == sum(side.num_targets for side in split(example))
    assert weightless(example).num_targets == 0


def test_a_row_of_which_one_answer_does_not_fit_is_left_out_and_told(make_tokenizer: MakeTokenizer) -> None:
    long = row(other=said("word " * 60))
    rows = [Row(1, row()), Row(2, long)]
    dataset = prepare_preferences(Rows(rows, rows[:1], "rows"), make_tokenizer(CHATML), 100)
    assert [len(dataset.train), len(dataset.validation)] == [1, 1]
    assert dataset.notices[0].startswith("1 of 2 training rows are left out")


def test_a_fault_ends_a_run_with_its_file_and_line(make_tokenizer: MakeTokenizer) -> None:
    rows = [Row(1, row()), Row(4, row(USER, *said("a")))]
    with pytest.raises(DataError, match=r"training file, line 4, input\.messages\[1\]: the input ends with"):
        prepare_preferences(Rows(rows, rows, "rows"), make_tokenizer(CHATML), 100)


def test_the_loss_is_the_papers() -> None:
    """Equation 7 at beta 0.1: ratios of 1 and -1 are a margin of 0.2, and -ln sigmoid(0.2) is 0.598139."""
    policy, reference = torch.tensor([-10.0, -12.0]), torch.tensor([-11.0, -11.0])
    margin = reward_margins(policy, reference, beta=0.1)
    assert margin.item() == pytest.approx(0.2)
    assert -functional.logsigmoid(margin).item() == pytest.approx(0.598139, abs=1e-6)
    assert -math.log(1 / (1 + math.exp(-0.2))) == pytest.approx(0.598139, abs=1e-6)


def preference(seed: int) -> Preference:
    draw = torch.Generator().manual_seed(seed)
    prompt, *answers = (torch.randint(10, 300, (n,), generator=draw).tolist() for n in (6, 3 + seed, 7))
    ids = [*prompt, *answers[0], *prompt, *answers[1]]
    masks = ([IGNORE] * len(prompt) + answer for answer in answers)
    sides = [number for number, answer in enumerate(answers) for _ in (*prompt, *answer)]
    return Preference(ids, [label for mask in masks for label in mask], sides)


PAIRS = [preference(seed) for seed in range(3)]


@pytest.fixture
def module(tiny_llama: MakeModel) -> PreferenceModule:
    """A policy that has left its reference: the adapter's second matrix is not 0 any more."""
    values = {"name": "dpo", "task": "dpo", "method": "lora", "model": "m", "data": {"path": "none"}}
    wrapped = add_adapter(tiny_llama(), FinetuneConfig.model_validate(values))
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return PreferenceModule(wrapped, beta=0.3)


def log_probability(model: Any, example: Example) -> torch.Tensor:
    """By the library's own loss over one sequence: a mean over its targets."""
    batch = collate([example], TaskName.SFT, pad_token_id=0)
    return -LanguageModule(model)(batch)[0]


def test_loss_and_margins_follow_from_the_log_probabilities_of_adapter_and_base(
    module: PreferenceModule,
) -> None:
    batch = collate(PAIRS, TaskName.DPO, pad_token_id=0)
    loss_sum, predictions = module(batch)
    ratios = []
    for example in (split(pair)[side] for side in (0, 1) for pair in PAIRS):
        policy = log_probability(module.model, example)
        with module.model.disable_adapter():
            ratios.append(policy - log_probability(module.model, example))
    preferred, other = torch.stack(ratios).chunk(2)
    margins = 0.3 * (preferred - other)
    assert loss_sum.item() == pytest.approx(-functional.logsigmoid(margins).sum().item(), rel=1e-5)
    assert predictions.tolist() == pytest.approx((margins * 1e6).tolist(), abs=20)
    assert margins.abs().min() > 0.01


def test_the_loss_is_trls_on_the_same_log_probabilities(module: PreferenceModule) -> None:
    trl = pytest.importorskip("trl")
    batch = collate(PAIRS, TaskName.DPO, pad_token_id=0)
    loss_sum, predictions = module(batch)

    completion_mask = (batch["labels"] != IGNORE).long()
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}

    @torch.no_grad()
    def log_probs() -> torch.Tensor:
        """Of every token of an answer, and 0 elsewhere: [2 x num_rows, seq_len - 1]."""
        logits = module.model(**inputs).logits[:, :-1]
        found = logits.log_softmax(-1).gather(2, inputs["input_ids"][:, 1:, None]).squeeze(2)
        return found * completion_mask[:, 1:]

    policy = log_probs()
    with module.model.disable_adapter():
        reference = log_probs().sum(dim=1).chunk(2)
    zeros = torch.zeros_like(policy)
    output = SimpleNamespace(log_probs=policy, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())
    same = SimpleNamespace(device="cpu", gather=lambda value: value, gather_for_metrics=lambda value: value)
    trainer = SimpleNamespace(
        model=module, aux_loss_enabled=False, ld_alpha=None, precompute_ref_logps=True, accelerator=same,
        f_divergence_type="reverse_kl", loss_types=["sigmoid"], loss_weights=[1.0], beta=0.3,
        use_weighting=False, _metrics={"train": defaultdict(list)}, _total_train_tokens=0, _tp_size=1,
    )  # fmt: skip
    inputs |= {
        "completion_mask": completion_mask,
        "ref_chosen_logps": reference[0],
        "ref_rejected_logps": reference[1],
    }
    theirs = trl.DPOTrainer._compute_loss(trainer, lambda **_: output, inputs, False)
    assert loss_sum.item() / len(PAIRS) == pytest.approx(theirs.item(), rel=1e-5)
    (margin,) = trainer._metrics["train"]["rewards/margins"]
    assert predictions.float().mean().item() / 1e6 == pytest.approx(margin, abs=1e-5)


def test_a_fresh_adapter_begins_at_ln_2_with_a_gradient(tiny_llama: MakeModel) -> None:
    values = {"name": "dpo", "task": "dpo", "method": "lora", "model": "m", "data": {"path": "none"}}
    config = FinetuneConfig.model_validate(values | {"lora": {"dropout": 0.5}, "dropout": 0.3})
    module = PreferenceModule(add_adapter(tiny_llama(), config), config.dpo.beta)
    module.train()
    loss_sum, predictions = module(collate(PAIRS, TaskName.DPO, pad_token_id=0))
    assert loss_sum.item() == pytest.approx(3 * math.log(2), rel=1e-6)
    assert predictions.tolist() == [0, 0, 0]
    loss_sum.backward()
    assert module.model.training
    gradients = [p.grad for p in module.parameters() if p.requires_grad]
    assert gradients
    assert any(gradient is not None and gradient.abs().max() > 0 for gradient in gradients)


def test_pairs_lose_together_what_they_lose_alone_and_a_weightless_one_nothing(
    module: PreferenceModule,
) -> None:
    alone = [module(collate([pair], TaskName.DPO, pad_token_id=0))[0].item() for pair in PAIRS]
    rows = [*PAIRS, weightless(PAIRS[0])]
    together, predictions = module(collate(rows, TaskName.DPO, pad_token_id=0))
    assert together.item() == pytest.approx(sum(alone), rel=1e-5)
    assert predictions[-1] == 0
    nothing, _ = module(collate(rows[-1:], TaskName.DPO, pad_token_id=0))
    nothing.backward()
    assert nothing.item() == 0.0


def test_full_training_and_packing_are_refused_with_the_reason() -> None:
    values = {"name": "dpo", "task": "dpo", "model": "m", "data": {"path": "none"}}
    with pytest.raises(ValueError, match=r"second copy of the model\); write method: lora or qlora"):
        FinetuneConfig.model_validate(values)
    with pytest.raises(ValueError, match="packing is for task sft; leave it out for dpo"):
        FinetuneConfig.model_validate(values | {"method": "lora", "packing": True})
    for beta in (0, 2.1):
        with pytest.raises(ValueError, match="beta"):
            FinetuneConfig.model_validate(values | {"method": "lora", "dpo": {"beta": beta}})
