"""Ray Train around the workers: who starts them, where their states go, and how the driver hears of them.

One process on a laptop and one a GPU of a cluster are the same job. The state of each epoch is a Ray Train checkpoint
under OUT/_training, on any fsspec URI; a worker or node that dies costs the epoch in progress (`FailureConfig`), and
the same command after a killed driver finds the last state by the run's name.
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

from batchtag.config.training import STATES
from batchtag.errors import BatchtagError
from batchtag.storage import scheme_of
from batchtag.training.events import Board
from batchtag.training.loop import Place, Worker
from batchtag.training.plan import News, Node, TrainPlan

_STEP_EVERY_S = 0.5
GUARD = "PlacementGroupCleanerCallback"


def make_board() -> Any:
    """The board's actor handle."""
    return ray.remote(Board).options(num_cpus=0).remote()


def has_gpus(asked: str) -> bool:
    """Whether workers get a GPU each: as the job asks, by default if the cluster has any."""
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return asked == "cuda" or (asked == "auto" and resources.get("GPU", 0) > 0)


def nodes() -> list[Node]:
    """The machines of the cluster, as Ray counts what they have."""
    found: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    there = [node["Resources"] for node in found if node["Alive"]]
    return [Node(cores=int(one.get("CPU", 0)), gpus=int(one.get("GPU", 0))) for one in there]


def reason(error: BaseException) -> str:
    """What went wrong, out of what Ray Train wraps around it."""
    inner = next(iter(getattr(error, "worker_failures", {}).values()), error)
    lines = [line for line in str(inner).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(inner).__name__


class Trainer(TorchTrainer):
    """Ray's, without its guard of placement groups.

    Ray Train 2.60 has an actor that frees a training's CPUs when its controller has died. It asks the State API of
    whatever Ray it finds on the machine; where that is another one, which knows no such controller, it takes the CPUs
    from a training that is well ("Destroying worker since its placement group was removed"). Ours end with the driver.
    """

    def _create_default_callbacks(self) -> list[Any]:
        ray_s: Any = super()
        return [one for one in ray_s._create_default_callbacks() if type(one).__name__ != GUARD]


def make_trainer(plan: TrainPlan, board: Any, *, use_gpu: bool) -> Trainer:
    """The trainer, to be `fit`."""
    output, compute = plan.spec.output, plan.spec.compute
    path, filesystem = _ray_storage(output.uri, output.storage_options)
    resources = {"CPU": float(plan.threads), **({"GPU": 1.0} if use_gpu else {})}
    return Trainer(
        _train_loop,
        train_loop_config={"plan": plan, "board": board},
        scaling_config=ScalingConfig(num_workers=compute.workers, use_gpu=use_gpu, resources_per_worker=resources),
        run_config=RunConfig(
            name=STATES,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=compute.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
        ),
    )


def _ray_storage(uri: str, options: Mapping[str, Any]) -> tuple[str, Any]:
    if scheme_of(uri) == "file":
        return uri.removeprefix("file://"), None
    filesystem, path = fsspec.core.url_to_fs(uri, **options)
    return path, pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(filesystem))


def _train_loop(config: dict[str, Any]) -> None:
    """What Ray Train runs in each worker. What trying again cannot mend is told, or Ray Train would try again."""
    try:
        _train(config)
    except Exception as error:
        told = final(error)
        if told:
            ray.get(config["board"].tell.remote({"kind": "failed", "message": told}))
        raise


def final(error: Exception) -> str:
    """What to tell of an error that would come again, "" for any other."""
    if isinstance(error, torch.OutOfMemoryError):
        return f"the memory of the GPU is too small; lower train.batch_size or the input's size ({error})"
    if isinstance(error, (BatchtagError, FloatingPointError)):
        # A loader's error comes with its traceback, and ends with what it is.
        last = str(error).strip().splitlines()[-1]
        return last.removeprefix(f"{type(error).__module__}.{type(error).__qualname__}: ")
    return ""


def _train(config: dict[str, Any]) -> None:
    plan: TrainPlan = config["plan"]
    context = ray.train.get_context()
    place = Place(rank=context.get_world_rank(), ranks=context.get_world_size(), device=str(get_device()))
    tell = _Teller(config["board"])
    worker = Worker(plan, place, wrap=_wrapped, tell=tell)
    found = ray.train.get_checkpoint()
    if found is not None:
        with found.as_directory() as folder:
            worker.go_on_from(Path(folder))
    begin = {"epochs_done": worker.state.epochs_done, "history": worker.state.history}
    tell({"kind": "begin", **begin, "num_taken": len(worker.made.taken), "left": worker.made.left})
    while not worker.state.is_over:
        worker.epoch()
        _report(worker, place)
    tell({"kind": "judging", "what": "the best epoch", "done": 0, "of": len(plan.val)})
    score = worker.judge_best()
    if score is not None:
        state = worker.state
        end = {"digest": worker.save(score), "score": score, "history": state.history, "best_epoch": state.best_epoch}
        tell({"kind": "end", **end})


def _wrapped(network: nn.Module) -> nn.Module:
    wrapped: nn.Module = prepare_model(network)
    return wrapped


def _report(worker: Worker, place: Place) -> None:
    """Every worker reports each epoch (it is a barrier); the first brings the state along."""
    last = worker.state.history[-1]
    if not place.is_first:
        ray.train.report(last)
        return
    with tempfile.TemporaryDirectory(prefix="batchtag-train-") as folder:
        worker.write_state(Path(folder))
        ray.train.report(last, checkpoint=Checkpoint.from_directory(folder))


class _Teller:
    """Passes news on; of steps and images only two a second, since nobody reads faster."""

    def __init__(self, board: Any) -> None:
        self._board = board
        self._last = 0.0

    def __call__(self, news: News) -> None:
        now = time.monotonic()
        if news["kind"] in ("step", "judging") and now - self._last < _STEP_EVERY_S:
            return
        self._last = now
        self._board.tell.remote(news)
