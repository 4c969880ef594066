"""Labelled images as a network in training sees them: opened by the line's own decoder, changed, and batched.

Opening runs in processes beside the one that trains (torch's DataLoader), because changing an image holds Python's
lock longer than decoding does. Each image's changes are drawn from (seed, epoch, place in the epoch), so they depend
neither on the number of processes nor on what was trained before: a resumed epoch is the same epoch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision.transforms import v2

from batchtag.datasets.base import LabelledImage
from batchtag.decoding.decoder import DecodeRules, decode
from batchtag.errors import DecodeError, RunFailed, StorageError
from batchtag.storage import Store, open_store
from batchtag.storage.retry import READS, with_retries
from batchtag.tasks import Task
from batchtag.training.augment import changed
from batchtag.types import InputResolution

Batch = tuple[list[Tensor], list[dict[str, Tensor]]]
"""Detection: images (3, H, W) uint8 of any size, and their boxes (N, 4) and labels (N,), background 0. For
classification each image is of the crop's size and its target holds `label`, ()."""


@dataclass
class Images(TorchDataset[tuple[Tensor, dict[str, Tensor]]]):
    """The images of one split. An item is asked for as (number, seed of its changes)."""

    images: Sequence[LabelledImage]
    task: Task
    change: v2.Transform
    input_resolution: InputResolution
    storage_options: Mapping[str, Any]
    _store: Store | None = field(default=None, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, asked: Any) -> tuple[Tensor, dict[str, Tensor]]:
        number, seed = asked
        image = self.images[number]
        pixels, scale_xy = self._open(image)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            if self.task == "classify":
                return self.change(pixels), {"label": torch.tensor(int(image.label_ids[0]))}
            kept = ~image.is_crowd
            boxes = torch.from_numpy((image.boxes_xyxy[kept] * np.tile(scale_xy, 2)).astype(np.float32))
            return changed(pixels, boxes, torch.from_numpy(image.label_ids[kept] + 1), self.change)

    def _open(self, image: LabelledImage) -> tuple[Tensor, tuple[float, float]]:
        """(3, H, W) uint8, and the factors from displayed pixels to these."""
        if self._store is None:
            self._store = open_store(image.uri, self.storage_options)
        store = self._store
        try:
            blob, _ = with_retries(lambda: store.read(image.uri), policy=READS)
        except StorageError as error:
            raise RunFailed(
                f"{image.uri}: could be read when the data was checked, and cannot now: {error.message}"
            ) from error
        try:
            opened = decode(blob.data, rules=DecodeRules(), input_resolutions=(self.input_resolution,))
        except DecodeError as error:
            raise RunFailed(
                f"{image.uri}: could be decoded when the data was checked, and cannot now: {error.message}"
            ) from error
        pixels = torch.from_numpy(np.array(opened.pixels)).permute(2, 0, 1).contiguous()
        height, width = pixels.shape[-2:]
        return pixels, (width / opened.width, height / opened.height)


class _Batches(torch.utils.data.Sampler[list[tuple[int, int]]]):
    """The batches of the epoch that is next, as (number, seed) pairs; `order` is set before each."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self.order: list[tuple[int, int]] = []

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for start in range(0, len(self), 1):
            yield self.order[start * self._batch_size : (start + 1) * self._batch_size]

    def __len__(self) -> int:
        """Whole batches only: a batch of one breaks a batch norm; but never none."""
        return max(1, len(self.order) // self._batch_size)


class Loader:
    """Batches of one split, epoch after epoch, opened ahead by `processes` processes (0: in between, by the caller)."""

    def __init__(self, images: Images, *, batch_size: int, processes: int, pin_memory: bool = False) -> None:
        """`pin_memory` where batches go to a GPU: copies from pinned memory do not hold the training up."""
        self._batches = _Batches(batch_size)
        ahead: dict[str, Any] = {}
        if processes:
            # Children of this process: torch's watchdog ends them when it is killed. Those of a fork server, which is
            # their parent, outlived it, with 900 MB each; and a plain fork is not safe beside Ray's threads.
            ahead = {"multiprocessing_context": "spawn", "prefetch_factor": 4, "persistent_workers": True}
        self._loader = DataLoader(
            images,
            batch_sampler=self._batches,
            num_workers=processes,
            collate_fn=_apart,
            worker_init_fn=_one_thread,
            pin_memory=pin_memory,
            generator=torch.Generator(),  # its own, or its draws would depend on `processes` and disturb the network's
            **ahead,
        )

    def epoch(self, order: Sequence[int], *, seed: int, epoch: int) -> DataLoader[Any]:
        """The batches of these images, to be gone through once; its length is their number."""
        seeds = np.random.default_rng([seed, epoch, 1]).integers(2**62, size=len(order))
        self._batches.order = [(number, int(one)) for number, one in zip(order, seeds, strict=True)]
        return self._loader


def _apart(items: list[tuple[Tensor, dict[str, Tensor]]]) -> Batch:
    return [pixels for pixels, _ in items], [target for _, target in items]


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)
