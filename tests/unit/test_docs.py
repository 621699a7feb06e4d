"""What the documents say that can be checked: links, commands with their options, settings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from command_lines import unknown_commands
from pydantic import BaseModel

from cluster.settings import Settings
from cluster.yaml_config import load_yaml_config
from evaluation.config import CompareConfig
from serving.config import ServingConfig
from training.config import FinetuneConfig

REPOSITORY = Path(__file__).parents[2]
FOLDERS = ("docs", "k8s", "examples")
DOCUMENTS = sorted(
    [*REPOSITORY.glob("*.md"), *(file for name in FOLDERS for file in (REPOSITORY / name).rglob("*.md"))]
)
EXAMPLES = sorted((REPOSITORY / "examples").glob("*.yaml"))
VARIABLE = re.compile(r"\bHAMLET_[A-Z_]*[A-Z]\b")


def name_of(file: Path) -> str:
    return file.relative_to(REPOSITORY).as_posix()


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(file: Path) -> set[str]:
    """The names that GitHub gives to the headings of a file."""
    headings = re.findall(r"^#+ (.*)$", without_code(file.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(file: Path, text: str) -> Iterator[str]:
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(text)):
        path, _, anchor = link.partition("#")
        target = (file.parent / path) if path else file
        if "://" in link:
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            yield link


def keys_of(model: type[BaseModel]) -> Iterator[str]:
    """The keys of a configuration and of its sections, each without its section."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from keys_of(field.annotation)
        else:
            yield name


@pytest.mark.parametrize("file", DOCUMENTS, ids=name_of)
def test_every_link_leads_somewhere(file: Path) -> None:
    assert list(broken_links(file, file.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("file", [*DOCUMENTS, *EXAMPLES], ids=name_of)
def test_every_command_is_there_with_its_options(file: Path) -> None:
    assert list(unknown_commands(file.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("file", DOCUMENTS, ids=name_of)
def test_every_setting_that_is_named_is_there(file: Path) -> None:
    known = {f"HAMLET_{field.upper()}" for field in Settings.model_fields}
    assert set(VARIABLE.findall(file.read_text(encoding="utf-8"))) <= known


def test_every_setting_is_documented() -> None:
    text = (REPOSITORY / "docs/settings.md").read_text(encoding="utf-8")
    assert {field for field in Settings.model_fields if f"`HAMLET_{field.upper()}`" not in text} == set()


def test_every_key_of_a_run_is_documented() -> None:
    text = "".join(file.read_text(encoding="utf-8") for file in (REPOSITORY / "docs").glob("training*.md"))
    keys = set(keys_of(FinetuneConfig))
    assert {key for key in keys if not re.search(rf"`(?:\w+\.)?{key}\b", text)} == set()


@pytest.mark.parametrize("file", DOCUMENTS, ids=name_of)
def test_rows_of_the_readers_are_not_validated_on_those_of_an_example(file: Path) -> None:
    for example, overrides in re.findall(
        r"training run (examples/\S+\.yaml)([^`\n]*)", file.read_text("utf-8")
    ):
        data = yaml.safe_load((REPOSITORY / example).read_text(encoding="utf-8"))["data"]
        if " data.path=" in overrides and "validation_path" in data:
            assert " data.validation_path=" in overrides, f"{example}{overrides}"


@pytest.mark.parametrize("file", EXAMPLES, ids=name_of)
def test_every_example_is_a_valid_configuration(file: Path) -> None:
    if file.name == "serve.yaml":
        [application] = yaml.safe_load(file.read_text())["applications"]
        ServingConfig.model_validate(application["args"])
    else:
        load_yaml_config(CompareConfig if file.name.startswith("compare") else FinetuneConfig, file)


def test_what_is_not_there_is_found() -> None:
    readme = REPOSITORY / "README.md"
    assert list(
        broken_links(readme, "[a](docs/none.md) [b](docs/serving.md#none) [c](docs/serving.md#names)")
    ) == [
        "docs/none.md",
        "docs/serving.md#none",
    ]
    commands = "`python -m retrieval ingst x` `python -m retrieval ingest x --tenant a` `python -m cluster models list`"
    assert list(unknown_commands(commands)) == ["retrieval ingst", "retrieval ingest --tenant"]
