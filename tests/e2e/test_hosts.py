"""A head and two workers on hosts of their own: jobs from outside, and what is lost when a host is.

What was seen, with its seconds, stands in docs/log.md. A worker's host is lost in the soak alone: it takes ten minutes.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from safetensors.torch import load_file
from several_hosts import REPOSITORY, SeveralHosts, missing_parts, wait_for
from strangers import answers_to_a_stranger

from training.checkpoints import newest_complete

pytestmark = pytest.mark.skipif(missing_parts() is not None, reason=str(missing_parts()))

SERVE_PORT = 8000
# Long enough to lose a host and to get it back; Ray Train looks for room for more workers every minute.
ELASTIC = ("scaling.min_workers=1", "data.limit=400", "epochs=8")
TRAINING_DEADLINE_S = 240.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[SeveralHosts]:
    """The whole cluster, for all tests of this file; each leaves it with all its hosts."""
    hosts = SeveralHosts(Path(tempfile.mkdtemp(prefix="hm-")))
    try:
        hosts.start()
        yield hosts
    finally:
        hosts.stop()
        shutil.rmtree(hosts.folder, ignore_errors=True)


def test_a_job_from_outside_needs_the_token(cluster: SeveralHosts) -> None:
    submit = ["ray", "job", "submit", "--submission-id"]
    entrypoint = ["--", "python", "-c", "print('it', 'ran')"]
    answer = cluster.client(*submit, "with-token", *entrypoint)
    assert answer.returncode == 0, answer.stderr
    assert "it ran" in answer.stdout
    for name, variables in {
        "without-token": {"RAY_AUTH_MODE": "disabled"},
        "wrong-token": {"RAY_AUTH_TOKEN": "0" * 64},
    }.items():
        environment = cluster.client_environment() | variables
        refused = cluster.client(*submit, name, *entrypoint, environment=environment)
        assert refused.returncode != 0
        assert "it ran" not in refused.stdout
    listed = cluster.client("python", "-m", "cluster", "status").stdout
    assert "with-token  SUCCEEDED" in listed
    assert "without-token" not in listed
    assert "wrong-token" not in listed


def test_every_command_works_from_a_worker_and_names_all_hosts(cluster: SeveralHosts) -> None:
    worker = cluster.workers[0]
    environment = cluster.environment(worker) | {"RAY_ADDRESS": f"{cluster.head.address}:6379"}
    told = worker.run(["python", "-m", "cluster", "status"], environment, REPOSITORY)
    assert cluster.dashboard_url in told
    for host in (cluster.head, *cluster.workers):
        assert f"{host.address}  ALIVE" in told
    for command in (
        "from cluster.connection import dashboard_url as ask",
        "from cluster.connection import connect as ask",
    ):
        wrong = environment | {"RAY_AUTH_TOKEN": "0" * 64}
        refused = worker.run(["bash", "-c", f"! python -c '{command}; ask()'"], wrong, REPOSITORY)
        assert "or it refuses our token" in refused


def test_no_port_of_ray_answers_a_stranger(cluster: SeveralHosts) -> None:
    for host in (cluster.head, *cluster.workers):
        ports = host.ports()
        assert ports
        assert answers_to_a_stranger(host.address, ports) == {}


@pytest.fixture
def config(cluster: SeveralHosts) -> Path:
    """A run of two workers, one on each host: MiniLM on 64 pairs, ZeRO 2, float32."""
    folder = cluster.folder / "run"
    folder.mkdir(exist_ok=True)
    for name in ("train", "test"):
        shutil.copy(REPOSITORY / f"examples/paraphrase/{name}.tsv", folder)
    values = {
        "name": "hosts",
        "task": "classification",
        "model": "builtin:minilm",
        "data": {"path": f"{folder}/train.tsv", "validation_path": f"{folder}/test.tsv", "limit": 64},
        "epochs": 3,
        "learning_rate": 1e-4,
        "precision": "float32",
        "max_length_tokens": 64,
        "checkpoint_every_steps": 4,
        "batch": {"micro_batch_size_per_gpu": 4},
        "scaling": {"num_workers": 2, "zero_stage": 2},
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def submit_run(cluster: SeveralHosts, name: str, config: Path, *overrides: str) -> None:
    """Submit a training run from outside, without waiting for it."""
    training = ["python", "-m", "training", "run", str(config), "--run", name, *overrides]
    options = ["--no-wait", "--submission-id", name, "--working-dir", str(REPOSITORY)]
    answer = cluster.client("ray", "job", "submit", *options, "--", *training)
    assert answer.returncode == 0, answer.stderr


def job_status(cluster: SeveralHosts, name: str) -> str:
    try:
        return str(jobs_api(cluster, f"/api/jobs/{name}").json()["status"])
    except httpx.HTTPError:
        return "UNKNOWN"  # the head is busy or away


def jobs_api(cluster: SeveralHosts, path: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {cluster.token_path.read_text()}"}
    return httpx.get(cluster.dashboard_url + path, headers=headers, timeout=10)


def weights_of(cluster: SeveralHosts, name: str) -> tuple[dict[str, Any], str]:
    """The weights of a run at its end, and its log."""
    ends = ("SUCCEEDED", "FAILED", "STOPPED")
    wait_for(lambda: job_status(cluster, name) in ends, f"the end of {name}", TRAINING_DEADLINE_S)
    log = jobs_api(cluster, f"/api/jobs/{name}/logs").json()["logs"]
    print(log)  # noqa: T201  (pytest shows it with -rP)
    assert job_status(cluster, name) == "SUCCEEDED", log
    found = re.search(r"weights\s+(\S+)", log)
    assert found
    return dict(load_file(Path(found[1]) / "model.safetensors")), log


def world_size(cluster: SeveralHosts, name: str) -> int:
    """Of how many workers the newest checkpoint of a run is."""
    newest, _ = newest_complete(str(cluster.folder / "storage" / "runs" / name))
    return newest.marker.world_size if newest else 0


def wait_for_checkpoint(cluster: SeveralHosts, name: str) -> None:
    run = str(cluster.folder / "storage" / "runs" / name)
    wait_for(lambda: newest_complete(run)[0] is not None, f"a checkpoint of {name}", TRAINING_DEADLINE_S)


@pytest.mark.soak
def test_a_run_whose_host_is_lost_and_replaced_ends_in_the_same_weights(
    cluster: SeveralHosts, config: Path
) -> None:
    submit_run(cluster, "undisturbed", config)
    expected, _ = weights_of(cluster, "undisturbed")

    submit_run(cluster, "disturbed", config)
    wait_for_checkpoint(cluster, "disturbed")
    lost = cluster.workers[1]
    lost.kill()
    began = time.monotonic()
    cluster.replace(lost)
    weights, log = weights_of(cluster, "disturbed")
    print(f"lost to end: {time.monotonic() - began:.0f} s")  # noqa: T201
    assert "resumed after epoch" in log
    assert weights.keys() == expected.keys()
    assert all(weight.equal(expected[name]) for name, weight in weights.items())


@pytest.mark.soak
def test_an_elastic_run_goes_on_without_a_host_that_is_cut_off_and_uses_it_when_it_is_back(
    cluster: SeveralHosts, config: Path
) -> None:
    submit_run(cluster, "elastic", config, *ELASTIC)
    wait_for_checkpoint(cluster, "elastic")
    cluster.workers[1].cut()
    began = time.monotonic()
    wait_for(lambda: world_size(cluster, "elastic") == 1, "a checkpoint of one worker", TRAINING_DEADLINE_S)
    alone_s = time.monotonic() - began
    cluster.workers[1].mend()
    # Ray has given the host up and ends its node there; whoever watches `join` starts it again.
    cluster.wait_for_nodes(3)
    joined_s = time.monotonic() - began
    wait_for(lambda: world_size(cluster, "elastic") == 2, "a checkpoint of two workers", TRAINING_DEADLINE_S)
    both_s = time.monotonic() - began
    print(f"cut off: one worker after {alone_s:.0f} s, joined {joined_s:.0f} s, two {both_s:.0f} s")  # noqa: T201
    _, log = weights_of(cluster, "elastic")
    assert "resumed after epoch" in log


@dataclass
class Outage:
    """What a client saw: seconds between the first failed answer and the last, and how many failed of how many."""

    seconds: float
    num_failed: int
    num_asked: int


class Client:
    """Asks for an embedding five times a second, from a thread, until `stop`."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._answers: list[tuple[float, bool]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> Outage:
        self._stop.set()
        self._thread.join(30)
        failed = [at for at, is_right in self._answers if not is_right]
        return Outage(failed[-1] - failed[0] if failed else 0.0, len(failed), len(self._answers))

    def answers_well(self, count: int = 10) -> bool:
        """Whether the last answers were all right."""
        last = self._answers[-count:]
        return len(last) == count and all(is_right for _, is_right in last)

    def forget(self) -> None:
        self._answers.clear()

    def _run(self) -> None:
        while not self._stop.wait(0.2):
            at = time.monotonic()
            self._answers.append((at, embeds(self._url)))


