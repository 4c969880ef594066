"""Ray Data, as in its guide to images: read_images -> map -> map_batches on an actor pool -> write_parquet.

Ray sets OMP_NUM_THREADS in an actor to its `num_cpus`, here 1, because an actor that requested all CPUs would leave
none for the reading tasks; so the actor sets torch's threads itself, as an expert would. `address="local"` keeps it
from joining a Ray that already runs on the machine.
"""

from __future__ import annotations

import logging
from typing import Any

import pyarrow as pa
import ray
import ray.data
import torch
from pyarrow.fs import S3FileSystem

from benchmarks.speed.peer_models import PeerTagger, preprocess, read_model
from benchmarks.speed.peers.task import Task, read_task_argument

_IMAGES_PER_BLOCK = 32
"""Ray's default of 200 reading tasks costs 13 ms for each, more than some images."""


class Preprocess:
    """Adds the inputs of the classifiers to a row. The image for a detector stays as uint8."""

    def __init__(self, folders: tuple[str, ...]) -> None:
        self._models = [read_model(folder) for folder in folders]

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        image = torch.from_numpy(row["image"].copy()).permute(2, 0, 1)
        for number, model in enumerate(self._models):
            if model.task == "classify":
                row[f"input_{number}"] = preprocess(model, image).numpy()
        if all(model.task == "classify" for model in self._models):
            del row["image"]
        return row


class Tagger:
    """The models. Runs in the actor."""

    def __init__(self, task: Task) -> None:
        self._tagger = PeerTagger(task.models, threads=task.settings.threads)
        task.report_ready()

    def __call__(self, batch: dict[str, Any]) -> pa.Table:
        inputs = []
        for number, model in enumerate(self._tagger.models):
            if model.task == "classify":
                inputs.append([torch.from_numpy(array.copy()) for array in batch[f"input_{number}"]])
            else:
                images = (torch.from_numpy(array.copy()).permute(2, 0, 1) for array in batch["image"])
                inputs.append([preprocess(model, image) for image in images])
        return self._tagger.tag([f"s3://{path}" for path in batch["path"]], inputs)


def main() -> None:
    """Tag the images of the task."""
    task = read_task_argument()
    ray.init(address="local", include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    preprocess_row = Preprocess(task.models)
    images = ray.data.read_images(
        [f"{task.bucket}/{key}" for key in task.keys],
        filesystem=S3FileSystem(endpoint_override=task.address, scheme="http"),
        mode="RGB",
        include_paths=True,
        override_num_blocks=max(2 * task.settings.threads, len(task.keys) // _IMAGES_PER_BLOCK),
    )
    if any(read_model(folder).task == "classify" for folder in task.models):
        images = images.map(lambda row: preprocess_row(row))
    tags = images.map_batches(
        Tagger,
        fn_constructor_args=(task,),
        batch_size=task.settings.batch_size,
        num_cpus=1 / task.settings.workers,
        compute=ray.data.ActorPoolStrategy(size=task.settings.workers),
    )
    tags.write_parquet(task.out)
    task.report_done()


if __name__ == "__main__":
    main()
