"""Real tokenizers and models, small enough to be made anew for every test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

SPECIAL = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "[CLS]", "[SEP]"]
# Enough to learn merges across what a template puts beside an answer.
CORPUS = ["assistant\n\n hello world", "a  b\n\n12 34", "user\nwhat is it? ok ok"] * 20

MakeTokenizer = Callable[..., PreTrainedTokenizerFast]


@pytest.fixture(scope="session")
def make_tokenizer() -> MakeTokenizer:
    """`make_tokenizer(chat_template, eos="</s>", pad=None, prepends=("<s>",))`: a byte-level BPE.

    `prepends` are the tokens it puts before a text by itself.
    """

    def make(
        chat_template: str | None = None,
        *,
        eos: str | None = "<|im_end|>",
        pad: str | None = "<pad>",
        prepends: tuple[str, ...] = (),
    ) -> PreTrainedTokenizerFast:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator(CORPUS, trainer)
        if prepends:
            single = [*prepends, "$A"]
            tokenizer.post_processor = processors.TemplateProcessing(
                single=single,
                pair=[*single, "$B"],
                special_tokens=[(token, SPECIAL.index(token)) for token in prepends],
            )
        return _wrap(tokenizer, chat_template, eos, pad)

    return make


@pytest.fixture(scope="session")
def word_tokenizer() -> PreTrainedTokenizerFast:
    """BERT's form over a few dozen letters and words: `[CLS] a [SEP] b [SEP]` with segment ids."""
    words = [*SPECIAL, "[UNK]", *"abcdefghijklmnopqrstuvwxyz", "the", "cat", "sat", "dog", "ran"]
    tokenizer = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 6), ("[CLS]", 5))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def _wrap(
    tokenizer: Tokenizer, chat_template: str | None, eos: str | None, pad: str | None
) -> PreTrainedTokenizerFast:
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token=eos,
        pad_token=pad,
        additional_special_tokens=SPECIAL[3:5],
    )
    wrapped.chat_template = chat_template
    return wrapped


@pytest.fixture
def tiny_bert() -> Callable[..., Any]:
    """A random BERT classifier: `tiny_bert(num_labels=3)`."""

    def make(**changes: Any) -> BertForSequenceClassification:
        options = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        more = {"intermediate_size": 64, "max_position_embeddings": 64, "num_labels": 2}
        torch.manual_seed(0)
        return BertForSequenceClassification(BertConfig(**(options | more | changes))).eval()

    return make


@pytest.fixture
def tiny_llama() -> Callable[..., Any]:
    """A random causal model: `tiny_llama(tie_word_embeddings=True)`."""

    def make(**changes: Any) -> LlamaForCausalLM:
        options = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        more = {"intermediate_size": 64, "max_position_embeddings": 128, "num_key_value_heads": 1}
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(**(options | more | changes))).eval()

    return make
