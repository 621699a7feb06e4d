"""`/v1/files` and `/v1/fine_tuning` before any job runs: what is taken, refused, and in which shape."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from cluster.fine_tuning_jobs import FineTuningJobs
from cluster.registry import Registry
from serving.config import FilesConfig, FineTuningConfig, LimitsConfig, ServingConfig
from serving.platform import Platform
from serving.scripted_parts import ScriptedApplication
from serving.training_commands import TrainingCommands

CHECKER = """
import json, sys
rows = open(sys.argv[2], "rb").read().splitlines() or [b""]
bad = [n for n, row in enumerate(rows, 1) if b"bad" in row]
errors = [{"line": n, "column": 3, "reason": "it is bad", "remedy": "make it good"} for n in bad]
task = "dpo" if b"preferred" in rows[0] else "mlm" if b"text" in rows[0] else "sft"
print(json.dumps({"task": task, "rows": len(rows), "errors": errors, "warnings": [], "statistics": {}}))
sys.exit(bool(errors))
"""


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    """An application without background work: jobs stay as they were created."""
    program = tmp_path / "checker.py"
    program.write_text(CHECKER)
    config = ServingConfig(
        files=FilesConfig(max_bytes=100_000),
        fine_tuning=FineTuningConfig(launcher="local", max_waiting_per_tenant=3),
    )
    commands = TrainingCommands((sys.executable, "-S", str(program)))
    platform = Platform.of(config, commands)
    return TestClient(ScriptedApplication(config=config, platform=platform).app)


def _upload(
    client: TestClient, content: bytes = b"row\n" * 60, purpose: str = "fine-tune", **fields: str
) -> Any:
    files = {"file": ("rows.jsonl", content)}
    return client.post("/v1/files", files=files, data={"purpose": purpose, **fields})


def _create(client: TestClient, **changes: Any) -> Any:
    body = {
        "model": "smollm2",
        "training_file": changes.pop("training_file", None) or _upload(client).json()["id"],
    }
    return client.post("/v1/fine_tuning/jobs", json=body | changes)


def test_all_faults_of_a_training_file_are_told_at_once_and_nothing_is_kept(client: TestClient) -> None:
    refused = _upload(client, b"good\nbad\ngood\nbad\nbad\nbad")
    error = refused.json()["error"]
    assert refused.status_code == 400
    assert error["message"].startswith(
        "rows.jsonl has 4 faults: line 2, column 3: it is bad (make it good); line 4"
    )
    assert [fault["line"] for fault in error["hamlet"]["errors"]] == [2, 4, 5, 6]
    assert client.get("/v1/files").json()["data"] == []


def test_a_file_that_is_being_checked_holds_up_no_other_request() -> None:
    begun, checked = threading.Event(), threading.Event()

    class SlowTraining(TrainingCommands):
        def validate(self, path: Path, filename: str) -> dict[str, Any]:
            begun.set()
            assert checked.wait(10)
            return {}

    config = ServingConfig(fine_tuning=FineTuningConfig(launcher="local"))
    application = ScriptedApplication(config=config, platform=Platform.of(config, SlowTraining()))

    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        transport = httpx.ASGITransport(application.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as caller:
            form: dict[str, Any] = {"files": {"file": ("a", b"row")}, "data": {"purpose": "fine-tune"}}
            upload = asyncio.create_task(caller.post("/v1/files", **form))
            async with asyncio.timeout(10):
                while not begun.is_set():
                    await asyncio.sleep(0.005)
                await asyncio.to_thread(checked.set)
                assert (await upload).status_code == 200

    asyncio.run(main())


def test_uploads_at_once_take_no_more_room_than_there_is() -> None:
    both_checked = threading.Barrier(2)

    class TogetherTraining(TrainingCommands):
        def validate(self, path: Path, filename: str) -> dict[str, Any]:
            both_checked.wait(10)
            return {}

    config = ServingConfig(
        fine_tuning=FineTuningConfig(launcher="local"), limits=LimitsConfig(storage_bytes_per_tenant=300)
    )
    platform = Platform.of(config, TogetherTraining())
    transport = httpx.ASGITransport(ScriptedApplication(config=config, platform=platform).app)

    async def main() -> None:
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as caller:
            form: dict[str, Any] = {"files": {"file": ("a", b"x" * 200)}, "data": {"purpose": "fine-tune"}}
            both = await asyncio.gather(*(caller.post("/v1/files", **form) for _ in range(2)))
            assert sorted(answer.status_code for answer in both) == [200, 429]
            assert len((await caller.get("/v1/files")).json()["data"]) == 1

    asyncio.run(main())


@pytest.mark.parametrize("ending", ["os.kill(os.getpid(), 9)", "sys.exit(137)"])
def test_a_check_that_was_killed_is_no_fault_of_the_file(ending: str) -> None:
    commands = TrainingCommands((sys.executable, "-S", "-c", f"import os, sys; {ending}"))
    config = ServingConfig(fine_tuning=FineTuningConfig(launcher="local"))
    application = ScriptedApplication(config=config, platform=Platform.of(config, commands))
    answer = _upload(TestClient(application.app))
    assert answer.status_code == 503
    assert "was killed" in answer.json()["error"]["message"]


def test_a_check_that_this_machine_cannot_start_is_no_fault_of_ours() -> None:
    config = ServingConfig(fine_tuning=FineTuningConfig(launcher="local"))
    platform = Platform.of(config, TrainingCommands(("/nowhere/python",)))
    answer = _upload(TestClient(ScriptedApplication(config=config, platform=platform).app))
    assert answer.status_code == 503
    assert "training validate cannot be started" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("files", "data", "status", "param"),
    [
        ({}, {"purpose": "batch"}, 400, "file"),
        ({"file": ("a", b"x")}, {}, 400, "purpose"),
        ({"file": ("a", b"x")}, {"purpose": "fun"}, 400, "purpose"),
        ({"file": ("a", b"x")}, {"purpose": "batch", "colour": "red"}, 400, "colour"),
        ({"file": ("a", b"x")}, {"purpose": "batch", "expires_after[seconds]": "1"}, 400, "expires_after.anchor"),
        ({"file": ("a", b"x" * 200_000)}, {"purpose": "user_data"}, 413, "file"),
        ({"file": ("a", b"x" * 120_000)}, {"purpose": "user_data"}, 413, "file"),
    ],
)  # fmt: skip
def test_a_faulty_upload_names_the_field(
    client: TestClient, home: Path, files: dict[str, Any], data: dict[str, str], status: int, param: str
) -> None:
    answer = client.post("/v1/files", files=files or {"other": ("a", b"")}, data=data)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)
    assert list((home / "storage").rglob("*.jsonl")) == []
    uploads = home / "storage" / ".uploads"
    assert not uploads.exists() or not list(uploads.iterdir())


@pytest.mark.parametrize("boundary", ["", "x" * 5000, '""', "B B", "\xff"])
def test_an_odd_boundary_is_no_fault_of_ours(client: TestClient, boundary: str) -> None:
    headers = {"content-type": f"multipart/form-data; boundary={boundary}".encode("latin-1")}
    answer = client.post("/v1/files", content=b"--x\r\n", headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "file"


@pytest.mark.parametrize("seconds", ["", "-1", "3600.5", "²", "1e5", "9" * 5000])
def test_odd_seconds_of_expiry_are_named(client: TestClient, seconds: str) -> None:
    fields = {"expires_after[anchor]": "created_at", "expires_after[seconds]": seconds}
    answer = _upload(client, b"text", "user_data", **fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "expires_after.seconds")


def test_the_fields_beside_a_file_are_bounded_together(client: TestClient) -> None:
    fields = {f"field-{number}": "x" * 1000 for number in range(100)}
    answer = client.post("/v1/files", files={"file": ("a.txt", b"text")}, data=fields)
    assert answer.status_code == 400
    assert "too long" in answer.json()["error"]["message"]


def test_an_upload_that_breaks_off_keeps_nothing(client: TestClient) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\nhalf'
    answer = client.post(
        "/v1/files", content=head, headers={"content-type": "multipart/form-data; boundary=x"}
    )
    assert answer.status_code == 400
    assert "broke off" in answer.json()["error"]["message"]


def test_an_upload_for_which_the_disk_has_no_room_is_told_so_and_leaves_nothing(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged = tmp_path / "staged"
    staged.symlink_to("/dev/full")
    monkeypatch.setattr("serving.uploads.staging_path", lambda _suffix: staged)
    for content in (b"short", b"long" * 20_000):
        answer = _upload(client, content, "user_data")
        assert answer.status_code == 503
        assert "No space left on device" in answer.json()["error"]["message"]
        assert not staged.is_symlink()
        staged.symlink_to("/dev/full")


def test_a_wait_in_vain_for_a_connection_to_the_database_may_end_better_the_next_time() -> None:
    config = ServingConfig(fine_tuning=FineTuningConfig(launcher="local"))
    platform = Platform.of(config)
    client = TestClient(ScriptedApplication(config=config, platform=platform).app)
    pool: Any = platform.engine.pool
    pool._timeout = 0.01  # of 30 s
    with ExitStack() as others:
        for _ in range(pool.size() + pool._max_overflow):
            others.enter_context(platform.engine.connect())
        answer = client.get("/v1/files")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert client.get("/v1/files").status_code == 200


def test_file_shapes_paging_and_expiry(client: TestClient, validate: Callable[[Any, str], None]) -> None:
    expiring = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    file = _upload(client, b"text", "user_data", **expiring).json()
    validate(file, "OpenAIFile")
    assert file["expires_at"] - file["created_at"] == 3600
    validate(client.get("/v1/files").json(), "ListFilesResponse")
    validate(client.get(f"/v1/files/{file['id']}").json(), "OpenAIFile")
    assert client.get(f"/v1/files/{file['id']}/content").content == b"text"
    assert client.get("/v1/files", params={"after": "file-0"}).status_code == 404
    validate(client.delete(f"/v1/files/{file['id']}").json(), "DeleteFileResponse")
    assert client.get(f"/v1/files/{file['id']}").status_code == 404


def test_job_shapes(client: TestClient, validate: Callable[[Any, str], None]) -> None:
    job = _create(client, suffix="handbook", metadata={"team": "docs"}).json()
    validate(job, "FineTuningJob")
    assert job["hyperparameters"] == {"n_epochs": 3, "batch_size": 2, "learning_rate_multiplier": 0.35}
    jobs = FineTuningJobs()
    jobs.queue.add(job["id"], {"train_seconds": 10})
    jobs.queue.start(job["id"], 0)
    jobs.add_checkpoint(job["id"], 1, "ft:x:ckpt-step-1", {"train_loss": 0.5})
    running = client.get(f"/v1/fine_tuning/jobs/{job['id']}").json()
    validate(running, "FineTuningJob")
    assert running["estimated_finish"] > running["created_at"]
    path = f"/v1/fine_tuning/jobs/{job['id']}"
    validate(client.get(f"{path}/events").json(), "ListFineTuningJobEventsResponse")
    validate(client.get(f"{path}/checkpoints").json(), "ListFineTuningJobCheckpointsResponse")
    validate(client.get("/v1/fine_tuning/jobs").json(), "ListPaginatedFineTuningJobsResponse")
    assert client.get("/v1/fine_tuning/jobs", params={"metadata[team]": "x"}).json()["data"] == []
    refused = client.get("/v1/fine_tuning/jobs", params={"metadata": "null"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "metadata")
    assert client.post(f"{path}/pause").json()["status"] == "paused"
    validate(client.post(f"{path}/cancel").json(), "FineTuningJob")
    assert client.post(f"{path}/resume").status_code == 409


def test_preferences_make_a_job_of_method_dpo(
    client: TestClient, validate: Callable[[Any, str], None]
) -> None:
    preferences = _upload(client, b"preferred\n" * 60).json()["id"]
    asked = {"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 1, "beta": 0.3}}}
    job = _create(client, training_file=preferences, method=asked).json()
    validate(job, "FineTuningJob")
    decided = {"n_epochs": 1, "batch_size": 2, "learning_rate_multiplier": 0.35, "beta": 0.3}
    assert job["method"] == {"type": "dpo", "dpo": {"hyperparameters": decided}}
    config = FineTuningJobs().get("default", job["id"]).config
    assert (config["task"], config["dpo"]) == ("dpo", {"beta": 0.3})
    auto = _create(client, training_file=preferences, method={"type": "dpo"}).json()
    assert auto["method"]["dpo"]["hyperparameters"]["beta"] == 0.1
    old_place = {"method": {"type": "dpo"}, "hyperparameters": {"n_epochs": 1}}
    refused = _create(client, training_file=preferences, **old_place).json()["error"]
    assert refused["param"] == "hyperparameters"


def test_a_file_of_the_other_kind_is_refused_with_the_method_it_is_for(client: TestClient) -> None:
    preferences = _upload(client, b"preferred\n" * 60).json()["id"]
    for changes in ({"training_file": preferences}, {"validation_file": preferences}):
        error = _create(client, **changes).json()["error"]
        assert error["param"] in changes
        assert f"{preferences} is for method dpo, not supervised" in error["message"]


def test_rows_of_another_task_are_no_training_file(client: TestClient) -> None:
    error = _upload(client, b"text\n").json()["error"]
    assert error["message"].startswith(
        "rows.jsonl holds rows for mlm; write chats (messages), or preferences"
    )


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"model": "gpt-4o-mini"}, "model"),
        ({"training_file": "file-0"}, "training_file"),
        ({"validation_file": "file-0"}, "validation_file"),
        ({"validation_file": ""}, "validation_file"),
        ({"hyperparameters": {"n_epochs": 51}}, "hyperparameters.n_epochs"),
        ({"hyperparameters": {"batch_size": 0}}, "hyperparameters.batch_size"),
        ({"hyperparameters": {"batch_size": 100}}, "hyperparameters.batch_size"),
        ({"hyperparameters": {"learning_rate_multiplier": 0}}, "hyperparameters.learning_rate_multiplier"),
        ({"method": {"type": "reinforcement"}}, "method.type"),
        ({"method": {"type": "dpo"}}, "training_file"),
        ({"method": {"type": "supervised", "dpo": {}}}, "method.dpo"),
        (
            {"method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 2.5}}}},
            "method.dpo.hyperparameters.beta",
        ),
        ({"integrations": [{"type": "wandb"}]}, "integrations"),
        ({"suffix": "x" * 65}, "suffix"),
        ({"seed": -1}, "seed"),
        ({"metadata": {str(n): "x" for n in range(17)}}, "metadata"),
        ({"metadata": {"": "x"}}, "metadata"),
        ({"metadata": {"k" * 65: "x"}}, "metadata"),
        ({"metadata": {"k": "x" * 513}}, "metadata"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_faulty_job_is_refused_before_there_is_one(
    client: TestClient, changes: dict[str, Any], param: str
) -> None:
    answer = _create(client, **changes)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert client.get("/v1/fine_tuning/jobs").json()["data"] == []


def test_a_file_for_another_purpose_trains_nothing(client: TestClient) -> None:
    document = _upload(client, b"text", "assistants").json()["id"]
    assert _create(client, training_file=document).json()["error"]["code"] == "invalid_file_purpose"


def test_more_jobs_than_may_wait_are_refused(client: TestClient) -> None:
    file = _upload(client).json()["id"]
    assert [_create(client, training_file=file).status_code for _ in range(4)] == [200, 200, 200, 429]


@pytest.mark.parametrize("alias", ["smollm2", "minilm", "smollm2-135m", "gpt2", "auto"])
def test_an_alias_that_names_a_base_or_a_route_is_refused(
    home: Path, make_card: Callable[..., Any], alias: str
) -> None:
    Registry().register(make_card(), "default")
    further = ({"model": "HuggingFaceTB/SmolLM2-135M"}, {"model": "gpt2"})
    config = ServingConfig.model_validate({"further_generators": further})
    parts = ScriptedApplication(config=config, platform=Platform.of(config, TrainingCommands(["true"])))
    refused = TestClient(parts.app).put(f"/v1/aliases/{alias}", json={"model": make_card().id})
    assert refused.status_code == 409
    assert refused.json()["error"]["param"] == "alias"
    assert refused.headers["x-should-retry"] == "false", "the openai client repeats a 409 otherwise"
    assert Registry().aliases("default") == {}


def test_aliases_move_roll_back_and_go(client: TestClient, make_card: Callable[..., Any]) -> None:
    for name in ("ft:smollm2:a:x:1", "ft:smollm2:a:x:2"):
        Registry().register(make_card(name), "default")
        promoted = client.put("/v1/aliases/prod", json={"model": name})
        assert promoted.json()["model"] == name
    assert promoted.json()["previous_model"] == "ft:smollm2:a:x:1"
    assert client.post("/v1/aliases/prod/rollback").json()["model"] == "ft:smollm2:a:x:1"
    assert client.put("/v1/aliases/prod", json={"model": "ft:nobody"}).status_code == 404
    by_alias = client.delete("/v1/models/prod")
    assert (by_alias.status_code, by_alias.json()["error"]["param"]) == (400, "model")
    assert client.delete("/v1/models/ft:smollm2:a:x:1").json()["deleted"]
    assert client.delete("/v1/models/ft:smollm2:a:x:1").status_code == 404
    assert client.get("/v1/aliases").json()["data"] == []


def test_the_size_of_a_download_can_be_asked_for_before_it(client: TestClient, home: Path) -> None:
    file = _upload(client, b"text", "user_data").json()
    path = f"/v1/files/{file['id']}/content"
    head, whole = client.head(path), client.get(path)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "4")
    for name in ("content-type", "content-disposition", "content-length"):
        assert head.headers[name] == whole.headers[name]
    (kept,) = home.rglob(f"{file['id']}*")
    kept.unlink()
    assert client.head(path).status_code == client.get(path).status_code == 404


def test_a_file_whose_bytes_are_gone_or_out_of_reach_is_told_before_the_answer_begins(
    client: TestClient, home: Path
) -> None:
    file = _upload(client, b"text", "user_data").json()
    (kept,) = home.rglob(f"{file['id']}*")
    content = kept.read_bytes()
    kept.unlink()
    missing = client.get(f"/v1/files/{file['id']}/content")
    assert (missing.status_code, "missing in storage" in missing.json()["error"]["message"]) == (404, True)
    kept.mkdir()  # where the bytes should be nothing can be read
    away = client.get(f"/v1/files/{file['id']}/content")
    assert (away.status_code, "out of reach" in away.json()["error"]["message"]) == (503, True)
    assert not any(str(home) in answer.text for answer in (missing, away))  # nor a bucket's name
    kept.rmdir()
    kept.write_bytes(content)
    assert client.get(f"/v1/files/{file['id']}/content").content == b"text"
