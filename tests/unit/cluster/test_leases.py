from __future__ import annotations

from cluster.leases import Leases


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
