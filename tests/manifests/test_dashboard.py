"""The Grafana dashboard and the alerts ask for metrics that somebody exports."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from manifests import REPOSITORY

MONITORING = REPOSITORY / "k8s" / "components" / "monitoring"
DASHBOARD: dict[str, Any] = json.loads((MONITORING / "dashboards" / "hamlet.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]

RAY_METRIC = re.compile(r"\bray_([a-z_]+)\b(?!=)")  # not the label ray_io_node_type=
HISTOGRAM_SUFFIX = re.compile(r"_(bucket|sum|count)$")


def asked_for() -> set[str]:
    """Ray's metrics in every expression, without Ray's prefix and a histogram's suffix."""
    rules = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["spec"]["groups"]
    expressions = [rule["expr"] for group in rules for rule in group["rules"]]
    expressions += [target["expr"] for panel in PANELS for target in panel["targets"]]
    names = {name for expression in expressions for name in RAY_METRIC.findall(expression)}
    return {HISTOGRAM_SUFFIX.sub("", name) for name in names}


def exported() -> str:
    """The sources that name metrics: ours and Ray's."""
    import ray

    ray_folder = Path(ray.__file__).parent
    sources = [REPOSITORY / "serving" / "metrics.py"]
    sources += (ray_folder / "serve" / "_private").glob("*.py")
    sources += (ray_folder / "dashboard" / "modules" / "reporter").glob("*.py")
    return "\n".join(source.read_text(encoding="utf-8") for source in sources)


def test_every_metric_is_exported_under_its_name() -> None:
    sources = exported()
    assert asked_for()
    assert {name for name in asked_for() if f'"{name}"' not in sources} == set()


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_says_what_it_shows_and_keeps_to_its_namespace(panel: dict[str, Any]) -> None:
    assert panel["description"].endswith(".")
    for target in panel["targets"]:
        selectors = re.findall(r"\bray_[a-z_]+(\{[^}]*\})?", target["expr"])
        assert all('namespace="$namespace"' in selector for selector in selectors)


def test_panels_have_their_own_ids_and_do_not_overlap() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
