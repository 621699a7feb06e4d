"""The rules of the house, checked on the source itself: who imports whom, and what no file may do.

Each rule is a function from source to faults, so that the second half of this file can show that it
finds the faults that it is there for.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

# Who may import whom. Training and serving meet in the ModelCard, evaluation is a client over HTTP.
MAY_IMPORT = {
    "cluster": set[str](),
    "training": {"cluster"},
    "retrieval": {"cluster"},
    "serving": {"cluster", "retrieval"},
    "evaluation": {"cluster"},
}

# Each is named where it is wrapped, so that it can be replaced, left out or upgraded in one place.
HEAVY_LIBRARIES = {
    "deepspeed": {"training/engine.py"},
    "openvino": {"retrieval/openvino_sentence_model.py"},
    "qdrant_client": {
        "retrieval/server_store.py",
        "retrieval/server_calls.py",
        "retrieval/server_filters.py",
    },
    "qdrant_edge": {"retrieval/edge_store.py", "retrieval/edge_filters.py", "retrieval/bm25.py"},
    "sentence_transformers": {"retrieval/torch_sentence_model.py"},
    "vllm": {"serving/vllm_engine.py", "serving/vllm_lora.py", "serving/vllm_tools.py"},
}

# What reads files of one kind, or tests a difference: imported by the function that does, not by every replica
# and command that could come to it.
LATE_LIBRARIES = {"mammoth", "openpyxl", "pptx", "pypdf", "scipy.stats"}

NAMES_WITHOUT_A_NOUN = {"utils", "util", "common", "helpers", "helper", "misc"}

# Where an unknown exception may end. Elsewhere a broad handler must raise it again.
BOUNDARIES = {
    "training/fit.py::_fit": "the thread that trains: whatever ends it is raised again in the one that waits",
    "training/trackers.py::_do": "a client of somebody else's service: the fault is told, and no run ends for it",
    "retrieval/edge_store.py::_translated": "the engine raises nothing but bare Exception",
    "retrieval/readers/parsing.py::parsing": "somebody else's parser, which names no more than some of its errors",
    "serving/requests.py::__call__": "the request: whatever is left becomes a 500 with the request's id",
    "serving/conductor.py::_round": "the background round: the fault is logged and the next round tries again",
    "serving/job_keeper.py::_for": "one job of the background round: it is logged, and holds up no other",
    "serving/batching.py::_results": "the background task: the fault is told to each waiting request",
    "serving/batch_work.py::_step": "the background work: it is logged, and the batch is tried again",
    "serving/batch_answers.py::_asked": "the row, as a request: whatever is left becomes a 500 with its id",
    "serving/vector_store_work.py::run": "the background work: it is logged, and the next item is tried",
    "serving/vector_store_work.py::run_one": "the background work: the file is marked as failed",
    "serving/vector_store_work.py::renew": "the lease's thread: it is logged, and the next turn tries again",
    "serving/chat.py::guarded": "the stream: the fault becomes an error object inside it",
}

# How files other than Python name a Ray version: pins, images, manifests.
RAY_VERSION = re.compile(
    r"""ray(?:\[[\w,\s]+\])?\s*[=~]=\s*v?(\d+\.\d+\.\d+)"""  # ray[serve]==2.60.0
    r"""|rayproject/ray(?:-ml)?:(\d+\.\d+\.\d+)"""
    r"""|rayVersion["']?\s*[:=]\s*["']?(\d+\.\d+\.\d+)"""
    r"""|RAY_VERSION["']?\s*[:=]\s*["']?(\d+\.\d+\.\d+)"""
)
TEXT_FILES = ("*.toml", "*.yaml", "*.yml", "*.md", "*.txt", "*.sh", "Dockerfile*", "Makefile")


@dataclass(frozen=True)
class Source:
    """A module: its path below the repository, and its text, which is parsed once for all rules."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def package(self) -> str:
        return self.path.split("/", 1)[0]


@cache
def sources() -> list[Source]:
    files = [file for package in MAY_IMPORT for file in sorted((REPOSITORY / package).rglob("*.py"))]
    return [Source(file.relative_to(REPOSITORY).as_posix(), file.read_text()) for file in files]


def imported_modules(source: Source) -> Iterator[tuple[int, str]]:
    """Line and dotted name of each import, those inside functions and those given as strings included."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.lineno, node.module
        elif isinstance(node, ast.Call) and _is_import_call(node.func):
            yield from (
                (node.lineno, argument.value)
                for argument in node.args[:1]
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
            )


