"""How many routers share the limits: each says by a lease that it lives, and counts those of all.

Counted in SQL and not by Serve, whose target counts no router that a redeploy is about to stop.
"""

from __future__ import annotations

from sqlalchemy.engine import Engine

from cluster.leases import Leases
from serving.conductor import Conductor, Duty, owner_name
from serving.limits import Limits

PREFIX = "router-"
# How soon a router that comes or leaves is noticed; one that is killed, once its lease is over.
COUNT_EVERY_S = 1.0


def router_count(engine: Engine, limits: Limits) -> Conductor:
    """Keeps `limits` told of the routers on this database while it is at work."""
    name = owner_name()
    leases = Leases(name, engine)

    def count() -> None:
        limits.num_routers = max(1, leases.num_held(PREFIX))

    return Conductor(leases, [Duty(f"{PREFIX}{name}", count, COUNT_EVERY_S)])
