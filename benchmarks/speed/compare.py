"""Whether two contenders said the same. Judged before any time: what gives other tags is no comparison.

Classifiers agree on an image if the best label is the same. Detectors agree if each box that either gives a score of
at least 0.3 has one of the same label in the other, within 0.5 px and 0.01 in score. (A box between 0.29 and 0.30
counts for the other's 0.30, so the edge of the threshold makes no disagreement.)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

SURE, PIXELS, SCORES = 0.3, 0.5, 0.01
_NEEDED = ["uri", "score", "kind", "label_id", "rank", "x_min", "y_min", "x_max", "y_max"]


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What one contender said: the best label of each image, and its boxes as (N, 6): label, score, corners."""

    classes: Mapping[str, int]
    boxes: Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """The share of images with the same best label, and of sure boxes that the other has too; 1.0 of none."""

    classes: float
    boxes: float
    num_boxes: int


def read(out: Path) -> Answers:
    """The answers in the Parquet files under a folder, the tables of `batchtag run` or a peer's."""
    folder = out / "tags" if (out / "tags").is_dir() else out
    tables = [pq.ParquetFile(path).read(columns=_NEEDED) for path in sorted(folder.rglob("*.parquet"))]
    if not tables:
        raise ValueError(f"{out} holds no Parquet file")
    rows = pa.concat_tables(tables, promote_options="permissive").to_pylist()
    boxes: dict[str, list[list[float]]] = defaultdict(list)
    for row in rows:
        if row["kind"] == "object":
            corners = [row[name] for name in ("x_min", "y_min", "x_max", "y_max")]
            boxes[row["uri"]].append([row["label_id"], row["score"], *corners])
    return Answers(
        classes={row["uri"]: row["label_id"] for row in rows if row["kind"] == "class" and row["rank"] == 1},
        boxes={uri: np.array(found, np.float64) for uri, found in boxes.items()},
    )


def agreement(reference: Answers, other: Answers) -> Agreement:
    """How far `other` says what `reference` says."""
    uris = reference.classes.keys() | other.classes.keys()
    same = sum(reference.classes.get(uri) == other.classes.get(uri) for uri in uris)
    found = [
        _found(one.boxes.get(uri), another.boxes.get(uri))
        for uri in reference.boxes.keys() | other.boxes.keys()
        for one, another in ((reference, other), (other, reference))
    ]
    sure = sum(len(matched) for matched in found)
    return Agreement(
        classes=same / len(uris) if uris else 1.0,
        boxes=sum(_count(matched) for matched in found) / sure if sure else 1.0,
        num_boxes=sure // 2,
    )


def _count(matched: Iterable[bool]) -> int:
    return sum(1 for one in matched if one)


def _found(boxes: NDArray[np.float64] | None, others: NDArray[np.float64] | None) -> list[bool]:
    """For each sure box whether the others have it: one of theirs is one of ours at most.

    Who comes first takes the first that is near, so agreement may be told too low, never too high.
    """
    if boxes is None:
        return []
    sure = boxes[boxes[:, 1] >= SURE]
    if others is None:
        return [False] * len(sure)
    near = (
        (sure[:, None, 0] == others[None, :, 0])
        & (np.abs(sure[:, None, 1] - others[None, :, 1]) <= SCORES)
        & (np.abs(sure[:, None, 2:] - others[None, :, 2:]) <= PIXELS).all(axis=2)
    )
    for row, theirs in enumerate(near):
        if theirs.any():
            near[row + 1 :, int(theirs.argmax())] = False
    return [bool(one) for one in near.any(axis=1)]