def _is_import_call(function: ast.expr) -> bool:
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in ("import_module", "__import__", "load_module", "resolve_name")


def forbidden_imports(source: Source) -> list[str]:
    allowed = MAY_IMPORT[source.package] | {source.package}
    return [
        f"{source.path}:{line} {source.package} must not import {module}"
        for line, module in imported_modules(source)
        if (root := module.split(".")[0].split(":")[0]) in MAY_IMPORT and root not in allowed
    ]


def misplaced_libraries(source: Source) -> list[str]:
    return [
        f"{source.path}:{line} {root} belongs in {', '.join(sorted(HEAVY_LIBRARIES[root]))}"
        for line, module in imported_modules(source)
        if (root := module.split(".")[0]) in HEAVY_LIBRARIES and source.path not in HEAVY_LIBRARIES[root]
    ]


def early_libraries(source: Source) -> list[str]:
    """LATE_LIBRARIES that are imported along with the module; those for types are not."""
    return [
        f"{source.path}:{statement.lineno} imports {name} before there is use for it"
        for statement in source.tree.body
        if isinstance(statement, ast.Import | ast.ImportFrom)
        for name in _dotted_names(statement)
        if any(f"{name}.".startswith(f"{library}.") for library in LATE_LIBRARIES)
    ]


def _dotted_names(statement: ast.Import | ast.ImportFrom) -> list[str]:
    """`from scipy import stats` may be the module scipy.stats."""
    parent = f"{statement.module}." if isinstance(statement, ast.ImportFrom) else ""
    return [parent + alias.name for alias in statement.names]


def broad_handlers(source: Source) -> list[str]:
    """Handlers of everything that neither raise it again nor are one of the BOUNDARIES."""
    faults = []
    for function, handler in _handlers(source.tree, "module"):
        ends_in_raise = isinstance(handler.body[-1], ast.Raise) and handler.body[-1].exc is None
        if _is_broad(handler.type) and not ends_in_raise and f"{source.path}::{function}" not in BOUNDARIES:
            faults.append(f"{source.path}:{handler.lineno} swallows every exception in {function}")
    return faults


def _handlers(node: ast.AST, function: str) -> Iterator[tuple[str, ast.ExceptHandler]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ExceptHandler):
            yield function, child
        is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        yield from _handlers(child, child.name if is_function else function)


def _is_broad(caught: ast.expr | None) -> bool:
    names = caught.elts if isinstance(caught, ast.Tuple) else [caught]
    return any(name is None or getattr(name, "id", "") in ("Exception", "BaseException") for name in names)


def ray_versions(texts: Mapping[str, str]) -> dict[str, set[str]]:
    """Ray version -> the files that name it."""
    found: dict[str, set[str]] = {}
    for path, text in texts.items():
        for match in RAY_VERSION.finditer(text):
            found.setdefault(next(filter(None, match.groups())), set()).add(path)
    return found


def text_files() -> dict[str, str]:
    """Everything in the repository that can pin a version; CHANGELOG.md speaks of the past."""
    roots = [path for path in REPOSITORY.iterdir() if not re.match(r"\.venv|\.git$|.*\.egg-info$", path.name)]
    files = [path for root in roots for path in ([root] if root.is_file() else root.rglob("*"))]
    return {
        path.relative_to(REPOSITORY).as_posix(): path.read_text()
        for path in files
        if path.is_file() and path.name != "CHANGELOG.md" and any(map(path.match, TEXT_FILES))
    }


# The rules hold.


@pytest.mark.parametrize("source", sources(), ids=lambda source: source.path)
def test_every_module_keeps_the_rules(source: Source) -> None:
    rules = (forbidden_imports, misplaced_libraries, early_libraries, broad_handlers)
    assert [fault for rule in rules for fault in rule(source)] == []
    assert Path(source.path).stem not in NAMES_WITHOUT_A_NOUN


def test_there_is_one_ray_version_from_pin_to_manifest() -> None:
    found = ray_versions(text_files())
    assert len(found) == 1, found
    assert "pyproject.toml" in next(iter(found.values()))


