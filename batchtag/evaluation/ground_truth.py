"""The ground truth of an evaluation: labelled images, opened, and checked against their annotations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from batchtag.config.dataset import DataSpec, OnProblem
from batchtag.datasets import Dataset, detect_dataset, open_dataset
from batchtag.datasets.validate import check_dataset, read_checked_data
from batchtag.decoding.decoder import DecodeRules
from batchtag.system import available_cores

OnProgress = Callable[[str], None]
"""Called with a line of text that describes what an evaluation is doing, such as `evaluating: 32 of 50 images`."""
ON_PROBLEM = OnProblem(
    unknown_class="drop",
    missing_image="drop",
    unreadable="drop",
    wrong_image="drop",
    wrong_size="drop",
    empty_class="keep",
    conflict="drop",
)
"""What happens to problems of ground truth: images and objects with a problem are left out and reported."""


def open_ground_truth(uri: str, *, storage_options: Mapping[str, Any] | None = None) -> Dataset:
    """Read the annotations at a URI, in whatever format they are. No image is opened.

    Images whose ids are numbers (COCO) are sorted by id, as in pycocotools: the order decides which of two detections
    with equal scores comes first.
    """
    ground_truth = open_dataset(detect_dataset(uri, storage_options=storage_options))
    if all(image.image_id.isdecimal() for image in ground_truth.images):
        return replace(ground_truth, images=tuple(sorted(ground_truth.images, key=lambda image: int(image.image_id))))
    return ground_truth


def check_ground_truth(ground_truth: Dataset, *, on_progress: OnProgress) -> Dataset:
    """Open every image, and leave out what cannot be measured on. Raises UsageError if no image remains."""
    return check_dataset(
        ground_truth,
        on_problem=ON_PROBLEM,
        rules=DecodeRules(),
        threads=2 * available_cores(),
        on_progress=_describe_checks(on_progress),
    )


def read_validation_data(data: DataSpec, *, on_progress: OnProgress) -> Dataset:
    """Read and check the validation images of a training job: exactly those that `train` did not train on."""
    checked = read_checked_data(
        data, rules=DecodeRules(), threads=2 * available_cores(), on_progress=_describe_checks(on_progress)
    )
    return checked.val


def _describe_checks(on_progress: OnProgress) -> Callable[[int, int], None]:
    return lambda num_done, num_images: on_progress(f"checking the labelled images: {num_done:,} of {num_images:,}")
