"""What every pod and object must keep to. A rule takes rendered documents and returns its faults, one line each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from manifests import Document, Pod, name_of, of_kind, pods, quantity, ray_clusters, ray_jobs

# Made by hand, never from a file (k8s/README.md has the commands).
SECRETS = {"hamlet-secrets", "hamlet-ray-token", "hamlet-object-storage", "hamlet-tls"}

# What each store is given its key or password by.
KEYS = {
    "vectors": "QDRANT__SERVICE__API_KEY",
    "database": "POSTGRES_PASSWORD",
    "head-state": "REDIS_PASSWORD",
}

# Components that a question passes through.
ANSWERING = {"serving", "vectors", "database", "head-state"}

_SECRET_NAME = re.compile(r"PASSWORD|SECRET|TOKEN|API_KEY|ACCESS_KEY|DATABASE_URL")
_CREDENTIALS_IN_URL = re.compile(r"://[^/\s:@]+:[^/\s@]+@")


def images_are_pinned(documents: list[Document]) -> list[str]:
    """Every image has a tag that says which version it is, or a digest."""
    return [
        f"{pod.where}: image {container['image']} is not pinned"
        for pod in pods(documents)
        for container in pod.containers
        if not re.search(r":(?!latest$)[\w.-]*\d[\w.-]*$|@sha256:[0-9a-f]{64}$", container["image"])
    ]


def resources_are_bounded(documents: list[Document]) -> list[str]:
    """Each container has CPU and memory limits, no request exceeds its limit, and memory is never overcommitted."""
    faults = []
    for where, resources in _resources(documents):
        requests, limits = resources.get("requests", {}), resources.get("limits", {})
        faults += [f"{where}: no {name} limit" for name in ("cpu", "memory") if name not in limits]
        for name in requests.keys() & limits.keys():
            if quantity(requests[name]) > quantity(limits[name]):
                faults.append(f"{where}: {name} request {requests[name]} exceeds limit {limits[name]}")
        if requests.get("memory") != limits.get("memory"):
            faults.append(
                f"{where}: memory request {requests.get('memory')} is not the limit {limits.get('memory')}"
            )
    return faults


def pods_have_no_privilege(documents: list[Document]) -> list[str]:
    """The restricted pod security standard, for pods that Ray's operator makes as well."""
    faults = []
    for pod in pods(documents):
        context = pod.spec.get("securityContext", {})
        if context.get("runAsNonRoot") is not True or context.get("runAsUser") == 0:
            faults.append(f"{pod.where}: may run as root")
        if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            faults.append(f"{pod.where}: no seccomp profile")
        faults += [
            f"{pod.where}: {key}" for key in ("hostNetwork", "hostPID", "hostIPC") if pod.spec.get(key)
        ]
        faults += [
            f"{pod.where}: mounts a folder of its node"
            for volume in pod.spec.get("volumes", [])
            if "hostPath" in volume
        ]
    for where, context in _security_contexts(documents):
        if context.get("allowPrivilegeEscalation") is not False or context.get("privileged"):
            faults.append(f"{where}: may gain privileges")
        capabilities = context.get("capabilities", {})
        if capabilities.get("drop") != ["ALL"] or capabilities.get("add"):
            faults.append(f"{where}: keeps capabilities")
    return faults


def secrets_are_references(documents: list[Document]) -> list[str]:
    """No value of a secret stands in a manifest, and every reference is to a documented Secret."""
    faults = [f"{name_of(document)}: a Secret in a file" for document in of_kind(documents, "Secret")]
    for pod in pods(documents):
        for container in pod.containers:
            for variable in container.get("env", []):
                faults += _variable_faults(f"{pod.where} {variable['name']}", variable)
            for source in container.get("envFrom", []):
                name = source.get("secretRef", {}).get("name")
                if name is not None and name not in SECRETS:
                    faults.append(f"{pod.where}: unknown Secret {name}")
    for document in of_kind(documents, "ConfigMap"):
        faults += [
            f"{name_of(document)} {key}: the value of a secret"
            for key, value in document.get("data", {}).items()
            if _SECRET_NAME.search(key) or _CREDENTIALS_IN_URL.search(value)
        ]
    for where, cluster in ray_clusters(documents):
        password = cluster.get("gcsFaultToleranceOptions", {}).get("redisPassword", {})
        if "value" in password:
            faults.append(f"{where} redisPassword: the value of a secret")
    return faults


