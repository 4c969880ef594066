"""The training processes under Ray Train: how they start, where they store states, and how events reach the driver.

The only file of this package that imports Ray. One process on a laptop and one process per GPU of a cluster are the
same job. The state of each epoch is a Ray Train checkpoint under OUT/_training, on any URI that fsspec knows. When a
worker or its node dies, the epoch in progress is lost and trained again (`FailureConfig`). When the driver is killed,
the same command finds the last state by the run's name.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.fs
import ray
import ray.train
import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device, prepare_model
from torch import nn

from batchtag.config.training import STATES, TrainSpec
from batchtag.datasets.validate import CheckedData
from batchtag.errors import BatchtagError
from batchtag.storage import scheme_of
from batchtag.training.events import (
    EvaluationProgress,
    EventLog,
    StepDone,
    TrainingEvent,
    TrainingFailed,
    TrainingFinished,
    TrainingStarted,
)
from batchtag.training.loop import TrainingProcess
from batchtag.training.plan import Node, TrainPlan, cores_per_process, plan_training
from batchtag.training.process_group import ProcessGroup

_MIN_EVENT_INTERVAL_S = 0.5
"""Shortest time between two events that report a step or the progress of an evaluation."""
CLEANER_CALLBACK = "PlacementGroupCleanerCallback"


def start_event_log() -> Any:
    """Start the actor that holds the events, and return its handle."""
    return ray.remote(EventLog).options(num_cpus=0).remote()


def read_events(event_log: Any, *, start: int) -> list[TrainingEvent]:
    """Return all events of the log but the first `start`."""
    events: list[TrainingEvent] = ray.get(event_log.read.remote(start))
    return events


def make_trainer(spec: TrainSpec, data: CheckedData, event_log: Any) -> TrainerWithoutCleaner:
    """Plan the training for this cluster, and make the Ray trainer whose `fit` runs it. Ray must be running."""
    use_gpu = _use_gpus(spec.compute.device)
    cores = cores_per_process(_read_nodes(), num_processes=spec.compute.workers, use_gpu=use_gpu)
    plan = plan_training(spec, data, use_gpu=use_gpu, cores=cores)
    return make_planned_trainer(plan, event_log, use_gpu=use_gpu)


def make_planned_trainer(plan: TrainPlan, event_log: Any, *, use_gpu: bool) -> TrainerWithoutCleaner:
    """Make the Ray trainer of a plan."""
    output, compute = plan.spec.output, plan.spec.compute
    path, filesystem = _ray_storage(output.uri, output.storage_options)
    resources = {"CPU": float(plan.num_torch_threads), **({"GPU": 1.0} if use_gpu else {})}
    return TrainerWithoutCleaner(
        _run_worker,
        train_loop_config={"plan": plan, "event_log": event_log},
        scaling_config=ScalingConfig(num_workers=compute.workers, use_gpu=use_gpu, resources_per_worker=resources),
        run_config=RunConfig(
            name=STATES,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=compute.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
        ),
    )


class TrainerWithoutCleaner(TorchTrainer):
    """Ray's TorchTrainer without its cleaner of placement groups.

    Ray Train 2.60 starts an actor that frees the CPUs of a training whose controller has died. It asks the State API of
    any Ray that it finds on the machine. If that is another Ray, which does not know the controller, it takes the CPUs
    from a healthy training ("Destroying worker since its placement group was removed"). Our placement groups end with
    the driver anyway. Remove this class when a test shows that Ray has no such callback any more.
    """

    def _create_default_callbacks(self) -> list[Any]:
        trainer: Any = super()
        callbacks = trainer._create_default_callbacks()
        return [callback for callback in callbacks if type(callback).__name__ != CLEANER_CALLBACK]


def describe_failure(error: BaseException) -> str:
    """Return the last line of the error that Ray Train wraps: what went wrong in the worker."""
    inner = next(iter(getattr(error, "worker_failures", {}).values()), error)
    lines = [line for line in str(inner).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(inner).__name__


def _use_gpus(device: str) -> bool:
    """Decide whether each worker gets a GPU: as compute.device says; with "auto", if the cluster has GPUs."""
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return device == "cuda" or (device == "auto" and resources.get("GPU", 0) > 0)


def _read_nodes() -> list[Node]:
    """Return the machines of the cluster that are alive, with their resources as Ray counts them."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    resources = [node["Resources"] for node in nodes if node["Alive"]]
    return [Node(cores=int(each.get("CPU", 0)), gpus=int(each.get("GPU", 0))) for each in resources]


