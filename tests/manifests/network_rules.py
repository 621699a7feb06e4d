"""Who may connect to whom: what the NetworkPolicies let through, and what they must not."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from manifests import Document, name_of, of_kind

# From other namespaces, and so from outside. Ports by the label that somebody must put on the namespace.
ALLOWED_FROM_OUTSIDE = {
    "hamlet/clients": {8000},
    "hamlet/monitoring": {8080, 44217, 6333},
    "kubernetes.io/metadata.name": {8265},  # the operator's namespace, and there only its own pods
}

# To the outside, for whoever is not named here. The API server listens on 443 of its Service, and itself on 6443
# (kubeadm, kind, k3s) or 8443 (minikube).
TLS = {443}
WIDER_OUTSIDE = {"NetworkPolicy/autoscaler-to-kubernetes": {443, 6443, 8443}}


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
    """From another namespace: the router, metrics, and the operator to the dashboard. Nothing else."""
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
    labels = peer["namespaceSelector"].get("matchLabels", {})
    if len(labels) != 1 or (label := next(iter(labels))) not in ALLOWED_FROM_OUTSIDE:
        return [f"lets namespaces with {labels or 'any label'} in"]
    if label == "kubernetes.io/metadata.name" and "podSelector" not in peer:
        return [f"lets every pod of {labels[label]} in"]
    if not ports or None in ports or not ports <= ALLOWED_FROM_OUTSIDE[label]:
        return [f"opens {sorted(map(str, ports)) or 'every port'} to namespaces with {labels}"]
    return []


RULES: tuple[Callable[[list[Document]], list[str]], ...] = (
    nothing_is_allowed_by_default,
    ways_in_are_few,
    ways_out_are_few,
)
