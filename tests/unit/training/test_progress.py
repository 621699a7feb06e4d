from __future__ import annotations

import io
from dataclasses import replace

import pytest

from training import progress
from training.heartbeat import PHASES, Order, Position
from training.progress import (
    EpochEvent,
    Event,
    EventLog,
    EventReader,
    NoticeEvent,
    PlainProgress,
    StepEvent,
    epoch_table,
    step_line,
)

STEP = StepEvent(
    step=30,
    total_steps=120,
    epoch=1,
    loss=0.5,
    learning_rate=5e-5,
    grad_norm=1.25,
    examples_per_s=10.0,
    tokens_per_s=500.0,
    seconds_left=3725.0,
)
FIRST = EpochEvent(1, 10, 0.61, 0.5, {"accuracy": 0.75, "f1": 0.8})
SECOND = EpochEvent(2, 20, 0.31, 0.4, {"accuracy": 1.0, "f1": 1.0})


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_epoch_table_is_the_one_people_know() -> None:
    assert epoch_table([FIRST, SECOND]) == (
        "Epoch  Training Loss  Validation Loss  Accuracy      F1\n"
        "    1         0.6100           0.5000    0.7500  0.8000\n"
        "    2         0.3100           0.4000    1.0000  1.0000"
    )


def test_the_epoch_table_of_a_language_model_has_its_perplexity() -> None:
    assert epoch_table([EpochEvent(12, 9, 1.0, 1.0, {"perplexity": 2.7182})]) == (
        "Epoch  Training Loss  Validation Loss  Perplexity\n   12         1.0000           1.0000      2.7182"
    )


def test_a_step_line_says_where_the_run_is_and_how_fast() -> None:
    line = step_line(STEP, epochs=3)
    for part in (
        "epoch 1/3",
        "step 30/120",
        "loss 0.5000",
        "lr 5.0e-05",
        "10.0 examples/s",
        "500 tokens/s",
        "1 h 02 min left",
    ):
        assert part in line
    assert line.isprintable()


def test_step_lines_come_every_few_seconds_and_other_events_at_once() -> None:
    clock, output = Clock(), io.StringIO()
    show = PlainProgress(3, output, clock)
    for second in range(12):
        clock.now = 100.0 + second
        show(replace(STEP, step=second))
    steps = [line for line in output.getvalue().splitlines() if "step" in line]
    assert [line.split("step ")[1].split("/")[0] for line in steps] == ["0", "5", "10"]
    show(NoticeEvent("resumed after epoch 1 (step 10)"))
    show(FIRST)
    assert output.getvalue().splitlines()[-3] == "resumed after epoch 1 (step 10)"


def test_rows_of_the_table_come_one_by_one_under_one_head() -> None:
    output = io.StringIO()
    show = PlainProgress(2, output, Clock())
    show(FIRST)
    show(SECOND)
    assert output.getvalue() == epoch_table([FIRST, SECOND]) + "\n"


def test_a_restart_that_repeats_an_epoch_does_not_repeat_its_row() -> None:
    output = io.StringIO()
    show = PlainProgress(2, output, Clock())
    for event in (FIRST, NoticeEvent("restarted"), FIRST, SECOND):
        show(event)
    lines = output.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["Epoch", "1", "restarted", "2"]


class LocalLog:
    """An event log in this process, in the form of an actor's handle."""

    def __init__(self) -> None:
        self.inner = EventLog(60.0)
        self.after = self

    def remote(self, position: int) -> list[Event]:
        return self.inner.after(position)


def test_a_reader_hands_on_each_event_once_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress.ray, "get", lambda value: value)
    log, seen = LocalLog(), []
    reader = EventReader(log, [seen.append])
    for text in ("one", "two"):
        log.inner.post(NoticeEvent(text))
        reader.read()
    reader.read()
    assert [event.text for event in seen] == ["one", "two"]


def test_a_rank_that_beats_learns_that_the_run_should_pause() -> None:
    log = EventLog(60.0, Clock())
    assert log.beat(0, Position(1)) is Order.GO_ON
    log.pause()
    assert log.beat(0, Position(2)) is Order.PAUSE


def test_the_log_counts_starts_so_that_a_restart_can_say_so() -> None:
    log = EventLog(60.0, Clock())
    assert [log.start(), log.start()] == [0, 1]


def test_a_hang_is_told_once_and_names_the_rank_behind() -> None:
    clock = Clock()
    log = EventLog(60.0, clock)
    log.beat(0, Position(7, 3))
    log.beat(1, Position(7, 2))
    for _ in range(10):
        clock.now += 30
        for rank, phase in ((0, 3), (1, 2)):
            log.beat(rank, Position(7, phase))
        log.after(0)
    (notice,) = log.after(0)
    assert isinstance(notice, NoticeEvent)
    assert notice.level == "warn"
    assert "rank 1 has not moved for 60 s (step 7, forward)" in notice.text


@pytest.mark.parametrize(
    ("phase", "order"), [("forward", Order.END), ("evaluating", Order.END), ("saving", Order.GO_ON)]
)
def test_one_worker_that_hangs_is_ended_unless_storage_may_be_slow(phase: str, order: Order) -> None:
    clock = Clock()
    log = EventLog(60.0, clock)
    position = Position(7, PHASES.index(phase))
    assert log.beat(0, position) is Order.GO_ON
    clock.now += 59
    assert log.beat(0, position) is Order.GO_ON
    clock.now += 1
    assert log.beat(0, position) is order
    assert len(log.after(0)) == 1
    assert log.beat(0, Position(8)) is Order.GO_ON


def test_of_several_workers_the_one_behind_is_ended_and_not_those_that_wait_for_it() -> None:
    clock = Clock()
    log = EventLog(60.0, clock)
    for rank, phase in ((0, 3), (1, 2)):
        log.beat(rank, Position(7, phase))
    clock.now += 60
    assert [log.beat(rank, Position(7, phase)) for rank, phase in ((0, 3), (1, 2))] == [
        Order.GO_ON,
        Order.END,
    ]


def test_a_rank_that_has_left_is_not_waited_for() -> None:
    clock = Clock()
    log = EventLog(60.0, clock)
    log.beat(0, Position(7, PHASES.index("saving")))
    log.beat(1, Position(7, PHASES.index("saving")))
    log.leave(1)
    clock.now += 600
    log.beat(0, Position(7, PHASES.index("saving")))
    (notice,) = log.after(0)
    assert isinstance(notice, NoticeEvent)
    assert "rank 1" not in notice.text
