"""Who may connect to whom: what the NetworkPolicies let through, and what they must not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from manifest_rules import selects
from manifests import Document, name_of, of_kind

# From other namespaces, and so from outside. Ports by the label that somebody must put on the namespace.
ALLOWED_FROM_OUTSIDE = {
    ("hamlet/clients", "true"): {8000},
    ("hamlet/monitoring", "true"): {8080, 44217, 6333},
}
# The same for operators' namespaces, and there only their own pods.
ALLOWED_FROM_OPERATORS = {
    ("kubernetes.io/metadata.name", "kuberay-system"): {8265},
    ("kubernetes.io/metadata.name", "cnpg-system"): {5432, 8000},
}

# To the outside, for whoever is not named here. The API server listens on 443 of its Service, and itself on 6443
# (kubeadm, kind, k3s) or 8443 (minikube).
TLS = {443}
API_SERVER = {443, 6443, 8443}
WIDER_OUTSIDE = {
    "NetworkPolicy/autoscaler-to-kubernetes": API_SERVER,
    "NetworkPolicy/database-instances": API_SERVER,
}
DNS = {53}

COMPONENT, NODE_TYPE = "app.kubernetes.io/component", "ray.io/node-type"
CLUSTERS = ("serving", "jobs", "finetune")
# What pods there are, by the labels that policies go by; the last is anybody else's in the namespace.
PODS: dict[str, Mapping[str, str]] = {
    **{f"{name} worker": {COMPONENT: name, NODE_TYPE: "worker"} for name in CLUSTERS},
    **{f"{name} head": {COMPONENT: name, NODE_TYPE: "head"} for name in CLUSTERS},
    **{name: {COMPONENT: name} for name in ("submitter", "backup", "vectors", "database", "head-state")},
    "redis-cleanup": {NODE_TYPE: "redis-cleanup"},
    "stranger": {},
}
ANOTHER_PORT = 1  # stands for those that nobody names


@dataclass(frozen=True)
class Flow:
    """Pods with these labels connect to pods with those, on these ports, or on all."""

    source: Mapping[str, str]
    target: Mapping[str, str]
    ports: frozenset[int] | None = None

    def covers(self, source: Mapping[str, str], target: Mapping[str, str], port: int) -> bool:
        """Whether this connection is one of them."""
        of_these = self.source.items() <= source.items() and self.target.items() <= target.items()
        return of_these and (self.ports is None or port in self.ports)


def flows(documents: list[Document]) -> list[Flow]:
    """Who connects to whom within the namespace, as the code does."""
    names = {name_of(document) for document in documents}
    found = [Flow({COMPONENT: name}, {COMPONENT: name}) for name in CLUSTERS]
    for name in (*CLUSTERS, "backup"):
        found.append(Flow({COMPONENT: name}, {COMPONENT: "vectors"}, frozenset({6333})))
        found.append(Flow({COMPONENT: name}, {COMPONENT: "database"}, frozenset({5432})))
    found.append(Flow({COMPONENT: "jobs"}, {COMPONENT: "serving"}, frozenset({8000})))
    found.append(Flow({COMPONENT: "submitter"}, {NODE_TYPE: "head"}, frozenset({8265})))
    found.append(Flow({COMPONENT: "vectors"}, {COMPONENT: "vectors"}, frozenset({6335})))
    if "StatefulSet/redis" in names:
        for kind in ("head", "redis-cleanup"):
            found.append(Flow({NODE_TYPE: kind}, {COMPONENT: "head-state"}, frozenset({6379})))
    if "StatefulSet/postgres" not in names:  # several instances of an operator's
        found.append(Flow({COMPONENT: "database"}, {COMPONENT: "database"}, frozenset({5432, 8000})))
    return found


def pods_reach_what_they_need_and_no_more(documents: list[Document]) -> list[str]:
    """Both ends of each connection are open, and neither end of any other, so that a slip at one opens nothing."""
    policies = [document["spec"] for document in of_kind(documents, "NetworkPolicy")]
    wanted = flows(documents)
    ports = {port for flow in wanted for port in flow.ports or ()} | _ports_of(policies) | {ANOTHER_PORT}
    faults = []
    for source, source_labels in PODS.items():
        for target, target_labels in PODS.items():
            for port in sorted(ports):
                is_sent = _is_open(policies, "egress", "to", source_labels, target_labels, port)
                is_taken = _is_open(policies, "ingress", "from", target_labels, source_labels, port)
                if any(flow.covers(source_labels, target_labels, port) for flow in wanted):
                    if not (is_sent and is_taken):
                        faults.append(f"{source} cannot reach {target} on {port}")
                elif is_sent:
                    faults.append(f"{source} may call {target} on {port}")
                elif is_taken:
                    faults.append(f"{target} lets {source} in on {port}")
    return faults


def nothing_is_allowed_by_default(documents: list[Document]) -> list[str]:
    """One policy chooses every pod and allows nothing; another lets every pod ask for names."""
    policies = [policy["spec"] for policy in of_kind(documents, "NetworkPolicy")]
    denies = [
        policy
        for policy in policies
        if policy["podSelector"] == {}
        and set(policy["policyTypes"]) == {"Ingress", "Egress"}
        and not policy.get("ingress")
        and not policy.get("egress")
    ]
    names = [
        rule
        for policy in policies
        if policy["podSelector"] == {}
        for rule in policy.get("egress", [])
        if {(port["port"], port["protocol"]) for port in rule.get("ports", [])} == {(53, "UDP"), (53, "TCP")}
    ]
    faults = [] if denies else ["no policy denies by default"]
    return faults if names else [*faults, "no policy allows DNS"]


def ways_in_are_few(documents: list[Document]) -> list[str]:
    """From another namespace: the router, metrics, and operators to what is theirs. Nothing else."""
    faults = []
    for where, rule, peer in _peers(documents, "ingress", "from"):
        ports = {entry.get("port") for entry in rule.get("ports", [])}
        if peer is None:
            faults.append(f"{where}: lets everybody in")
        elif "ipBlock" in peer:
            faults.append(f"{where}: lets addresses in that no label names")
        elif "namespaceSelector" in peer:
            faults += [f"{where}: {fault}" for fault in _outside_faults(peer, ports)]
    return faults


def ways_out_are_few(documents: list[Document]) -> list[str]:
    """To the outside only TLS (and the API server, wherever it listens), and never to the cloud's metadata address."""
    faults = []
    for where, rule, peer in _peers(documents, "egress", "to"):
        ports = {entry.get("port") for entry in rule.get("ports", [])}
        if peer is None:
            faults.append(f"{where}: lets everything out")
        elif "ipBlock" in peer:
            if "169.254.0.0/16" not in peer["ipBlock"].get("except", []):
                faults.append(f"{where}: reaches the metadata address")
            wanted = WIDER_OUTSIDE.get(where, TLS)
            if ports != wanted:
                reached = sorted(map(str, ports)) or "every port"
                faults.append(f"{where}: reaches the outside on {reached}, not on {sorted(wanted)}")
        elif "namespaceSelector" in peer and ports != DNS:
            faults.append(f"{where}: reaches other namespaces for more than names")
    return faults


