"""A router as a process of its own, with scripted models and training: `python router_process.py PORT [ray]`.

With `ray`, training runs as Ray jobs on the head of HAMLET_HOME, else as processes beside the router.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import uvicorn

from cluster.logs import set_up_logging
from cluster.ray_launcher import RayLauncher
from serving import job_policy
from serving.config import FineTuningConfig, ServingConfig
from serving.platform import Platform
from serving.scripted_parts import ScriptedApplication
from serving.training_commands import TrainingCommands

SCRIPTED = (sys.executable, str(Path(__file__).with_name("scripted_training.py")))


def application(max_running: int = 2, on_ray: bool = False) -> ScriptedApplication:
    config = ServingConfig(
        fine_tuning=FineTuningConfig(
            launcher="local", max_running=max_running, max_running_per_tenant=max_running
        )
    )
    platform = Platform.of(config, TrainingCommands(SCRIPTED))
    if on_ray:
        # The configured launcher stays `local`: with `ray` the keeper would call the real training.
        ours = {name: value for name, value in os.environ.items() if name.startswith(("HAMLET_", "PYTHON"))}
        platform = replace(platform, launcher=RayLauncher(runtime_env={"env_vars": ours}))
    return ScriptedApplication(config=config, platform=platform)


if __name__ == "__main__":
    job_policy.FIRST_RETRY_S = (
        1.0  # that a lost run is tried again is tested here; how long it waits, without a clock
    )
    set_up_logging("INFO")
    app = application(on_ray="ray" in sys.argv[2:]).app
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