def stores_ask_for_a_key(documents: list[Document]) -> list[str]:
    """Each store has its key or password; Redis takes it from its command line alone."""
    faults = []
    for pod in pods(documents):
        key = KEYS.get(pod.labels.get("app.kubernetes.io/component", ""))
        given = {variable["name"] for container in pod.containers for variable in container.get("env", [])}
        is_redis_open = key == "REDIS_PASSWORD" and '--requirepass "$REDIS_PASSWORD"' not in str(pod.spec)
        if key is not None and (key not in given or is_redis_open):
            faults.append(f"{pod.where}: answers whoever reaches it")
    return faults


def references_resolve(documents: list[Document]) -> list[str]:
    """ConfigMaps and claims that pods name exist, as do named ports of probes and Services, and clusters of jobs."""
    configs = {document["metadata"]["name"] for document in of_kind(documents, "ConfigMap")}
    claims = {document["metadata"]["name"] for document in of_kind(documents, "PersistentVolumeClaim")}
    faults = []
    for pod in pods(documents):
        for container in pod.containers:
            sources = [source.get("configMapRef", {}).get("name") for source in container.get("envFrom", [])]
            faults += [
                f"{pod.where}: no ConfigMap {name}" for name in sources if name and name not in configs
            ]
            faults += _probe_faults(pod.where, container)
        for volume in pod.spec.get("volumes", []):
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            if claim and claim not in claims:
                faults.append(f"{pod.where}: no claim {claim}")
    clusters = {document["metadata"]["name"] for document in of_kind(documents, "RayCluster")}
    for where, job in ray_jobs(documents):
        selector = job.get("clusterSelector")
        if selector is not None and selector.get("ray.io/cluster") not in clusters:
            faults.append(f"{where}: no cluster {selector}")
    return faults + _service_faults(documents)


def stores_are_not_doubled(documents: list[Document]) -> list[str]:
    """Whoever keeps files is a StatefulSet with a volume for each pod: no two processes on the same files.

    Several vector servers are one cluster, hold each shard more than once, lie on different nodes, and start together.
    """
    faults = [
        f"{pod.where}: a rolling update would open its claim twice"
        for pod in pods(of_kind(documents, "Deployment"))
        if any("persistentVolumeClaim" in volume for volume in pod.spec.get("volumes", []))
    ]
    for document in of_kind(documents, "StatefulSet"):
        spec, where = document["spec"], name_of(document)
        if not spec.get("volumeClaimTemplates"):
            faults.append(f"{where}: no volume of its own for each pod")
        if spec["replicas"] > 1:
            faults += _replica_faults(where, documents, Pod(where, spec["template"]))
            # A Qdrant server that knows of others is ready when it has caught up with most of them.
            if spec.get("podManagementPolicy") != "Parallel":
                faults.append(f"{where}: the first pod waits for those that are started after it")
    return faults


def _replica_faults(where: str, documents: list[Document], pod: Pod) -> list[str]:
    env = {entry["name"]: entry.get("value") for entry in pod.spec["containers"][0].get("env", [])}
    faults = []
    if env.get("QDRANT__CLUSTER__ENABLED") != "true":
        faults.append(f"{where}: several copies that do not know each other")
    if int(env.get("QDRANT__STORAGE__COLLECTION__REPLICATION_FACTOR") or 1) < 2:
        faults.append(f"{where}: each shard has a single copy")
    affinity = pod.spec.get("affinity", {}).get("podAntiAffinity", {})
    if not affinity.get("requiredDuringSchedulingIgnoredDuringExecution"):
        faults.append(f"{where}: copies may lie on one node")
    budgets = [budget["spec"]["selector"] for budget in of_kind(documents, "PodDisruptionBudget")]
    if not any(selects(selector, pod.labels) for selector in budgets):
        faults.append(f"{where}: no PodDisruptionBudget")
    return faults


