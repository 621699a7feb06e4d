"""What the RayService must keep to: one port from Serve to the way in, and a configuration that is ours."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import yaml
from manifests import REPOSITORY, Document, Group, name_of, of_kind, quantity, ray_groups
from pydantic import ValidationError

from serving.config import DeploymentConfig, ServingConfig


def serve_ports_agree(documents: list[Document]) -> list[str]:
    """Serve's port is the container's, the probe's, the policy's and the Ingress's; only replicas' pods are asked."""
    faults = []
    for service in of_kind(documents, "RayService"):
        where, options = name_of(service), serve_config(service)["http_options"]
        if options["host"] != "0.0.0.0":
            faults.append(f"{where}: Serve listens on {options['host']}, where no other pod reaches it")
        for group in ray_groups([service]):
            faults += _serve_group_faults(group, options["port"])
        faults += _ingress_faults(documents, f"{service['metadata']['name']}-serve-svc", options["port"])
    for group in ray_groups([document for document in documents if document["kind"] != "RayService"]):
        probes = [group.container.get(kind, {}) for kind in ("readinessProbe", "livenessProbe")]
        if any(probe.get("httpGet", {}).get("port") in ("serve", 8000) for probe in probes):
            faults.append(f"{group.where}: asks for Serve, which does not run there")
    return faults


def serve_config_is_valid(documents: list[Document]) -> list[str]:
    """`args` is what serving/config.py accepts, and the groups can hold the replicas that it allows."""
    faults = []
    for service in of_kind(documents, "RayService"):
        where = name_of(service)
        for application in serve_config(service)["applications"]:
            if not _exists(application["import_path"]):
                faults.append(f"{where}: no module {application['import_path']}")
            try:
                config = ServingConfig.model_validate(application["args"])
            except ValidationError as exc:
                faults.append(f"{where}: {exc.errors()[0]['loc']}: {exc.errors()[0]['msg']}")
                continue
            faults += _capacity_faults(where, config, [*ray_groups([service])])
    return faults


def serve_config(service: Document) -> Document:
    return yaml.safe_load(service["spec"]["serveConfigV2"])


def _exists(import_path: str) -> bool:
    """`package.module:function`, looked up in the source: importing it would import Ray."""
    module, _, function = import_path.partition(":")
    file = REPOSITORY.joinpath(*module.split(".")).with_suffix(".py")
    return file.is_file() and f"def {function}(" in file.read_text()


def _serve_group_faults(group: Group, port: int) -> list[str]:
    named = {entry["name"]: entry["containerPort"] for entry in group.container["ports"]}
    faults = []
    if named.get("serve") != port:
        faults.append(f"{group.where}: port serve is {named.get('serve')}, serveConfigV2 has {port}")
    if not group.is_head:
        asked = group.container["readinessProbe"].get("httpGet", {})
        if asked.get("path") != "/-/healthz" or named.get(asked.get("port"), asked.get("port")) != port:
            faults.append(f"{group.where}: is ready although Serve does not answer on {port}")
    return faults


def _ingress_faults(documents: list[Document], service: str, port: int) -> list[str]:
    backends = [
        (name_of(ingress), path["backend"]["service"])
        for ingress in of_kind(documents, "Ingress")
        for rule in ingress["spec"]["rules"]
        for path in rule["http"]["paths"]
    ]
    faults = [
        f"{where}: leads to {backend['name']}:{backend['port']['number']}, Serve is at {service}:{port}"
        for where, backend in backends
        if (backend["name"], backend["port"]["number"]) != (service, port)
    ]
    return faults + [
        f"{name_of(ingress)}: no TLS"
        for ingress in of_kind(documents, "Ingress")
        if not ingress["spec"].get("tls")
    ]


def _capacity_faults(where: str, config: ServingConfig, groups: list[Group]) -> list[str]:
    sections = [getattr(config, name) for name in ServingConfig.model_fields]
    parts = [section for section in sections if isinstance(section, DeploymentConfig)]
    parts += config.further_generators
    workers = [group for group in groups if not group.is_head]
    faults = []
    for resource, key in (("nvidia.com/gpu", "num_gpus"), ("cpu", "num_cpus")):
        wanted = sum(Decimal(str(getattr(part, key))) * part.max_replicas for part in parts)
        offered = sum(
            quantity(group.container["resources"]["limits"].get(resource, 0)) * group.spec["maxReplicas"]
            for group in workers
        )
        if wanted > offered:
            faults.append(
                f"{where}: replicas may ask for {float(wanted):g} {resource}, the groups grow to {float(offered):g}"
            )
    return faults


RULES: tuple[Callable[[list[Document]], list[str]], ...] = (
    serve_ports_agree,
    serve_config_is_valid,
)
