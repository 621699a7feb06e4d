"""Registered classifiers, on a random BERT of a few kilobytes."""

from __future__ import annotations

import asyncio
import gc
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from cluster.cards import ModelCard, ModelKind
from cluster.errors import Unprocessable
from cluster.storage import MARKER
from serving.classifier import Classifier, SequenceClassifier
from serving.config import ClassifierConfig

LABELS = ("no", "yes")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b"]
MAX_TOKENS = 16


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A folder with a whole model and its tokenizer, as an export has them."""
    folder = tmp_path / "base"
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    torch.manual_seed(0)
    BertForSequenceClassification(BertConfig(vocab_size=len(WORDS), **sizes)).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    _tokenizer(words).save_pretrained(folder)
    (folder / MARKER).touch()
    return folder


def _tokenizer(words: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]"
    )


def _card(make_card: Callable[..., ModelCard], folder: Path, **changes: object) -> ModelCard:
    fields = {"is_adapter": False, "labels": LABELS, "max_length_tokens": MAX_TOKENS} | changes
    return make_card(kind=ModelKind.CLASSIFIER, weights_uri=str(folder), **fields)


def _classifier(make_card: Callable[..., ModelCard], folder: Path, **changes: object) -> SequenceClassifier:
    return SequenceClassifier(_card(make_card, folder, **changes), ClassifierConfig())


def test_requests_at_the_same_time_do_not_cut_each_others_texts(
    base: Path, make_card: Callable[..., ModelCard]
) -> None:
    classifier = _classifier(make_card, base)
    long, short = [("a " * 200,)] * 20, [("a b",)] * 20

    async def together() -> list[tuple[int, bool]]:
        verdicts = await asyncio.gather(*(classifier.classify(inputs) for inputs in [long, short] * 20))
        return [(verdict.num_tokens, verdict.truncated) for request in verdicts for verdict in request]

    assert set(asyncio.run(together())) == {(MAX_TOKENS, True), (4, False)}


@pytest.mark.parametrize("is_pair", [False, True])
def test_texts_are_read_and_cut_as_transformers_does(
    base: Path, make_card: Callable[..., ModelCard], is_pair: bool
) -> None:
    inputs = [("a b",) * (1 + is_pair), ("a " * 30, "b")[: 1 + is_pair], ("a " * 9, "b " * 12)[: 1 + is_pair]]
    verdicts = asyncio.run(_classifier(make_card, base, is_pair=is_pair).classify(inputs))
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = BertForSequenceClassification.from_pretrained(base).eval()
    for texts, verdict in zip(inputs, verdicts, strict=True):
        batch = tokenizer(*texts, truncation="longest_first", max_length=MAX_TOKENS, return_tensors="pt")
        with torch.inference_mode():
            wanted = model(**batch).logits.softmax(dim=-1)[0].tolist()
        assert dict(verdict.scores) == pytest.approx(dict(zip(LABELS, wanted, strict=True)), abs=1e-5)
        assert verdict.num_tokens == batch["input_ids"].shape[1]
        assert verdict.truncated == (len(tokenizer(*texts)["input_ids"]) > MAX_TOKENS)


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    """A folder with an adapter of `base` and its head."""
    folder = tmp_path / "adapter"
    model = BertForSequenceClassification.from_pretrained(base)
    get_peft_model(model, LoraConfig(task_type="SEQ_CLS", target_modules=["query"])).save_pretrained(folder)
    for file in base.glob("tokenizer*"):
        shutil.copy(file, folder)
    (folder / MARKER).touch()
    return folder


def _cut(file: Path, part: str) -> None:
    """Take the weights out of `file` whose names hold `part`."""
    save_file({name: weight for name, weight in load_file(file).items() if part not in name}, file)


def test_an_adapter_with_all_its_weights_answers(
    base: Path, adapter: Path, make_card: Callable[..., ModelCard]
) -> None:
    classifier = _classifier(make_card, adapter, is_adapter=True, base_model=str(base))
    (verdict,) = asyncio.run(classifier.classify([("a b",)]))
    assert {label for label, _ in verdict.scores} == set(LABELS)


@pytest.mark.parametrize("part", ["lora_B", "query.lora_A", "classifier.bias"])
def test_an_adapter_without_some_of_its_weights_is_refused(
    base: Path, adapter: Path, make_card: Callable[..., ModelCard], part: str
) -> None:
    _cut(adapter / "adapter_model.safetensors", part)
    with pytest.raises(
        Unprocessable, match=rf"lacks 1 of its weights, such as base_model.model.*{part}.*export it again"
    ):
        _classifier(make_card, adapter, is_adapter=True, base_model=str(base))


def test_a_base_without_some_of_its_weights_is_refused_unless_the_adapter_has_them(
    base: Path, adapter: Path, make_card: Callable[..., ModelCard]
) -> None:
    _cut(base / "model.safetensors", "classifier")
    _classifier(make_card, adapter, is_adapter=True, base_model=str(base))
    _cut(base / "model.safetensors", "pooler.dense.bias")
    with pytest.raises(
        Unprocessable, match=r"lacks 1 of its weights, such as base_model.model.bert.pooler.dense.bias"
    ):
        _classifier(make_card, adapter, is_adapter=True, base_model=str(base))


def test_a_classifier_that_leaves_gives_its_memory_back_at_once(
    base: Path, make_card: Callable[..., ModelCard], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not when Python next looks for garbage, which may be after dozens of models."""
    loaded = []

    class Watched(SequenceClassifier):
        def __init__(self, *args: object) -> None:
            super().__init__(*args)  # type: ignore[arg-type]
            loaded.append(weakref.ref(self))

    monkeypatch.setattr("serving.classifier.SequenceClassifier", Watched)
    cards = [_card(make_card, base, card_id=f"ft:bert:acme:routes:{number}") for number in range(3)]

    async def one_after_the_other() -> None:
        classifier = Classifier(ClassifierConfig(max_models=1))
        for card in cards:
            await classifier.classify(card, [("a b",)])
        assert [watched() is not None for watched in loaded] == [False, False, True]

    gc.disable()
    try:
        asyncio.run(one_after_the_other())
    finally:
        gc.enable()


def test_a_classifier_that_could_not_be_loaded_is_tried_again_also_when_its_caller_had_left(
    base: Path, make_card: Callable[..., ModelCard]
) -> None:
    (base / MARKER).unlink()
    card = _card(make_card, base)

    async def again() -> None:
        classifier = Classifier(ClassifierConfig())
        first = asyncio.create_task(classifier.classify(card, [("a b",)]))
        await asyncio.sleep(0)
        first.cancel()
        while len(asyncio.all_tasks()) > 1:  # the load that it began
            await asyncio.sleep(0.001)
        await asyncio.sleep(0)  # what is called at its end
        (base / MARKER).touch()
        (verdict,) = await classifier.classify(card, [("a b",)])
        assert verdict.num_tokens == 4

    asyncio.run(again())
