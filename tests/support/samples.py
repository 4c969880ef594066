"""Records for tests, with defaults for every field that the test does not care about; and a folder of small JPEGs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from batchtag.output.index import freeze_index
from batchtag.output.layout import Layout
from batchtag.output.types import Bundle, Commit, CommittedFile, part_id
from batchtag.storage import Store
from batchtag.storage.base import ObjectInfo
from batchtag.types import (
    DecodedImage,
    Failure,
    ImagePrediction,
    ImageRef,
    ImageResult,
    InputResolution,
    ModelInfo,
    Prediction,
)
from tests.support.images import jpeg

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


def info(
    name: str = "scene",
    kind: Literal["object", "class"] = "class",
    *,
    labels: tuple[str, ...] = ("cat", "dog"),
    crops_of: str = "",
    crops_min_score: float = 0.0,
    gflops: float = 0.0,
) -> ModelInfo:
    """The info of a classifier, or of a detector with kind "object"."""
    return ModelInfo(
        name=name,
        kind=kind,
        digest="0123456789ab",
        labels=labels,
        input_resolution=InputResolution(mode="full"),
        gflops=gflops,
        crops_of=crops_of,
        crops_min_score=crops_min_score,
    )


def classes(*scores: float) -> Prediction:
    """The prediction of a classifier: label 0 with each score."""
    return Prediction(scores=np.array(scores, np.float32), label_ids=np.zeros(len(scores), np.int32))


def boxes(*corners: Sequence[float], scores: Sequence[float] = ()) -> Prediction:
    """The prediction of a detector: label 1 at each (x_min, y_min, x_max, y_max), with a score of 0.9 by default."""
    return Prediction(
        scores=np.array(scores or [0.9] * len(corners), np.float32),
        label_ids=np.ones(len(corners), np.int32),
        boxes_xyxy=np.array(corners, np.float32).reshape(-1, 4),
    )


def ref(position: int = 0, **facts: Any) -> ImageRef:
    """The image `s3://b/<position>.jpg`."""
    return ImageRef(**{"position": position, "uri": f"s3://b/{position}.jpg", "etag": "e", "size_bytes": 10, **facts})


def tagged(position: int = 0, *predictions: ImagePrediction, width: int = 100, height: int = 80) -> ImageResult:
    """The result of an image with these predictions."""
    return _result(
        position,
        content_hash="ab" * 32,
        format="jpeg",
        orientation=1,
        width=width,
        height=height,
        predictions=predictions,
    )


def failed(position: int, failure: Failure) -> ImageResult:
    """The result of an image that was not decoded."""
    return _result(position, failure=failure)


def _result(position: int, **facts: Any) -> ImageResult:
    image = ref(position)
    return ImageResult(ref=image, etag=image.etag, size_bytes=image.size_bytes, last_modified=None, **facts)


def bundle(first: int = 0, num_images: int = 2) -> Bundle:
    """A bundle in the first row group of the index."""
    return Bundle(first=first, num_images=num_images, index_part="part-00000.parquet", row_group=0)


def commit(first: int = 0, num_images: int = 2, **facts: Any) -> Commit:
    """The commit of a bundle whose images are all tagged, with no tags, unless `facts` has other numbers."""
    files = {table: CommittedFile(sha256="") for table in ("tags", "errors")}
    numbers = {"num_tagged": num_images, "num_failed": 0, "num_tags": 0, "files": files, **facts}
    return Commit(part=part_id(first, num_images), first=first, num_images=num_images, **numbers)


def decoded(width: int = 8, height: int = 6, *, displayed: tuple[int, int] | None = None) -> DecodedImage:
    """A black image of `width` x `height` pixels; `displayed` is its full size if it was decoded at a scale."""
    full_width, full_height = displayed or (width, height)
    pixels = np.zeros((height, width, 3), np.uint8)
    return DecodedImage(pixels=pixels, width=full_width, height=full_height, format="jpeg", orientation=1)


def image_folder(folder: Path, num_images: int, *, side: int = 32) -> list[ObjectInfo]:
    """Write small JPEGs, each of its own colour, and return them as a listing would."""
    folder.mkdir(parents=True)
    infos = []
    for i in range(num_images):
        path = folder / f"{i:04d}.jpg"
        path.write_bytes(jpeg(Image.new("RGB", (side + i % 3, side), (i % 256, 40, 200))))
        infos.append(listing_of(path))
    return infos


def listing_of(path: Path) -> ObjectInfo:
    """The file as the store's listing describes it."""
    from batchtag.storage.local import LocalStore

    return LocalStore().stat(str(path))


def freeze(listing: list[ObjectInfo], *, store: Store, layout: Layout, size: int) -> list[Bundle]:
    """Commit an index of these images in bundles of `size`, and return the bundles."""
    index = freeze_index(
        [listing], store=store, layout=layout, bundle_size=lambda num_images: size, limit=None, listed_at=NOON
    )
    return list(index.bundles())
