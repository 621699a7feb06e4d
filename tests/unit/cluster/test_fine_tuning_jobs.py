"""The store of fine-tuning jobs: states, events, and ends that are all or nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.engine import Engine

from cluster.cards import ModelCard, Parity
from cluster.database import open_database
from cluster.errors import Conflict, NotFound, Overloaded
from cluster.files import Files
from cluster.fine_tuning_jobs import FineTuningJobs
from cluster.fine_tuning_records import FineTuningJob, JobRequest, JobStatus, Process, position_of
from cluster.registry import Registry
from cluster.settings import settings
from cluster.webhook_outbox import WebhookOutbox

MakeCard = Callable[..., ModelCard]


@pytest.fixture
def jobs() -> FineTuningJobs:
    return FineTuningJobs()


def _new(jobs: FineTuningJobs, tenant: str = "us", **labels: str) -> FineTuningJob:
    request = JobRequest("smollm2", "file-1", None, {"type": "supervised"}, {}, None, 1, labels or None, {})
    return jobs.create(tenant, request)


def _running(jobs: FineTuningJobs) -> FineTuningJob:
    job = _new(jobs)
    jobs.queue.add(job.id, {})
    jobs.queue.start(job.id, 0)
    return jobs.get("us", job.id)


def _messages(jobs: FineTuningJobs, job_id: str) -> list[str]:
    return [event.message for event in jobs.events("us", job_id, limit=100).data]


def test_a_job_goes_from_validation_to_the_queue_to_a_run(jobs: FineTuningJobs) -> None:
    job = _new(jobs)
    assert job.status is JobStatus.VALIDATING_FILES
    assert jobs.queue.add(job.id, {"steps": 3})
    assert not jobs.queue.add(job.id, {})  # once
    queued = jobs.get("us", job.id)
    assert (queued.status, queued.plan) == (JobStatus.QUEUED, {"steps": 3})
    assert jobs.queue.start(queued.id, queued.attempt)
    assert not jobs.queue.start(queued.id, queued.attempt)  # another who saw the same cannot start it again
    running = jobs.get("us", job.id)
    assert (running.status, running.attempt, running.process) == (JobStatus.RUNNING, 1, Process.STARTING)
    assert running.submission_id == f"{job.id}-1"


def test_the_queue_tells_apart_what_is_to_be_done(jobs: FineTuningJobs) -> None:
    new, first, second, running = (_new(jobs) for _ in range(4))
    for job in (first, second, running):
        jobs.queue.add(job.id, {})
    jobs.queue.start(running.id, 0)
    jobs.queue.tell_wait(second.id, "no room")
    assert [job.id for job in jobs.queue.unchecked()] == [new.id]
    assert [job.id for job in jobs.queue.busy()] == [running.id]
    waiting = jobs.queue.waiting()
    assert [(job.id, job.process, job.waits_for) for job in waiting] == [
        (first.id, Process.NONE, None),
        (second.id, Process.NONE, "no room"),
    ]
    assert waiting[0].queued_at == jobs.get("us", first.id).queued_at


def test_of_two_who_see_a_lost_run_one_starts_the_next(jobs: FineTuningJobs) -> None:
    job = _running(jobs)
    assert jobs.queue.retry(job.id, job.attempt, "its machine was lost")
    assert not jobs.queue.retry(job.id, job.attempt, "its machine was lost")
    again = jobs.get("us", job.id)
    assert (again.attempt, again.num_losses) == (2, 1)
    jobs.queue.set_process(
        job.id, job.attempt, Process.NONE
    )  # what is learned of the first attempt says nothing of the second
    assert jobs.get("us", job.id).process is Process.STARTING


def test_success_registers_the_model_and_ends_the_job_together(
    jobs: FineTuningJobs, make_card: MakeCard
) -> None:
    job = _running(jobs)
    jobs.post_event(job.id, "Step 1", type="metrics", data={"step": 1, "total_steps": 1, "train_loss": 0.5})
    card = make_card(id="ft:new")
    assert jobs.succeed(job.id, card, 70)
    assert jobs.succeed(job.id, card, 70)  # again: the same
    ended = jobs.get("us", job.id)
    assert (ended.status, ended.fine_tuned_model, ended.trained_tokens) == (JobStatus.SUCCEEDED, "ft:new", 70)
    assert ended.finished_at is not None
    assert Registry().get("ft:new", "us") == card
    with pytest.raises(NotFound):
        Registry().get("ft:new", "them")
    [results] = ended.result_files
    file = Files().get("us", results)
    assert file.purpose == "fine-tune-results"
    assert Files().open(file).read() == b"step,total_steps,train_loss\n1,1,0.5\n"
    assert not jobs.fail(job.id, "too late")


def test_nothing_of_a_success_stays_when_its_model_cannot_be_registered(
    jobs: FineTuningJobs, make_card: MakeCard
) -> None:
    job = _running(jobs)
    unproven = make_card(parity=Parity(passed=False, max_metric_difference=1.0, detail="loss 1 became 2"))
    with pytest.raises(Conflict, match="loss 1 became 2"):
        jobs.succeed(job.id, unproven, 70)
    Registry().register(make_card(id="ft:taken"))
    with pytest.raises(Conflict, match="registered already"):
        jobs.succeed(job.id, make_card(id="ft:taken"), 70)
    still = jobs.get("us", job.id)
    assert (still.status, still.result_files, still.fine_tuned_model) == (JobStatus.RUNNING, [], None)
    assert Files().list("us").data == []


def test_a_cancelled_job_takes_no_model(jobs: FineTuningJobs, make_card: MakeCard) -> None:
    job = _running(jobs)
    assert jobs.cancel("us", job.id).status is JobStatus.CANCELLED
    assert not jobs.succeed(job.id, make_card(id="ft:late"), 1)
    assert not jobs.fail(job.id, "late too")
    jobs.post_event(job.id, "still running")
    jobs.add_checkpoint(job.id, 1, "ft:late:ckpt-step-1", {}, make_card(id="ft:late:ckpt-step-1"))
    assert Registry().list() == []
    assert _messages(jobs, job.id)[0] == "The job was cancelled"
    [unsettled] = jobs.queue.busy()  # until its process is gone
    jobs.queue.set_process(unsettled.id, unsettled.attempt, Process.NONE)
    assert jobs.queue.busy() == []


def test_a_failure_keeps_its_code_and_field(jobs: FineTuningJobs) -> None:
    job = _running(jobs)
    assert jobs.fail(job.id, "line 7 is too long", "invalid_training_file", "training_file")
    failed = jobs.get("us", job.id)
    assert failed.status is JobStatus.FAILED
    assert failed.error == {
        "code": "invalid_training_file",
        "message": "line 7 is too long",
        "param": "training_file",
    }
    assert jobs.events("us", job.id, limit=1).data[0].level == "error"


@pytest.mark.parametrize(
    ("status", "action", "allowed"),
    [
        ("validating_files", "cancel", True),
        ("validating_files", "pause", False),
        ("queued", "cancel", True),
        ("queued", "pause", True),
        ("queued", "resume", False),
        ("running", "cancel", True),
        ("running", "pause", True),
        ("paused", "cancel", True),
        ("paused", "resume", True),
        ("paused", "pause", True),  # again: the same
        ("cancelled", "cancel", True),  # again: the same
        ("cancelled", "resume", False),
        ("failed", "cancel", False),
        ("failed", "pause", False),
    ],
)
def test_what_can_be_asked_of_a_job_depends_on_its_state(
    jobs: FineTuningJobs, status: str, action: str, allowed: bool
) -> None:
    job = _new(jobs)
    reach: dict[str, Callable[[], Any]] = {
        "validating_files": lambda: None,
        "queued": lambda: jobs.queue.add(job.id, {}),
        "running": lambda: (jobs.queue.add(job.id, {}), jobs.queue.start(job.id, 0)),
        "paused": lambda: (jobs.queue.add(job.id, {}), jobs.pause("us", job.id)),
        "cancelled": lambda: jobs.cancel("us", job.id),
        "failed": lambda: jobs.fail(job.id, "no"),
    }
    reach[status]()
    assert jobs.get("us", job.id).status == status
    if allowed:
        results = {"cancel": "cancelled", "pause": "paused", "resume": "queued"}
        assert getattr(jobs, action)("us", job.id).status == results[action]
    else:
        with pytest.raises(Conflict, match=f"{job.id} is {status}"):
            getattr(jobs, action)("us", job.id)


def test_events_are_walked_newest_first_each_once_though_new_ones_come(jobs: FineTuningJobs) -> None:
    job = _running(jobs)  # four events
    jobs.post_event(job.id, "the fifth")
    seen: list[str] = []
    sizes: list[int] = []
    after = None
    while True:
        page = jobs.events("us", job.id, after=after, limit=2)
        seen += [event.message for event in page.data]
        sizes.append(len(page.data))
        after = page.data[-1].id
        jobs.post_event(job.id, "arrives in between")
        if not page.has_more:
            break
    assert sizes == [2, 2, 1]
    assert seen[0] == "the fifth"
    assert seen[-1] == f"Created fine-tuning job: {job.id}"
    assert len(set(seen)) == 5


@pytest.mark.parametrize("wrong", ["ftevent-0-1", "{id}-99", "{id}-0", "{id}-x", "{id}-01", "", "nonsense"])
def test_an_event_that_is_not_the_jobs_is_no_cursor(jobs: FineTuningJobs, wrong: str) -> None:
    job = _new(jobs)
    first = jobs.events("us", job.id).data[0].id.rpartition("-")[0]
    with pytest.raises(NotFound, match="has no event"):
        jobs.events("us", job.id, after=wrong.replace("{id}", first))


def test_positions_are_read_from_ids_of_the_same_job_only() -> None:
    assert position_of("ftevent-1f2e-12", "ftjob-1f2e") == 12
    assert position_of("ftevent-1f2e-12", "ftjob-1f2") is None
    assert position_of("ftevent-1f2e-" + "9" * 5000, "ftjob-1f2e") is None


def test_events_posted_at_once_are_all_kept_and_numbered(jobs: FineTuningJobs) -> None:
    job = _running(jobs)

    def post(name: str) -> None:
        for number in range(10):
            FineTuningJobs().post_event(job.id, f"{name}{number}")

    threads = [threading.Thread(target=post, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events = jobs.events("us", job.id, limit=100).data
    assert len({event.message for event in events}) == 44
    assert [position_of(event.id, job.id) for event in events] == list(range(44, 0, -1))


def test_progress_is_read_from_metrics(jobs: FineTuningJobs) -> None:
    job = _running(jobs)
    jobs.post_event(job.id, "Step 4/20", type="metrics", data={"step": 4, "total_steps": 20})
    jobs.post_event(job.id, "Epoch 1", type="metrics", data={"step": 4, "full_valid_loss": 0.5})
    now = jobs.get("us", job.id)
    assert (now.step, now.total_steps) == (4, 20)


def test_a_checkpoint_that_an_attempt_repeats_is_kept_once(jobs: FineTuningJobs, make_card: MakeCard) -> None:
    job = _running(jobs)
    for step in (5, 5, 10):
        name = f"ft:x:ckpt-step-{step}"
        jobs.add_checkpoint(job.id, step, name, {"train_loss": 0.5}, make_card(id=name))
    assert [checkpoint.step for checkpoint in jobs.checkpoints("us", job.id).data] == [10, 5]
    assert Registry().get("ft:x:ckpt-step-5", "us").id == "ft:x:ckpt-step-5"


def test_another_tenants_job_is_an_unknown_one(jobs: FineTuningJobs) -> None:
    job = _new(jobs, "them")
    for ask in (jobs.get, jobs.cancel, jobs.pause, jobs.resume, jobs.events, jobs.checkpoints):
        with pytest.raises(NotFound) as refused:
            ask("us", job.id)
        with pytest.raises(NotFound) as unknown:
            ask("us", "ftjob-0")
        assert str(refused.value).replace(job.id, "ftjob-0") == str(unknown.value)
    assert jobs.list("us").data == []
    assert jobs.get("them", job.id).status is JobStatus.VALIDATING_FILES


def test_a_new_job_is_told_as_it_was_made_though_it_is_checked_at_once(
    right_after: Callable[[Engine, Callable[[], object]], None],
) -> None:
    engine, other = open_database(), FineTuningJobs()
    right_after(engine, lambda: other.queue.add(other.queue.unchecked()[0].id, {}))
    made = _new(FineTuningJobs(engine))
    assert made.status is JobStatus.VALIDATING_FILES
    assert other.get("us", made.id).status is JobStatus.QUEUED


def test_jobs_are_found_by_their_metadata(jobs: FineTuningJobs) -> None:
    wanted = _new(jobs, team="search", stage="try")
    _new(jobs, team="search")
    _new(jobs)
    assert len(jobs.list("us", metadata={"team": "search"}).data) == 2
    assert [job.id for job in jobs.list("us", metadata={"team": "search", "stage": "try"}).data] == [
        wanted.id
    ]
    assert jobs.list("us", metadata={"it's": '" OR 1'}).data == []


@pytest.mark.parametrize("key", ["équipe", "チーム", 'a "name"', "back\\slash", "a.b[0]", "$", "%", "'"])
def test_a_label_may_be_called_anything(jobs: FineTuningJobs, key: str) -> None:
    wanted, _ = _new(jobs, **{key: "x", "team": "docs"}), _new(jobs, **{key: "X"})
    assert [job.id for job in jobs.list("us", metadata={key: "x"}).data] == [wanted.id]
    assert jobs.list("us", metadata={key + "\0": "x"}).data == []


def test_an_unknown_job_is_told_to_the_run(jobs: FineTuningJobs, make_card: MakeCard) -> None:
    for call in (
        lambda: jobs.post_event("ftjob-0", "hello"),
        lambda: jobs.fail("ftjob-0", "no"),
        lambda: jobs.succeed("ftjob-0", make_card(), 1),
        lambda: jobs.add_checkpoint("ftjob-0", 1, "ft:x", {}),
    ):
        with pytest.raises(NotFound, match="ftjob-0"):
            call()


def test_the_end_of_a_job_is_announced_where_a_webhook_is_configured(
    jobs: FineTuningJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs.cancel("us", _new(jobs).id)
    assert WebhookOutbox().due() == []
    monkeypatch.setenv("HAMLET_WEBHOOK_URL", "http://127.0.0.1:1/hook")
    settings.cache_clear()
    job = _new(jobs)
    jobs.cancel("us", job.id)
    jobs.cancel("us", job.id)
    [delivery] = WebhookOutbox().due()
    assert (delivery.type, delivery.object_id) == ("fine_tuning.job.cancelled", job.id)


def test_files_of_jobs_that_have_not_ended_are_in_use(jobs: FineTuningJobs) -> None:
    job = _new(jobs)
    assert jobs.files_in_use() == {"file-1"}
    jobs.cancel("us", job.id)
    assert jobs.files_in_use() == set()


def test_a_tenant_has_no_more_jobs_than_it_may_until_one_has_ended(jobs: FineTuningJobs) -> None:
    request = JobRequest("smollm2", "file-1", None, {}, {}, None, 1, None, {})
    first = jobs.create("us", request, max_active=1)
    with pytest.raises(Overloaded, match="1 jobs have not ended"):
        jobs.create("us", request, max_active=1)
    jobs.create("them", request, max_active=1)
    jobs.cancel("us", first.id)
    jobs.create("us", request, max_active=1)
