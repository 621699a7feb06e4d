"""What Ray's autoscaler would ask of KubeRay for a load: its own scheduler, fed with the rendered worker groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from manifests import OVERLAYS, Document, name_of, ray_clusters

Rendered = Callable[[str], list[Document]]

GPU_OVERLAYS = OVERLAYS[1:]
ROUTER = (
    "node:__internal_implicit_resource_hamlet:router"  # what Serve asks for with max_replicas_per_node: 1
)


def launched(documents: list[Document], where: str, *pending: Mapping[str, float]) -> dict[str, int]:
    """Pods by group that a cluster without workers gets for these pending tasks; "none" counts those that never fit."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
    from ray.autoscaler.v2.utils import ResourceRequestUtil

    [metadata] = [document["metadata"] for document in documents if name_of(document) == where]
    spec = dict(ray_clusters(documents))[where]
    derived = AutoscalingConfig(
        _derive_autoscaling_config_from_ray_cr({"metadata": metadata, "spec": spec}), skip_content_hash=True
    )
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=derived.get_node_type_configs(),
        max_num_nodes=derived.get_max_num_nodes(),
        resource_requests=ResourceRequestUtil.group_by_count(
            [ResourceRequestUtil.make(bundle) for bundle in pending]
        ),
    )
    reply = ResourceDemandScheduler().schedule(request)
    pods = {launch.instance_type: launch.count for launch in reply.to_launch}
    num_infeasible = len(reply.infeasible_resource_requests)
    return pods | ({"none": num_infeasible} if num_infeasible else {})


@pytest.mark.parametrize("target", GPU_OVERLAYS)
def test_a_task_that_waits_for_a_gpu_brings_a_gpu_pod(target: str, rendered: Rendered) -> None:
    jobs = rendered(target), "RayCluster/hamlet-jobs"
    assert launched(*jobs, {"CPU": 1, "GPU": 1}) == {"gpu": 1}
    assert launched(*jobs, *[{"CPU": 2, "GPU": 1}] * 4) == {"gpu": 4}


@pytest.mark.parametrize("target", OVERLAYS)
def test_idle_the_cluster_for_jobs_has_no_workers_and_work_for_cpus_brings_no_gpu(
    target: str, rendered: Rendered
) -> None:
    jobs = rendered(target), "RayCluster/hamlet-jobs"
    assert launched(*jobs) == {}
    assert launched(*jobs, {"CPU": 2}) == {"cpu": 1}


def test_a_task_that_no_pod_can_hold_brings_none(rendered: Rendered) -> None:
    jobs = rendered("k8s/overlays/gpu"), "RayCluster/hamlet-jobs"
    assert launched(*jobs, {"GPU": 2}) == {"none": 1}


def test_each_replica_that_is_kept_apart_brings_a_worker(rendered: Rendered) -> None:
    serving = rendered("k8s/overlays/gpu-ha"), "RayService/hamlet"
    assert launched(*serving) == {"cpu": 2}
    assert launched(*serving, *[{"CPU": 1}] * 3) == {"cpu": 2}
    assert launched(*serving, *[{"CPU": 1, ROUTER: 1}] * 3) == {"cpu": 3}
