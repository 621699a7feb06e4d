"""A router as a process of its own: `python router_process.py PORT`, with scripted models and training."""

from __future__ import annotations

import sys
from pathlib import Path

import uvicorn

from cluster.logs import set_up_logging
from serving.config import FineTuningConfig, ServingConfig
from serving.platform import Platform
from serving.scripted_parts import ScriptedApplication
from serving.training_commands import TrainingCommands

SCRIPTED = (sys.executable, str(Path(__file__).with_name("scripted_training.py")))


def application(max_running: int = 2) -> ScriptedApplication:
    config = ServingConfig(
        fine_tuning=FineTuningConfig(
            launcher="local", max_running=max_running, max_running_per_tenant=max_running
        )
    )
    return ScriptedApplication(config=config, platform=Platform.of(config, TrainingCommands(SCRIPTED)))


if __name__ == "__main__":
    set_up_logging("INFO")
    uvicorn.run(application().app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
