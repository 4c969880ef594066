"""Records for tests: cards, refs, outcomes, commits, a folder of small real images. What is not said is no matter."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from batchtag.output.index import freeze_index
from batchtag.output.layout import Layout
from batchtag.output.types import Bundle, Commit, part_id
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
    """Label 0 with each score."""
    return Prediction(scores=np.array(scores, np.float32), label_ids=np.zeros(len(scores), np.int32))


def boxes(*corners: Sequence[float], scores: Sequence[float] = ()) -> Prediction:
    """Label 1 at each (x_min, y_min, x_max, y_max)."""
    return Prediction(
        scores=np.array(scores or [0.9] * len(corners), np.float32),
        label_ids=np.ones(len(corners), np.int32),
        boxes_xyxy=np.array(corners, np.float32).reshape(-1, 4),
    )


def ref(position: int = 0, **facts: Any) -> ImageRef:
    return ImageRef(**{"position": position, "uri": f"s3://b/{position}.jpg", "etag": "e", "size_bytes": 10, **facts})


def tagged(position: int = 0, *findings: ImagePrediction, width: int = 100, height: int = 80) -> ImageResult:
    outcome = ImageResult.of(ref(position))
    outcome.content_hash, outcome.format, outcome.orientation = "ab" * 32, "jpeg", 1
    outcome.width, outcome.height, outcome.findings = width, height, list(findings)
    return outcome


def failed(position: int, failure: Failure) -> ImageResult:
    outcome = ImageResult.of(ref(position))
    outcome.failure = failure
    return outcome


def bundle(first: int = 0, num_images: int = 2) -> Bundle:
    return Bundle(first=first, num_images=num_images, index_part="part-00000.parquet", row_group=0)


def commit(first: int = 0, num_images: int = 2, **sums: Any) -> Commit:
    facts = {"num_tagged": num_images, "num_failed": 0, "num_tags": 0, "tags_sha256": "", "errors_sha256": "", **sums}
    return Commit(part=part_id(first, num_images), first=first, num_images=num_images, **facts)


def decoded(width: int = 8, height: int = 6, *, shown: tuple[int, int] | None = None) -> DecodedImage:
    """A black image; `shown` is its own size where it was decoded at a smaller one."""
    wide, high = shown or (width, height)
    pixels = np.zeros((height, width, 3), np.uint8)
    return DecodedImage(pixels=pixels, width=wide, height=high, format="jpeg", orientation=1)


def image_folder(folder: Path, num_images: int, *, side: int = 32) -> list[ObjectInfo]:
    """Small JPEGs, each of its own colour, and what a listing says of them."""
    folder.mkdir(parents=True)
    listed = []
    for i in range(num_images):
        path = folder / f"{i:04d}.jpg"
        path.write_bytes(jpeg(Image.new("RGB", (side + i % 3, side), (i % 256, 40, 200))))
        listed.append(listing_of(path))
    return listed


def listing_of(path: Path) -> ObjectInfo:
    from batchtag.storage.local import LocalStore

    return LocalStore().stat(str(path))


def freeze(listed: list[ObjectInfo], *, store: Store, layout: Layout, size: int) -> list[Bundle]:
    """Commit an index of these images in bundles of that size, and give the bundles."""
    index = freeze_index(
        [listed], store=store, layout=layout, bundle_size=lambda num_images: size, limit=None, listed_at=NOON
    )
    return list(index.bundles())
