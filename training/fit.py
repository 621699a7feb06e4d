"""The middle of a run: Ray Train's trainer started, its events handed on, its end explained, its pause."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.errors import ConfigError, HamletError, JobFailed
from training.config import FinetuneConfig, Method, ScalingConfig
from training.controller import FailFast, MarkComplete, WaitForRoom, first_failure
from training.loop_state import CHECKPOINT_SCORE, LoopInputs, LoopResult
from training.progress import POLL_EVERY_S, EventLog, EventReader, NoticeEvent, Sink
from training.workers import torch_config

log = logging.getLogger(__name__)

# Seconds between two looks of Ray Train's controller at its workers; 2 by default, which a short run feels.
CONTROLLER_LOOKS_EVERY_S = "0.5"
# Seconds of one try to place all workers, after which Ray Train's controller looks up and tries again.
TRY_S = 60.0


def train_loop(inputs: LoopInputs) -> LoopResult:
    """`training.loop` on a worker. Imported there alone: its libraries take seconds that the driver has no use for."""
    from training import loop

    return loop.train_loop(inputs)


class EndedWaiting(Exception):
    """The run was asked to stop while it had no workers: all that is saved is saved already."""


class Fit:
    """One attempt to train: Ray Train in a thread, so that this one stays free for events and signals."""

    def __init__(self, config: FinetuneConfig, inputs: LoopInputs, attempt: str, sinks: list[Sink]) -> None:
        self._trainer = _trainer(config, inputs, attempt)
        self._event_log = inputs.event_log
        self._reader = EventReader(inputs.event_log, sinks)
        self._outcome: LoopResult | BaseException | None = None
        self._is_pausing = False
        self._done = threading.Event()

    def run(self) -> LoopResult:
        """Train to the end, or until SIGTERM: then the ranks save and stop, and the result `is_paused`.

        Raises a HamletError in one sentence when training fails, EndedWaiting where there were no ranks to save.
        """
        thread = threading.Thread(target=self._fit, daemon=True, name="ray-train")
        with _on_sigterm(self._pause):
            thread.start()
            while not self._done.wait(POLL_EVERY_S):
                self._reader.read()
                if self._is_pausing and ray.get(self._event_log.is_waiting.remote()):
                    raise EndedWaiting
            self._reader.read()
        if isinstance(self._outcome, ray.train.TrainingFailedError):
            raise explain(self._outcome) from self._outcome
        if isinstance(self._outcome, BaseException):
            raise self._outcome
        if self._outcome is None:
            raise JobFailed("the run ended without a result; see the workers' logs in Ray's dashboard")
        return self._outcome

    def _pause(self) -> None:
        self._is_pausing = True
        self._event_log.pause.remote()

    def _fit(self) -> None:
        try:
            value = self._trainer.fit().return_value
            self._outcome = value if isinstance(value, LoopResult) else None
        except Exception as exc:  # noqa: BLE001 - raised again by `run`, in the main thread
            self._outcome = exc
        finally:
            self._done.set()


def start_event_log(hang_timeout_s: float) -> Any:
    """The actor that the ranks tell. Beside this driver: on another host it, and the run, would be lost with it."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(EventLog).remote(hang_timeout_s)


def explain(exc: Exception) -> HamletError:
    """What ended a run: the callback that gave up on it, or the first worker's own error with its rank."""
    given_up = getattr(exc, "controller_failure", None)
    if isinstance(given_up, HamletError):
        return given_up
    return first_failure(getattr(exc, "worker_failures", {})) or JobFailed(f"training failed: {exc}")


