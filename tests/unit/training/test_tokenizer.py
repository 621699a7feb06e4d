from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jinja2 import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from cluster.errors import InvalidInput
from training.sft import encode_row
from training.tokenizer import FolderTokenizer, load_tokenizer

SPECIAL = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]  # the first ids of `make_tokenizer`
MakeTokenizer = Callable[..., PreTrainedTokenizerFast]

# What templates in the wild use: tools, JSON filters, loop controls, marks of other trainers.
TEMPLATE = """{{ bos_token }}{{ strftime_now('%Y-%m-%d') }}{%- if tools %}{{ tools | tojson(indent=2) }}{% endif %}
{%- for m in messages %}
    {%- if m.role == 'tool' %}{{ '<|im_start|>tool\n' + m.content + '<|im_end|>\n' }}{% continue %}{% endif %}
    {%- if m.role == 'assistant' %}{% generation %}{{ '<|im_start|>assistant\n' + m.content }}
        {%- for call in m.tool_calls or [] %}{{ call.function | tojson }}{% endfor %}
        {{- '<|im_end|>\n' }}{% endgeneration %}
    {%- else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

TOOLS = [{"type": "function", "function": {"name": "weather", "description": "<ä>"}}]


def weather_row(arguments: Any) -> dict[str, Any]:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    return {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Oslo?"}]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "rain"},
            {"role": "assistant", "content": "It rains."},
        ],
        "tools": TOOLS,
    }


ROWS = [
    weather_row('{"city": "Oslo"}'),
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    {"prompt": "hello", "completion": " world"},
    {"text": "hello world"},
]


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("prepends", [(), ("<s>",)])
def test_it_gives_the_ids_and_the_mask_that_transformers_gives(
    make_tokenizer: MakeTokenizer, tmp_path: Path, row: dict[str, Any], prepends: tuple[str, ...]
) -> None:
    theirs = make_tokenizer(TEMPLATE, prepends=prepends)
    theirs.save_pretrained(tmp_path)
    ours = FolderTokenizer(tmp_path)
    assert encode_row(row, ours) == encode_row(row, theirs)
    assert ours.eos_token == theirs.eos_token


def test_arguments_as_text_and_as_object_render_the_same_with_one_level_of_json(
    make_tokenizer: MakeTokenizer,
) -> None:
    tokenizer = make_tokenizer(TEMPLATE)
    as_text, as_object = (
        encode_row(weather_row(arguments), tokenizer) for arguments in ('{"city": "Oslo"}', {"city": "Oslo"})
    )
    assert as_text == as_object
    assert '"arguments": {"city": "Oslo"}' in tokenizer.decode(as_text.input_ids)


def test_calls_are_trained_and_the_answers_of_tools_are_not(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(TEMPLATE)
    example = encode_row(weather_row({"city": "Oslo"}), tokenizer)
    trained = tokenizer.decode([label for label in example.labels if label >= 0])
    assert trained == ('{"name": "weather", "arguments": {"city": "Oslo"}}<|im_end|>It rains.<|im_end|>')


def test_a_prompt_is_not_trained_and_its_completion_is_with_the_end_token(
    make_tokenizer: MakeTokenizer,
) -> None:
    tokenizer = make_tokenizer(None, prepends=("<s>",))
    example = encode_row({"prompt": "hello", "completion": " world"}, tokenizer)
    assert tokenizer.decode([label for label in example.labels if label >= 0]) == " world<|im_end|>"
    assert tokenizer.decode(example.input_ids) == "<s>hello world<|im_end|>"
    text = encode_row({"text": "hello"}, tokenizer)
    assert tokenizer.decode([label for label in text.labels if label >= 0]) == "hello<|im_end|>"


def test_a_template_that_refuses_says_why(make_tokenizer: MakeTokenizer, tmp_path: Path) -> None:
    make_tokenizer("{{ raise_exception('no system role') }}").save_pretrained(tmp_path)
    with pytest.raises(TemplateError, match="no system role"):
        FolderTokenizer(tmp_path).apply_chat_template([])


def test_a_folder_without_the_fast_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"has no tokenizer\.json"):
        FolderTokenizer(tmp_path)


def test_of_several_named_templates_the_default_is_trained_exported_and_counted_with(
    make_tokenizer: MakeTokenizer, tmp_path: Path
) -> None:
    several = make_tokenizer(None)
    several.chat_template = {"default": TEMPLATE, "tool_use": "other"}
    several.save_pretrained(tmp_path / "base")
    loaded = load_tokenizer(tmp_path / "base", "base")
    assert loaded.chat_template == TEMPLATE
    assert encode_row(ROWS[0], loaded) == encode_row(ROWS[0], FolderTokenizer(tmp_path / "base"))
    loaded.save_pretrained(tmp_path / "export")
    # As serving reads it, which would take another one of several for tools.
    assert AutoTokenizer.from_pretrained(tmp_path / "export").chat_template == TEMPLATE


# As Gemma has it: the tokenizer's end token is not the one that ends a turn.
STOPS = [SPECIAL.index("</s>"), SPECIAL.index("<|im_end|>")]


@pytest.mark.parametrize(
    ("own", "stops", "expected"),
    [
        ("</s>", STOPS, "<|im_end|>"),
        ("</s>", STOPS[0], "</s>"),
        ("</s>", [STOPS[0], 99_999], "</s>"),
        ("<|im_end|>", STOPS, "<|im_end|>"),
    ],
)
def test_an_answer_ends_as_the_template_writes_it_where_the_model_stops_there(
    make_tokenizer: MakeTokenizer, tmp_path: Path, own: str, stops: Any, expected: str
) -> None:
    make_tokenizer(TEMPLATE, eos=own).save_pretrained(tmp_path / "base")
    (tmp_path / "base" / "generation_config.json").write_text(json.dumps({"eos_token_id": stops}))
    theirs, ours = load_tokenizer(tmp_path / "base", "base"), FolderTokenizer(tmp_path / "base")
    assert theirs.eos_token == ours.eos_token == expected
    theirs.save_pretrained(tmp_path / "export")
    assert AutoTokenizer.from_pretrained(tmp_path / "export").eos_token == expected
    if expected == "<|im_end|>":
        example = encode_row(ROWS[1], theirs)
        assert encode_row(ROWS[1], ours) == example
        assert theirs.decode([label for label in example.labels if label >= 0]) == "b<|im_end|>"


def test_a_tokenizer_none_of_whose_templates_is_the_default_has_none(
    make_tokenizer: MakeTokenizer, tmp_path: Path
) -> None:
    several = make_tokenizer(None)
    several.chat_template = {"rag": TEMPLATE}
    several.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path, "base").chat_template is None