def who_answers_goes_first(documents: list[Document]) -> list[str]:
    """Where nodes are short, what answers and what answers need stay, and jobs go."""
    classes = {document["metadata"]["name"] for document in of_kind(documents, "PriorityClass")}
    return [
        f"{pod.where}: priority class {name}"
        for pod in pods(documents)
        if pod.labels.get("app.kubernetes.io/component") in ANSWERING
        if (name := pod.spec.get("priorityClassName")) != "hamlet-serving" or name not in classes
    ]


def selects(selector: Document, labels: Mapping[str, str]) -> bool:
    """Whether a selector chooses a pod with these labels."""
    expressions = selector.get("matchExpressions", [])
    assert all(expression["operator"] == "In" for expression in expressions), "no other is used here"
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(expression["key"]) in expression["values"] for expression in expressions
    )


def _resources(documents: list[Document]) -> Iterator[tuple[str, Document]]:
    for pod in pods(documents):
        for container in pod.containers:
            yield f"{pod.where} {container['name']}", container.get("resources", {})
    for where, options in _autoscalers(documents):
        yield where, options.get("resources", {})


def _security_contexts(documents: list[Document]) -> Iterator[tuple[str, Document]]:
    for pod in pods(documents):
        for container in pod.containers:
            yield f"{pod.where} {container['name']}", container.get("securityContext", {})
    for where, options in _autoscalers(documents):
        yield where, options.get("securityContext", {})


def _autoscalers(documents: list[Document]) -> Iterator[tuple[str, Document]]:
    """The container that the operator puts beside the head."""
    for where, cluster in ray_clusters(documents):
        if cluster.get("enableInTreeAutoscaling"):
            yield f"{where} autoscaler", cluster.get("autoscalerOptions", {})


def _variable_faults(where: str, variable: Document) -> list[str]:
    reference = variable.get("valueFrom", {}).get("secretKeyRef")
    if reference is not None:
        return [] if reference["name"] in SECRETS else [f"{where}: unknown Secret {reference['name']}"]
    value = str(variable.get("value", ""))
    if _SECRET_NAME.search(variable["name"]) or _CREDENTIALS_IN_URL.search(value):
        return [f"{where}: the value of a secret"]
    return []


def _probe_faults(where: str, container: Document) -> list[str]:
    ports = {port["name"] for port in container.get("ports", [])}
    faults = []
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = container.get(kind, {})
        target = (probe.get("httpGet") or probe.get("tcpSocket") or {}).get("port")
        if target is not None and target not in ports:
            faults.append(f"{where} {container['name']}: {kind} asks {target}, which is no port of it")
        if re.search(r"\b(wget|curl)\b", str(probe.get("exec", ""))):
            faults.append(f"{where} {container['name']}: {kind} needs wget or curl")
    return faults


def _service_faults(documents: list[Document]) -> list[str]:
    everything = [*pods(documents)]
    faults = []
    for document in of_kind(documents, "Service"):
        selector = {"matchLabels": document["spec"]["selector"]}
        chosen = [pod for pod in everything if selects(selector, pod.labels)]
        ports = {
            port["name"]
            for pod in chosen
            for container in pod.containers
            for port in container.get("ports", [])
        }
        faults += [
            f"{name_of(document)}: no pod has port {port['targetPort']}"
            for port in document["spec"]["ports"]
            if port["targetPort"] not in ports
        ]
    return faults


RULES = (
    images_are_pinned,
    resources_are_bounded,
    pods_have_no_privilege,
    secrets_are_references,
    stores_ask_for_a_key,
    references_resolve,
    stores_are_not_doubled,
    who_answers_goes_first,
)