def test_no_exception_is_made_for_a_function_that_is_no_more() -> None:
    for boundary in BOUNDARIES:
        path, function = boundary.split("::")
        handlers = _handlers(ast.parse((REPOSITORY / path).read_text()), "module")
        assert function in {name for name, handler in handlers if _is_broad(handler.type)}, boundary


def test_a_library_that_moved_away_leaves_no_permission_behind() -> None:
    imported = {
        (module.split(".")[0], source.path) for source in sources() for _, module in imported_modules(source)
    }
    for library, paths in HEAVY_LIBRARIES.items():
        for path in paths:
            assert (library, path) in imported, f"{path} no longer imports {library}"


# And the rules find what they are there for.


def planted(path: str, text: str) -> Source:
    return Source(path, textwrap.dedent(text))


@pytest.mark.parametrize(
    "text",
    [
        "import training",
        "import training.loop as loop",
        "from training import loop",
        "from training.loop import run",
        "def late():\n    from training.loop import run",
        "import importlib\nimportlib.import_module('training.loop')",
        "from importlib import import_module\nimport_module('training')",
        "__import__('training')",
        "import pkgutil\npkgutil.resolve_name('training.loop:run')",
        "if TYPE_CHECKING:\n    from training.config import FinetuneConfig",
    ],
)
def test_an_import_of_training_by_serving_is_found_in_every_form(text: str) -> None:
    assert len(forbidden_imports(planted("serving/app.py", text))) == 1


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("cluster/jobs.py", "from retrieval.store import Store"),
        ("retrieval/store.py", "import serving"),
        ("training/loop.py", "import retrieval.embedding"),
        ("evaluation/client.py", "from serving.schemas import Request"),
    ],
)
def test_the_map_holds_for_every_package(path: str, text: str) -> None:
    assert len(forbidden_imports(planted(path, text))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "import cluster.settings, retrieval.store",
        "from . import policy",
        "import trainingwheels",
        "text = 'import training'",
    ],
)
def test_what_serving_may_import_is_no_fault(text: str) -> None:
    assert forbidden_imports(planted("serving/app.py", text)) == []


@pytest.mark.parametrize("library", sorted(HEAVY_LIBRARIES))
def test_a_heavy_library_outside_its_file_is_found(library: str) -> None:
    lazy = planted("cluster/doctor.py", f"def look():\n    import {library}.version")
    assert len(misplaced_libraries(lazy)) == 1
    [home, *_] = HEAVY_LIBRARIES[library]
    assert misplaced_libraries(planted(home, f"from {library} import thing")) == []


@pytest.mark.parametrize(
    "statement", ["import pypdf", "from pypdf.errors import Error", "from scipy import stats"]
)
def test_a_library_imported_before_there_is_use_for_it_is_found(statement: str) -> None:
    assert len(early_libraries(planted("evaluation/statistics.py", statement))) == 1
    late = f"if TYPE_CHECKING:\n    {statement}\ndef read():\n    {statement}\nfrom scipy.special import bdtr"
    assert early_libraries(planted("evaluation/statistics.py", late)) == []


@pytest.mark.parametrize("caught", ["", " Exception", " BaseException as exc", " (ValueError, Exception)"])
def test_a_handler_that_swallows_everything_is_found(caught: str) -> None:
    text = f"def work():\n    try:\n        pass\n    except{caught}:\n        pass"
    assert broad_handlers(planted("training/loop.py", text)) == [
        "training/loop.py:4 swallows every exception in work"
    ]


def test_a_handler_that_raises_again_swallows_nothing() -> None:
    text = "try:\n    pass\nexcept BaseException:\n    clean_up()\n    raise"
    assert broad_handlers(planted("training/loop.py", text)) == []


@pytest.mark.parametrize(
    "text",
    [
        "image: rayproject/ray:2.59.0-py311-gpu",
        "rayVersion: '2.59.0'",
        "RUN pip install 'ray[serve]==2.59.0'",
        "ARG RAY_VERSION=2.59.0",
    ],
)
def test_a_second_ray_version_is_found(text: str) -> None:
    found = ray_versions({"pyproject.toml": '"ray[default,serve,train]==2.60.0",', "k8s/service.yaml": text})
    assert found == {"2.60.0": {"pyproject.toml"}, "2.59.0": {"k8s/service.yaml"}}
