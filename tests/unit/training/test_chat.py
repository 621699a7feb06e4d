from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from cluster.errors import DataError
from training.chat import RENDERED_ON, Rendered, encode, render
from training.config import TaskName
from training.examples import IGNORE, Example, pad_token_id
from training.language_modules import LanguageModule
from training.modules import collate
from training.sft import prepare_sft
from training.sources import Row, Rows

MakeTokenizer = Callable[..., PreTrainedTokenizerFast]

# As SmolLM2 writes it, with a system text that stands in when none is given.
CHATML = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}{{ '<|im_start|>system\nBe kind<|im_end|>\n' }}"
    "{% endif %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As Llama 2 writes it, without a system role: no mark before an answer, and a space around it.
INST = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content + ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content + ' ' + eos_token }}"
    "{% else %}{{ raise_exception('there is no system role') }}{% endif %}{% endfor %}"
)
BEGINS_ONCE = "{{ bos_token }}" + CHATML
STRIPS = CHATML.replace("m.content", "m.content | trim")
ENDLESS = CHATML.replace("m.content + '<|im_end|>\n'", "m.content + '\n'")
# As some reasoning models do: only the last answer keeps all its text.
REWRITES = CHATML.replace(
    "m.content", "(m.content if loop.last else m.content | replace('deep thought', ''))"
)
PLAIN_MARKS = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)

ANSWERS = ["ok", " ok", "\nok", "\n\nok", "7 days", "你好", "👍🏽 done", "ok "]
TEMPLATES = [(CHATML, "<|im_end|>"), (INST, "</s>"), (BEGINS_ONCE, "<|im_end|>"), (PLAIN_MARKS, "</s>")]


def turns(*texts: str) -> list[dict[str, Any]]:
    """user, assistant, user, … messages."""
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


def example_of(messages: list[dict[str, Any]], tokenizer: Any) -> Example:
    (example,) = encode([Rendered(render(messages, tokenizer))], tokenizer)
    return example


def trained_text(example: Example, tokenizer: Any) -> str:
    return str(tokenizer.decode([label for label in example.labels if label != IGNORE]))


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize(("template", "end"), TEMPLATES)
def test_what_is_trained_is_the_answer_and_its_end_token(
    make_tokenizer: MakeTokenizer, template: str, end: str, answer: str
) -> None:
    tokenizer = make_tokenizer(template, eos=end)
    example = example_of(turns("what is it?", answer), tokenizer)
    written = f" {answer} {end}" if template is INST else answer + end
    assert trained_text(example, tokenizer) == written
    assert example.labels[-1] == tokenizer.eos_token_id


def test_a_template_that_writes_the_day_gives_a_row_the_same_ids_on_every_day(
    make_tokenizer: MakeTokenizer,
) -> None:
    tokenizer = make_tokenizer("{{ strftime_now('%d %B %Y') }}" + CHATML)
    today = example_of(turns("a", "b"), tokenizer)
    shown = str(tokenizer.decode(today.input_ids))
    assert f"{datetime.now():%d %B %Y}" not in shown
    assert shown.startswith(f"{RENDERED_ON:%d %B %Y}<|im_start|>")


def test_none_of_a_long_prompt_is_trained(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(CHATML)
    example = example_of(turns("word " * 60, "w1 w2 w3"), tokenizer)
    assert example.num_targets == len(tokenizer.encode("w1 w2 w3")) + 1
    assert example.num_targets < len(example.input_ids) / 4


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize(("template", "end"), TEMPLATES)
def test_the_prompt_has_the_ids_that_serving_gives_it(
    make_tokenizer: MakeTokenizer, template: str, end: str, answer: str
) -> None:
    tokenizer = make_tokenizer(template, eos=end)
    messages = turns("what is it?", answer)
    prompt = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True, return_dict=False)
    example = example_of(messages, tokenizer)
    assert example.input_ids[: len(prompt)] == prompt
    assert [label == IGNORE for label in example.labels].count(True) == len(prompt)


def test_the_begin_token_occurs_once_though_template_and_tokenizer_both_write_it(
    make_tokenizer: MakeTokenizer,
) -> None:
    tokenizer = make_tokenizer(BEGINS_ONCE, prepends=("<s>",))
    assert tokenizer.encode("a")[0] == tokenizer.bos_token_id
    example = example_of(turns("a", "b", "c", "d"), tokenizer)
    assert example.input_ids.count(tokenizer.bos_token_id) == 1
    assert example.input_ids[0] == tokenizer.bos_token_id


