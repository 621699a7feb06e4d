"""What the RayService must keep to: one port from Serve to the way in, and a configuration that is ours."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import yaml
from manifest_rules import selects
from manifests import REPOSITORY, Document, Group, name_of, of_kind, offered_by, ray_groups
from pydantic import ValidationError

from serving.config import DeploymentConfig, ServingConfig

INCREMENTAL = "NewClusterWithIncrementalUpgrade"


def serve_ports_agree(documents: list[Document]) -> list[str]:
    """Serve's port is the container's, the probe's, the policy's and the way in's; only replicas' pods are asked."""
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
            faults += _capacity_faults(where, config, service["spec"]["rayClusterConfig"]["workerGroupSpecs"])
    return faults


def operator_offers_what_is_used(documents: list[Document]) -> list[str]:
    """Gates are open for what is behind them, and the Service that clients are told of is made by exactly one."""
    values = yaml.safe_load((REPOSITORY / "k8s/kuberay-values.yaml").read_text())
    gates = {gate["name"] for gate in values["featureGates"] if gate["enabled"]}
    needed = [(name_of(document), "RayCronJob") for document in of_kind(documents, "RayCronJob")]
    faults = []
    for service in of_kind(documents, "RayService"):
        where, front = name_of(service), f"{service['metadata']['name']}-serve-svc"
        is_ours = any(name_of(document) == f"Service/{front}" for document in documents)
        if service["spec"]["upgradeStrategy"]["type"] != INCREMENTAL:
            faults += [f"{where}: {front} is the operator's to make"] if is_ours else []
            continue
        needed.append((where, "RayServiceIncrementalUpgrade"))
        if not is_ours:
            faults.append(f"{where}: nobody makes {front}")
        if not service["spec"]["rayClusterConfig"].get("enableInTreeAutoscaling"):
            faults.append(f"{where}: an upgrade in steps needs the autoscaler")
        faults += [
            f"{name_of(document)}: goes past the weights of the upgrade"
            for document in of_kind(documents, "Ingress", "HTTPRoute")
        ]
    return faults + [f"{where}: the gate {gate} is shut" for where, gate in needed if gate not in gates]


def answering_workers_are_spread_and_kept(documents: list[Document]) -> list[str]:
    """Workers lie on several nodes; draining never takes a group's last one.

    Where a part has always two replicas, they are on two pods, and these on two nodes.
    """
    budgets = [budget["spec"] for budget in of_kind(documents, "PodDisruptionBudget")]
    faults = []
    for service in of_kind(documents, "RayService"):
        [application] = serve_config(service)["applications"]
        doubled = {
            name: part for name, part in application["args"].items() if part.get("min_replicas", 1) > 1
        }
        faults += [
            f"{name_of(service)}: all replicas of the {name} may lie on one pod"
            for name, part in doubled.items()
            if part.get("max_replicas_per_node") != 1
        ]
        for group in ray_groups([service]):
            if group.is_head:
                continue
            spread = group.pod.spec.get("topologySpreadConstraints", [])
            if not any(entry.get("nodeTaintsPolicy") == "Honor" for entry in spread):
                faults.append(f"{group.where}: is not spread over the nodes that it may use")
            is_strict = any(
                entry["whenUnsatisfiable"] == "DoNotSchedule" and entry.get("minDomains", 1) > 1
                for entry in spread
            )
            if doubled and not is_strict:
                faults.append(f"{group.where}: all of it may lie on one node")
            kept = [budget for budget in budgets if selects(budget["selector"], group.pod.labels)]
            if doubled and not any(budget.get("minAvailable") == 1 for budget in kept):
                faults.append(f"{group.where}: draining nodes may take all of it")
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
        (name_of(ingress), path["backend"]["service"]["name"], path["backend"]["service"]["port"]["number"])
        for ingress in of_kind(documents, "Ingress")
        for rule in ingress["spec"]["rules"]
        for path in rule["http"]["paths"]
    ]
    backends += [
        (name_of(route), backend["name"], backend["port"])
        for route in of_kind(documents, "HTTPRoute")
        for rule in route["spec"]["rules"]
        for backend in rule["backendRefs"]
    ]
    faults = [
        f"{where}: leads to {name}:{number}, Serve is at {service}:{port}"
        for where, name, number in backends
        if (name, number) != (service, port)
    ]
    faults += [
        f"{name_of(ingress)}: no TLS"
        for ingress in of_kind(documents, "Ingress")
        if not ingress["spec"].get("tls")
    ]
    return faults + _gateway_faults(documents)


def _gateway_faults(documents: list[Document]) -> list[str]:
    """Listeners end TLS with the documented Secret, and routes hang on listeners that are there, for their hosts."""
    faults, listeners = [], {}
    for gateway in of_kind(documents, "Gateway"):
        for listener in gateway["spec"]["listeners"]:
            listeners[gateway["metadata"]["name"], listener["name"]] = listener.get("hostname")
            names = {entry["name"] for entry in listener.get("tls", {}).get("certificateRefs", [])}
            if listener["protocol"] != "HTTPS" or names != {"hamlet-tls"}:
                faults.append(f"{name_of(gateway)}: no TLS")
    for route in of_kind(documents, "HTTPRoute"):
        for parent in route["spec"]["parentRefs"]:
            host = listeners.get((parent["name"], parent.get("sectionName")))
            if host is None or route["spec"].get("hostnames") != [host]:
                faults.append(f"{name_of(route)}: no listener of a Gateway takes it")
    return faults


def _capacity_faults(where: str, config: ServingConfig, groups: list[Document]) -> list[str]:
    """Replicas, and the fine-tuning jobs of the API beside them, fit once the groups have grown."""
    sections = [getattr(config, name) for name in ServingConfig.model_fields]
    parts = [section for section in sections if isinstance(section, DeploymentConfig)]
    parts += config.further_generators
    jobs = config.fine_tuning
    training = Decimal(jobs.max_running * jobs.num_workers) * Decimal(str(jobs.cpus_per_worker))
    faults = []
    for resource, key, beside in (("nvidia.com/gpu", "num_gpus", Decimal(0)), ("cpu", "num_cpus", training)):
        wanted = sum((Decimal(str(getattr(part, key))) * part.max_replicas for part in parts), start=beside)
        if wanted > (offered := offered_by(groups, resource)):
            faults.append(
                f"{where}: replicas and jobs may ask for {float(wanted):g} {resource}, "
                f"the groups grow to {float(offered):g}"
            )
    return faults


RULES: tuple[Callable[[list[Document]], list[str]], ...] = (
    serve_ports_agree,
    serve_config_is_valid,
    operator_offers_what_is_used,
    answering_workers_are_spread_and_kept,
)
