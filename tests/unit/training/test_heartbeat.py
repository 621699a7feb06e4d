from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from training.heartbeat import (
    PHASES,
    Beat,
    Heartbeat,
    Order,
    Position,
    describe_hang,
    next_beat,
    stuck_ranks,
)

LIMIT_S = 60.0


def beat(step: int, phase: str, moved_at: float, heard_at: float = 99.0) -> Beat:
    return Beat(Position(step, PHASES.index(phase)), moved_at, heard_at)


def test_a_rank_keeps_the_time_it_moved_at_while_it_stands_still() -> None:
    first = next_beat(None, Position(1), 10.0)
    still = next_beat(first, Position(1), 20.0)
    assert (still.moved_at, still.heard_at) == (10.0, 20.0)
    assert next_beat(still, Position(1, 1), 30.0).moved_at == 30.0


def test_nothing_hangs_while_any_rank_moves() -> None:
    assert stuck_ranks({0: beat(5, "backward", 0), 1: beat(5, "forward", 70)}, 100.0, LIMIT_S) == []
    assert stuck_ranks({}, 100.0, LIMIT_S) == []


def told(ranks: dict[int, Beat]) -> str:
    return describe_hang(stuck_ranks(ranks, 100.0, LIMIT_S), ranks, 100.0)


def test_the_rank_that_is_behind_is_named_and_who_waits_for_it() -> None:
    ranks = {0: beat(7, "backward", 1), 1: beat(7, "reading rows", 0), 2: beat(7, "backward", 2)}
    text = told(ranks)
    assert text.startswith("the run hangs: rank 1 has not moved for 100 s (step 7, reading rows)")
    assert "rank 0 waits at step 7, backward" in text
    assert "rank 2 waits" in text


def test_a_rank_that_says_nothing_is_named_before_one_that_is_behind() -> None:
    ranks = {0: beat(6, "forward", 0), 1: beat(7, "backward", 0, heard_at=20)}
    assert told(ranks).startswith("the run hangs: rank 1 says nothing for 80 s")


def test_ranks_at_one_place_are_all_named() -> None:
    text = told({0: beat(3, "update", 0), 1: beat(3, "update", 0)})
    assert "rank 0 has not moved" in text
    assert "rank 1 has not moved" in text


def test_only_storage_may_be_slow_without_end() -> None:
    assert "it is ended" in told({0: beat(3, "forward", 0)})
    for phase in ("starting", "saving"):
        assert "it is left alone" in told({0: beat(3, phase, 0)})
        assert "it is ended" in told({0: beat(3, phase, 0, heard_at=20)})


class Log:
    """An event log that gives an order once it has heard of step 2."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self.heard: list[Position] = []
        self.left: list[int] = []
        self.beat = SimpleNamespace(remote=self._beat)
        self.leave = SimpleNamespace(remote=self.left.append)
        self.asked = threading.Event()

    def _beat(self, _rank: int, position: Position) -> Order:
        self.heard.append(position)
        if position.step != 2:
            return Order.GO_ON
        self.asked.set()
        return self._order


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event log in this process, which beats follow each other to quickly."""
    import ray

    monkeypatch.setattr(ray, "get", lambda value: value)
    monkeypatch.setattr("training.heartbeat.BEAT_EVERY_S", 0.001)


@pytest.mark.usefixtures("here")
def test_a_heartbeat_tells_positions_hears_of_a_pause_and_leaves_at_its_end() -> None:
    log = Log(Order.PAUSE)
    with Heartbeat(log, rank=0) as heartbeat:
        assert not heartbeat.should_pause
        heartbeat.at(2, "forward")
        assert log.asked.wait(10)
    heartbeat._thread.join(10)
    assert heartbeat.should_pause
    assert Position(2, PHASES.index("forward")) in log.heard
    assert log.left == [0]


@pytest.mark.usefixtures("here")
def test_a_process_that_hangs_ends_itself_from_its_heartbeat() -> None:
    ended = threading.Event()
    with Heartbeat(Log(Order.END), rank=0, end=ended.set) as heartbeat:
        heartbeat.at(2, "forward")
        assert ended.wait(10)
