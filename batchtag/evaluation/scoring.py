"""The rows of `tags` against the truth: the one way to figures, whether a model has just said them or a run wrote them.

A tag counts for the label of its name, so the tags of any model can be judged by anybody's labels; tags of names that
the truth does not know are left out, as COCO's protocol leaves out categories without truth, and are counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from batchtag.datasets.base import LabelledImage
from batchtag.evaluation.metrics import (
    ClassificationMetrics,
    DetectionMetrics,
    Detections,
    classification_metrics,
    detection_metrics,
)

_HEADLINE = ("AP", "AP50", "AP75", "AR100", "accuracy", "top5", "macro_f1")

_DECIMALS = 3
"""Of a pixel, as good as float32 knows a place on a large image."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """The figures of one model on labelled images, with what they were made from."""

    metrics: DetectionMetrics | ClassificationMetrics
    num_images: int
    num_unknown_tags: int
    """Tags left out because the truth has no label of their name."""
    unknown_tags: tuple[str, ...]


def score_tags(
    tags: pa.Table, ground_truth: Sequence[LabelledImage], labels: Sequence[str], *, is_detection: bool
) -> Score:
    """Judge the rows of one model (schema `tables.TAGS`, whole images only) on these images.

    An image without rows was looked at and nothing was found; rows of other images are ignored.
    """
    place = {image.uri: i for i, image in enumerate(ground_truth)}
    label_id = {label: i for i, label in enumerate(labels)}
    positions = np.array([place.get(uri, -1) for uri in tags["uri"].to_pylist()], np.int64)
    ids = np.array([label_id.get(tag, -1) for tag in tags["tag"].to_pylist()], np.int64)
    unknown = (positions >= 0) & (ids < 0)
    kept = (positions >= 0) & (ids >= 0)
    metrics: DetectionMetrics | ClassificationMetrics
    if is_detection:
        metrics = detection_metrics(
            labels, ground_truth, _found(tags, positions, ids, kept, num_images=len(ground_truth))
        )
    else:
        scores = np.zeros((len(ground_truth), len(labels)))
        scores[positions[kept], ids[kept]] = _numbers(tags, "score")[kept]
        metrics = classification_metrics(
            labels, np.array([image.label_ids[0] for image in ground_truth], np.int64), scores
        )
    names = pc.unique(tags["tag"].combine_chunks().filter(pa.array(unknown))).to_pylist() if unknown.any() else []
    return Score(
        metrics=metrics,
        num_images=len(ground_truth),
        num_unknown_tags=int(unknown.sum()),
        unknown_tags=tuple(sorted(names)),
    )


def _found(
    tags: pa.Table,
    positions: NDArray[np.int64],
    ids: NDArray[np.int64],
    kept: NDArray[np.bool_],
    *,
    num_images: int,
) -> list[Detections]:
    """The rows of each image, in their order."""
    rows = np.flatnonzero(kept)
    rows = rows[np.argsort(positions[rows], kind="stable")]
    ends = np.searchsorted(positions[rows], np.arange(num_images), side="right")
    boxes = _boxes(tags)
    scores = _numbers(tags, "score")
    return [
        Detections(boxes_xyxy=boxes[one], scores=scores[one], label_ids=ids[one]) for one in np.split(rows, ends[:-1])
    ]


def _boxes(tags: pa.Table) -> NDArray[np.float64]:
    """(N, 4) x_min, y_min, x_max, y_max, from corner and size as COCO writes them, both to a thousandth of a pixel.

    float32 has 473.07 as 473.070007. Boxes drawn by the same decimals would then miss an overlap of exactly 0.95: on
    COCO's own example AP was 0.50406 by the tables and 0.50458 by the file they were made of. Sums are taken as for the
    truth, so that its last bit is the same too; rounding the corners alone leaves 0.50422.
    """
    corners = np.stack([_numbers(tags, side) for side in ("x_min", "y_min", "x_max", "y_max")], axis=1)
    places = np.round(corners[:, :2], _DECIMALS)
    sizes = np.round(corners[:, 2:] - corners[:, :2], _DECIMALS)
    return np.concatenate([places, places + sizes], axis=1)


def _numbers(tags: pa.Table, column: str) -> NDArray[np.float64]:
    numbers: NDArray[np.float64] = tags[column].to_numpy().astype(np.float64)
    return numbers


def headline(score: Score) -> dict[str, float]:
    """The few figures that go onto one line; those that make no sense for these data are absent."""
    figures = score.metrics.summary
    return {name: round(float(figures[name]), 6) for name in _HEADLINE if math.isfinite(figures.get(name, math.nan))}
