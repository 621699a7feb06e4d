"""The commands of the documentation name what is there: objects, containers, folders, groups and labels."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from decimal import Decimal

import pytest
from job_rules import KNOWN_SETTINGS
from manifests import (
    JOBS,
    OVERLAYS,
    REPOSITORY,
    Document,
    Pod,
    name_of,
    of_kind,
    pods,
    quantity,
    ray_clusters,
    ray_groups,
)

Rendered = Callable[[str], list[Document]]

FILES = ("k8s/README.md", "docs/operations.md")
SHORT = {
    "statefulset": "StatefulSet",
    "service": "Service",
    "cronjob": "CronJob",
    "rayservice": "RayService",
    "raycluster": "RayCluster",
    "rayjob": "RayJob",
    "raycronjob": "RayCronJob",
}
_BLOCK = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
_NAMED = re.compile(rf"\b({'|'.join(SHORT)})[ /]([a-z][a-z0-9-]*)")
_LABELS = re.compile(r"(?:-l|--selector) (\S+)")
_PATCH = re.compile(r"patch (\w+) ([\w-]+) --type json -p '(.*?)'", re.DOTALL)
_USED = re.compile(r"\$\{?([A-Za-z_]\w*)")
_SET = re.compile(r"(?:^|[ \n])([A-Za-z_]\w*)=")
# What returns before it is done, what comes too early behind it, and what stands between them where it is waited for.
_RACES = (
    (r"port-forward .*&", r"\b(?:curl|ray job submit)\b", r"until curl|curl .*--retry-connrefused"),
    (r"create -k", r"logs --follow", r"wait .*RUNNING"),
    (r"create -k", r"delete -k", r"wait .*SUCCEEDED"),
)


@pytest.fixture
def everything(rendered: Rendered) -> list[Document]:
    return [document for target in (*OVERLAYS, *JOBS) for document in rendered(target)]


def blocks(file: str) -> str:
    return "\n".join(_BLOCK.findall((REPOSITORY / file).read_text()))


def objects(documents: list[Document]) -> set[str]:
    """Names of all objects, with the Services that the operator makes for its own."""
    names = {name_of(document) for document in documents}
    for kind, suffix in (("RayService", "serve-svc"), ("RayService", "head-svc"), ("RayCluster", "head-svc")):
        names |= {
            f"Service/{name.split('/')[1]}-{suffix}" for name in set(names) if name.startswith(f"{kind}/")
        }
    return names


def unknown_objects(text: str, documents: list[Document]) -> list[str]:
    found = {f"{SHORT[kind]}/{name}" for kind, name in _NAMED.findall(text)}
    return sorted(found - objects(documents))


def unknown_labels(text: str, documents: list[Document]) -> list[str]:
    """Selectors that choose no pod; the operator and Kubernetes add the labels below to those of the templates."""
    pods = [
        {**group.pod.labels, "ray.io/cluster": group.where.split(" ")[0].split("/")[1]}
        for group in ray_groups(documents)
    ]
    pods += [
        {"batch.kubernetes.io/job-name": name.split("/")[1]}
        for name in objects(documents)
        if name.startswith("RayJob/")
    ]
    return [
        selector
        for selector in _LABELS.findall(text)
        if not any(
            dict(pair.split("=") for pair in selector.split(",")).items() <= pod.items() for pod in pods
        )
    ]


def unknown_paths(text: str, documents: list[Document]) -> Iterator[str]:
    """Paths of JSON patches that lead to no field; the last step may be new where it is added."""
    by_name = {name_of(document): document for document in documents}
    for kind, name, patch in _PATCH.findall(text):
        for path in re.findall(r'"path": "([^"]+)"', patch):
            node = by_name[f"{SHORT[kind]}/{name}"]
            *steps, leaf = [step.replace("~1", "/") for step in path.strip("/").split("/")]
            try:
                for step in steps:
                    node = node[int(step)] if isinstance(node, list) else node[step]
            except (KeyError, IndexError):
                yield f"{kind} {name} {path}"
                continue
            if leaf not in node and '"op": "add"' not in patch:
                yield f"{kind} {name} {path}"


def unset_variables(text: str) -> set[str]:
    """Variables that no command sets; those of Hamlet's are the pods'."""
    return set(_USED.findall(text)) - set(_SET.findall(text)) - KNOWN_SETTINGS


def races(text: str) -> list[str]:
    """Blocks that one paste runs, of which a command does not wait for what it needs."""
    return [
        f"{early} follows {started}"
        for block in _BLOCK.findall(text)
        for started, early, guard in _RACES
        if re.search(f"{started}.*{early}", block, re.DOTALL) and not re.search(guard, block)
    ]


@pytest.mark.parametrize("file", FILES)
def test_objects_named_in_commands_are_rendered(file: str, everything: list[Document]) -> None:
    text = blocks(file)
    assert _NAMED.search(text)
    assert unknown_objects(text, everything) == []
    assert unknown_labels(text, everything) == []
    # The GPU overlays come last, so that their second worker group is there.
    assert list(unknown_paths(text, everything)) == []


@pytest.mark.parametrize("file", FILES)
def test_files_and_folders_in_commands_are_there(file: str) -> None:
    paths = re.findall(r"(?:-k|-f|--values) (k8s/\S+)", blocks(file))
    paths += re.findall(r"\b(examples/[\w./-]+)", blocks(file))
    assert paths
    assert [path for path in paths if not (REPOSITORY / path).exists()] == []


def test_the_table_lists_every_object_that_the_overlays_schedule(everything: list[Document]) -> None:
    readme = (REPOSITORY / "k8s/README.md").read_text()
    kinds = {"RayService", "RayCluster", "RayJob", "RayCronJob", "CronJob"}
    names = {document["metadata"]["name"] for document in everything if document["kind"] in kinds}
    assert {name for name in names if f"| `{name}` |" not in readme} == set()


def test_every_secret_key_that_pods_read_is_made_by_the_commands(everything: list[Document]) -> None:
    text = blocks("k8s/README.md")
    keys = set(re.findall(r"'secretKeyRef': {'name': 'hamlet-secrets', 'key': '([\w-]+)'", str(everything)))
    keys |= set(re.findall(r"'secretKeyRef': {'key': '([\w-]+)', 'name': 'hamlet-secrets'", str(everything)))
    assert {"database-url", "qdrant-api-key", "redis-password"} <= keys
    assert {key for key in keys if f"--from-literal={key}=" not in text} == set()


def test_the_node_that_is_asked_for_holds_serving_and_one_job(rendered: Rendered) -> None:
    standing = rendered("k8s/overlays/cpu-dev")
    ingestion = [*ray_groups(of_kind(standing, "RayCluster"))][-1].pod
    finetuning = of_kind(rendered("k8s/jobs/finetune"), "RayJob")
    for name, resource, unit in (("free CPUs", "cpu", 1), ("GiB", "memory", 2**30)):
        job = max(requests_of(ingestion, resource), requested(finetuning, resource))
        needed = requested(standing, resource) + job
        asked = re.search(rf"(\d+) {name}", (REPOSITORY / "k8s/README.md").read_text())
        assert asked is not None
        assert needed / unit <= int(asked[1]) < needed / unit + 2


def requested(documents: list[Document], resource: str) -> Decimal:
    """What runs at all times: databases, heads with their autoscalers, least workers, and submitters of RayJobs."""
    always = [*pods(of_kind(documents, "StatefulSet"))]
    for document in of_kind(documents, "RayJob"):
        always.append(Pod(name_of(document), document["spec"]["submitterPodTemplate"]))
    for group in ray_groups(documents):
        always += [group.pod] * (1 if group.is_head else group.spec["minReplicas"])
    autoscalers = [
        quantity(cluster["autoscalerOptions"]["resources"]["requests"][resource])
        for _, cluster in ray_clusters(documents)
        if cluster["enableInTreeAutoscaling"]
    ]
    return sum((requests_of(pod, resource) for pod in always), start=sum(autoscalers, start=Decimal(0)))


def requests_of(pod: Pod, resource: str) -> Decimal:
    return sum(
        (quantity(container["resources"]["requests"][resource]) for container in pod.containers),
        start=Decimal(0),
    )


@pytest.mark.parametrize("file", FILES)
def test_commands_are_whole(file: str) -> None:
    for block in _BLOCK.findall((REPOSITORY / file).read_text()):
        assert shlex.split(block, comments=True), block


@pytest.mark.parametrize("file", FILES)
def test_commands_set_their_variables_and_wait_for_each_other(file: str) -> None:
    assert unset_variables(blocks(file)) == set()
    assert races((REPOSITORY / file).read_text()) == []


def test_commands_that_do_not_wait_are_found() -> None:
    followed = "kubectl create -k k8s/jobs/finetune\nkubectl logs --follow --selector a=b"
    forwarded = "kubectl port-forward service/a 8000 &\ncurl -s http://127.0.0.1:8000/"
    for early in (followed, forwarded, "kubectl create -k a\nkubectl delete -k a"):
        assert len(races(f"```bash\n{early}\n```\n")) == 1, early
    assert unset_variables('a=$(b)\nhelm repo add c "$CHARTS/$a"') == {"CHARTS"}


@pytest.mark.parametrize(
    ("old", "new", "check"),
    [
        ("wait rayservice/hamlet ", "wait rayservice/hamlets ", unknown_objects),
        ("service/hamlet-serve-svc", "service/hamlet-serve", unknown_objects),
        ("ray.io/cluster=hamlet-jobs", "ray.io/cluster=jobs", unknown_labels),
        ("workerGroupSpecs/1/maxReplicas", "workerGroupSpecs/2/maxReplicas", unknown_paths),
        ("workerGroupSpecs/0/minReplicas", "workerGroupSpecs/0/least", unknown_paths),
    ],
)
def test_a_name_that_is_not_there_is_found(
    old: str, new: str, check: Callable[[str, list[Document]], object], everything: list[Document]
) -> None:
    text = blocks("k8s/README.md")
    assert old in text
    assert list(check(text.replace(old, new), everything))
