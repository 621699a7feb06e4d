"""The Dockerfile and compose.yaml, as far as they can be judged without building: no engine is needed here."""

from __future__ import annotations

import re
import tomllib

import pytest
import yaml
from job_rules import KNOWN_SETTINGS
from manifests import REPOSITORY
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ray_rules import Versions

from cluster import constraints
from cluster.head_process import DEFAULT_ENVIRONMENT, NODE_ENVIRONMENT

DOCKERFILE = (REPOSITORY / "Dockerfile").read_text()
CONSTRAINTS = constraints.FILE.read_text().splitlines()
COMPOSE = yaml.safe_load((REPOSITORY / "compose.yaml").read_text())
SERVICES = sorted(COMPOSE["services"])
BASES = {stage: base for base, stage in re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.MULTILINE)}
# A stage is what stands between two FROM lines.
STAGES = dict(re.findall(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM |\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL))


def test_base_images_are_pinned_and_have_the_projects_python(versions: Versions) -> None:
    external = [base for base in re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE) if base not in STAGES]
    assert external
    for base in external:
        assert re.fullmatch(rf"python:{re.escape(versions.python)}\.\d+-slim-\w+", base), base


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_a_final_stage_is_unprivileged_reaps_children_and_can_be_probed(target: str) -> None:
    stage = STAGES[target]
    assert re.search(r"^USER 1000:1000$", stage, re.MULTILINE)
    assert re.search(r'^ENTRYPOINT \["tini", ', stage, re.MULTILINE)
    [probe] = re.findall(r"^HEALTHCHECK .*?\n  CMD (.+)$", stage, re.MULTILINE)
    assert probe.startswith('["python", "-c", ')
    compile(yaml.safe_load(probe)[2], "probe", "exec")


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_processes_of_an_image_share_a_machine_as_those_of_a_local_head_do(target: str) -> None:
    stages = [target]
    while (base := BASES[stages[-1]]) in STAGES:
        stages.append(base)
    for name, value in (DEFAULT_ENVIRONMENT | NODE_ENVIRONMENT).items():
        assert any(f" {name}={value}" in STAGES[stage] for stage in stages), name


def test_the_image_has_what_its_commands_call() -> None:
    installed = set(re.search(r"install -y --no-install-recommends ([\w .-]+)", STAGES["base"])[1].split())
    assert {"tini", "bash"} <= installed
    assert not re.search(r"\b(curl|wget)\b", DOCKERFILE)


def test_the_environment_is_installed_by_the_projects_own_installer() -> None:
    for name, has_gpu in (("cpu-environment", "False"), ("cuda-environment", "True")):
        assert f"steps(has_gpu={has_gpu}, extra=None)" in STAGES[name]


def test_the_environments_have_the_versions_of_the_lock_file() -> None:
    assert re.search(r"^COPY .*\bconstraints\.txt\b", STAGES["base"], re.MULTILINE)
    for name in ("cpu-environment", "cuda-environment"):
        # An argument and no ENV, so that the packages of a job's own runtime environment are free.
        assert re.search(r"^ARG .*\bPIP_CONSTRAINT=/opt/hamlet/constraints\.txt$", STAGES[name], re.MULTILINE)


def test_the_lock_file_has_a_version_of_every_dependency_within_its_range(versions: Versions) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    pins = [Requirement(line) for line in CONSTRAINTS if not line.startswith("#")]
    locked: dict[str, str] = {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in pins}
    wanted = [Requirement(line) for line in constraints.requirements(project)]
    assert len(wanted) > 50
    outside = [str(one) for one in wanted if locked[canonicalize_name(one.name)] not in one.specifier]
    assert outside == []
    assert locked["ray"] == versions.ray


@pytest.mark.parametrize("file", ["Dockerfile", "k8s/README.md"])
def test_documented_tags_are_those_of_this_version(file: str, versions: Versions) -> None:
    tags = set(re.findall(r"\bhamlet:(\S+)-(?:cpu|cuda)\b", (REPOSITORY / file).read_text()))
    assert tags == {f"{versions.hamlet}-ray{versions.ray}-py{versions.python}"}


def test_settings_in_the_image_exist() -> None:
    assert set(re.findall(r"\b(HAMLET_\w+)=", DOCKERFILE)) <= KNOWN_SETTINGS


def test_only_what_the_image_runs_is_sent_to_the_builder() -> None:
    lines = (REPOSITORY / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    for name in (line[1:] for line in lines if line.startswith("!")):
        assert (REPOSITORY / name).exists(), name
        assert name not in (".git", ".env", ".venv", "tests", "k8s")


@pytest.mark.parametrize("name", SERVICES)
def test_compose_publishes_to_this_machine_only(name: str) -> None:
    for port in COMPOSE["services"][name].get("ports", []):
        assert port.startswith("127.0.0.1:"), port


@pytest.mark.parametrize("name", SERVICES)
def test_compose_pins_and_restrains_what_it_runs(name: str, versions: Versions) -> None:
    service = COMPOSE["services"][name]
    assert re.search(r":[\w.-]*\d[\w.-]*$", service["image"])
    assert service["cap_drop"] == ["ALL"]
    assert service["mem_limit"]
    if service["image"].startswith("hamlet:"):
        assert service["image"] == f"hamlet:{versions.hamlet}-ray{versions.ray}-py{versions.python}-cpu"


@pytest.mark.parametrize("name", SERVICES)
def test_compose_holds_no_secret_and_no_unknown_setting(name: str) -> None:
    for key, value in COMPOSE["services"][name]["environment"].items():
        if key.startswith("HAMLET_"):
            assert key in KNOWN_SETTINGS
        if re.search("PASSWORD|TOKEN|API_KEY|DATABASE_URL", key):
            assert re.search(r"\$\{\w+:\?", value), f"{key} must come from .env"


def test_compose_and_the_overlays_run_the_same_databases() -> None:
    overlay = yaml.safe_load((REPOSITORY / "k8s/overlays/cpu-dev/kustomization.yaml").read_text())
    tags = {image["name"]: image["newTag"] for image in overlay["images"]}
    for name, image in (("qdrant", "qdrant/qdrant"), ("postgres", "postgres")):
        assert COMPOSE["services"][name]["image"] == f"{image}:{tags[image]}"


def test_compose_serves_the_example_on_the_containers_address() -> None:
    command = COMPOSE["services"]["app"]["command"][-1]
    assert "s/host: 127.0.0.1/host: 0.0.0.0/" in command
    assert "host: 127.0.0.1" in (REPOSITORY / "examples/serve.yaml").read_text()