def test_a_template_that_strips_content_is_trained_as_it_writes(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(STRIPS)
    assert trained_text(example_of(turns("a", "  ok \n"), tokenizer), tokenizer) == "ok<|im_end|>"


def test_answers_of_weight_zero_are_not_trained(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(CHATML)
    messages = turns("u1", "a1", "u2", "a2", "u3", "a3")
    messages[3]["weight"] = 0
    messages[5]["weight"] = 1
    example = example_of(messages, tokenizer)
    assert trained_text(example, tokenizer) == "a1<|im_end|>a3<|im_end|>"
    unweighted = example_of(turns("u1", "a1", "u2", "a2", "u3", "a3"), tokenizer)
    assert example.input_ids == unweighted.input_ids
    assert trained_text(unweighted, tokenizer) == "a1<|im_end|>a2<|im_end|>a3<|im_end|>"


def test_a_greeting_that_answers_nothing_is_read_and_not_trained(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(CHATML, eos="<|im_end|>")
    greeting = {"role": "assistant", "content": "Hello, how can I help?"}
    example = example_of([greeting, *turns("When?", "At noon.")], tokenizer)
    assert trained_text(example, tokenizer) == "At noon.<|im_end|>"
    assert "how can I help" in tokenizer.decode(example.input_ids)
    alone = rows_of([greeting], turns("When?", "At noon."))
    assert len(prepare_sft(alone, tokenizer, 100).train) == 1


def test_an_answer_that_quotes_the_end_token_ends_at_its_own(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(INST, eos="</s>")
    example = example_of(turns("what ends you?", "</s> does", "sure?", "yes"), tokenizer)
    assert trained_text(example, tokenizer) == " </s> does </s> yes </s>"


@pytest.mark.parametrize("prefix", ["metaspace", "normalizer"])
@pytest.mark.parametrize(("template", "end"), [(CHATML, "<|im_end|>"), (PLAIN_MARKS, "</s>"), (INST, "</s>")])
@pytest.mark.parametrize("answer", ["hello", " hello", "\nhello", "7", "你好"])
def test_a_tokenizer_that_puts_a_space_before_every_text_adds_none_to_answers(
    prefix: str, template: str, end: str, answer: str
) -> None:
    tokenizer = sentencepiece_like(prefix, template, end)
    messages = turns("the hello", answer, "the answer", answer)
    segments = render(messages, tokenizer)
    text = "".join(segment.text for segment in segments)
    (example,) = encode([Rendered(segments)], tokenizer)
    assert example.input_ids == tokenizer.encode(text, add_special_tokens=False)


def sentencepiece_like(prefix: str, template: str, end: str) -> PreTrainedTokenizerFast:
    """A BPE in the form of Llama 2's (normalizer) or of its later conversions (metaspace)."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    if prefix == "metaspace":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    special = [
        "<unk>",
        "<s>",
        "</s>",
        "<|im_start|>",
        "<|im_end|>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
    ]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(["hello world answer", "▁hello", "the answer is here"] * 20, trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token=end)
    wrapped.chat_template = template
    return wrapped


@pytest.mark.parametrize(
    ("template", "messages", "reason"),
    [
        (ENDLESS, turns("a", "b"), r"does not write the end token '<\|im_end\|>' after an answer"),
        (REWRITES, turns("a", "deep thought b", "c", "d"), "changes earlier turns when later ones are added"),
        (
            INST,
            [{"role": "system", "content": "s"}, *turns("a", "b")],
            "refuses the messages: there is no system",
        ),
    ],
)
def test_a_template_that_no_mask_can_be_made_for_is_refused(
    make_tokenizer: MakeTokenizer, template: str, messages: list[dict[str, Any]], reason: str
) -> None:
    with pytest.raises(DataError, match=reason):
        example_of(messages, make_tokenizer(template))


def test_a_tokenizer_without_an_end_token_is_refused(make_tokenizer: MakeTokenizer) -> None:
    with pytest.raises(DataError, match="does not write the end token None"):
        example_of(turns("a", "b"), make_tokenizer(CHATML, eos=None))


def test_a_row_of_one_answer_is_fine_where_earlier_turns_are_rewritten(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(REWRITES)
    assert (
        trained_text(example_of(turns("a", "deep thought b"), tokenizer), tokenizer)
        == "deep thought b<|im_end|>"
    )


class CountingTokenizer:
    """A tokenizer that counts how often it is asked for ids."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer, self.num_calls = tokenizer, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)

    def __call__(self, texts: list[str], **options: Any) -> Any:
        self.num_calls += 1
        return self.tokenizer(texts, **options)


def test_many_rows_are_tokenised_at_once_and_each_as_if_alone(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = CountingTokenizer(make_tokenizer(CHATML))
    rows = rows_of(turns("a", "b"), turns("the hello", "w1", "and", "w2"), turns("a", "b", "c", "d"))
    dataset = prepare_sft(rows, tokenizer, 100)
    assert tokenizer.num_calls == 2  # the training rows, and the validation rows
    assert list(dataset.train) == [example_of(row.columns["messages"], tokenizer) for row in rows.train]


def test_a_row_whose_answer_merges_with_its_prompt_is_none_of_its_neighbours_business(
    make_tokenizer: MakeTokenizer,
) -> None:
    tokenizer = make_tokenizer(CHATML)
    rows = rows_of(turns("a", "\n hello"), turns("a", "b"), turns("a", "\n hello", "c", "\n hello"))
    dataset = prepare_sft(rows, tokenizer, 100)
    assert list(dataset.train) == [example_of(row.columns["messages"], tokenizer) for row in rows.train]


def rows_of(*conversations: list[dict[str, Any]]) -> Rows:
    rows = [Row(number, {"messages": messages}) for number, messages in enumerate(conversations, 1)]
    return Rows(rows, rows[-1:], "rows.jsonl")


def test_a_row_too_long_to_fit_whole_is_left_out_and_told(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(CHATML)
    short = turns("a", "b")
    limit = len(example_of(short, tokenizer).input_ids)
    dataset = prepare_sft(
        rows_of(turns("a" * 100, "b"), turns("a", "b" * 100), short, short), tokenizer, limit
    )
    assert [len(example.input_ids) for example in dataset.train] == [limit, limit]
    assert dataset.notices == (
        f"2 of 4 training rows are left out: longer than {limit} tokens, or without a trained answer",
    )


def test_a_validation_row_left_out_is_told_too(make_tokenizer: MakeTokenizer) -> None:
    rows = rows_of(turns("a", "b"))
    untrained = turns("a", "b")
    untrained[1]["weight"] = 0
    held_out = [*rows.validation, Row(2, {"messages": untrained})]
    dataset = prepare_sft(replace(rows, validation=held_out), make_tokenizer(CHATML), 100)
    assert len(dataset.validation) == 1
    assert dataset.notices == (
        "1 of 2 validation rows are left out: longer than 100 tokens, or without a trained answer",
    )


def test_data_without_one_row_that_fits_is_refused(make_tokenizer: MakeTokenizer) -> None:
    with pytest.raises(DataError, match="no training row has a trained token within 4 tokens; raise"):
        prepare_sft(rows_of(turns("a", "b")), make_tokenizer(CHATML), 4)


def test_a_bad_row_is_named_by_file_and_line(make_tokenizer: MakeTokenizer) -> None:
    with pytest.raises(DataError, match=r"training file, line 2, messages\[0\]\.role: role 'bot'"):
        prepare_sft(rows_of(turns("a", "b"), [{"role": "bot"}]), make_tokenizer(CHATML), 100)


def test_a_bad_row_of_a_folder_is_named_by_its_file(make_tokenizer: MakeTokenizer) -> None:
    rows = Rows([Row(2, {"messages": [{"role": "bot"}]}, "part.jsonl")], [], "rows")
    with pytest.raises(
        DataError, match=r"training file, part\.jsonl, line 2, messages\[0\]\.role: role 'bot'"
    ):
        prepare_sft(rows, make_tokenizer(CHATML), 100)


def test_a_row_that_the_template_refuses_is_named_by_file_and_line(make_tokenizer: MakeTokenizer) -> None:
    rows = rows_of(turns("a", "b"), [{"role": "system", "content": "s"}, *turns("a", "b")])
    with pytest.raises(DataError, match=r"training file, line 2: the model's chat template refuses"):
        prepare_sft(rows, make_tokenizer(INST, eos="</s>"), 100)


def test_a_base_model_without_a_chat_template_is_refused(make_tokenizer: MakeTokenizer) -> None:
    with pytest.raises(DataError, match="no chat template; use an instruct model for chat rows"):
        prepare_sft(rows_of(turns("a", "b")), make_tokenizer(None), 100)


def test_the_end_token_stays_trained_where_it_is_also_the_padding(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(CHATML, pad=None)
    end = tokenizer.eos_token_id
    assert pad_token_id(tokenizer) == end
    examples = [example_of(turns("a", answer), tokenizer) for answer in ("b", "a longer answer")]
    batch = collate(examples, TaskName.SFT, pad_token_id(tokenizer))
    for row, example in enumerate(examples):
        length = len(example.input_ids)
        assert batch["labels"][row, length - 1] == end
        assert (batch["labels"][row, length:] == IGNORE).all()
        assert batch["attention_mask"][row].tolist() == [1] * length + [0] * (
            batch["labels"].shape[1] - length
        )


@pytest.fixture
def one_thread() -> Iterator[None]:
    """More of them wait for each other longer than so small a model computes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_a_model_that_knows_its_rows_by_heart_stops_by_itself(
    make_tokenizer: MakeTokenizer, tiny_llama: Callable[..., Any]
) -> None:
    tokenizer = make_tokenizer(CHATML, pad=None)
    chats = [turns(question, answer) for question, answer in zip("abcdefgh", ANSWERS, strict=True)]
    batch = collate([example_of(chat, tokenizer) for chat in chats], TaskName.SFT, pad_token_id(tokenizer))
    module = LanguageModule(tiny_llama()).train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    for _ in range(60):
        loss_sum, _ = module(batch)
        optimizer.zero_grad()
        loss_sum.backward()
        optimizer.step()
    for chat, answer in zip(chats, ANSWERS, strict=True):
        prompt = tokenizer.apply_chat_template(chat[:1], add_generation_prompt=True, return_tensors="pt")
        written = module.model.generate(
            **prompt, max_new_tokens=40, do_sample=False, eos_token_id=tokenizer.eos_token_id
        )[0, prompt["input_ids"].shape[1] :]
        assert written[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(written[:-1]) == answer
