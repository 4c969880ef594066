"""How good a classifier is: accuracy, per class, ROC, calibration, mistakes; scikit-learn counts.

Scores may be as the tables hold them: a tag below the floor is 0, so a row need not sum to one and may be all 0. Then
nothing was said, which is wrong, and never "class 0".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchtag.evaluation.metrics.calibration import Calibration, calibration
from batchtag.evaluation.metrics.roc import RocCurve, one_against_rest
from batchtag.evaluation.metrics.thresholds import Threshold, best_threshold
from batchtag.evaluation.metrics.to_json import plain

NOTHING_SAID = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassificationLabel:
    """One class: `support` images are of it, `num_said` were said to be.

    `precision`, `recall` and `f1` are of the best-scored class of each image; without an example all are nan, and a
    class never said has precision 0. `auc` is one-vs-rest, of the scores as given: equal ones, such as those below the
    floor, count half. `threshold` maximises the one-vs-rest F1 over all scores above 0.
    """

    label: str
    support: int
    num_said: int
    precision: float
    recall: float
    f1: float
    auc: float
    roc: RocCurve
    threshold: Threshold


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassificationMistake:
    """Image number `image` (from 0, as given): `label` was said with `score`, which is wrong.

    `true_score` is what the true label got. Where nothing was said, `label` is "" and `score` 0.
    """

    image: int
    label: str
    score: float
    true_label: str
    true_score: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassificationMetrics:
    """How good a classifier is on `num_images` images.

    `summary`: accuracy, top5 (nan for five classes or fewer, of which it says nothing), macro_precision, macro_recall,
    macro_f1 and auc (means over the classes that have examples), weighted_precision, weighted_recall and weighted_f1
    (means by support). `confusion` (C, C) int64: rows true, columns said; `unanswered` (C,) int64 are the images of
    each class of which nothing was said, and `num_mistakes` counts them too. `calibration` is of the best-scored class
    of each image of which something was said. `mistakes` are the worst, most confident first.
    """

    num_images: int
    summary: dict[str, float]
    per_class: tuple[ClassificationLabel, ...]
    confusion: NDArray[np.int64]
    unanswered: NDArray[np.int64]
    calibration: Calibration
    num_mistakes: int
    mistakes: tuple[ClassificationMistake, ...]

    def thresholds(self) -> dict[str, float]:
        """From which score to believe each class; one without an example, or never scored rightly, is absent."""
        found = {each.label: each.threshold.score for each in self.per_class}
        return {label: score for label, score in found.items() if not math.isnan(score)}

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values under the names of the fields; nan is None."""
        values: dict[str, Any] = plain(self)
        return values


def classification_metrics(
    labels: Sequence[str], true_ids: NDArray[np.int64], scores: NDArray[np.floating], *, worst: int = 50
) -> ClassificationMetrics:
    """How good the answers `scores` (N, C) in [0, 1] are, where `true_ids` (N,) is the truth.

    A score is 0 where the tag was below the floor; of equal scores the first leads. `worst` is how many mistakes to
    list. Raises ValueError with everything that does not fit.
    """
    _check(labels, true_ids, scores)
    numbers = scores.astype(np.float64)
    top_scores = numbers.max(axis=1, initial=0.0)
    said = np.where(top_scores > 0, numbers.argmax(axis=1) if len(labels) else NOTHING_SAID, NOTHING_SAID)
    answered = said != NOTHING_SAID
    confusion = np.zeros((len(labels), len(labels)), np.int64)
    np.add.at(confusion, (true_ids[answered], said[answered]), 1)
    per_class = _per_class(labels, true_ids, said, numbers)
    return ClassificationMetrics(
        num_images=len(true_ids),
        summary=_summary(per_class, true_ids, said, numbers),
        per_class=per_class,
        confusion=confusion,
        unanswered=np.bincount(true_ids[~answered], minlength=len(labels)),
        calibration=calibration(top_scores[answered], (said == true_ids)[answered]),
        num_mistakes=int((said != true_ids).sum()),
        mistakes=_mistakes(labels, true_ids, said, numbers, worst=worst),
    )


