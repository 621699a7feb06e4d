from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import nn

from cluster.errors import JobFailed
from training.config import FinetuneConfig, TaskName
from training.examples import IGNORE, Dataset, Example, Examples
from training.feed import Feed
from training.language_modules import LanguageModule
from training.modules import (
    ClassificationModule,
    add_adapter,
    add_embedding_noise,
    build_module,
    collate,
    load_base,
    set_dropout,
    weightless,
)

TASKS = (TaskName.CLASSIFICATION, TaskName.SFT)
MakeModel = Callable[..., Any]


def chat_example(length: int, answer: int, seed: int = 0) -> Example:
    """`length` random tokens, the last `answer` of them trained."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(10, 300, (length,), generator=draw).tolist()
    return Example(ids, [IGNORE] * (length - answer) + ids[-answer:], [])


def pair_example(length: int, label: int) -> Example:
    ids = [5 + (7 * n + label) % 40 for n in range(length)]
    return Example(ids, [label], [0] * (length // 2) + [1] * (length - length // 2))


CHATS = [chat_example(12, 4), chat_example(7, 7, seed=1), chat_example(20, 1, seed=2)]
PAIRS = [pair_example(6, 0), pair_example(11, 1), pair_example(9, 1)]


def test_the_loss_of_a_classifier_is_the_librarys_mean_times_its_targets(tiny_bert: MakeModel) -> None:
    model = tiny_bert()
    batch = collate(PAIRS, TaskName.CLASSIFICATION, pad_token_id=0)
    loss_sum, predictions = ClassificationModule(model)(batch)
    theirs = model(**batch)
    assert loss_sum.item() == pytest.approx(theirs.loss.item() * 3, abs=1e-5)
    assert predictions.tolist() == theirs.logits.argmax(-1).tolist()


def test_the_loss_of_a_language_model_is_the_librarys_mean_times_its_targets(tiny_llama: MakeModel) -> None:
    model = tiny_llama()
    batch = collate(CHATS, TaskName.SFT, pad_token_id=0)
    loss_sum, _ = LanguageModule(model)(batch)
    # The first token of the second row has nothing before it to be predicted from.
    num_targets = 4 + 6 + 1
    assert loss_sum.item() == pytest.approx(model(**batch).loss.item() * num_targets, rel=1e-5)


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": True}])
def test_projecting_only_targets_changes_neither_loss_nor_predictions_nor_gradient(
    tiny_llama: MakeModel, changes: dict[str, bool]
) -> None:
    model = tiny_llama(**changes)
    batch = collate(CHATS, TaskName.SFT, pad_token_id=0)
    results = []
    for runs_whole in (False, True):
        module = LanguageModule(model)
        module.runs_whole = runs_whole
        module.zero_grad()
        loss_sum, predictions = module(batch)
        loss_sum.backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
        results.append((loss_sum.item(), predictions.tolist(), gradients))
    (loss, predictions, gradients), (whole_loss, whole_predictions, whole_gradients) = results
    assert loss == pytest.approx(whole_loss, rel=1e-6)
    assert predictions == whole_predictions
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, whole_gradients[name], rtol=1e-4, atol=1e-5)


class ScalingModel(nn.Module):
    """A causal model that halves its logits after the head, as some do."""

    def __init__(self, model: Any, name: str, value: float | None) -> None:
        super().__init__()
        self.inner = model
        self.config = model.config
        setattr(self.config, name, value)

    def forward(self, **inputs: Any) -> Any:
        output = self.inner(**inputs)
        output.logits = output.logits / 2
        return output

    def get_decoder(self) -> Any:
        raise AssertionError("only a whole forward scales the logits")


@pytest.mark.parametrize(
    "name", ["final_logit_softcapping", "lm_head_multiplier", "logits_scaling", "logit_scale"]
)
def test_a_model_that_rescales_its_logits_runs_whole(tiny_llama: MakeModel, name: str) -> None:
    model = ScalingModel(tiny_llama(), name, 2.0)
    batch = collate(CHATS, TaskName.SFT, pad_token_id=0)
    loss_sum, _ = LanguageModule(model)(batch)
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    expected = nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), batch["labels"][:, 1:].reshape(-1), reduction="sum"
    )
    assert loss_sum.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("value", [None, 1.0])
def test_a_scale_that_changes_nothing_does_not_cost_the_whole_projection(
    tiny_llama: MakeModel, value: float | None
) -> None:
    assert not LanguageModule(ScalingModel(tiny_llama(), "logit_scale", value)).runs_whole


@pytest.mark.parametrize("task", TASKS)
def test_rows_of_different_lengths_in_one_batch_lose_what_they_lose_alone(
    task: TaskName, tiny_bert: MakeModel, tiny_llama: MakeModel
) -> None:
    is_chat = task is TaskName.SFT
    module = LanguageModule(tiny_llama()) if is_chat else ClassificationModule(tiny_bert())
    examples = CHATS if is_chat else PAIRS
    loss_sum, predictions = module(collate(examples, task, pad_token_id=0))
    alone = [module(collate([example], task, pad_token_id=0)) for example in examples]
    assert loss_sum.item() == pytest.approx(sum(loss.item() for loss, _ in alone), rel=1e-5)
    assert predictions.tolist() == [p for _, each in alone for p in each.tolist()]


@pytest.mark.parametrize("task", TASKS)
def test_a_weightless_row_adds_neither_loss_nor_gradient(
    task: TaskName, tiny_bert: MakeModel, tiny_llama: MakeModel
) -> None:
    is_chat = task is TaskName.SFT
    module = LanguageModule(tiny_llama()) if is_chat else ClassificationModule(tiny_bert())
    spare = weightless((CHATS if is_chat else PAIRS)[0])
    assert spare.num_targets == 0
    loss_sum, _ = module(collate([spare], task, pad_token_id=0))
    assert loss_sum.item() == 0.0
    loss_sum.backward()
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    assert all(not gradient.any() for gradient in gradients)


def test_chats_are_padded_on_the_right_by_position() -> None:
    batch = collate(CHATS, TaskName.SFT, pad_token_id=2)
    assert {name: tuple(value.shape) for name, value in batch.items()} == {
        "input_ids": (3, 20),
        "attention_mask": (3, 20),
        "labels": (3, 20),
    }
    assert {value.dtype for value in batch.values()} == {torch.int64}
    assert batch["attention_mask"].sum(dim=1).tolist() == [12, 7, 20]
    assert batch["input_ids"][1, :7].tolist() == CHATS[1].input_ids
    assert batch["input_ids"][1, 7:].tolist() == [2] * 13
    assert batch["labels"][1, 7:].tolist() == [IGNORE] * 13


def test_pairs_carry_segments_and_one_class_each() -> None:
    batch = collate(PAIRS, TaskName.CLASSIFICATION, pad_token_id=0)
    assert batch["token_type_ids"].shape == batch["input_ids"].shape == (3, 11)
    assert batch["labels"].tolist() == [0, 1, 1]
    single = [Example([5, 6], [1], [])]
    assert "token_type_ids" not in collate(single, TaskName.CLASSIFICATION, pad_token_id=0)


def test_dropout_is_set_everywhere_so_that_training_repeats_itself(tiny_bert: MakeModel) -> None:
    model = tiny_bert()
    module = ClassificationModule(model).train()
    batch = collate(PAIRS, TaskName.CLASSIFICATION, pad_token_id=0)
    assert module(batch)[0].item() != module(batch)[0].item()
    set_dropout(model, 0.0)
    assert module(batch)[0].item() == module(batch)[0].item()


def config_of(task: str, **changes: Any) -> FinetuneConfig:
    values = {"name": "t", "task": task, "model": "m", "data": {"path": "rows"}, "method": "lora"}
    return FinetuneConfig.model_validate(values | changes)


def test_embeddings_are_noisy_within_the_papers_bound_while_training_alone(tiny_llama: MakeModel) -> None:
    model = tiny_llama()
    embedding = model.get_input_embeddings()
    ids = torch.arange(12).reshape(2, 6)
    clean = embedding(ids)
    add_embedding_noise(model, alpha=5.0)
    model.eval()
    assert torch.equal(embedding(ids), clean)
    model.train()
    torch.manual_seed(1)
    noise = embedding(ids) - clean
    bound = 5.0 / (6 * clean.size(-1)) ** 0.5
    assert 0.9 * bound < noise.abs().max() <= bound * 1.001
    torch.manual_seed(1)
    assert torch.equal(embedding(ids) - clean, noise), "a step that is done again draws the same"
    assert not any("noise" in name for name in model.state_dict())


def test_noise_reaches_the_gradient_of_an_adapter(tiny_llama: MakeModel) -> None:
    config = {"name": "x", "task": "sft", "method": "lora", "model": "m", "data": {"path": "p"}}
    model = tiny_llama()
    add_embedding_noise(model, alpha=50.0)
    adapted = LanguageModule(add_adapter(model, FinetuneConfig.model_validate(config)))
    batch = collate(CHATS, TaskName.SFT, pad_token_id=0)
    torch.manual_seed(0)
    noisy, _ = adapted.train()(batch)
    clean, _ = adapted.eval()(batch)
    assert not torch.isclose(noisy, clean)


def test_an_adapter_trains_float32_weights_on_a_frozen_base(tiny_llama: MakeModel) -> None:
    config = config_of("sft", lora={"rank": 4})
    model = add_adapter(tiny_llama().bfloat16(), config)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name and p.dtype is torch.float32 for name, p in trained.items())
    frozen = [p for p in model.parameters() if not p.requires_grad]
    assert {p.dtype for p in frozen} == {torch.bfloat16}


def test_the_head_of_a_classifier_is_trained_with_its_adapter(tiny_bert: MakeModel) -> None:
    model = add_adapter(tiny_bert(), config_of("classification", lora={"target_modules": ["query", "value"]}))
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert any("classifier" in name for name in trained)
    assert not any("word_embeddings" in name for name in trained)


def test_an_adapter_projects_targets_through_the_adapted_model(tiny_llama: MakeModel) -> None:
    model = add_adapter(tiny_llama(), config_of("sft"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # zero at first, so that an untrained adapter changes nothing
            nn.init.normal_(parameter, std=0.5)
    batch = collate(CHATS, TaskName.SFT, pad_token_id=0)
    module = LanguageModule(model)
    adapted = module(batch)[0].item()
    assert adapted == pytest.approx(model(**batch).loss.item() * 11, rel=1e-6)
    with model.disable_adapter():
        assert module(batch)[0].item() != pytest.approx(adapted, rel=1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_a_module_is_built_from_a_folder_with_the_classes_of_the_data(
    task: TaskName, tmp_path: Path, tiny_bert: MakeModel, tiny_llama: MakeModel
) -> None:
    base = tiny_llama() if task is TaskName.SFT else tiny_bert()
    base.save_pretrained(tmp_path)
    config = config_of(task, method="full", dropout=0.0)
    module = build_module(config, tmp_path, ("a", "b", "c"), frozen_dtype=torch.bfloat16)
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    assert not isinstance(module.model, PeftModel)
    if task is TaskName.CLASSIFICATION:
        assert module.model.config.id2label == {0: "a", 1: "b", 2: "c"}
        assert module.model.classifier.out_features == 3
        assert {m.p for m in module.modules() if isinstance(m, nn.Dropout)} == {0.0}


@pytest.mark.parametrize(
    ("task", "key"), [(TaskName.SFT, "lm_head.weight"), (TaskName.CLASSIFICATION, "classifier.bias")]
)
def test_an_export_that_lacks_a_weight_is_an_error_and_not_made_up(
    task: TaskName, key: str, tmp_path: Path, tiny_bert: MakeModel, tiny_llama: MakeModel
) -> None:
    (tiny_llama() if task is TaskName.SFT else tiny_bert()).save_pretrained(tmp_path)
    assert load_base(task, tmp_path, ("a", "b"), torch.float32)
    file = tmp_path / "model.safetensors"
    save_file(
        {name: w for name, w in load_file(file).items() if name != key}, file, metadata={"format": "pt"}
    )
    with pytest.raises(JobFailed, match=f"lacks 1 weights, such as {key}"):
        load_base(task, tmp_path, ("a", "b"), torch.float32)


def test_an_export_for_other_classes_is_an_error(tmp_path: Path, tiny_bert: MakeModel) -> None:
    tiny_bert(num_labels=2).save_pretrained(tmp_path)
    with pytest.raises(JobFailed, match=r"lacks 2 weights, such as classifier\.bias"):
        load_base(TaskName.CLASSIFICATION, tmp_path, ("a", "b", "c"), torch.float32)


# Micro batch, accumulation, workers: a global batch of 8 each.
CUTS = [(8, 1, 1), (2, 4, 1), (2, 2, 2), (1, 2, 4)]


def weighted_steps(module: nn.Module, weights: tuple[float, ...], cut: tuple[int, int, int]) -> list[Any]:
    """Mean loss and gradient of the head in each step of an epoch, as the ranks of a cut add them up."""
    micro, accumulation, workers = cut
    batch = {"micro_batch_size_per_gpu": micro, "gradient_accumulation_steps": accumulation}
    config = config_of("classification", batch=batch, scaling={"num_workers": workers})
    rows = Examples.of(Example([5 + n % 30] * (3 + n % 5), [int(n % 6 == 0)], []) for n in range(27))
    dataset = Dataset(rows, rows, ("a", "b"), class_weights=weights)
    feeds = [Feed(dataset, config, 0, rank=rank, world_size=workers) for rank in range(workers)]
    found = []
    for number in range(config.steps_per_epoch(len(rows))):
        module.zero_grad()
        total = 0.0
        num_targets = feeds[0].amounts(feeds[0].plan(0)[number]).num_rows
        for feed in feeds:
            for micro_batch in feed.micro_batches(feed.plan(0)[number]):
                loss_sum, _ = module(micro_batch)
                (loss_sum / num_targets).backward()
                total += loss_sum.item()
        gradient = module.get_parameter("model.classifier.weight").grad
        assert gradient is not None
        found.append((total / num_targets, gradient.clone()))
    return found


@pytest.mark.parametrize("cut", CUTS[1:])
def test_a_weighted_loss_does_not_depend_on_the_cut(tiny_bert: MakeModel, cut: tuple[int, int, int]) -> None:
    module = ClassificationModule(tiny_bert())
    one_steps, other_steps = (weighted_steps(module, (0.6, 3.0), which) for which in (CUTS[0], cut))
    for (loss, gradient), (other_loss, other_gradient) in zip(one_steps, other_steps, strict=True):
        assert other_loss == pytest.approx(loss, rel=1e-5)
        torch.testing.assert_close(other_gradient, gradient)


def test_a_row_counts_as_often_as_its_class_weighs(tiny_bert: MakeModel) -> None:
    module = ClassificationModule(tiny_bert())
    plain, double = weighted_steps(module, (), CUTS[0]), weighted_steps(module, (2.0, 2.0), CUTS[0])
    assert [loss for loss, _ in double] == pytest.approx([2 * loss for loss, _ in plain])
    uneven = weighted_steps(module, (0.0, 1.0), CUTS[0]), weighted_steps(module, (1.0, 0.0), CUTS[0])
    assert [a + b for (a, _), (b, _) in zip(*uneven, strict=True)] == pytest.approx(
        [loss for loss, _ in plain]
    )
