"""How many replicas a deployment has at a steady load, by Ray's own policy with our settings."""

from __future__ import annotations

import random
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve import autoscaling_policy
from ray.serve.autoscaling_policy import _apply_autoscaling_config, default_autoscaling_policy
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from serving.config import DeploymentConfig, deployment_options

REQUESTS_PER_S = 5
MEAN_REQUEST_S = 1
SECONDS = 300
decide = _apply_autoscaling_config(default_autoscaling_policy)


def ongoing_by_second(chance: random.Random) -> list[int]:
    """Requests in progress at each second, where they come by chance at a steady rate."""
    now, requests = 0.0, []
    while now < SECONDS:
        now += chance.expovariate(REQUESTS_PER_S)
        requests.append((now, now + chance.expovariate(1 / MEAN_REQUEST_S)))
    return [sum(began <= second < ended for began, ended in requests) for second in range(SECONDS)]


@pytest.mark.parametrize("seed", range(3))
def test_at_a_steady_rate_the_replica_count_settles_and_changes_at_most_once_more(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = DeploymentConfig(max_replicas=8, target_ongoing_requests=2)
    config = AutoscalingConfig(**deployment_options(deployment)["autoscaling_config"])
    window_s = round(deployment.look_back_period_s)
    ongoing = ongoing_by_second(random.Random(seed))
    counts = [1]
    state: dict[str, Any] = {}
    for second in range(SECONDS):
        monkeypatch.setattr(autoscaling_policy, "time", SimpleNamespace(time=lambda now=second: now))
        recent = ongoing[max(0, second + 1 - window_s) : second + 1]
        context = AutoscalingContext(
            deployment_id=None,
            deployment_name="embedder",
            app_name="hamlet",
            current_num_replicas=counts[-1],
            target_num_replicas=counts[-1],
            running_replicas=[],
            total_num_requests=sum(recent) / len(recent),
            total_queued_requests=0,
            aggregated_metrics=None,
            raw_metrics=None,
            capacity_adjusted_min_replicas=deployment.min_replicas,
            capacity_adjusted_max_replicas=deployment.max_replicas,
            policy_state=state,
            last_scale_up_time=None,
            last_scale_down_time=None,
            current_time=second,
            config=config,
        )
        count, state = decide(context)
        counts.append(count)
    settled = counts[2 * window_s :]
    assert settled[0] == 3  # of 5 requests in progress, 2 a replica
    assert sum(before != after for before, after in pairwise(settled)) <= 1