def embeds(url: str) -> bool:
    """Whether an embedding comes back within 10 seconds."""
    try:
        body = {"model": "minilm", "input": "to be"}
        answer = httpx.post(f"{url}/v1/embeddings", json=body, timeout=10)
        return answer.status_code == 200 and len(answer.json()["data"][0]["embedding"]) == 384
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="module")
def application(cluster: SeveralHosts) -> str:
    """The application of examples/serve.yaml, with two of what embeds and answers; returns its URL on worker 1."""
    document = yaml.safe_load((REPOSITORY / "examples/serve.yaml").read_text())
    document["http_options"]["host"] = "0.0.0.0"
    arguments = document["applications"][0]["args"]
    arguments["generator"] |= {"engine": "transformers", "num_cpus": 0.2}
    for part in ("embedder", "router"):
        arguments[part] |= {"min_replicas": 2, "max_replicas": 2}
    arguments["router"]["allow_no_keys"] = True  # nobody else is on this bridge
    document["applications"][0]["runtime_env"] = {"env_vars": {"PYTHONPATH": str(REPOSITORY)}}
    path = cluster.folder / "serve.yaml"
    path.write_text(yaml.safe_dump(document))
    answer = cluster.client("serve", "deploy", "--address", cluster.dashboard_url, path)
    assert answer.returncode == 0, answer.stderr
    url = f"http://{cluster.workers[0].address}:{SERVE_PORT}"
    wait_for(lambda: is_serving(cluster) and embeds(url), "the application", 180)
    return url


