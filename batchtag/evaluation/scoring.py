"""Scoring of the rows of `tags` against ground truth; the same for tags made just now and for those that a run wrote.

A tag belongs to the label with the same name, so that the tags of any model can be compared with any labels. Tags whose
names are not among the labels are left out and counted, as COCO's protocol leaves out categories without ground truth.
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
"""Names of the metrics that are shown on one line."""
_PIXEL_DECIMALS = 3
"""Decimals to which box coordinates are rounded: the precision of float32 in a large image."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """The metrics of one model on labelled images.

    `num_unknown_tags` counts the tags that were left out because no label has their name; `unknown_tags` are the names.
    """

    metrics: DetectionMetrics | ClassificationMetrics
    num_images: int
    num_unknown_tags: int
    unknown_tags: tuple[str, ...]


def score_tags(
    tags: pa.Table, ground_truth: Sequence[LabelledImage], labels: Sequence[str], *, is_detection: bool
) -> Score:
    """Score the rows of one model (schema `schemas.TAGS`, without tags of crops) on these images.

    An image without rows is one for which the model predicted nothing. Rows of other images are ignored.
    """
    image_by_uri = {image.uri: i for i, image in enumerate(ground_truth)}
    id_by_label = {label: i for i, label in enumerate(labels)}
    images = np.array([image_by_uri.get(uri, -1) for uri in tags["uri"].to_pylist()], np.int64)
    label_ids = np.array([id_by_label.get(tag, -1) for tag in tags["tag"].to_pylist()], np.int64)
    is_unknown = (images >= 0) & (label_ids < 0)
    is_known = (images >= 0) & (label_ids >= 0)
    metrics: DetectionMetrics | ClassificationMetrics
    if is_detection:
        rows = np.flatnonzero(is_known)
        rows = rows[np.argsort(images[rows], kind="stable")]
        rows_by_image = np.split(rows, np.searchsorted(images[rows], np.arange(1, len(ground_truth))))
        metrics = detection_metrics(labels, ground_truth, _make_detections(tags, label_ids, rows_by_image))
    else:
        scores = np.zeros((len(ground_truth), len(labels)))
        scores[images[is_known], label_ids[is_known]] = _float_column(tags, "score")[is_known]
        true_ids = np.array([image.label_ids[0] for image in ground_truth], np.int64)
        metrics = classification_metrics(labels, true_ids, scores)
    names = pc.unique(tags["tag"].combine_chunks().filter(pa.array(is_unknown))).to_pylist() if is_unknown.any() else []
    return Score(
        metrics=metrics,
        num_images=len(ground_truth),
        num_unknown_tags=int(is_unknown.sum()),
        unknown_tags=tuple(sorted(names)),
    )


def _make_detections(
    tags: pa.Table, label_ids: NDArray[np.int64], rows_by_image: Sequence[NDArray[np.int64]]
) -> list[Detections]:
    boxes, scores = _read_boxes(tags), _float_column(tags, "score")
    return [
        Detections(boxes_xyxy=boxes[rows], scores=scores[rows], label_ids=label_ids[rows]) for rows in rows_by_image
    ]


def _read_boxes(tags: pa.Table) -> NDArray[np.float64]:
    """Return the (N, 4) boxes, computed from corner and size as COCO writes them, each rounded to 0.001 pixels.

    float32 stores 473.07 as 473.070007. A detection with exactly the decimals of the ground truth would then miss an
    overlap of exactly 0.95: on COCO's own example AP was 0.50406 from the tables and 0.50458 from the file they were
    made of. The sum of corner and size is computed as for the ground truth, so that its last bit is equal too; rounding
    only the corners gives 0.50422.
    """
    corners = np.stack([_float_column(tags, side) for side in ("x_min", "y_min", "x_max", "y_max")], axis=1)
    top_left = np.round(corners[:, :2], _PIXEL_DECIMALS)
    sizes = np.round(corners[:, 2:] - corners[:, :2], _PIXEL_DECIMALS)
    return np.concatenate([top_left, top_left + sizes], axis=1)


def _float_column(tags: pa.Table, column: str) -> NDArray[np.float64]:
    values: NDArray[np.float64] = tags[column].to_numpy().astype(np.float64)
    return values


def headline(score: Score) -> dict[str, float]:
    """Return the few metrics that are shown on one line; those without a meaning for these data are absent."""
    summary = score.metrics.summary
    return {name: round(float(summary[name]), 6) for name in _HEADLINE if math.isfinite(summary.get(name, math.nan))}
