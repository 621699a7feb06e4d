"""Each rule finds the fault that it is there for: planted, one at a time, in an overlay that keeps all rules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import job_rules
import manifest_rules
import network_rules
import pytest
import ray_rules
import serve_rules
import yaml
from manifests import Document, name_of, quantity
from schemas import kuberay_faults, kubernetes_fault

Rendered = Callable[[str], list[Document]]

CPU = "k8s/overlays/cpu-dev"
HEAD = "spec.headGroupSpec.template.spec.containers.0"
WORKER = "spec.workerGroupSpecs.0.template.spec.containers.0"
MODULES = (manifest_rules, network_rules, ray_rules, serve_rules, job_rules)
RULES = {rule.__name__: rule for module in MODULES for rule in module.RULES}
FAULTS = yaml.safe_load(Path(__file__).with_name("faults.yaml").read_text())
GONE = object()


@pytest.mark.parametrize(
    ("rule", "fault"),
    [
        pytest.param(rule, fault, id=f"{rule}: {fault['found']}")
        for rule, faults in FAULTS.items()
        for fault in faults
    ],
)
def test_a_planted_fault_is_found_and_named(rule: str, fault: dict[str, Any], rendered: Rendered) -> None:
    documents = rendered(target_of(fault["in"]))
    assert RULES[rule](documents) == []
    put(documents, fault["at"], fault["field"], fault.get("put", GONE))
    found = RULES[rule](documents)
    assert [line for line in found if fault["found"] in line], found


def test_every_rule_has_a_planted_fault() -> None:
    assert FAULTS.keys() == RULES.keys()


@pytest.mark.parametrize(
    ("where", "path", "value", "found"),
    [
        ("RayCluster/hamlet-jobs", "spec.rayVersion", "2.59.0", "rayVersion 2.59.0"),
        (
            "RayCluster/hamlet-jobs",
            f"{HEAD}.image",
            "hamlet:0.1.0-ray2.59.0-py3.11-cpu",
            "expected the tag",
        ),
        (
            "RayCluster/hamlet-jobs",
            f"{WORKER}.image",
            "registry.example/hamlet:0.1.0-ray2.60.0-py3.12-cpu",
            "expected the tag",
        ),
        (
            "CronJob/qdrant-backup",
            "spec.jobTemplate.spec.template.spec.containers.0.image",
            "hamlet:0.1.0-ray2.60.0-py3.11-cuda",
            "several images of ours",
        ),
    ],
)
def test_a_second_version_is_found(
    where: str, path: str, value: str, found: str, rendered: Rendered, versions: ray_rules.Versions
) -> None:
    documents = rendered(CPU)
    put(documents, where, path, value)
    faults = ray_rules.versions_agree(documents, versions)
    assert [fault for fault in faults if found in fault], faults


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("top_k: 1", "top_kay: 1", "top_kay"),
        ("serving.app:build_app", "serving.app:build", "no module serving.app:build"),
        ("router:", "fine_tuning: {num_workers: 16}\n      router:", "jobs may ask for 16.95 cpu"),
    ],
)
def test_a_serve_config_that_would_not_start_is_found(
    old: str, new: str, found: str, rendered: Rendered
) -> None:
    documents = rendered(CPU)
    config = the(documents, "RayService/hamlet")["spec"]["serveConfigV2"]
    put(documents, "RayService/hamlet", "spec.serveConfigV2", config.replace(old, new))
    faults = serve_rules.serve_config_is_valid(documents)
    assert [fault for fault in faults if found in fault], faults


def test_a_serve_that_listens_on_loopback_is_found(rendered: Rendered) -> None:
    documents = rendered(CPU)
    config = the(documents, "RayService/hamlet")["spec"]["serveConfigV2"]
    put(documents, "RayService/hamlet", "spec.serveConfigV2", config.replace("0.0.0.0", "127.0.0.1"))
    assert "where no other pod reaches it" in serve_rules.serve_ports_agree(documents)[0]


def test_a_part_whose_replicas_may_lie_on_one_pod_is_found(rendered: Rendered) -> None:
    documents = rendered("k8s/overlays/gpu-ha")
    config = the(documents, "RayService/hamlet")["spec"]["serveConfigV2"]
    together = config.replace("max_replicas_per_node: 1", "max_replicas_per_node: 2", 1)
    put(documents, "RayService/hamlet", "spec.serveConfigV2", together)
    assert serve_rules.answering_workers_are_spread_and_kept(documents) == [
        "RayService/hamlet: all replicas of the generator may lie on one pod"
    ]


def test_a_secret_in_a_file_is_found(rendered: Rendered) -> None:
    secret = {"kind": "Secret", "metadata": {"name": "hamlet-secrets"}, "stringData": {"qdrant-api-key": "x"}}
    assert manifest_rules.secrets_are_references([*rendered(CPU), secret]) == [
        "Secret/hamlet-secrets: a Secret in a file"
    ]


def test_a_deployment_on_a_claim_is_found(rendered: Rendered) -> None:
    documents = rendered(CPU)
    volume = {"name": "data", "persistentVolumeClaim": {"claimName": "hamlet-storage"}}
    spec = {"template": {"spec": {"containers": [], "volumes": [volume]}}}
    rolling = {"kind": "Deployment", "metadata": {"name": "vectors"}, "spec": spec}
    assert manifest_rules.stores_are_not_doubled([*documents, rolling]) == [
        "Deployment/vectors: a rolling update would open its claim twice"
    ]


def test_the_schemas_refuse_a_field_that_does_not_exist(rendered: Rendered, shared: Path) -> None:
    documents = rendered(CPU)
    put(documents, "StatefulSet/qdrant", "spec.replica", 1)
    put(documents, "RayCluster/hamlet-jobs", f"{WORKER}.imagePolicy", "Always")
    assert "replica" in (kubernetes_fault(the(documents, "StatefulSet/qdrant")) or "")
    [fault] = kuberay_faults(the(documents, "RayCluster/hamlet-jobs"), shared / "kuberay")
    assert "imagePolicy" in fault


@pytest.mark.parametrize(
    ("text", "number"), [("500m", "0.5"), ("2", "2"), ("1Ki", "1024"), ("1k", "1000"), ("2Gi", "2147483648")]
)
def test_quantities_are_read_as_kubernetes_reads_them(text: str, number: str) -> None:
    assert quantity(text) == quantity(number)


def target_of(name: str) -> str:
    return f"tests/manifests/{name}" if name.startswith("variants/") else f"k8s/{name}"


def the(documents: list[Document], where: str) -> Document:
    [document] = [document for document in documents if name_of(document) == where]
    return document


def put(documents: list[Document], where: str, path: str, value: Any) -> None:
    """Set or, for GONE, remove the field at a dotted path; numbers are positions in lists."""
    *parents, leaf = _steps(path)
    node: Any = the(documents, where)
    for step in parents:
        node = node[step]
    if value is GONE:
        del node[leaf]
    else:
        node[leaf] = value


def _steps(path: str) -> list[str | int]:
    return [int(step) if step.isdecimal() else step for step in path.split(".")]
