"""The agreement of two contenders, which is judged before their times: other tags make a comparison worthless.

Classifiers agree on an image if the best label is the same. Detectors agree if each box to which either gives a score
of at least 0.3 has a box of the same label in the other, within 0.5 px and 0.01 in score. (A box between 0.29 and 0.30
matches one of 0.30, so the edge of the threshold makes no disagreement.)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

SURE_SCORE, MAX_BOX_DIFFERENCE_PX, MAX_SCORE_DIFFERENCE = 0.3, 0.5, 0.01
_COLUMNS = ["uri", "score", "kind", "label_id", "rank", "x_min", "y_min", "x_max", "y_max"]


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The answers of one contender by URI: the best label, and the boxes as (N, 6): label, score, corners in pixels."""

    classes: Mapping[str, int]
    boxes: Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """The share of images with the same best label, and of sure boxes that the other has too; 1.0 if there are none."""

    classes: float
    boxes: float
    num_boxes: int


def read_answers(out: Path) -> Answers:
    """Return the answers in the Parquet files under a folder: the tables of `batchtag run`, or the file of a peer."""
    folder = out / "tags" if (out / "tags").is_dir() else out
    tables = [pq.ParquetFile(path).read(columns=_COLUMNS) for path in sorted(folder.rglob("*.parquet"))]
    if not tables:
        raise ValueError(f"{out} has no Parquet file")
    rows = pa.concat_tables(tables, promote_options="permissive").to_pylist()
    boxes: dict[str, list[list[float]]] = defaultdict(list)
    for row in rows:
        if row["kind"] == "object":
            corners = [row[name] for name in ("x_min", "y_min", "x_max", "y_max")]
            boxes[row["uri"]].append([row["label_id"], row["score"], *corners])
    return Answers(
        classes={row["uri"]: row["label_id"] for row in rows if row["kind"] == "class" and row["rank"] == 1},
        boxes={uri: np.array(image_boxes, np.float64) for uri, image_boxes in boxes.items()},
    )


def compute_agreement(reference: Answers, other: Answers) -> Agreement:
    """Return how far `other` gives the answers of `reference`. The order of the two does not matter."""
    uris = reference.classes.keys() | other.classes.keys()
    same = sum(reference.classes.get(uri) == other.classes.get(uri) for uri in uris)
    matches = [
        _match_sure_boxes(first.boxes.get(uri), second.boxes.get(uri))
        for uri in reference.boxes.keys() | other.boxes.keys()
        for first, second in ((reference, other), (other, reference))
    ]
    num_sure = sum(len(matched) for matched in matches)
    return Agreement(
        classes=same / len(uris) if uris else 1.0,
        boxes=sum(sum(matched) for matched in matches) / num_sure if num_sure else 1.0,
        num_boxes=num_sure // 2,
    )


def _match_sure_boxes(boxes: NDArray[np.float64] | None, others: NDArray[np.float64] | None) -> list[bool]:
    """Return for each sure box whether the others have it. Each of the others matches one box at most.

    The first box takes the first of the others that is near, so the agreement may be too low, but never too high.
    """
    if boxes is None:
        return []
    sure = boxes[boxes[:, 1] >= SURE_SCORE]
    if others is None:
        return [False] * len(sure)
    near = (
        (sure[:, None, 0] == others[None, :, 0])
        & (np.abs(sure[:, None, 1] - others[None, :, 1]) <= MAX_SCORE_DIFFERENCE)
        & (np.abs(sure[:, None, 2:] - others[None, :, 2:]) <= MAX_BOX_DIFFERENCE_PX).all(axis=2)
    )
    for row, is_near in enumerate(near):
        if is_near.any():
            near[row + 1 :, int(is_near.argmax())] = False
    return [bool(has_match) for has_match in near.any(axis=1)]
