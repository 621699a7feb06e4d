"""What Ray's clusters must keep to, as rules from rendered documents to faults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

from manifests import Document, Group, name_of, of_kind, pods, quantity, ray_clusters, ray_groups


@dataclass(frozen=True)
class Versions:
    """The one version of each thing, as pyproject.toml has them."""

    hamlet: str
    ray: str
    python: str


def versions_agree(documents: list[Document], versions: Versions) -> list[str]:
    """rayVersion and the tags of our images carry the versions of pyproject.toml."""
    tag = f"{versions.hamlet}-ray{versions.ray}-py{versions.python}-"
    faults = [
        f"{where}: rayVersion {cluster['rayVersion']}, pyproject.toml has {versions.ray}"
        for where, cluster in ray_clusters(documents)
        if cluster["rayVersion"] != versions.ray
    ]
    ours = [
        (pod.where, container["image"])
        for pod in pods(documents)
        for container in pod.containers
        if container["image"].split(":")[0].endswith("hamlet")
    ]
    faults += [
        f"{where}: image {image}, expected the tag {tag}cpu or {tag}cuda"
        for where, image in ours
        if image.split(":")[-1] not in (f"{tag}cpu", f"{tag}cuda")
    ]
    if len({image for _, image in ours}) > 1:
        faults.append(f"several images of ours in one cluster: {sorted({image for _, image in ours})}")
    return faults


def object_store_fits(documents: list[Document]) -> list[str]:
    """Object store <= /dev/shm <= memory limit: beyond, Ray falls back to disk or the pod is killed."""
    faults = []
    for group in ray_groups(documents):
        store = Decimal(group.start_params.get("object-store-memory", "0"))
        shm = _shm_bytes(group)
        memory = quantity(group.container["resources"]["limits"]["memory"])
        if store == 0 or shm is None:
            faults.append(f"{group.where}: object store and /dev/shm are not both given a size")
        elif not store <= shm <= memory:
            faults.append(f"{group.where}: not object store {store} <= shm {shm} <= memory limit {memory}")
    return faults


def gpus_agree(documents: list[Document]) -> list[str]:
    """What Ray hands out is what the pod has; only GPU groups tolerate GPU nodes."""
    faults = []
    for group in ray_groups(documents):
        limit = str(group.container["resources"].get("limits", {}).get("nvidia.com/gpu", "0"))
        announced = group.start_params.get("num-gpus", "0")
        if limit != announced:
            faults.append(f"{group.where}: num-gpus {announced}, nvidia.com/gpu limit {limit}")
        tolerated = {entry["key"] for entry in group.pod.spec.get("tolerations", [])}
        if tolerated != ({"nvidia.com/gpu"} if limit != "0" else set()):
            faults.append(f"{group.where}: tolerates {sorted(tolerated)} with {limit} GPUs")
    return faults


def clusters_are_closed_and_scale(documents: list[Document]) -> list[str]:
    """Token on, nothing scheduled on the head, tini first, workers of idle clusters go, GPU nodes always do."""
    faults = []
    for where, cluster in ray_clusters(documents):
        auth = cluster.get("authOptions", {})
        if auth.get("mode") != "token" or not auth.get("secretName"):
            faults.append(f"{where}: the jobs API asks for no token")
        if cluster.get("enableInTreeAutoscaling") and cluster["autoscalerOptions"].get("version") != "v2":
            faults.append(f"{where}: autoscaler is not v2")
        for worker in cluster["workerGroupSpecs"]:
            floor = worker["minReplicas"]
            is_idle_at_times = where.startswith("RayCluster/") or "num-gpus" in worker["rayStartParams"]
            if cluster.get("enableInTreeAutoscaling") and is_idle_at_times and floor > 0:
                faults.append(f"{where} {worker['groupName']}: never scales to zero")
            if not floor <= worker["replicas"] <= worker["maxReplicas"]:
                faults.append(f"{where} {worker['groupName']}: replicas are outside their bounds")
    for group in ray_groups(documents):
        if group.is_head and group.start_params.get("num-cpus") != "0":
            faults.append(f"{group.where}: work may run on the head")
        overwritten = group.spec["template"]["metadata"].get("annotations", {})
        is_kept = overwritten.get("ray.io/overwrite-container-cmd") == "true"
        if group.container.get("command", [])[:1] != ["tini"] or not is_kept:
            faults.append(f"{group.where}: nothing reaps what finished jobs leave")
    return faults


def heads_are_recovered(documents: list[Document]) -> list[str]:
    """Where head state is kept at all, it is kept for every cluster that lives on, under a password."""
    if not any(name_of(document) == "StatefulSet/redis" for document in documents):
        return []
    faults = []
    for where, cluster in ray_clusters(documents):
        options = cluster.get("gcsFaultToleranceOptions", {})
        if not options.get("redisAddress"):
            faults.append(f"{where}: a lost head loses its applications and jobs")
        elif "secretKeyRef" not in options.get("redisPassword", {}).get("valueFrom", {}):
            faults.append(f"{where}: its state is open to whoever reaches Redis")
    return faults


def logs_fit_their_volume(documents: list[Document]) -> list[str]:
    """Logs rotate, and those of one process take at most a twentieth of the volume: full, it evicts the pod."""
    [settings] = [
        document["data"]
        for document in of_kind(documents, "ConfigMap")
        if document["metadata"]["name"] == "hamlet-settings"
    ]
    kept = 1 + int(settings.get("RAY_ROTATION_BACKUP_COUNT", 5))
    of_a_process = int(settings.get("RAY_ROTATION_MAX_BYTES", 512 * 2**20)) * kept
    return [
        f"{group.where}: {of_a_process} bytes of logs of each process in a volume of {volume['emptyDir']['sizeLimit']}"
        for group in ray_groups(documents)
        for volume in group.pod.spec["volumes"]
        if volume["name"] == "ray-logs"
        if 20 * of_a_process > quantity(volume["emptyDir"]["sizeLimit"])
    ]


def _shm_bytes(group: Group) -> Decimal | None:
    mounts = {mount["mountPath"]: mount["name"] for mount in group.container.get("volumeMounts", [])}
    for volume in group.pod.spec.get("volumes", []):
        memory = volume.get("emptyDir", {})
        if volume["name"] == mounts.get("/dev/shm") and memory.get("medium") == "Memory":
            return quantity(memory["sizeLimit"])
    return None


RULES: tuple[Callable[[list[Document]], list[str]], ...] = (
    object_store_fits,
    gpus_agree,
    clusters_are_closed_and_scale,
    heads_are_recovered,
    logs_fit_their_volume,
)
