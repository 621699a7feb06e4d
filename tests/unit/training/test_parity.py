"""What can be told of an export without Ray; whole runs are in tests/integration/training."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast

from cluster.cards import Parity
from cluster.errors import JobFailed, NotFound
from cluster.storage import upload_folder
from training import parity
from training.config import FinetuneConfig, Precision
from training.evaluation import Tally
from training.examples import Dataset, Example, Examples
from training.export import _require_complete, export_model
from training.language_modules import LanguageModule
from training.loop_state import LoopResult
from training.modules import build_module, collate, load_base
from training.parity import (
    NUM_PROMPTS,
    ParityInputs,
    _first_prompt_mismatch,
    _loss_of_export,
    check_adapter,
    check_parity,
    prompt_rows,
)
from training.sft import prepare_sft
from training.sources import Row, Rows

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MakeTokenizer = Callable[..., PreTrainedTokenizerFast]
MakeModel = Callable[..., Any]


def conversation(question: str, answer: str = "b") -> list[dict[str, Any]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def config_of(model: Path, **changes: Any) -> FinetuneConfig:
    values = {
        "name": "t",
        "task": "sft",
        "model": str(model),
        "data": {"path": "rows"},
        "max_length_tokens": 60,
    }
    return FinetuneConfig.model_validate(values | changes)


class StillEngine:
    """An engine that has not trained: what it gathers is what the module holds."""

    def __init__(self, module: LanguageModule) -> None:
        self.module = module

    def gathered_state(self, is_writer: bool) -> dict[str, torch.Tensor] | None:
        state = {n: p.detach().clone() for n, p in self.module.named_parameters() if p.requires_grad}
        return state if is_writer else None


TRAINED = LoopResult(Precision.FLOAT32, 0.0, {}, 1, 1, 1.0)


@pytest.fixture
def base(tmp_path: Path, tiny_llama: MakeModel, make_tokenizer: MakeTokenizer) -> Path:
    folder = tmp_path / "base"
    tiny_llama(tie_word_embeddings=True).save_pretrained(folder)
    make_tokenizer(CHATML).save_pretrained(folder)
    return folder


def inputs_of(config: FinetuneConfig, uri: str, conversations: list[list[dict[str, Any]]]) -> ParityInputs:
    return ParityInputs(config, None, uri, TRAINED, [{"messages": messages} for messages in conversations])


def prepared(conversations: list[list[dict[str, Any]]], tokenizer: Any) -> Dataset:
    rows = [Row(number, {"messages": messages}) for number, messages in enumerate(conversations, 1)]
    return prepare_sft(Rows(rows, rows, "rows"), tokenizer, 60)


def test_rows_left_out_of_validation_do_not_shift_the_comparison(
    base: Path, tmp_path: Path, make_tokenizer: MakeTokenizer
) -> None:
    conversations = [conversation("a"), conversation("too long " * 20), conversation("c")]
    dataset = prepared(conversations, make_tokenizer(CHATML))
    assert len(dataset.validation) == 2
    uri = upload_folder(base, str(tmp_path / "export"))
    assert _first_prompt_mismatch(inputs_of(config_of(base), uri, conversations), dataset) == ""


def test_a_tokenizer_that_renders_otherwise_is_found_by_the_first_conversation(
    base: Path, tmp_path: Path, make_tokenizer: MakeTokenizer
) -> None:
    conversations = [conversation("a"), conversation("b")]
    dataset = prepared(conversations, make_tokenizer(CHATML))
    make_tokenizer(CHATML.replace("<|im_end|>\n", "<|im_end|>\n\n")).save_pretrained(base)
    uri = upload_folder(base, str(tmp_path / "export"))
    mismatch = _first_prompt_mismatch(inputs_of(config_of(base), uri, conversations), dataset)
    assert mismatch.startswith("validation row 1 renders to other token ids")


def test_the_rows_that_travel_to_the_comparison_are_the_first_that_became_examples(
    base: Path, make_tokenizer: MakeTokenizer
) -> None:
    conversations = [conversation("too long " * 20), *(conversation(str(n)) for n in range(NUM_PROMPTS + 9))]
    rows = [Row(number, {"messages": messages}) for number, messages in enumerate(conversations, 1)]
    tokenizer = make_tokenizer(CHATML)
    found = prompt_rows(config_of(base), rows, tokenizer)
    assert found == [row.columns for row in rows[1 : NUM_PROMPTS + 1]]
    assert prompt_rows(config_of(base, task="mlm"), rows, tokenizer) == []


@pytest.mark.parametrize("method", ["full", "lora"])
def test_an_export_evaluates_as_the_module_it_came_from(
    base: Path, tmp_path: Path, make_tokenizer: MakeTokenizer, method: str
) -> None:
    config = config_of(base, method=method)
    module = build_module(config, base, (), frozen_dtype=torch.float32)
    for parameter in module.parameters():
        if parameter.requires_grad:  # as if it had been trained
            torch.nn.init.normal_(parameter, std=0.2)
    uri = str(tmp_path / "export")
    export_model(StillEngine(module), module, config, uri, is_writer=True)  # type: ignore[arg-type]
    dataset = prepared([conversation("a", "x y"), conversation("b")], make_tokenizer(CHATML))
    inputs = inputs_of(config, uri, [])
    loss = _loss_of_export(inputs, dataset, TRAINED)
    untouched = LanguageModule(load_base(config.task, base, (), torch.float32))
    export_model(
        StillEngine(untouched),  # type: ignore[arg-type]
        untouched,
        config_of(base),
        str(tmp_path / "untouched"),
        is_writer=True,
    )
    before = _loss_of_export(inputs_of(config_of(base), str(tmp_path / "untouched"), []), dataset, TRAINED)
    assert abs(loss - before) > 0.01
    with torch.no_grad():
        tally = Tally()
        for example in dataset.validation:
            loss_sum, predictions = module.eval()(collate([example], config.task, 0))
            tally.add(float(loss_sum), predictions.tolist(), [example])
    assert loss == pytest.approx(tally.loss, rel=1e-4)
    assert config.exports_adapter == (method == "lora")
    assert (tmp_path / "export" / "adapter_config.json").exists() == (method == "lora")


@pytest.mark.parametrize("settings", [{"temperature": 0.6, "top_p": 0.9, "eos_token_id": 2}, None])
def test_an_export_samples_as_its_base_also_where_transformers_would_not_write_that(
    base: Path, tmp_path: Path, settings: dict[str, Any] | None
) -> None:
    file = base / "generation_config.json"
    file.unlink()
    if settings is not None:
        file.write_text(json.dumps(settings))
    module = build_module(config_of(base), base, (), frozen_dtype=torch.float32)
    export = tmp_path / "export"
    export_model(StillEngine(module), module, config_of(base), str(export), is_writer=True)  # type: ignore[arg-type]
    exported = export / "generation_config.json"
    assert (json.loads(exported.read_text()) if exported.exists() else None) == settings


def test_an_export_has_the_one_template_that_was_trained_with(
    base: Path, tmp_path: Path, make_tokenizer: MakeTokenizer
) -> None:
    several = make_tokenizer(None)
    several.chat_template = {"default": CHATML, "tool_use": "other"}
    several.save_pretrained(base)
    module = build_module(config_of(base), base, (), frozen_dtype=torch.float32)
    export_model(StillEngine(module), module, config_of(base), str(tmp_path / "e"), is_writer=True)  # type: ignore[arg-type]
    assert (tmp_path / "e" / "chat_template.jinja").read_text() == CHATML
    assert not (tmp_path / "e" / "additional_chat_templates").exists()


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_base_that_writes_and_has_no_padding_token_is_trained_and_exported_as_a_classifier(
    base: Path, tmp_path: Path, make_tokenizer: MakeTokenizer, method: str
) -> None:
    make_tokenizer(CHATML, pad=None).save_pretrained(base)
    config = config_of(base, task="classification", method=method)
    module = build_module(config, base, ("a", "b"), frozen_dtype=torch.float32).eval()
    rows = [Example([10, 11, 12, 13], [0], []), Example([14, 15], [1], [])]
    together, _ = module(collate(rows, config.task, make_tokenizer(pad=None).eos_token_id))
    alone = [module(collate([row], config.task, 0))[0] for row in rows]
    assert together.item() == pytest.approx(sum(loss.item() for loss in alone), rel=1e-5)
    export = tmp_path / "export"
    export_model(StillEngine(module), module, config, str(export), is_writer=True)  # type: ignore[arg-type]
    # As the classifier is served: by its tokenizer's padding.
    inputs = AutoTokenizer.from_pretrained(export).pad(
        [{"input_ids": row.input_ids} for row in rows], return_tensors="pt"
    )
    model = AutoModelForSequenceClassification.from_pretrained(export).eval()
    losses = torch.nn.functional.cross_entropy(model(**inputs).logits, torch.tensor([0, 1]), reduction="sum")
    assert losses.item() == pytest.approx(together.item(), rel=1e-4)


def test_only_the_writer_writes(base: Path, tmp_path: Path) -> None:
    config = config_of(base)
    module = build_module(config, base, (), frozen_dtype=torch.float32)
    export_model(StillEngine(module), module, config, str(tmp_path / "none"), is_writer=False)  # type: ignore[arg-type]
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("fault", ["missing", "sliced"])
def test_an_incomplete_state_is_refused_before_anything_is_written(
    base: Path, tmp_path: Path, fault: str
) -> None:
    config = config_of(base)
    module = build_module(config, base, (), frozen_dtype=torch.float32)
    engine = StillEngine(module)
    state = engine.gathered_state(True) or {}
    name = "model.model.layers.1.mlp.up_proj.weight"
    if fault == "missing":
        del state[name]
    else:
        state[name] = state[name].flatten()[:5]
    with pytest.raises(
        JobFailed, match=r"export incomplete: .*layers\.1\.mlp\.up_proj\.weight should be \(64, 32\)"
    ):
        _require_complete(module, state)


def test_an_export_that_was_never_completed_is_not_loaded(base: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="never completely written"):
        _first_prompt_mismatch(
            inputs_of(config_of(base), str(base), []), Dataset(Examples.of([]), Examples.of([]))
        )


MEASURED = replace(TRAINED, validation_loss=0.5, metrics={"accuracy": 0.9})


def classified(monkeypatch: pytest.MonkeyPatch, loss_after: float, trained: LoopResult) -> Parity:
    """The proof of a classifier whose export has that loss."""
    monkeypatch.setattr(parity, "_loss_of_export", lambda *_: loss_after)
    monkeypatch.setattr(parity.ray, "get", lambda value: value)
    config = config_of(Path("base"), task="classification")
    dataset = Dataset(Examples.of([]), Examples.of([]), ("a", "b"))
    return check_parity(ParityInputs(config, dataset, "export", trained, []))


@pytest.mark.parametrize(
    ("precision", "loss_after", "passes"),
    [
        (Precision.FLOAT32, 0.5009, True),
        (Precision.FLOAT32, 0.4989, False),
        (Precision.BF16, 0.5099, True),
        (Precision.BF16, 0.4899, False),
        (Precision.BF16, float("nan"), False),
    ],
)
def test_the_loss_after_reloading_decides_within_the_rounding_of_its_precision(
    monkeypatch: pytest.MonkeyPatch, precision: Precision, loss_after: float, passes: bool
) -> None:
    found = classified(monkeypatch, loss_after, replace(MEASURED, precision=precision))
    assert found.passed is passes
    assert found.max_metric_difference == pytest.approx(abs(loss_after - 0.5), nan_ok=True)
    assert bool(found.detail) is not passes


def test_a_model_that_diverged_does_not_pass_and_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    found = classified(monkeypatch, 0.5, replace(MEASURED, validation_loss=float("nan")))
    assert not found.passed
    assert found.detail == "training diverged: its validation_loss is nan; lower the learning rate"


@pytest.mark.parametrize("template", [CHATML, CHATML.replace("<|im_end|>\n", "<|im_end|>\n\n")])
def test_a_generator_passes_only_if_its_prompts_render_as_in_training(
    base: Path,
    tmp_path: Path,
    make_tokenizer: MakeTokenizer,
    monkeypatch: pytest.MonkeyPatch,
    template: str,
) -> None:
    conversations = [conversation("a"), conversation("b")]
    dataset = prepared(conversations, make_tokenizer(CHATML))
    make_tokenizer(template).save_pretrained(base)
    uri = upload_folder(base, str(tmp_path / "export"))
    monkeypatch.setattr(parity, "_loss_of_export", lambda *_: 0.0)
    monkeypatch.setattr(parity.ray, "get", lambda _: dataset)
    found = check_parity(inputs_of(config_of(base), uri, conversations))
    assert found.passed is (template == CHATML)
    assert found.num_prompts == (2 if found.passed else 0)


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> tuple[FinetuneConfig, Path]:
    """An epoch's adapter of rank 4, exported, and its config."""
    config = config_of(base, method="lora", lora={"rank": 4})
    module = build_module(config, base, (), frozen_dtype=torch.float32)
    export_model(StillEngine(module), module, config, str(tmp_path / "adapter"), is_writer=True)  # type: ignore[arg-type]
    return config, tmp_path / "adapter"