def _trainer(config: FinetuneConfig, inputs: LoopInputs, attempt: str) -> TorchTrainer:
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", CONTROLLER_LOOKS_EVERY_S)
    scaling = config.scaling
    os.environ.setdefault(
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", f"{min(TRY_S, scaling.start_timeout_s):g}"
    )
    # Ray's default is none: a rank that reports no checkpoint is waited for forever. Shorter than that of the exchange
    # in which such a rank waits for the others meanwhile, whose error could not say what is missing.
    os.environ.setdefault("RAY_TRAIN_COLLECTIVE_TIMEOUT_S", f"{0.9 * scaling.hang_timeout_s:g}")
    # A process that is stopped cannot end itself when it hangs (training/heartbeat.py); Ray then gives it up.
    os.environ.setdefault("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", f"{scaling.hang_timeout_s:g}")
    use_gpu = _uses_gpu(config, inputs.event_log.post.remote)
    least = scaling.min_workers
    per_worker = room_of_worker(scaling, use_gpu=use_gpu)
    return TorchTrainer(
        train_loop,
        train_loop_config=inputs,
        torch_config=torch_config(scaling.hang_timeout_s),
        scaling_config=ray.train.ScalingConfig(
            num_workers=scaling.num_workers if least is None else (least, scaling.num_workers),
            use_gpu=use_gpu,
            resources_per_worker=per_worker,
        ),
        run_config=ray.train.RunConfig(
            name=attempt,
            storage_path=inputs.run_uri,
            failure_config=_failures_survived(scaling),
            checkpoint_config=_checkpoints_kept(config),
            callbacks=[
                FailFast(),
                WaitForRoom(inputs.event_log, scaling.fewest_workers, per_worker, scaling.start_timeout_s),
                MarkComplete(
                    f"{inputs.run_uri}/{attempt}", config.model_dump(mode="json"), inputs.data_sha256
                ),
            ],
        ),
    )


def room_of_worker(scaling: ScalingConfig, *, use_gpu: bool) -> dict[str, float]:
    """Ray's resources of one worker. Pure."""
    return {"CPU": scaling.cpus_per_worker, **({"GPU": 1} if use_gpu else {})}


def has_gpus_for(scaling: ScalingConfig, num_gpus: float) -> bool:
    """Whether workers get a GPU each: as configured, else where those without which a run ends can have one. Pure."""
    return num_gpus >= scaling.fewest_workers if scaling.use_gpu is None else scaling.use_gpu


def _uses_gpu(config: FinetuneConfig, tell: Callable[[NoticeEvent], object]) -> bool:
    """Whether each worker gets a GPU; tells where those there are do not suffice.

    Raises ConfigError where the method cannot do without.
    """
    scaling = config.scaling
    num_gpus = ray.cluster_resources().get("GPU", 0)
    if has_gpus_for(scaling, num_gpus):
        return True
    if scaling.use_gpu is False:
        return False
    if config.method is Method.QLORA:
        raise ConfigError(
            f"method qlora needs a GPU for each of {scaling.fewest_workers} workers, and this cluster has "
            f"{num_gpus:g}; use method: lora, or set scaling.use_gpu=true where the cluster adds GPUs on demand",
            "method",
        )
    if num_gpus:
        text = (
            f"trains on CPU: {scaling.fewest_workers} workers ask for a GPU each, and this cluster has {num_gpus:g}; "
            f"scaling.num_workers={num_gpus:g} would use them"
        )
        tell(NoticeEvent(text, level="warn"))
    return False


def _failures_survived(scaling: ScalingConfig) -> ray.train.FailureConfig:
    preemptions = (
        -1 if scaling.max_preemptions is None else scaling.max_preemptions
    )  # Ray's word for no limit
    return ray.train.FailureConfig(max_failures=scaling.max_failures, max_preemption_failures=preemptions)


def _checkpoints_kept(config: FinetuneConfig) -> ray.train.CheckpointConfig:
    """The newest two; with early stopping the best and the newest, whichever that is."""
    if config.early_stopping_patience is None:
        return ray.train.CheckpointConfig(num_to_keep=2)
    return ray.train.CheckpointConfig(
        num_to_keep=1, checkpoint_score_attribute=CHECKPOINT_SCORE, checkpoint_score_order="min"
    )


@contextmanager
def _on_sigterm(act: Callable[[], None]) -> Iterator[None]:
    """Within it, SIGTERM calls `act`. Only the main thread hears signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    before = signal.signal(signal.SIGTERM, lambda *_: act())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
