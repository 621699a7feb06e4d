"""The shipped application on a real Ray head: `serve deploy`, vLLM, the embedded store and real small models."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from cluster.cards import ModelCard, ModelKind, Parity, new_model_id
from cluster.connection import client_environment
from cluster.head import down, up
from cluster.head_record import HeadRecord
from cluster.ports import free_port
from cluster.references import resolve_model
from cluster.settings import settings
from cluster.storage import storage_uri, upload_folder

sys.path.insert(0, str(Path(__file__).parent))  # for routers.py

from routers import Router

REPOSITORY = Path(__file__).parents[3]
READY_DEADLINE_S = 180.0


@pytest.fixture(scope="module")
def serving_head() -> Iterator[tuple[HeadRecord, dict[str, str]]]:
    """A Ray head of its own in a short folder: HAProxy's socket names may have 97 characters."""
    folder = Path(tempfile.mkdtemp(prefix="hs-"))
    (folder / "cache").symlink_to(Path("~/.hamlet/cache").expanduser())
    variables = {
        "HAMLET_HOME": str(folder),
        "HAMLET_RAY_PORT": str(free_port("127.0.0.1")),
        "HAMLET_DASHBOARD_PORT": str(free_port("127.0.0.1")),
        "HAMLET_NUM_CPUS": "4",
    }
    try:
        with _settings(variables):
            record, _ = up()
        yield record, variables
    finally:
        with _settings(variables):
            down()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _settings(variables: dict[str, str]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        settings.cache_clear()
        yield
    settings.cache_clear()


@pytest.fixture
def head(serving_head: tuple[HeadRecord, dict[str, str]], home: Path) -> Iterator[HeadRecord]:
    """The serving head; its HAMLET_HOME is this test's too, so that cards are registered where it looks."""
    record, variables = serving_head
    with _settings(variables):
        yield record


@pytest.fixture
def routers(home: Path) -> Iterator[Callable[..., Router]]:
    """`routers()` starts a router process over this test's home; all are killed at the end."""
    made: list[Router] = []

    def start(**variables: str) -> Router:
        made.append(Router(home, **variables))
        return made[-1].start()

    yield start
    for router in made:
        router.kill()


@pytest.fixture(scope="module")
def run(serving_head: tuple[HeadRecord, dict[str, str]]) -> Callable[..., None]:
    """`run("serve", "deploy", file)` runs a command of this environment against the head."""
    record, variables = serving_head
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HAMLET_")}
    with _settings(variables):
        environment = inherited | variables | client_environment(for_http=True)
    environment["RAY_DASHBOARD_ADDRESS"] = record.dashboard_url

    def run(program: str, *arguments: str) -> None:
        command = [str(Path(sys.executable).with_name(program)), *arguments]
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    return run


class Collector(HTTPServer):
    """Where traces go: OTLP over HTTP. `spans` as they come, each with the service that sent it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Export)
        self.spans: list[tuple[str, Span]] = []

    @property
    def environment(self) -> dict[str, str]:
        endpoint = f"http://127.0.0.1:{self.server_port}"
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_BSP_SCHEDULE_DELAY": "200"}


class _Export(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        for sent in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = {one.key: one.value.string_value for one in sent.resource.attributes}["service.name"]
            self.server.spans += [(service, span) for scope in sent.scope_spans for span in scope.spans]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def deploy(
    run: Callable[..., None], collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., str]:
    """`deploy(router={...})` deploys examples/serve.yaml, traced, with changes to `args`; returns its URL."""
    port = free_port("127.0.0.1")
    config = tmp_path_factory.mktemp("serve") / "serve.yaml"

    def deploy(**args: Any) -> str:
        document = yaml.safe_load((REPOSITORY / "examples" / "serve.yaml").read_text())
        document["http_options"]["port"] = port
        document["applications"][0]["args"]["generator"]["tool_parser"] = "hermes"
        document["applications"][0]["args"] |= args
        document["applications"][0]["runtime_env"] = {"env_vars": collector.environment}
        config.write_text(yaml.safe_dump(document))
        run("serve", "deploy", str(config))
        return f"http://127.0.0.1:{port}"

    return deploy


@pytest.fixture(scope="module")
def base_url(run: Callable[..., None], deploy: Callable[..., str]) -> str:
    """Where the application of examples/serve.yaml answers, the handbook ingested."""
    url = deploy()
    docs = str(REPOSITORY / "examples" / "handbook" / "docs")
    run("python", "-m", "retrieval", "ingest", docs, "--collection", "handbook")
    _wait_until_ready(url)
    return url


def _wait_until_ready(url: str) -> None:
    deadline = time.monotonic() + READY_DEADLINE_S
    last: object = "no answer"
    while time.monotonic() < deadline:
        try:
            response = httpx.get(f"{url}/readyz", timeout=10)
            if response.status_code == 200:
                return
            last = response.text
        except httpx.TransportError as exc:
            last = exc
        time.sleep(0.2)
    pytest.fail(f"not ready within {READY_DEADLINE_S:g} s: {last}")


@pytest.fixture
def client(base_url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{base_url}/v1", api_key="unused", max_retries=0)


def _card(kind: ModelKind, base: str, folder: Path, **changes: Any) -> ModelCard:
    card_id = new_model_id(base, "test", kind.value)
    values: dict[str, Any] = {
        "id": card_id,
        "kind": kind,
        "base_model": base,
        "weights_uri": upload_folder(folder, storage_uri("models", card_id.replace(":", "-"))),
        "max_length_tokens": 128,
        "config_sha256": "0",
        "data_sha256": "0",
        "code_version": "test",
        "parity": Parity(passed=True, max_metric_difference=0.0),
    }
    return ModelCard(**(values | changes))


@pytest.fixture
def make_adapter(head: HeadRecord, tmp_path: Path) -> Callable[..., ModelCard]:
    """Cards of LoRA adapters with random weights: answers differ from the base's, and mean nothing."""

    def make(base_model: str = "builtin:smollm2", chat_template: str | None = None) -> ModelCard:
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        base: Any = AutoModelForCausalLM.from_pretrained(resolve_model(base_model))
        lora = LoraConfig(r=8, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
        get_peft_model(base, lora).save_pretrained(tmp_path / "adapter")
        return _card(
            ModelKind.GENERATOR,
            base_model,
            tmp_path / "adapter",
            is_adapter=True,
            lora_rank=8,
            chat_template=chat_template,
        )

    return make


@pytest.fixture
def make_full_fine_tune(head: HeadRecord, tmp_path: Path) -> Callable[[], ModelCard]:
    """Cards of whole models: the base with noise in its weights, so that its answers differ and mean nothing."""

    def make() -> ModelCard:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        base = resolve_model("builtin:smollm2")
        model: Any = AutoModelForCausalLM.from_pretrained(base)
        with torch.no_grad():
            for weight in model.parameters():
                weight += weight.std() * torch.randn_like(weight)
        model.save_pretrained(tmp_path / "whole")
        AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "whole")
        return _card(ModelKind.GENERATOR, "builtin:smollm2", tmp_path / "whole")

    return make


@pytest.fixture
def make_classifier(head: HeadRecord, tmp_path: Path) -> Callable[[], ModelCard]:
    """Cards of pair classifiers with a random head."""

    def make() -> ModelCard:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        base = resolve_model("builtin:minilm")
        model: Any = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
        model.save_pretrained(tmp_path / "classifier")
        AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "classifier")
        labels = ("different", "equivalent")
        return _card(
            ModelKind.CLASSIFIER, "builtin:minilm", tmp_path / "classifier", labels=labels, is_pair=True
        )

    return make