def adapter_parity(
    config: FinetuneConfig, folder: Path, tokenizer: Any, loss: float = 0.5, asked: str = "a"
) -> Parity:
    conversations = [conversation(asked)]
    inputs = ParityInputs(config, None, str(folder), None, [{"messages": conversation("a")}])
    return check_adapter(inputs, prepared(conversations, tokenizer), {"validation_loss": loss})


def test_an_adapter_passes_by_its_weights_and_prompts_and_fails_by_its_figures_or_prompts(
    adapter: tuple[FinetuneConfig, Path], make_tokenizer: MakeTokenizer
) -> None:
    tokenizer = make_tokenizer(CHATML)
    found = adapter_parity(*adapter, tokenizer)
    assert found.passed
    assert found.num_prompts == 1
    assert "training diverged" in adapter_parity(*adapter, tokenizer, loss=float("inf")).detail
    mismatch = adapter_parity(*adapter, tokenizer, asked="other")
    assert not mismatch.passed
    assert mismatch.detail.startswith("validation row 1 renders to other token ids")


Weights = dict[str, torch.Tensor]


def spoil(weights: Weights) -> None:
    next(iter(weights.values()))[0, 0] = float("nan")


def halve(weights: Weights) -> None:
    name = next(name for name in weights if ".lora_A." in name)
    weights[name] = weights[name][:2].clone()


def lose_a_partner(weights: Weights) -> None:
    del weights[next(name for name in weights if ".lora_B." in name)]


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (spoil, "holds numbers that are not finite"),
        (halve, "has no partner of rank 4"),
        (lose_a_partner, "has no partner of rank 4"),
        (Weights.clear, "the adapter holds no weights"),
    ],
)
def test_a_damaged_adapter_does_not_pass(
    adapter: tuple[FinetuneConfig, Path],
    make_tokenizer: MakeTokenizer,
    damage: Callable[[Weights], None],
    told: str,
) -> None:
    config, folder = adapter
    weights = load_file(folder / "adapter_model.safetensors")
    damage(weights)
    save_file(weights, folder / "adapter_model.safetensors")
    found = adapter_parity(config, folder, make_tokenizer(CHATML))
    assert not found.passed
    assert told in found.detail
