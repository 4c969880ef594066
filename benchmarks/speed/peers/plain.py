"""Plain PyTorch, as its DataLoader is documented: workers fetch, decode and preprocess; the parent runs the models.

The S3 client is Arrow's, the fastest one that is installed (boto3 takes 2.3 ms of Python for each request), opened in
each worker after the fork. JPEGs are decoded by `torchvision.io`, that is libjpeg-turbo. Writes one Parquet file at the
end.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pyarrow.fs import S3FileSystem
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_image

from benchmarks.speed.peer_models import PeerModel, PeerTagger, preprocess
from benchmarks.speed.peers.task import Task, read_task_argument

Item = tuple[str, list[Tensor]]
Batch = tuple[list[str], list[list[Tensor]]]


class Images(Dataset[Item]):
    """Each image of a task with the input of every model."""

    def __init__(self, task: Task, models: list[PeerModel]) -> None:
        self._task = task
        self._models = models
        self._files: S3FileSystem | None = None

    def __len__(self) -> int:
        return len(self._task.keys)

    def __getitem__(self, index: int) -> Item:
        if self._files is None:
            self._files = S3FileSystem(endpoint_override=self._task.address, scheme="http")
        with self._files.open_input_stream(f"{self._task.bucket}/{self._task.keys[index]}") as stream:
            data = stream.read()
        image = decode_image(
            torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB, apply_exif_orientation=True
        )
        return self._task.uris[index], [preprocess(model, image) for model in self._models]


def collate(items: list[Item]) -> Batch:
    """Return the URIs, and for each model a list of tensors: those of a detector differ in size and cannot be
    stacked."""
    uris = [uri for uri, _ in items]
    return uris, [list(tensors) for tensors in zip(*(inputs for _, inputs in items), strict=True)]


def main() -> None:
    """Tag the images of the task."""
    task = read_task_argument()
    tagger = PeerTagger(task.models, threads=task.settings.threads)
    task.report_ready()
    loader = DataLoader(
        Images(task, tagger.models),
        batch_size=task.settings.batch_size,
        num_workers=task.settings.workers,
        collate_fn=collate,
        prefetch_factor=4,
    )
    tables = [tagger.tag(uris, inputs) for uris, inputs in loader]
    Path(task.out).mkdir(parents=True)
    pq.write_table(pa.concat_tables(tables), Path(task.out) / "tags.parquet")
    task.report_done()


if __name__ == "__main__":
    main()