def is_serving(cluster: SeveralHosts) -> bool:
    try:
        found = jobs_api(cluster, "/api/serve/applications/").json()["applications"]
    except (httpx.HTTPError, ValueError):
        return False
    return bool(found) and found["hamlet"]["status"] == "RUNNING"


def begin_job(cluster: SeveralHosts, name: str, *options: str) -> None:
    """A job that has begun, and that ends when there is a file `end`."""
    folder = cluster.folder / name
    folder.mkdir()
    program = (
        f"echo begun > {folder}/begun; until [ -e {folder}/end ]; do sleep 0.2; done; echo went on to its end"
    )
    submit = ["ray", "job", "submit", "--no-wait", "--submission-id", name, *options]
    answer = cluster.client(*submit, "--", "bash", "-c", program)
    assert answer.returncode == 0, answer.stderr
    wait_for((folder / "begun").exists, f"the job {name} to begin")


def test_a_head_that_loses_power_comes_back_with_its_applications_and_jobs(
    cluster: SeveralHosts, application: str
) -> None:
    begin_job(cluster, "on-a-worker", "--entrypoint-num-cpus", "0.1")
    begin_job(cluster, "on-the-head")
    client = Client(application)
    cluster.head.kill()
    began = time.monotonic()
    cluster.head.start()
    cluster.up()
    up_s = time.monotonic() - began
    wait_for(lambda: is_serving(cluster), "the application to be RUNNING")
    serving_s = time.monotonic() - began
    cluster.wait_for_nodes(3)
    nodes_s = time.monotonic() - began
    wait_for(client.answers_well, "ten right answers")
    outage = client.stop()
    print(f"head killed: up {up_s:.0f} s, serving {serving_s:.0f} s, nodes {nodes_s:.0f} s, {outage}")  # noqa: T201
    assert job_status(cluster, "on-a-worker") == "RUNNING"
    (cluster.folder / "on-a-worker" / "end").touch()
    wait_for(lambda: job_status(cluster, "on-a-worker") == "SUCCEEDED", "the end of on-a-worker")
    assert "went on to its end" in jobs_api(cluster, "/api/jobs/on-a-worker/logs").json()["logs"]
    wait_for(lambda: job_status(cluster, "on-the-head") == "FAILED", "the end of on-the-head")
    assert job_status(cluster, "with-token") == "SUCCEEDED"
    assert cluster.client("ray", "job", "submit", "--", "python", "-c", "print()").returncode == 0


@pytest.mark.soak
def test_answers_go_on_while_a_host_of_replicas_is_lost(cluster: SeveralHosts, application: str) -> None:
    client = Client(application)
    wait_for(client.answers_well, "ten right answers")
    client.forget()
    cluster.workers[1].kill()
    cluster.wait_for_nodes(2)  # until Ray has noticed
    wait_for(client.answers_well, "ten right answers", 180)
    outage = client.stop()
    print(f"worker killed: {outage}")  # noqa: T201
    cluster.replace(cluster.workers[1])
    cluster.wait_for_nodes(3)
    wait_for(lambda: is_serving(cluster), "the application to be whole again", 180)
    assert outage.num_failed < outage.num_asked / 2
