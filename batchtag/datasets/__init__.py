"""Labelled images: the door to the kinds of data that people train and measure on.

`open_dataset` reads annotations and opens no image; `check.check_data` opens every one. What lies here is numbers and
names: no torch, no Ray, and no opinion on what a model makes of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from batchtag.config.dataset import CocoData, DatasetSpec, FolderData, TableData, VocData, YoloData
from batchtag.datasets.base import Dataset, Found, Problem, Task, as_dataset
from batchtag.datasets.detect_format import guess_dataset

__all__ = ["Dataset", "Problem", "Task", "guess_dataset", "open_dataset"]


def open_dataset(spec: DatasetSpec, *, labels: Sequence[str] = ()) -> Dataset:
    """The labelled images a job names, with what is wrong in their annotations.

    `labels` fixes which classes there are, and their ids; without, they are those the data declare or use. Sizes are
    as annotated, contents unknown, boxes unchecked: `check` does that. Raises UsageError for a file that is not of
    its kind, StorageError for one that cannot be read. Runs on the driver.
    """
    return as_dataset(_read(spec), labels=labels, storage_options=spec.storage_options)


def _read(spec: DatasetSpec) -> Found:
    match spec:
        case CocoData():
            from batchtag.datasets.coco import read_coco

            return read_coco(spec)
        case VocData():
            from batchtag.datasets.voc import read_voc

            return read_voc(spec)
        case YoloData():
            from batchtag.datasets.yolo import read_yolo

            return read_yolo(spec)
        case FolderData():
            from batchtag.datasets.image_folder import read_folders

            return read_folders(spec)
        case TableData():
            from batchtag.datasets.tabular import read_table

            return read_table(spec)
        case _:
            assert_never(spec)
