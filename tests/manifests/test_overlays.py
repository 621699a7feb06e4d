"""Each overlay and job: it renders, the API server would take it, and it keeps every rule."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import job_rules
import manifest_rules
import network_rules
import pytest
import ray_rules
import serve_rules
import yaml
from manifests import JOBS, OVERLAYS, REPOSITORY, VARIANTS, Document, name_of, of_kind, ray_groups
from schemas import WITHOUT_SCHEMA, kuberay_faults, kubernetes_fault

Rendered = Callable[[str], list[Document]]

RULES = (
    *manifest_rules.RULES,
    *network_rules.RULES,
    *ray_rules.RULES,
    *serve_rules.RULES,
    *job_rules.RULES,
)
# What a GPU cluster may have otherwise than examples/serve.yaml: where parts run and how many, not what they are.
SCALING = {"num_cpus", "num_gpus", "min_replicas", "max_replicas", "max_replicas_per_node"}


@pytest.mark.parametrize("target", [*OVERLAYS, *VARIANTS, *JOBS])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_what_is_rendered_keeps_the_rule(
    target: str, rule: Callable[[list[Document]], list[str]], rendered: Rendered
) -> None:
    assert rule(rendered(target)) == []


@pytest.mark.parametrize("target", [*OVERLAYS, *VARIANTS, *JOBS])
def test_one_version_of_everything_from_pin_to_manifest(
    target: str, rendered: Rendered, versions: ray_rules.Versions
) -> None:
    assert ray_rules.versions_agree(rendered(target), versions) == []


@pytest.mark.parametrize("target", [*OVERLAYS, *VARIANTS, *JOBS])
def test_kubernetes_takes_what_is_rendered(target: str, rendered: Rendered) -> None:
    ours = [
        document
        for document in rendered(target)
        if not document["apiVersion"].startswith("ray.io/") and document["kind"] not in WITHOUT_SCHEMA
    ]
    assert ours
    assert [fault for document in ours if (fault := kubernetes_fault(document))] == []


@pytest.mark.parametrize("target", [*OVERLAYS, *VARIANTS, *JOBS])
def test_kuberay_takes_what_is_rendered(target: str, rendered: Rendered, shared: Path) -> None:
    ours = [document for document in rendered(target) if document["apiVersion"].startswith("ray.io/")]
    assert ours
    assert [fault for document in ours for fault in kuberay_faults(document, shared / "kuberay")] == []


@pytest.mark.parametrize("target", OVERLAYS)
def test_what_is_served_is_the_example(target: str, rendered: Rendered) -> None:
    [service] = of_kind(rendered(target), "RayService")
    example = yaml.safe_load((REPOSITORY / "examples/serve.yaml").read_text())
    differing = set(differences(example, serve_rules.serve_config(service)))
    allowed = {"host"} if target.endswith("cpu-dev") else {"host", *SCALING}
    assert "http_options.host" in differing
    assert {path for path in differing if path.split(".")[-1] not in allowed} == set()


@pytest.mark.parametrize("target", [*OVERLAYS, *VARIANTS, *JOBS])
def test_probes_ask_what_ray_answers_without_a_token(target: str, rendered: Rendered) -> None:
    # Read, not imported: importing Ray takes longer than all the other tests here.
    dashboard = Path(importlib.util.find_spec("ray").submodule_search_locations[0]) / "dashboard"
    public = {
        port: re.search(r"public_exact_paths = [\[{](.*?)[\]}]", file.read_text(), re.DOTALL | re.IGNORECASE)[
            1
        ]
        for port, file in (
            ("agent", dashboard / "http_server_agent.py"),
            ("dashboard", dashboard / "http_server_head.py"),
        )
    }
    asked = [
        probe["httpGet"]
        for group in ray_groups(rendered(target))
        for kind in ("startupProbe", "readinessProbe", "livenessProbe")
        if (probe := group.container[kind])["httpGet"]["port"] in public
    ]
    assert asked
    assert [probe for probe in asked if f'"{probe["path"]}"' not in public[probe["port"]]] == []


@pytest.mark.parametrize("target", OVERLAYS)
def test_every_object_lies_in_one_namespace(target: str, rendered: Rendered) -> None:
    without = {"Namespace", "PriorityClass"}
    outside = [
        name_of(document)
        for document in rendered(target)
        if document["kind"] not in without and document["metadata"].get("namespace") != "hamlet"
    ]
    assert outside == []


@pytest.mark.parametrize("target", OVERLAYS[1:])
def test_every_alert_has_a_runbook_that_is_there(target: str, rendered: Rendered) -> None:
    headings = {
        re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in (REPOSITORY / "docs/operations.md").read_text().splitlines()
        if line.startswith("#")
    }
    found = [alert["annotations"]["runbook_url"] for alert in alerts(rendered(target))]
    assert found
    assert [url for url in found if url.removeprefix("docs/operations.md#") not in headings] == []


@pytest.mark.parametrize("target", OVERLAYS[1:])
def test_alerts_ask_for_metrics_that_the_router_has(target: str, rendered: Rendered) -> None:
    source = (REPOSITORY / "serving/metrics.py").read_text()
    named = {
        re.sub("_bucket$", "", metric)
        for alert in alerts(rendered(target))
        for metric in re.findall(r"ray_(hamlet_\w+)", alert["expr"])
    }
    assert named
    assert {metric for metric in named if f'"{metric}"' not in source} == set()


@pytest.mark.parametrize("target", OVERLAYS[1:])
def test_a_backup_that_never_succeeded_is_missed_too(target: str, rendered: Rendered) -> None:
    [missing] = [alert["expr"] for alert in alerts(rendered(target)) if alert["alert"] == "BackupMissing"]
    [succeeded] = re.findall(r"kube_cronjob_status_last_successful_time(\{.*\})", missing)
    assert f"or kube_cronjob_created{succeeded}" in missing
    assert any(f'cronjob="{name}"' in succeeded for name in backups(rendered(target)))


def test_every_secret_is_made_by_a_documented_command() -> None:
    text = (REPOSITORY / "k8s/README.md").read_text() + (REPOSITORY / "docs/operations.md").read_text()
    for secret in manifest_rules.SECRETS:
        assert re.search(rf"create secret (generic|tls) {secret}\b", text), secret


def backups(documents: list[Document]) -> list[str]:
    """CronJobs that back up all collections: those of the API appear while it runs."""
    return [
        document["metadata"]["name"]
        for document in of_kind(documents, "CronJob")
        if "python -m retrieval backup --all" in str(document["spec"])
    ]


def alerts(documents: list[Document]) -> Iterator[Document]:
    for rules in of_kind(documents, "PrometheusRule"):
        for group in rules["spec"]["groups"]:
            yield from group["rules"]


def differences(left: Any, right: Any, path: str = "") -> Iterator[str]:
    """Dotted paths of the leaves in which two trees differ."""
    if isinstance(left, dict) and isinstance(right, dict):
        for key in left.keys() | right.keys():
            yield from differences(left.get(key), right.get(key), f"{path}.{key}".lstrip("."))
    elif isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        for index, (one, other) in enumerate(zip(left, right, strict=True)):
            yield from differences(one, other, f"{path}.{index}")
    elif left != right:
        yield path
