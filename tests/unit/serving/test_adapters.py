"""Which adapters are loaded onto a base, by either engine: a random Llama of a few kilobytes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from cluster.errors import Unavailable, Unprocessable
from cluster.storage import MARKER
from serving.config import GeneratorConfig
from serving.engine import Adapter, GenerationEngine, Sampling
from serving.metrics import CountedMetrics
from serving.transformers_engine import TransformersEngine
from serving.vllm_engine import VllmEngine

Asked = Callable[[Adapter], None]


def _llama(**changes: int) -> LlamaForCausalLM:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    return LlamaForCausalLM(LlamaConfig(vocab_size=4, **(sizes | changes)))


def _adapter(folder: Path, model: LlamaForCausalLM, *targets: str) -> Adapter:
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=list(targets or ["q_proj"]))
    embeds = "embed_tokens" in targets  # as peft decides by itself, with a warning
    get_peft_model(model, config).save_pretrained(folder, save_embedding_layers=embeds)
    (folder / MARKER).touch()
    return Adapter(folder.name, str(folder), rank=8)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    _llama().save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "</s>": 2, "<unk>": 3}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>").save_pretrained(folder)
    return folder


class _EngineCore:
    """Stands for vLLM's `AsyncLLM`, which loads whatever it is given."""

    async def generate(self, *_: object, lora_request: object, **__: object):  # type: ignore[no-untyped-def]
        assert lora_request is not None
        output = SimpleNamespace(index=0, text="a", token_ids=[0], finish_reason="stop", logprobs=None)
        yield SimpleNamespace(outputs=[output], num_cached_tokens=0)


def _vllm(base: Path) -> VllmEngine:
    pytest.importorskip("vllm", reason="vLLM is not installed")
    engine = VllmEngine.__new__(VllmEngine)  # without its process
    engine._config, engine._model, engine._llm = GeneratorConfig(), base, _EngineCore()
    engine._metrics = CountedMetrics()
    engine._adapter_folders, engine._adapter_ids, engine._next_adapter_id = {}, {}, count(1)
    return engine


@pytest.fixture(params=["transformers", "vllm"])
def asked(request: pytest.FixtureRequest, base: Path) -> Asked:
    """Asks an engine with `base` for one token of an adapter."""
    engine: GenerationEngine = (
        _vllm(base) if request.param == "vllm" else TransformersEngine(GeneratorConfig(dtype="float32"), base)
    )

    async def first_step(adapter: Adapter) -> None:
        async for _ in engine.generate("r", [0, 1], 1, Sampling(), adapter):
            pass

    return lambda adapter: asyncio.run(first_step(adapter))


@pytest.mark.parametrize("targets", [(), ("q_proj", "v_proj", "down_proj"), ("embed_tokens",)])
def test_an_adapter_of_the_base_is_loaded(asked: Asked, tmp_path: Path, targets: tuple[str, ...]) -> None:
    asked(_adapter(tmp_path / "own", _llama(), *targets))


def test_an_adapter_that_is_loaded_answers_while_storage_is_away(
    asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(uri: str) -> Path:
        raise Unavailable(f"cannot read {uri}")

    own, other = _adapter(tmp_path / "own", _llama()), _adapter(tmp_path / "other", _llama())
    asked(own)
    for engine in ("vllm_engine", "transformers_engine"):
        monkeypatch.setattr(f"serving.{engine}.local_folder", away)
    asked(own)
    with pytest.raises(Unavailable):
        asked(other)


@pytest.mark.parametrize(
    ("sizes", "weight"),
    [
        ({"num_hidden_layers": 2}, r"2 of its weights, such as .*layers\.1\.self_attn\.q_proj"),
        ({"hidden_size": 16}, r"2 of its weights, such as .*q_proj\.lora_A\.weight of shape \[8, 16\]"),
    ],
)
def test_an_adapter_of_another_model_is_refused(
    asked: Asked, tmp_path: Path, sizes: dict[str, int], weight: str
) -> None:
    other = _adapter(tmp_path / "other.1", _llama(**sizes))
    with pytest.raises(Unprocessable, match=rf"other\.1 does not fit its base.*{weight}.*on another model"):
        asked(other)


def test_an_adapter_whose_names_are_those_of_no_module_is_refused(asked: Asked, tmp_path: Path) -> None:
    strange = _adapter(tmp_path / "strange", _llama())
    file = tmp_path / "strange" / "adapter_model.safetensors"
    save_file({name.replace(".model.layers.", ".blocks."): w for name, w in load_file(file).items()}, file)
    with pytest.raises(Unprocessable, match=r"strange does not fit its base.*blocks\.0\.self_attn\.q_proj"):
        asked(strange)


def test_an_adapter_that_tunes_no_module_of_the_base_is_refused(asked: Asked, tmp_path: Path) -> None:
    foreign = _adapter(tmp_path / "foreign", _llama())
    config = tmp_path / "foreign" / "adapter_config.json"
    config.write_text(config.read_text().replace("q_proj", "c_attn"))
    with pytest.raises(Unprocessable, match=r"foreign does not fit its base: Target modules.*c_attn"):
        asked(foreign)


def test_an_adapter_without_some_of_its_weights_is_refused(asked: Asked, tmp_path: Path) -> None:
    cut = _adapter(tmp_path / "cut", _llama())
    file = tmp_path / "cut" / "adapter_model.safetensors"
    save_file({name: weight for name, weight in load_file(file).items() if "lora_B" not in name}, file)
    with pytest.raises(Unprocessable, match=r"cut lacks 1 of its weights, such as base_model.*lora_B"):
        asked(cut)
