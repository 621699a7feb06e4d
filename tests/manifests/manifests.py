"""Rendered manifests, and the ways to walk through them. What is right and wrong is said in the rules."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[2]
OVERLAYS = ("k8s/overlays/cpu-dev", "k8s/overlays/gpu", "k8s/overlays/gpu-ha")
# What a user may choose in place of what an overlay has.
VARIANTS = ("tests/manifests/variants/gateway", "tests/manifests/variants/incremental-upgrade")
JOBS = ("k8s/jobs/finetune", "k8s/jobs/finetune-gpu")

Document = dict[str, Any]

_SUFFIXES = {
    "m": Decimal("0.001"),
    **{unit: Decimal(1000) ** power for power, unit in enumerate("kMGTP", start=1)},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTP", start=1)},
}
_CLUSTER_SPECS = {
    "RayCluster": ("spec",),
    "RayService": ("spec", "rayClusterConfig"),
    "RayJob": ("spec", "rayClusterSpec"),
    "RayCronJob": ("spec", "jobTemplate", "rayClusterSpec"),
}
_POD_TEMPLATES = {
    "StatefulSet": ("spec", "template"),
    "Deployment": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
    "RayJob": ("spec", "submitterPodTemplate"),
    "RayCronJob": ("spec", "jobTemplate", "submitterPodTemplate"),
}


@dataclass(frozen=True)
class Group:
    """The head or a worker group of a Ray cluster."""

    where: str
    is_head: bool
    spec: Document

    @property
    def pod(self) -> Pod:
        """With the labels that the operator adds."""
        template = self.spec["template"]
        metadata = template.get("metadata", {})
        added = {
            "ray.io/node-type": "head" if self.is_head else "worker",
            "ray.io/group": self.spec.get("groupName", "headgroup"),
        }
        labels = {**metadata.get("labels", {}), **added}
        return Pod(self.where, {**template, "metadata": {**metadata, "labels": labels}})

    @property
    def container(self) -> Document:
        """Ray's own container, which KubeRay takes to be the first."""
        return self.spec["template"]["spec"]["containers"][0]

    @property
    def start_params(self) -> Mapping[str, str]:
        return self.spec.get("rayStartParams", {})


@dataclass(frozen=True)
class Pod:
    """A pod template and where it stands."""

    where: str
    template: Document

    @property
    def spec(self) -> Document:
        return self.template["spec"]

    @property
    def labels(self) -> Mapping[str, str]:
        return self.template.get("metadata", {}).get("labels", {})

    @property
    def containers(self) -> list[Document]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]


def render(target: str) -> list[Document]:
    """The documents that `kubectl apply -k TARGET` would send. Needs no cluster."""
    result = subprocess.run(
        ["kubectl", "kustomize", target], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return list(yaml.load_all(result.stdout, yaml.CSafeLoader))


def name_of(document: Document) -> str:
    return f"{document['kind']}/{document['metadata']['name']}"


def of_kind(documents: list[Document], *kinds: str) -> list[Document]:
    return [document for document in documents if document["kind"] in kinds]


def ray_clusters(documents: list[Document]) -> Iterator[tuple[str, Document]]:
    """Name and RayClusterSpec of every Ray cluster, whatever kind of object it stands in."""
    for document in documents:
        cluster = _at(document, _CLUSTER_SPECS.get(document["kind"]))
        if cluster is not None:
            yield name_of(document), cluster


def ray_groups(documents: list[Document]) -> Iterator[Group]:
    for where, cluster in ray_clusters(documents):
        yield Group(f"{where} head", True, cluster["headGroupSpec"])
        for spec in cluster.get("workerGroupSpecs", []):
            yield Group(f"{where} {spec['groupName']}", False, spec)


def pods(documents: list[Document]) -> Iterator[Pod]:
    """Every pod template: Kubernetes' workloads, Ray's groups, and the submitters of Ray jobs."""
    for document in documents:
        template = _at(document, _POD_TEMPLATES.get(document["kind"]))
        if template is not None:
            yield Pod(name_of(document), template)
    for group in ray_groups(documents):
        yield group.pod


def ray_jobs(documents: list[Document]) -> Iterator[tuple[str, Document]]:
    """Name and RayJobSpec of every Ray job, scheduled ones included."""
    for document in of_kind(documents, "RayJob"):
        yield name_of(document), document["spec"]
    for document in of_kind(documents, "RayCronJob"):
        yield name_of(document), document["spec"]["jobTemplate"]


def offered_by(groups: list[Document], resource: str) -> Decimal:
    """How much of a resource worker groups hand out once they have grown to their bounds."""
    return sum(
        (
            quantity(group["template"]["spec"]["containers"][0]["resources"]["limits"].get(resource, 0))
            * group["maxReplicas"]
            for group in groups
        ),
        start=Decimal(0),
    )


def quantity(text: str | int) -> Decimal:
    """A Kubernetes quantity as a number of cores or bytes.

    >>> quantity("500m"), quantity("2Gi")
    (Decimal('0.500'), Decimal('2147483648'))
    """
    raw = str(text)
    for suffix in sorted(_SUFFIXES, key=len, reverse=True):
        if raw.endswith(suffix):
            return Decimal(raw.removesuffix(suffix)) * _SUFFIXES[suffix]
    return Decimal(raw)


def _at(document: Document, path: tuple[str, ...] | None) -> Document | None:
    if path is None:
        return None
    node: Document | None = document
    for key in path:
        if node is None:
            return None
        node = node.get(key)
    return node