def _ray_storage(uri: str, options: Mapping[str, Any]) -> tuple[str, Any]:
    """Return the path and the filesystem (None: local) where Ray Train stores states."""
    if scheme_of(uri) == "file":
        return uri.removeprefix("file://"), None
    filesystem, path = fsspec.core.url_to_fs(uri, **options)
    return path, pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(filesystem))


def _run_worker(config: dict[str, Any]) -> None:
    """Train in a Ray Train worker. Errors that a restart would meet again are sent as an event, because Ray Train
    restarts the workers after any error."""
    try:
        _train(config["plan"], config["event_log"])
    except Exception as error:
        message = permanent_failure(error)
        if message:
            ray.get(config["event_log"].append.remote(TrainingFailed(message=message)))
        raise


def permanent_failure(error: Exception) -> str:
    """Return the message of an error that a restart would meet again; "" for any other error."""
    if isinstance(error, torch.OutOfMemoryError):
        return f"the GPU has too little memory; lower train.batch_size or the sizes in `input` ({error})"
    if isinstance(error, (BatchtagError, FloatingPointError)):
        # An error of a loader process contains its traceback; the last line is the error itself.
        last_line = str(error).strip().splitlines()[-1]
        return last_line.removeprefix(f"{type(error).__module__}.{type(error).__qualname__}: ")
    return ""


def _train(plan: TrainPlan, event_log: Any) -> None:
    context = ray.train.get_context()
    group = ProcessGroup(
        rank=context.get_world_rank(), num_processes=context.get_world_size(), device=str(get_device())
    )
    send_event = _EventSender(event_log)
    process = TrainingProcess(plan, group, wrap=_wrap_for_ray, on_event=send_event)
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            process.resume_from(Path(folder))
    state = process.state
    if group.is_first:
        send_event(
            TrainingStarted(
                epochs_done=state.epochs_done,
                history=state.history,
                num_loaded_tensors=len(process.trainable.loaded_tensors),
                new_tensors=process.trainable.new_tensors,
            )
        )
    while not state.is_over:
        process.run_epoch()
        _report_epoch(process, group)
    score = process.evaluate_best()
    if score is not None:
        digest = process.save_checkpoint(score)
        send_event(TrainingFinished(digest=digest, score=score, history=state.history, best_epoch=state.best_epoch))


def _wrap_for_ray(network: nn.Module) -> nn.Module:
    wrapped: nn.Module = prepare_model(network)
    return wrapped


def _report_epoch(process: TrainingProcess, group: ProcessGroup) -> None:
    """Report the epoch to Ray Train. Every worker must, because it is a barrier; the first adds the state."""
    entry = process.state.history[-1]
    if not group.is_first:
        ray.train.report(entry)
        return
    with tempfile.TemporaryDirectory(prefix="batchtag-train-") as folder:
        process.write_state(Path(folder))
        ray.train.report(entry, checkpoint=Checkpoint.from_directory(folder))


class _EventSender:
    """Sends events to the log; steps and evaluation progress at most twice a second, which is enough for a display."""

    def __init__(self, event_log: Any) -> None:
        self._event_log = event_log
        self._sent_at = 0.0

    def __call__(self, event: TrainingEvent) -> None:
        now = time.monotonic()
        is_optional = isinstance(event, StepDone | EvaluationProgress)
        if is_optional and now - self._sent_at < _MIN_EVENT_INTERVAL_S:
            return
        self._sent_at = now
        self._event_log.append.remote(event)
