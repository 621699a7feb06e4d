"""The schemas that the API server would check documents against, as strict as `kubectl apply` with --validate.

Kubernetes' own come with kubernetes-validate; KubeRay's are its CustomResourceDefinitions.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from jsonschema import Draft202012Validator
from manifests import Document, name_of

KUBERNETES_VERSION = "1.32"
# Of the Prometheus operator and the Gateway API, whose definitions are not at hand.
WITHOUT_SCHEMA = {"PodMonitor", "PrometheusRule", "Gateway", "HTTPRoute"}


def kubernetes_fault(document: Document) -> str | None:
    """What Kubernetes' own schema finds wrong, unknown fields included; None when nothing."""
    try:
        kubernetes_validate.validate(document, KUBERNETES_VERSION, strict=True)
    except kubernetes_validate.ValidationError as exc:
        return f"{name_of(document)}: {exc.message}"
    return None


def kuberay_faults(document: Document, definitions: Path) -> list[str]:
    """What KubeRay's schema finds wrong, unknown fields included."""
    validator = _validator(definitions / f"ray.io_{document['kind'].lower()}s.yaml")
    return [
        f"{name_of(document)} {'.'.join(map(str, error.absolute_path))}: {error.message}"
        for error in validator.iter_errors(document)
    ]


@cache
def _validator(file: Path) -> Draft202012Validator:
    definition = yaml.load(file.read_text(), yaml.CSafeLoader)
    [stored] = [version for version in definition["spec"]["versions"] if version["storage"]]
    return Draft202012Validator(_closed(stored["schema"]["openAPIV3Schema"], is_root=True))


def _closed(schema: dict[str, Any], is_root: bool = False) -> dict[str, Any]:
    """The schema without room for fields that it does not name: the server would drop them in silence."""
    closed = dict(schema)
    if "properties" in schema:
        properties = {name: _closed(child) for name, child in schema["properties"].items()}
        if is_root:
            properties["metadata"] = {"type": "object"}  # Kubernetes' own, which the definition leaves out
        closed["properties"] = properties
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            closed["additionalProperties"] = False
    if "items" in schema:
        closed["items"] = _closed(schema["items"])
    return closed
