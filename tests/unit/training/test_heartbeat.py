from __future__ import annotations

import threading

import pytest

from training.heartbeat import PHASES, Beat, Heartbeat, Position, next_beat, stuck_ranks

LIMIT_S = 60.0


def beat(step: int, phase: str, moved_at: float, heard_at: float = 99.0) -> Beat:
    return Beat(Position(step, PHASES.index(phase)), moved_at, heard_at)


def test_a_rank_keeps_the_time_it_moved_at_while_it_stands_still() -> None:
    first = next_beat(None, Position(1), 10.0)
    still = next_beat(first, Position(1), 20.0)
    assert (still.moved_at, still.heard_at) == (10.0, 20.0)
    assert next_beat(still, Position(1, 1), 30.0).moved_at == 30.0


def test_nothing_hangs_while_any_rank_moves() -> None:
    assert stuck_ranks({0: beat(5, "backward", 0), 1: beat(5, "forward", 70)}, 100.0, LIMIT_S) == ""
    assert stuck_ranks({}, 100.0, LIMIT_S) == ""


def test_the_rank_that_is_behind_is_named_and_who_waits_for_it() -> None:
    ranks = {0: beat(7, "backward", 1), 1: beat(7, "reading rows", 0), 2: beat(7, "backward", 2)}
    text = stuck_ranks(ranks, 100.0, LIMIT_S)
    assert text.startswith("rank 1 has not moved for 100 s (step 7, reading rows)")
    assert "rank 0 waits at step 7, backward" in text
    assert "rank 2 waits" in text


def test_a_rank_that_says_nothing_is_named_before_one_that_is_behind() -> None:
    ranks = {0: beat(6, "forward", 0), 1: beat(7, "backward", 0, heard_at=20)}
    assert stuck_ranks(ranks, 100.0, LIMIT_S).startswith("rank 1 says nothing for 80 s")


def test_ranks_at_one_place_are_all_named() -> None:
    text = stuck_ranks({0: beat(3, "update", 0), 1: beat(3, "update", 0)}, 100.0, LIMIT_S)
    assert "rank 0 has not moved" in text
    assert "rank 1 has not moved" in text


class Log:
    """An event log that asks for a pause once it has heard of step 2."""

    def __init__(self) -> None:
        self.heard: list[Position] = []
        self.beat = self
        self.asked = threading.Event()

    def remote(self, _rank: int, position: Position) -> bool:
        self.heard.append(position)
        if position.step == 2:
            self.asked.set()
        return position.step == 2


def test_a_heartbeat_tells_positions_and_hears_of_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "get", lambda value: value)
    monkeypatch.setattr("training.heartbeat.BEAT_EVERY_S", 0.001)
    log = Log()
    with Heartbeat(log, rank=0) as heartbeat:
        assert not heartbeat.should_pause
        heartbeat.at(2, "forward")
        assert log.asked.wait(10)
    heartbeat._thread.join(10)
    assert heartbeat.should_pause
    assert Position(2, PHASES.index("forward")) in log.heard
