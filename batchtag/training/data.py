"""The training images as batches: opened by the same decoder as in a run, augmented, and loaded ahead of the training.

Loading runs in processes beside the training process (torch's DataLoader), because augmentation holds Python's lock
longer than decoding does. The random changes of an image are drawn from (seed, epoch, position in the epoch). They
depend neither on the number of loader processes nor on earlier epochs, so a resumed epoch is the same epoch.
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
from batchtag.errors import RunFailed, StorageError
from batchtag.storage import Store, open_store
from batchtag.storage.retry import READS, with_retries
from batchtag.tasks import Task
from batchtag.training.augment import augment_with_boxes, make_augmentation
from batchtag.training.network import training_resolution
from batchtag.training.plan import TrainPlan
from batchtag.training.trainable import Trainable
from batchtag.types import DecodedImage, Failure, InputResolution

Batch = tuple[list[Tensor], list[dict[str, Tensor]]]
"""Images and targets. Detection: images (3, H, W) uint8 of any size; targets with boxes (N, 4) float32 xyxy and labels
(N,), where 0 is the background. Classification: images of the crop's size; targets with `label`, ()."""


@dataclass
class TrainingImages(TorchDataset[tuple[Tensor, dict[str, Tensor]]]):
    """The images of one split. The key of an item is (position of the image, seed of its augmentation)."""

    images: Sequence[LabelledImage]
    task: Task
    augmentation: v2.Transform
    input_resolution: InputResolution
    storage_options: Mapping[str, Any]
    _store: Store | None = field(default=None, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: Any) -> tuple[Tensor, dict[str, Tensor]]:
        position, seed = key
        image = self.images[position]
        decoded = self._read(image)
        pixels = torch.from_numpy(np.array(decoded.pixels)).permute(2, 0, 1).contiguous()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            if self.task == "classify":
                return self.augmentation(pixels), {"label": torch.tensor(int(image.label_ids[0]))}
            height, width = pixels.shape[-2:]
            # Boxes are in pixels of the displayed image, which may have been decoded at a smaller scale.
            scale_xyxy = np.tile((width / decoded.width, height / decoded.height), 2)
            is_object = ~image.is_crowd
            boxes = torch.from_numpy((image.boxes_xyxy[is_object] * scale_xyxy).astype(np.float32))
            labels = torch.from_numpy(image.label_ids[is_object] + 1)
            return augment_with_boxes(pixels, boxes, labels, self.augmentation)

    def _read(self, image: LabelledImage) -> DecodedImage:
        """Read and decode an image. Raises RunFailed, because every image was opened before the training started."""
        if self._store is None:
            self._store = open_store(image.uri, self.storage_options)
        store = self._store
        try:
            blob, _ = with_retries(lambda: store.read(image.uri), policy=READS)
        except StorageError as error:
            raise RunFailed(
                f"{image.uri} was readable when the data was checked, but cannot be read now: {error.message}"
            ) from error
        decoded = decode(blob.data, rules=DecodeRules(), resolutions=(self.input_resolution,))
        if isinstance(decoded, Failure):
            raise RunFailed(
                f"{image.uri} was decodable when the data was checked, but cannot be decoded now: {decoded.message}"
            )
        return decoded


class _BatchSampler(torch.utils.data.Sampler[list[tuple[int, int]]]):
    """The keys of each batch of the current epoch. `keys` is set before the epoch starts."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self.keys: list[tuple[int, int]] = []

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for number in range(len(self)):
            yield self.keys[number * self._batch_size : (number + 1) * self._batch_size]

    def __len__(self) -> int:
        """Return the number of full batches, but at least 1. A smaller last batch could have one image, which batch
        norms cannot use."""
        return max(1, len(self.keys) // self._batch_size)


class BatchLoader:
    """Batches of one split, epoch after epoch."""

    def __init__(
        self, images: TrainingImages, *, batch_size: int, num_processes: int, pin_memory: bool = False
    ) -> None:
        """`num_processes` load ahead; with 0 the caller's process loads each batch when it is needed.

        Set `pin_memory` if batches go to a GPU: copies from pinned memory do not block the training.
        """
        self._sampler = _BatchSampler(batch_size)
        process_options: dict[str, Any] = {}
        if num_processes:
            # "spawn" makes them children of this process, so torch's watchdog ends them when this process is killed.
            # Children of a fork server outlived it, with 900 MB each. A plain fork is not safe beside Ray's threads.
            process_options = {
                "multiprocessing_context": "spawn",
                "prefetch_factor": 4,
                "persistent_workers": True,
            }
        self._loader = DataLoader(
            images,
            batch_sampler=self._sampler,
            num_workers=num_processes,
            collate_fn=_collate,
            worker_init_fn=_use_one_thread,
            pin_memory=pin_memory,
            # A generator of its own. Otherwise its draws would depend on `num_processes` and disturb the network's.
            generator=torch.Generator(),
            **process_options,
        )

    def start_epoch(self, order: Sequence[int], *, seed: int, epoch: int) -> DataLoader[Any]:
        """Return the batches of the images at the positions in `order`, to be iterated once; `len` is their number."""
        image_seeds = np.random.default_rng([seed, epoch, 1]).integers(2**62, size=len(order))
        self._sampler.keys = [
            (position, int(image_seed)) for position, image_seed in zip(order, image_seeds, strict=True)
        ]
        return self._loader


def make_loader(plan: TrainPlan, trainable: Trainable, *, pin_memory: bool = False) -> BatchLoader:
    """Make the loader of the training images of this network."""
    augmentation = make_augmentation(
        plan.spec.augment,
        task=plan.task,
        crop_size=trainable.preprocessing.get("crop_size", 0),
        interpolation=trainable.preprocessing.get("interpolation", "bilinear"),
    )
    images = TrainingImages(
        images=plan.train,
        task=plan.task,
        augmentation=augmentation,
        input_resolution=training_resolution(trainable, plan.spec),
        storage_options=plan.train_options,
    )
    batch_size = plan.spec.train.batch_size
    return BatchLoader(images, batch_size=batch_size, num_processes=plan.num_loaders, pin_memory=pin_memory)


def _collate(items: list[tuple[Tensor, dict[str, Tensor]]]) -> Batch:
    return [pixels for pixels, _ in items], [target for _, target in items]


def _use_one_thread(_: int) -> None:
    torch.set_num_threads(1)
