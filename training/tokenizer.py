"""A model's tokenizer with its one chat template: transformers' own, which training uses, and one without transformers.

The latter, since transformers imports torch, is for the checks that must start at once and count millions of rows. For
models with a `tokenizer.json` it gives the same ids and the same text, which tests hold.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import CallBlock, Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from cluster.errors import DataError, InvalidInput
from training.chat import apply_template

SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# Of several named chat templates.
DEFAULT_TEMPLATE = "default"


def load_tokenizer(folder: Path, model: str) -> Any:
    """The tokenizer of `model`, whose files are in `folder`. Raises InvalidInput for one that knows no words."""
    tokenizer = _of_transformers(folder, model)
    if isinstance(tokenizer.chat_template, dict):
        # A ModelCard has one, and serving renders all requests with it; transformers would choose by the tools.
        tokenizer.chat_template = tokenizer.chat_template.get(DEFAULT_TEMPLATE)
    end_token = _end_token(tokenizer, folder)
    if end_token != tokenizer.eos_token:
        tokenizer.eos_token = end_token
    return tokenizer


def _of_transformers(folder: Path, model: str) -> Any:
    from transformers import AutoTokenizer

    reason = "it knows no words"
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        # Of a BERT without tokenizer files transformers makes one of special tokens alone.
        if len(tokenizer) > len(set(tokenizer.all_special_ids)):
            return tokenizer
    except (OSError, ValueError) as exc:
        reason = str(exc).splitlines()[0]
    raise InvalidInput(
        f"the model {model} has no tokenizer that can be used ({reason}); save it beside the weights "
        "(tokenizer.json, tokenizer_config.json)",
        "model",
    )


class FolderTokenizer:
    """The tokenizer of a model folder: the part of transformers' interface that data needs."""

    def __init__(self, folder: Path) -> None:
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise InvalidInput(
                f"{folder} has no tokenizer.json; save the tokenizer in its fast form", "model"
            )
        self._tokenizer = Tokenizer.from_file(str(path))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        config = _read(folder / "tokenizer_config.json")
        self._special = {**_special(_read(folder / "special_tokens_map.json")), **_special(config)}
        self.chat_template = _chat_template(folder, config)
        end_token = _end_token(self, folder)
        if end_token is not None:
            self._special["eos_token"] = end_token
        self.max_length_tokens = _read(folder / "config.json").get("max_position_embeddings")

    @property
    def eos_token(self) -> str | None:
        return self._special.get("eos_token")

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def __call__(self, texts: list[str], *, add_special_tokens: bool = True) -> dict[str, list[list[int]]]:
        """`input_ids` of each text."""
        found = self._tokenizer.encode_batch_fast(texts, add_special_tokens=add_special_tokens)
        return {"input_ids": [encoding.ids for encoding in found]}

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str | None]:
        """The token of each id; None for one that is none."""
        return [self._tokenizer.id_to_token(number) for number in ids]

    def num_tokens(self, text: str, pair: str | None = None) -> int:
        """Tokens of a text or a pair, special ones included."""
        return len(self._tokenizer.encode(text, pair).ids)

    def apply_chat_template(
        self,
        messages: Sequence[dict[str, Any]],
        *,
        tools: list[dict[str, Any]] | None = None,
        tokenize: bool = False,
        add_generation_prompt: bool = False,
        **names: Any,
    ) -> str:
        """The text of a conversation; `names` are what else its template reads.

        Raises jinja2.TemplateError where the template refuses it.
        """
        text: str = self._template.render(
            messages=messages,
            tools=tools,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **self._special,
            **names,
        )
        return text

    @cached_property
    def _template(self) -> Any:
        return _environment().from_string(self.chat_template or "")


class _Generation(Extension):
    """`{% generation %}`, with which templates mark answers for other trainers: its content, unchanged."""

    tags = {"generation"}  # noqa: RUF012 - jinja reads it from the class

    def parse(self, parser: Parser) -> Node | list[Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return CallBlock(self.call_method("_content"), [], [], body).set_lineno(line)

    def _content(self, caller: Any) -> str:
        return str(caller())


def _environment() -> ImmutableSandboxedEnvironment:
    """Jinja as transformers sets it up for chat templates."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    return environment


def _to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _raise(message: str) -> None:
    raise TemplateError(message)


def _chat_template(folder: Path, config: dict[str, Any]) -> str | None:
    """The template of the folder; of several named ones, the default."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = config.get("chat_template") or _read(folder / "chat_template.json").get("chat_template")
    if isinstance(template, list):
        return next((str(named["template"]) for named in template if named["name"] == DEFAULT_TEMPLATE), None)
    return template


def _end_token(tokenizer: Any, folder: Path) -> str | None:
    """What ends an answer: the tokenizer's own end token, or another that its template writes if the model stops there.

    Gemma's own is `<eos>`; its template ends turns by `<end_of_turn>`, which its generation_config.json has beside it.
    """
    own: str | None = tokenizer.eos_token
    stops = _read(folder / "generation_config.json").get("eos_token_id")
    if not isinstance(stops, list) or not tokenizer.chat_template:
        return own
    turns = [{"role": role, "content": "a"} for role in ("user", "assistant")]
    try:
        text = apply_template(tokenizer, turns, None, add_generation_prompt=False)
    except DataError:
        return own
    if own is not None and own in text:
        return own
    written = [token for token in tokenizer.convert_ids_to_tokens(stops) if token and token in text]
    return max(written, key=text.rfind, default=own)


def _special(config: dict[str, Any]) -> dict[str, str]:
    tokens = {name: config.get(name) for name in SPECIAL_TOKENS}
    texts = {name: token["content"] if isinstance(token, dict) else token for name, token in tokens.items()}
    return {name: text for name, text in texts.items() if text is not None}


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
