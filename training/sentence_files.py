"""The files that make a folder of weights a sentence-transformers model: read of the base, written for the export.

No torch here.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import ConfigError

MODULES_FILE = "modules.json"
CONFIG_FILE = "config_sentence_transformers.json"
TRANSFORMER_FILE = "sentence_bert_config.json"

# Ways of pooling that are trained, as configs old and new name them: whether it is the first token alone.
POOLINGS = {"mean": False, "mean_tokens": False, "cls": True, "cls_token": True}


@dataclass(frozen=True)
class SentenceForm:
    """How a model makes a vector of a text: of its first token, else the mean of all.

    The prompts stand before each text of their kind.
    """

    uses_first_token: bool = False
    query_prompt: str = ""
    document_prompt: str = ""


def sentence_form(folder: Path) -> SentenceForm:
    """The form of the model in `folder`, in which it is trained as well as served.

    Raises ConfigError for one that this training would change: other pooling, or modules behind it.
    """
    if not (folder / MODULES_FILE).is_file():
        return SentenceForm()
    modules = _modules(folder)
    if not {"Transformer", "Pooling"} <= modules.keys() <= {"Transformer", "Pooling", "Normalize"}:
        raise ConfigError(
            f"the model in {folder} is made of {', '.join(modules)}; task embedding trains Transformer, "
            "Pooling and Normalize alone, so choose a model of these",
            "model",
        )
    modes = _pooling_modes(_read(folder / modules["Pooling"] / "config.json"))
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise ConfigError(
            f"the model in {folder} pools by {' and '.join(modes)}; task embedding trains mean and cls "
            "alone, so choose a model of these",
            "model",
        )
    prompts = _read(folder / CONFIG_FILE).get("prompts") or {}
    return SentenceForm(
        uses_first_token=POOLINGS[modes[0]],
        # By the names that `retrieval/torch_sentence_model.py` serves them by; a test holds both together.
        query_prompt=prompts.get("query") or "",
        document_prompt=next(filter(None, map(prompts.get, ("document", "passage", "corpus"))), ""),
    )


def write_sentence_files(base: Path, folder: Path, max_length_tokens: int) -> None:
    """Make `folder`, which holds the weights, a sentence-transformers model: as its base is, else mean pooling."""
    if (base / MODULES_FILE).is_file():
        for name in (MODULES_FILE, CONFIG_FILE, TRANSFORMER_FILE):
            if (base / name).is_file():
                shutil.copy(base / name, folder / name)
        for path in filter(None, _modules(base).values()):
            if (base / path).is_dir():
                shutil.copytree(base / path, folder / path)
        return
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(kinds.items())
    ]
    hidden_size = json.loads((folder / "config.json").read_text(encoding="utf-8"))["hidden_size"]
    pooling = {"word_embedding_dimension": hidden_size, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling").mkdir()
    for name, content in {
        MODULES_FILE: modules,
        "1_Pooling/config.json": pooling,
        TRANSFORMER_FILE: {"max_seq_length": max_length_tokens, "do_lower_case": False},
    }.items():
        (folder / name).write_text(json.dumps(content, indent=2), encoding="utf-8")


def _modules(folder: Path) -> dict[str, str]:
    """The folder of each module by its kind, in order: `{"Transformer": "", "Pooling": "1_Pooling"}`."""
    modules = json.loads((folder / MODULES_FILE).read_text(encoding="utf-8"))
    return {module["type"].rsplit(".", 1)[-1]: module["path"] for module in modules}


def _pooling_modes(config: Mapping[str, Any]) -> list[str]:
    """One name, several that are joined, or a switch for each; mean where none is given."""
    named = config.get("pooling_mode")
    if named is not None:
        return [named] if isinstance(named, str) else list(named)
    prefix = "pooling_mode_"
    return [key.removeprefix(prefix) for key in config if key.startswith(prefix) and config[key]] or ["mean"]


def _read(file: Path) -> dict[str, Any]:
    """The JSON object of a file, empty without one."""
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return found
