"""Tiny base models in folders, as `model:` takes them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

sys.path.insert(0, str(Path(__file__).parent))  # for ranks.py

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{number}" for number in range(92))]


@pytest.fixture(scope="session")
def write_bert() -> Callable[[Path], Path]:
    """Write a random BERT of two layers with its word tokenizer; no head, as a base has none."""

    def write(folder: Path) -> Path:
        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        config = BertConfig(vocab_size=len(WORDS), max_position_embeddings=64, **sizes)
        BertModel(config).save_pretrained(folder)
        tokenizer = Tokenizer(models.WordLevel({w: n for n, w in enumerate(WORDS)}, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            pad_token="[PAD]",
            unk_token="[UNK]",
            cls_token="[CLS]",
            sep_token="[SEP]",
        ).save_pretrained(folder)
        return folder

    return write


@pytest.fixture(scope="session")
def write_llama() -> Callable[[Path], Path]:
    """Write a random Llama of two layers with tied embeddings and a tokenizer of words."""

    def write(folder: Path) -> Path:
        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        config = LlamaConfig(
            vocab_size=len(WORDS), max_position_embeddings=64, tie_word_embeddings=True, **sizes
        )
        LlamaForCausalLM(config).save_pretrained(folder)
        tokenizer = Tokenizer(models.WordLevel({w: n for n, w in enumerate(WORDS)}, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", eos_token="[SEP]"
        ).save_pretrained(folder)
        return folder

    return write


@pytest.fixture(scope="session")
def write_bases(
    write_bert: Callable[[Path], Path], write_llama: Callable[[Path], Path]
) -> Callable[[Path], Path]:
    """`write_bases(folder)`: one tiny model a task that `rank_worker.py` trains; returns the folder."""

    def write(folder: Path) -> Path:
        write_bert(folder / "classification")
        write_llama(folder / "sft")
        write_llama(folder / "dpo")
        return folder

    return write