def _peers(
    documents: list[Document], direction: str, side: str
) -> Iterator[tuple[str, Document, Document | None]]:
    """Policy, rule and peer; None where a rule names no peer, which means everybody."""
    for policy in of_kind(documents, "NetworkPolicy"):
        for rule in policy["spec"].get(direction, []):
            for peer in rule.get(side) or [None]:
                yield name_of(policy), rule, peer


def _outside_faults(peer: Document, ports: set[int | None]) -> list[str]:
    labels: Mapping[str, str] = peer["namespaceSelector"].get("matchLabels", {})
    name, value = next(iter(labels.items())) if len(labels) == 1 else ("", "")
    allowed = (ALLOWED_FROM_OUTSIDE | ALLOWED_FROM_OPERATORS).get((name, value))
    if allowed is None:
        return [f"lets namespaces with {labels or 'any label'} in"]
    if (name, value) in ALLOWED_FROM_OPERATORS and not peer.get("podSelector"):
        return [f"lets every pod of {value} in"]
    if not ports or None in ports or not ports <= allowed:
        return [f"opens {sorted(map(str, ports)) or 'every port'} to namespaces with {labels}"]
    return []


def _is_open(
    policies: list[Document],
    direction: str,
    side: str,
    pod: Mapping[str, str],
    other: Mapping[str, str],
    port: int,
) -> bool:
    """Whether the policies of `pod` let it connect in this direction with `other`, of the same namespace."""
    of_pod = [
        policy
        for policy in policies
        if direction.title() in policy["policyTypes"] and selects(policy["podSelector"], pod)
    ]
    if not of_pod:
        return True
    return any(
        port in {entry.get("port", port) for entry in rule.get("ports") or [{}]}
        and any(_is_peer(peer, other) for peer in rule.get(side) or [{"podSelector": {}}])
        for policy in of_pod
        for rule in policy.get(direction) or []
    )


def _is_peer(peer: Document, pod: Mapping[str, str]) -> bool:
    """Whether a peer is this pod of the namespace; addresses and other namespaces are judged by other rules."""
    if "ipBlock" in peer or "namespaceSelector" in peer:
        return False
    return selects(peer["podSelector"], pod)


def _ports_of(policies: list[Document]) -> set[int]:
    return {
        entry["port"]
        for policy in policies
        for direction in ("ingress", "egress")
        for rule in policy.get(direction) or []
        for entry in rule.get("ports") or []
    }


RULES: tuple[Callable[[list[Document]], list[str]], ...] = (
    nothing_is_allowed_by_default,
    pods_reach_what_they_need_and_no_more,
    ways_in_are_few,
    ways_out_are_few,
)
