"""The metrics of a classifier: accuracy, metrics of each class, ROC, calibration, and mistakes; scikit-learn counts.

Scores may be those of the tables, where a tag below the score floor has no row: its score is 0 here. So the scores of
an image need not sum to one, and all of them may be 0. Then the image has no prediction, which counts as wrong and not
as class 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchtag.evaluation.metrics.calibration import Calibration, measure_calibration
from batchtag.evaluation.metrics.roc import RocCurve, compute_roc
from batchtag.evaluation.metrics.thresholds import Threshold, best_threshold, known_scores
from batchtag.evaluation.metrics.to_json import to_json

NO_PREDICTION = -1
"""The label id of an image whose scores are all 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassificationLabel:
    """The metrics of one class: `support` images are of it, `num_predicted` were predicted to be.

    The prediction for an image is the class with the best score. `precision`, `recall` and `f1` are those of the
    predictions; all are nan without an example, and a class that is never predicted has precision 0. `auc` is
    one-vs-rest, of the scores as given; equal scores, such as those below the score floor, count half. `threshold`
    maximises the one-vs-rest F1 over all scores above 0.
    """

    label: str
    support: int
    num_predicted: int
    precision: float
    recall: float
    f1: float
    auc: float
    roc: RocCurve
    threshold: Threshold


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassificationMistake:
    """A wrong prediction: `label` with `score` for image number `image` (from 0, in the order given).

    `true_score` is the score of the true label. For an image without a prediction `label` is "" and `score` is 0.
    """

    image: int
    label: str
    score: float
    true_label: str
    true_score: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassificationMetrics:
    """The metrics of a classifier on `num_images` images.

    `summary` has accuracy, top5 (nan for five classes or fewer, where it would always be 1), macro_precision,
    macro_recall, macro_f1 and auc (means over the classes that have examples), weighted_precision, weighted_recall and
    weighted_f1 (means weighted by support). `confusion` (C, C) int64 counts images, rows by true class and columns by
    predicted class. `num_unpredicted` (C,) int64 counts the images of each class without a prediction; `num_mistakes`
    includes them. `calibration` is over the images with a prediction. `mistakes` are the worst, most confident first.
    """

    num_images: int
    summary: dict[str, float]
    per_class: tuple[ClassificationLabel, ...]
    confusion: NDArray[np.int64]
    num_unpredicted: NDArray[np.int64]
    calibration: Calibration
    num_mistakes: int
    mistakes: tuple[ClassificationMistake, ...]

    def thresholds(self) -> dict[str, float]:
        """Return the threshold of each class that has one; it needs an example with a score above 0."""
        return known_scores({each.label: each.threshold for each in self.per_class})

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values under the names of the fields; nan is None."""
        values: dict[str, Any] = to_json(self)
        return values


def classification_metrics(
    labels: Sequence[str], true_ids: NDArray[np.int64], scores: NDArray[np.floating], *, worst: int = 50
) -> ClassificationMetrics:
    """Measure the scores of N images for C classes against the ground truth.

    `scores` (N, C) lie in [0, 1]; a score is 0 for a tag below the score floor. `true_ids` (N,) are the true label ids.
    Among equal scores the first class is predicted. `worst` is the number of mistakes to list. Raises one ValueError
    with everything that does not fit.
    """
    _check_arguments(labels, true_ids, scores)
    scores64 = scores.astype(np.float64)
    top_scores = scores64.max(axis=1, initial=0.0)
    predicted_ids = np.where(top_scores > 0, scores64.argmax(axis=1) if len(labels) else NO_PREDICTION, NO_PREDICTION)
    has_prediction = predicted_ids != NO_PREDICTION
    confusion = np.zeros((len(labels), len(labels)), np.int64)
    np.add.at(confusion, (true_ids[has_prediction], predicted_ids[has_prediction]), 1)
    per_class = _measure_labels(labels, true_ids, predicted_ids, scores64)
    return ClassificationMetrics(
        num_images=len(true_ids),
        summary=_summarise(per_class, true_ids, predicted_ids, scores64),
        per_class=per_class,
        confusion=confusion,
        num_unpredicted=np.bincount(true_ids[~has_prediction], minlength=len(labels)),
        calibration=measure_calibration(top_scores[has_prediction], (predicted_ids == true_ids)[has_prediction]),
        num_mistakes=int((predicted_ids != true_ids).sum()),
        mistakes=_find_mistakes(labels, true_ids, predicted_ids, scores64, worst=worst),
    )


def _check_arguments(labels: Sequence[str], true_ids: NDArray[np.int64], scores: NDArray[np.floating]) -> None:
    problems = []
    if scores.shape != (len(true_ids), len(labels)):
        problems.append(f"scores must have shape ({len(true_ids)}, {len(labels)}), got {scores.shape}")
    if not ((scores >= 0) & (scores <= 1)).all():
        problems.append(f"scores must lie in [0, 1], got {scores.min()} to {scores.max()}")
    unknown = set(np.unique(true_ids).tolist()) - set(range(len(labels)))
    if unknown:
        problems.append(f"true_ids must lie in 0..{len(labels) - 1}, got {sorted(unknown)[:5]}")
    if problems:
        raise ValueError("; ".join(problems))


def _measure_labels(
    labels: Sequence[str], true_ids: NDArray[np.int64], predicted_ids: NDArray[np.int64], scores: NDArray[np.float64]
) -> tuple[ClassificationLabel, ...]:
    rates = np.zeros((3, len(labels)))
    if len(true_ids):
        from sklearn.metrics import precision_recall_fscore_support

        rates[:] = precision_recall_fscore_support(true_ids, predicted_ids, labels=range(len(labels)), zero_division=0)[
            :3
        ]
    return tuple(
        _measure_label(
            label,
            true_ids == label_id,
            scores[:, label_id],
            num_predicted=int((predicted_ids == label_id).sum()),
            rates=tuple(rates[:, label_id].tolist()),
        )
        for label_id, label in enumerate(labels)
    )


def _measure_label(
    label: str,
    is_true: NDArray[np.bool_],
    scores: NDArray[np.float64],
    *,
    num_predicted: int,
    rates: tuple[float, float, float],
) -> ClassificationLabel:
    """Measure one class from the scores (N,) of all images for it. `rates` are its precision, recall and F1."""
    support = int(is_true.sum())
    precision, recall, f1 = rates if support else (math.nan, math.nan, math.nan)
    roc, auc = compute_roc(is_true, scores)
    is_tag = scores > 0
    return ClassificationLabel(
        label=label,
        support=support,
        num_predicted=num_predicted,
        precision=precision,
        recall=recall,
        f1=f1,
        auc=auc,
        roc=roc,
        threshold=best_threshold(scores[is_tag], is_true[is_tag], support),
    )


def _summarise(
    per_class: Sequence[ClassificationLabel],
    true_ids: NDArray[np.int64],
    predicted_ids: NDArray[np.int64],
    scores: NDArray[np.float64],
) -> dict[str, float]:
    measured = [label for label in per_class if label.support]
    support = np.array([label.support for label in measured], np.float64)
    rates = {
        name: np.array([getattr(label, name) for label in measured], np.float64)
        for name in ("precision", "recall", "f1")
    }
    areas = [label.auc for label in measured if not math.isnan(label.auc)]
    return {
        "accuracy": float((predicted_ids == true_ids).mean()) if measured else math.nan,
        "top5": _top5(true_ids, scores) if measured and len(per_class) > 5 else math.nan,
        **{f"macro_{name}": float(values.mean()) if measured else math.nan for name, values in rates.items()},
        **{
            f"weighted_{name}": float(values @ support / support.sum()) if measured else math.nan
            for name, values in rates.items()
        },
        "auc": float(np.mean(areas)) if areas else math.nan,
    }


def _top5(true_ids: NDArray[np.int64], scores: NDArray[np.float64]) -> float:
    """Return the share of images whose true label has a score above 0 among the five best; ties go to the first."""
    true_scores = np.take_along_axis(scores, true_ids[:, None], axis=1)
    is_earlier = np.arange(scores.shape[1]) < true_ids[:, None]
    num_better = ((scores > true_scores) | ((scores == true_scores) & is_earlier)).sum(axis=1)
    return float(((num_better < 5) & (true_scores[:, 0] > 0)).mean())


def _find_mistakes(
    labels: Sequence[str],
    true_ids: NDArray[np.int64],
    predicted_ids: NDArray[np.int64],
    scores: NDArray[np.float64],
    *,
    worst: int,
) -> tuple[ClassificationMistake, ...]:
    rows = np.flatnonzero(predicted_ids != true_ids)
    top_scores = np.where(predicted_ids[rows] == NO_PREDICTION, 0.0, scores[rows, predicted_ids[rows]])
    order = np.argsort(-top_scores, kind="stable")[:worst]
    return tuple(
        ClassificationMistake(
            image=row,
            label="" if predicted_ids[row] == NO_PREDICTION else labels[predicted_ids[row]],
            score=score,
            true_label=labels[true_ids[row]],
            true_score=float(scores[row, true_ids[row]]),
        )
        for row, score in zip(rows[order].tolist(), top_scores[order].tolist(), strict=True)
    )
