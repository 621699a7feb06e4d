"""Python's own documentation as documents: the language reference and the docstrings of the standard library.

Both come with the interpreter: the reference in `pydoc_data.topics`, cut here at its headings, the docstrings by
importing every public module. What they say depends on the Python version, and on it alone.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import pydoc_data.topics
import re
import sys
import types
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# Modules that act when they are imported, that need a screen, that are tests, that setuptools replaces, and
# those that are shown as os.path.
LEFT_OUT = {
    *("antigravity", "this", "idlelib", "tkinter", "turtle", "turtledemo", "test", "lib2to3", "encodings"),
    *("distutils", "genericpath", "ntpath", "posixpath"),
}
# A heading and the line under it, as the reference writes them.
HEADING = re.compile(r"^(?P<title>\S.*)\n(?:[*=\-~^]){3,}$\n*", re.MULTILINE)


@dataclass(frozen=True)
class Page:
    """A section of the reference (`with: The with statement`) or an object (`functools.lru_cache`)."""

    id: str
    title: str
    text: str


def python_docs() -> list[Page]:
    """Everything, the reference first; of what has the same id, the first."""
    pages: dict[str, Page] = {}
    for page in (*_reference(), *_docstrings()):
        pages.setdefault(page.id, page)
    return list(pages.values())


def module_of(page_id: str) -> str:
    """What a page belongs to: `functools` of functools.lru_cache, `with` of a section of that topic."""
    return re.split(r"[.:]", page_id, maxsplit=1)[0]


def _reference() -> Iterator[Page]:
    seen = set()
    # Long topics repeat short ones whole: a section belongs to the shortest topic that has it.
    for topic, text in sorted(pydoc_data.topics.topics.items(), key=lambda item: (len(item[1]), item[0])):
        headings = list(HEADING.finditer(text))
        ends = [heading.start() for heading in headings[1:]] + [len(text)]
        for heading, end in zip(headings, ends, strict=True):
            title = heading["title"].replace('"', "")
            body = text[heading.end() : end].strip()
            if body and (title, body[:80]) not in seen:
                seen.add((title, body[:80]))
                yield Page(f"{topic}: {title}", title, body)


def _docstrings() -> Iterator[Page]:
    # The objects themselves are kept: the id of one that is gone is given to the next.
    seen: dict[int, Any] = {}
    for module_name, module in _modules():
        yield from _page(module_name, module)
        for member_name, value in _members(module):
            if id(value) in seen:
                continue
            seen[id(value)] = value
            name = f"{module_name}.{member_name}".removeprefix("builtins.")
            yield from _page(name, value)
            if inspect.isclass(value):
                for method_name, method in vars(value).items():
                    if not method_name.startswith("_") and _has_docstring(method):
                        yield from _page(f"{name}.{method_name}", method)


def _modules() -> Iterator[tuple[str, types.ModuleType]]:
    """The public modules of the standard library and of its packages, by name."""
    public = {name for name in sys.stdlib_module_names if not name.startswith("_")} - LEFT_OUT
    for name in sorted(public | {"os.path"}):
        module = _imported(name)
        if module is None:
            continue
        yield name, module
        for found in sorted(
            pkgutil.iter_modules(getattr(module, "__path__", ())), key=lambda found: found.name
        ):
            inner = None if found.name.startswith("_") else _imported(f"{name}.{found.name}")
            if inner is not None:
                yield f"{name}.{found.name}", inner


def _imported(name: str) -> types.ModuleType | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            return importlib.import_module(name)
        except ImportError:  # of another operating system
            return None


def _members(module: types.ModuleType) -> list[tuple[str, Any]]:
    """Public functions and classes that a module offers as its own."""
    names = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
    members = [(name, getattr(module, name, None)) for name in names]
    package = module.__name__.split(".")[0]
    return [
        (name, value)
        for name, value in members
        if (inspect.isroutine(value) or inspect.isclass(value))
        and (
            hasattr(module, "__all__")
            or (getattr(value, "__module__", None) or package).split(".")[0].removeprefix("_") == package
        )
    ]


def _has_docstring(member: Any) -> bool:
    """Whether a docstring of its own: a constant shows its type's."""
    return inspect.isroutine(member) or inspect.isdatadescriptor(member)


def _page(name: str, value: Any) -> Iterator[Page]:
    # Some libraries add methods of theirs to the standard library's classes when they are imported.
    if str(getattr(value, "__module__", None) or "builtins").split(".")[0] not in sys.stdlib_module_names:
        return
    docstrings = [getattr(value, "__doc__", None)]
    if inspect.isclass(value) and inspect.isfunction(vars(value).get("__init__")):
        docstrings.append(value.__init__.__doc__)
    text = "\n\n".join(inspect.cleandoc(docstring) for docstring in docstrings if isinstance(docstring, str))
    if text.strip():
        yield Page(name, name + _signature(value), text)


def _signature(value: Any) -> str:
    function = getattr(value, "__func__", value)  # of class and static methods
    try:
        return str(inspect.signature(function)) if inspect.isroutine(function) else ""
    except (ValueError, TypeError, NameError, AttributeError):  # written in C, without one that can be read
        return ""