def _check(labels: Sequence[str], true_ids: NDArray[np.int64], scores: NDArray[np.floating]) -> None:
    problems = []
    if scores.shape != (len(true_ids), len(labels)):
        problems.append(f"scores must have shape ({len(true_ids)}, {len(labels)}), got {scores.shape}")
    if not ((scores >= 0) & (scores <= 1)).all():
        problems.append(f"scores must lie in [0, 1], got {scores.min()} to {scores.max()}")
    strange = set(np.unique(true_ids).tolist()) - set(range(len(labels)))
    if strange:
        problems.append(f"true_ids must lie in 0..{len(labels) - 1}, got {sorted(strange)[:5]}")
    if problems:
        raise ValueError("; ".join(problems))


def _per_class(
    labels: Sequence[str], true_ids: NDArray[np.int64], said: NDArray[np.int64], scores: NDArray[np.float64]
) -> tuple[ClassificationLabel, ...]:
    rates = np.zeros((3, len(labels)))
    if len(true_ids):
        from sklearn.metrics import precision_recall_fscore_support

        rates[:] = precision_recall_fscore_support(true_ids, said, labels=range(len(labels)), zero_division=0)[:3]
    return tuple(
        _label(
            label, true_ids == label_id, said == label_id, scores[:, label_id], rates=tuple(rates[:, label_id].tolist())
        )
        for label_id, label in enumerate(labels)
    )


def _label(
    label: str,
    is_true: NDArray[np.bool_],
    is_said: NDArray[np.bool_],
    scores: NDArray[np.float64],
    *,
    rates: tuple[float, float, float],
) -> ClassificationLabel:
    support = int(is_true.sum())
    precision, recall, f1 = rates if support else (math.nan, math.nan, math.nan)
    roc, auc = one_against_rest(is_true, scores)
    is_kept = scores > 0
    return ClassificationLabel(
        label=label,
        support=support,
        num_said=int(is_said.sum()),
        precision=precision,
        recall=recall,
        f1=f1,
        auc=auc,
        roc=roc,
        threshold=best_threshold(scores[is_kept], is_true[is_kept], support),
    )


def _summary(
    per_class: Sequence[ClassificationLabel],
    true_ids: NDArray[np.int64],
    said: NDArray[np.int64],
    scores: NDArray[np.float64],
) -> dict[str, float]:
    seen = [each for each in per_class if each.support]
    support = np.array([each.support for each in seen], np.float64)
    rates = {
        name: np.array([getattr(each, name) for each in seen], np.float64) for name in ("precision", "recall", "f1")
    }
    areas = [each.auc for each in seen if not math.isnan(each.auc)]
    return {
        "accuracy": float((said == true_ids).mean()) if seen else math.nan,
        "top5": _top5(true_ids, scores) if seen and len(per_class) > 5 else math.nan,
        **{f"macro_{name}": float(values.mean()) if seen else math.nan for name, values in rates.items()},
        **{
            f"weighted_{name}": float(values @ support / support.sum()) if seen else math.nan
            for name, values in rates.items()
        },
        "auc": float(np.mean(areas)) if areas else math.nan,
    }


def _top5(true_ids: NDArray[np.int64], scores: NDArray[np.float64]) -> float:
    """The share of images whose true label was said and is among the five best; of equal scores the first leads."""
    of_true = np.take_along_axis(scores, true_ids[:, None], axis=1)
    is_earlier = np.arange(scores.shape[1]) < true_ids[:, None]
    num_better = ((scores > of_true) | ((scores == of_true) & is_earlier)).sum(axis=1)
    return float(((num_better < 5) & (of_true[:, 0] > 0)).mean())


def _mistakes(
    labels: Sequence[str],
    true_ids: NDArray[np.int64],
    said: NDArray[np.int64],
    scores: NDArray[np.float64],
    *,
    worst: int,
) -> tuple[ClassificationMistake, ...]:
    rows = np.flatnonzero(said != true_ids)
    said_scores = np.where(said[rows] == NOTHING_SAID, 0.0, scores[rows, said[rows]])
    order = np.argsort(-said_scores, kind="stable")[:worst]
    return tuple(
        ClassificationMistake(
            image=row,
            label="" if said[row] == NOTHING_SAID else labels[said[row]],
            score=score,
            true_label=labels[true_ids[row]],
            true_score=float(scores[row, true_ids[row]]),
        )
        for row, score in zip(rows[order].tolist(), said_scores[order].tolist(), strict=True)
    )
