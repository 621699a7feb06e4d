from __future__ import annotations

import signal
import threading
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from cluster.errors import ConfigError, JobFailed
from training import fit
from training.config import FinetuneConfig
from training.fit import EndedWaiting, Fit
from training.heartbeat import Order, Position
from training.progress import EventLog, NoticeEvent


def config_of(method: str = "full", **scaling: Any) -> FinetuneConfig:
    values = {"name": "t", "task": "sft", "model": "m", "data": {"path": "rows"}, "method": method}
    return FinetuneConfig.model_validate({**values, "scaling": scaling})


def uses_gpu(config: FinetuneConfig, told: list[NoticeEvent] | None = None) -> bool:
    return fit._uses_gpu(config, (told if told is not None else []).append)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0, "GPU": 2.0})


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("scaling", "expected"),
    [
        ({"num_workers": 2}, True),
        ({"num_workers": 4, "min_workers": 1}, True),
        ({"num_workers": 4, "min_workers": 3}, False),
        ({"num_workers": 4}, False),
        ({"num_workers": 4, "use_gpu": True}, True),
        ({"num_workers": 2, "use_gpu": False}, False),
    ],
)
def test_a_run_takes_gpus_when_its_fewest_workers_have_one_each(
    scaling: dict[str, Any], expected: bool
) -> None:
    assert uses_gpu(config_of(**scaling)) is expected


@pytest.mark.usefixtures("two_gpus")
def test_a_run_that_leaves_gpus_idle_says_so() -> None:
    told: list[NoticeEvent] = []
    assert not uses_gpu(config_of(num_workers=4), told)
    (event,) = told
    assert event.level == "warn"
    assert event.text.startswith("trains on CPU: 4 workers ask for a GPU each, and this cluster has 2;")
    uses_gpu(config_of(num_workers=2), told)
    uses_gpu(config_of(num_workers=4, use_gpu=False), told)
    assert len(told) == 1


@pytest.mark.parametrize("is_waiting", [True, False])
def test_a_run_that_is_asked_to_stop_while_it_waits_for_room_ends_at_once_and_one_that_trains_saves_first(
    monkeypatch: pytest.MonkeyPatch, is_waiting: bool
) -> None:
    """`ray.get` gives what an actor's method returns; the run hears of SIGTERM as it first looks for events."""
    ended, log = threading.Event(), EventLog(1.0)
    log.wait(is_waiting)
    log.post(NoticeEvent("waits"))
    names = ("after", "pause", "is_waiting")
    methods = {name: SimpleNamespace(remote=getattr(log, name)) for name in names}
    monkeypatch.setattr(ray, "get", lambda value: value)
    monkeypatch.setattr(fit, "POLL_EVERY_S", 0.01)
    trainer = SimpleNamespace(fit=lambda: ended.wait(5) and SimpleNamespace(return_value="paused"))
    monkeypatch.setattr(fit, "_trainer", lambda *_: trainer)

    def stop(_event: object) -> None:
        signal.raise_signal(signal.SIGTERM)
        if not is_waiting:
            ended.set()

    run = Fit(config_of(), SimpleNamespace(event_log=SimpleNamespace(**methods)), "a", [stop])  # type: ignore[arg-type]
    try:
        with pytest.raises(JobFailed if not is_waiting else EndedWaiting):  # "paused" is no result of a loop
            run.run()
    finally:
        ended.set()
    assert log.beat(0, Position()) is Order.PAUSE


@pytest.mark.parametrize(
    ("given", "allowed"), [({}, -1), ({"max_preemptions": 3}, 3), ({"max_preemptions": 0}, 0)]
)
def test_preempted_nodes_are_counted_apart_from_failures_and_without_limit_unless_one_is_set(
    given: dict[str, int], allowed: int
) -> None:
    survived = fit._failures_survived(config_of(max_failures=5, **given).scaling)
    assert (survived.max_failures, survived.max_preemption_failures) == (5, allowed)


@pytest.mark.usefixtures("two_gpus")
def test_qlora_is_refused_by_the_fewest_workers_that_it_needs() -> None:
    assert uses_gpu(config_of("qlora", num_workers=4, min_workers=2))
    with pytest.raises(ConfigError, match="GPU for each of 3 workers, and this cluster has 2"):
        uses_gpu(config_of("qlora", num_workers=4, min_workers=3))
