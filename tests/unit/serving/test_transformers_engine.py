"""What the engine of transformers refuses to serve, on a random Llama of a few kilobytes."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.pre_tokenizers import ByteLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from cluster.errors import InvalidInput, Unprocessable
from cluster.storage import MARKER
from serving.adapters import HOST_ADAPTERS_PER_SLOT
from serving.config import GeneratorConfig
from serving.engine import Adapter, Delta, Sampling
from serving.tokenizer import HubTokenizer, Message, PromptRenderer
from serving.transformers_engine import TransformersEngine


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    LlamaForCausalLM(LlamaConfig(vocab_size=4, **sizes)).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "</s>": 2, "<unk>": 3}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>").save_pretrained(folder)
    return folder


def test_a_prompt_and_its_answer_have_no_more_tokens_than_the_model_has_positions(base: Path) -> None:
    LlamaForCausalLM(LlamaConfig.from_pretrained(base, max_position_embeddings=64)).save_pretrained(base)
    assert TransformersEngine(GeneratorConfig(max_model_len_tokens=100), base).max_model_len_tokens == 64
    assert TransformersEngine(GeneratorConfig(max_model_len_tokens=64), base).max_model_len_tokens == 64


def test_a_chat_with_a_model_that_has_no_chat_template_is_refused(base: Path) -> None:
    renderer = PromptRenderer(HubTokenizer(base))
    with pytest.raises(InvalidInput, match="no chat template; use a model that was made for chats"):
        renderer.render([Message("user", "a")])
    own = "{% for m in messages %}{{ m.content }}{% endfor %}"
    assert renderer.render([Message("user", "a")], own) == renderer.encode("a")


def _adapter(base: Path, name: str) -> Adapter:
    folder = base.parent / name
    model = LlamaForCausalLM.from_pretrained(base)
    get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])).save_pretrained(
        folder
    )
    (folder / MARKER).touch()
    return Adapter(name, str(folder), rank=8)


def _cut(file: Path, part: str) -> None:
    """Take the weights out of `file` whose names hold `part`."""
    save_file({name: weight for name, weight in load_file(file).items() if part not in name}, file)


def _asked(engine: TransformersEngine, adapter: Adapter | None) -> int:
    async def tokens() -> list[Delta]:
        return [
            delta async for step in engine.generate("r", [0, 1], 2, Sampling(), adapter) for delta in step
        ]

    return sum(delta.num_tokens for delta in asyncio.run(tokens()))


@pytest.mark.parametrize("seed", range(3))
def test_the_tokens_of_an_answer_are_together_its_text(base: Path, seed: int) -> None:
    config = LlamaConfig.from_pretrained(base, vocab_size=257, eos_token_id=256, bos_token_id=None)
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(base)
    alphabet = {letter: number for number, letter in enumerate(sorted(ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    tokenizer.decoder = ByteLevelDecoder()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>").save_pretrained(base)
    engine = TransformersEngine(GeneratorConfig(dtype="float32"), base)

    async def answer() -> list[Delta]:
        sampling = Sampling(seed=seed, num_top_logprobs=3)
        return [delta async for step in engine.generate("r", [0], 60, sampling, None) for delta in step]

    deltas = asyncio.run(answer())
    # Random bytes: a step may end the one that was held, or hold the next.
    text = "".join(delta.text for delta in deltas)
    assert "".join(delta.logprobs[0].token for delta in deltas) in (text, text + "</s>")
    assert any(delta.logprobs[0].token == "" for delta in deltas)
    assert {len(delta.logprobs[0].top) for delta in deltas} == {3}


def test_an_adapter_without_some_of_its_weights_is_refused_and_leaves_the_others_as_they_are(
    base: Path,
) -> None:
    whole, cut = _adapter(base, "whole.1"), _adapter(base, "cut.1")
    _cut(Path(cut.weights_uri) / "adapter_model.safetensors", "lora_B")
    engine = TransformersEngine(GeneratorConfig(dtype="float32"), base)
    for answers in (None, whole):  # before and after the first adapter is loaded
        with pytest.raises(Unprocessable, match=r"cut.1 lacks 1 of its weights, such as base_model.*lora_B"):
            _asked(engine, cut)
        assert _asked(engine, answers)


def test_adapters_leave_memory_by_their_last_use_and_never_while_one_answers(base: Path) -> None:
    engine = TransformersEngine(GeneratorConfig(dtype="float32", max_loras=1), base)
    adapters = [_adapter(base, f"adapter.{number}") for number in range(HOST_ADAPTERS_PER_SLOT + 2)]

    def loaded() -> list[str]:
        modules = [
            name.split(".lora_A.")[1] for name, _ in engine._model.named_parameters() if "lora_A" in name
        ]
        return sorted(name.removesuffix(".weight").replace("_", ".") for name in modules)

    async def one_answers_while_the_others_come() -> None:
        # Of a seed, or its first token might be the end.
        answer = engine.generate("r", [0, 1], 2, Sampling(seed=1), adapters[0])
        await anext(answer)
        for adapter in adapters[1:]:
            async for _ in engine.generate("r", [0, 1], 1, Sampling(), adapter):
                pass
        await anext(answer)
        await answer.aclose()

    asyncio.run(one_answers_while_the_others_come())
    assert loaded() == ["adapter.0", "adapter.3", "adapter.4", "adapter.5"]
    assert _asked(engine, adapters[1])  # loaded again
    assert loaded() == ["adapter.1", "adapter.3", "adapter.4", "adapter.5"]
    assert _asked(engine, None)


def test_an_adapter_that_is_being_fetched_holds_up_no_other_answer(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = TransformersEngine(GeneratorConfig(dtype="float32"), base)
    adapter, fetched = _adapter(base, "far"), threading.Event()

    def fetch(uri: str) -> Path:
        assert fetched.wait(timeout=10)
        return Path(uri)

    monkeypatch.setattr("serving.transformers_engine.local_folder", fetch)

    async def both() -> None:
        waiting = asyncio.create_task(_first_step(engine, adapter))
        await asyncio.sleep(0)
        await asyncio.wait_for(_first_step(engine, None), 5)
        fetched.set()
        await waiting

    asyncio.run(both())


def test_an_adapter_that_is_asked_for_as_it_leaves_is_loaded_again(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = TransformersEngine(GeneratorConfig(dtype="float32", max_loras=1), base)
    first, *others, last = (
        _adapter(base, f"adapter.{number}") for number in range(HOST_ADAPTERS_PER_SLOT + 1)
    )
    for adapter in (first, *others):
        assert _asked(engine, adapter)
    is_leaving, may_leave = threading.Event(), threading.Event()
    delete = engine._model.delete_adapter

    def delete_slowly(name: str) -> None:
        is_leaving.set()
        assert may_leave.wait(timeout=10)
        delete(name)

    monkeypatch.setattr(engine._model, "delete_adapter", delete_slowly)

    async def both() -> None:
        coming = asyncio.create_task(_first_step(engine, last))
        assert await asyncio.to_thread(is_leaving.wait, 10)
        again = asyncio.create_task(_first_step(engine, first))
        await asyncio.sleep(0)
        may_leave.set()
        await asyncio.gather(coming, again)

    asyncio.run(both())


async def _first_step(engine: TransformersEngine, adapter: Adapter | None) -> None:
    await anext(engine.generate("r", [0, 1], 1, Sampling(), adapter))


def test_a_model_without_some_of_its_weights_is_not_served(base: Path) -> None:
    _cut(base / "model.safetensors", "lm_head")
    with pytest.raises(Unprocessable, match=r"lacks weights \['lm_head.weight'\].*fetch or export it again"):
        TransformersEngine(GeneratorConfig(dtype="float32"), base)
