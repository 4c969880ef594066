"""Ray Data, as its guide to images has it: read_images -> map -> map_batches on an actor pool -> write_parquet.

Ray sets OMP_NUM_THREADS in an actor to its `num_cpus`, here 1, because an actor that asked for all CPUs would starve
the reading tasks for ever; the actor sets torch's threads itself, as an expert would. `address="local"`, or it would
join whatever Ray runs on the machine.
"""

from __future__ import annotations

import logging
from typing import Any

import pyarrow as pa
import ray
import ray.data
import torch
from pyarrow.fs import S3FileSystem

from benchmarks.speed.looking import Looker, described, prepared
from benchmarks.speed.peers.task import Task, given

_IMAGES_A_BLOCK = 32
"""Ray's own 200 reading tasks cost 13 ms each, more than some images do."""


class Prepare:
    """An image as the classifiers take it; a detector's stays as the reader gave it, in bytes."""

    def __init__(self, folders: tuple[str, ...]) -> None:
        self._models = [described(folder) for folder in folders]

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        image = torch.from_numpy(row["image"].copy()).permute(2, 0, 1)
        for number, model in enumerate(self._models):
            if model.task == "classify":
                row[f"input_{number}"] = prepared(model, image).numpy()
        if all(model.task == "classify" for model in self._models):
            del row["image"]
        return row


class Tagger:
    """Runs in the actor."""

    def __init__(self, task: Task) -> None:
        self._looker = Looker(task.models, threads=task.settings.threads)
        task.say_ready()

    def __call__(self, batch: dict[str, Any]) -> pa.Table:
        inputs = []
        for number, model in enumerate(self._looker.models):
            if model.task == "classify":
                inputs.append([torch.from_numpy(one.copy()) for one in batch[f"input_{number}"]])
            else:
                images = (torch.from_numpy(one.copy()).permute(2, 0, 1) for one in batch["image"])
                inputs.append([prepared(model, image) for image in images])
        return self._looker.look([f"s3://{path}" for path in batch["path"]], inputs)


def main() -> None:
    task = given()
    ray.init(address="local", include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    prepare = Prepare(task.models)
    images = ray.data.read_images(
        [f"{task.bucket}/{key}" for key in task.keys],
        filesystem=S3FileSystem(endpoint_override=task.address, scheme="http"),
        mode="RGB",
        include_paths=True,
        override_num_blocks=max(2 * task.settings.threads, len(task.keys) // _IMAGES_A_BLOCK),
    )
    if any(described(folder).task == "classify" for folder in task.models):
        images = images.map(lambda row: prepare(row))
    tags = images.map_batches(
        Tagger,
        fn_constructor_args=(task,),
        batch_size=task.settings.batch_size,
        num_cpus=1 / task.settings.workers,
        compute=ray.data.ActorPoolStrategy(size=task.settings.workers),
    )
    tags.write_parquet(task.out)
    task.say_done()


if __name__ == "__main__":
    main()
