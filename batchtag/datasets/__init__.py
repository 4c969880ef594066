"""Labelled images for training and evaluation, read from COCO, VOC, YOLO, image folders or tables.

`open_dataset` reads annotations and opens no image; `validate.check_data` opens every image. The package deals in
numbers and names: it knows neither torch nor Ray, and nothing of models.

Every reader (`coco.read_coco`, `voc.read_voc`, ...) takes its spec, returns `ParsedAnnotations`, and keeps this
contract:

1. It opens annotation files and lists folders, but opens no image.
2. A problem of one image or one object does not stop it. It leaves out what cannot be used, adds a `Problem` whose
   `kind` is a field of `OnProblem`, and does not decide what the problem means: `validate` does, by `OnProblem`.
3. It raises UsageError only if the whole file or folder is not of its kind, and StorageError if it cannot be read.
4. Images are in the order of the annotations, or of sorted names for folders of files: always the same for the same
   data.
5. Classes are names; `annotations.build_dataset` gives them numbers. `labels` holds the classes that the files declare,
   in their order, and is empty if the files declare none.
6. Boxes are (x_min, y_min, x_max, y_max) in pixels of the displayed image, unclipped, as annotated; or fractions of it,
   with `boxes_are_fractions`.
7. `limit` of the spec keeps the first images; of classified images, the first of each class in turn.
8. An image without objects is in the result if the format says that it was annotated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from batchtag.config.dataset import CocoData, DatasetSpec, FolderData, TableData, VocData, YoloData
from batchtag.datasets.annotations import ParsedAnnotations, build_dataset
from batchtag.datasets.base import Dataset, Problem
from batchtag.datasets.detect_format import detect_dataset

__all__ = ["Dataset", "Problem", "detect_dataset", "open_dataset"]


def open_dataset(spec: DatasetSpec, *, labels: Sequence[str] = ()) -> Dataset:
    """Read the labelled images that a job names, with the problems of their annotations.

    `labels` fixes the classes and their ids; without it, the classes are those that the data declare or use. Image
    sizes are as annotated, content hashes are unknown, and boxes are not checked: `validate` does that. Raises
    UsageError for a file that is not of its kind, StorageError for one that cannot be read. Runs on the driver.
    """
    return build_dataset(_read_annotations(spec), labels=labels, storage_options=spec.storage_options)


def _read_annotations(spec: DatasetSpec) -> ParsedAnnotations:
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
            from batchtag.datasets.image_folder import read_image_folder

            return read_image_folder(spec)
        case TableData():
            from batchtag.datasets.tabular import read_table

            return read_table(spec)
        case _:
            assert_never(spec)
