from __future__ import annotations

from sqlalchemy import event, select

from cluster.database import open_database, reading
from cluster.leases import LEASES, Leases


def test_one_of_two_holds_a_lease_until_it_expires_or_is_given_back() -> None:
    now = [1000.0]
    one, two = (Leases(owner, clock=lambda: now[0]) for owner in ("one", "two"))
    assert one.hold("jobs", 10)
    assert not two.hold("jobs", 10)
    assert two.hold("files", 10)  # another lease
    now[0] += 9
    assert one.hold("jobs", 10)  # renewed
    now[0] += 9
    assert not two.hold("jobs", 10)
    now[0] += 1
    assert two.hold("jobs", 10)  # the first has stopped renewing
    assert not one.hold("jobs", 10)
    one.release("jobs")  # not its own any more
    assert not one.hold("jobs", 10)
    two.release("jobs")
    assert one.hold("jobs", 10)


def test_a_lease_that_is_held_is_written_again_when_half_of_it_has_gone() -> None:
    now = [1000.0]
    engine = open_database()
    leases = Leases("one", engine, clock=lambda: now[0])
    assert leases.hold("jobs", 10)
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda _c, _cur, sql, *_: statements.append(sql))
    now[0] += 4
    assert leases.hold("jobs", 10)
    assert statements == []
    now[0] += 2
    assert leases.hold("jobs", 10)
    assert [sql.split()[0] for sql in statements] == ["BEGIN", "UPDATE"]
    now[0] += 9
    assert not Leases("two", clock=lambda: now[0]).hold("jobs", 10)  # counted from the second writing


def test_a_lease_is_written_again_when_the_clock_was_set_back() -> None:
    now = [10_000.0]
    leases = Leases("one", clock=lambda: now[0])
    assert leases.hold("jobs", 10)
    now[0] -= 3600
    assert leases.hold("jobs", 10)
    now[0] += 10
    assert Leases("two", clock=lambda: now[0]).hold("jobs", 10)  # the first has stopped renewing


def test_the_leases_of_a_kind_are_counted_while_they_are_held() -> None:
    now = [1000.0]
    engine = open_database()
    one, two = (Leases(owner, engine, clock=lambda: now[0]) for owner in ("one", "two"))
    assert one.num_held("router-") == 0
    one.hold("router-one", 10)
    two.hold("router-two", 20)
    two.hold("jobs", 10)
    assert one.num_held("router-") == 2
    now[0] += 15  # the first was killed
    assert two.num_held("router-") == 1
    with reading(engine) as connection:
        assert set(connection.scalars(select(LEASES.c.name))) == {"router-two", "jobs"}
    two.release("router-two")
    assert one.num_held("router-") == 0
