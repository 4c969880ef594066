"""Classification figures: scikit-learn's own, and small cases counted by hand."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from batchtag.evaluation.metrics import classification_metrics

LABELS = ("apple", "pear", "plum")


def random_answers(seed: int, num_images: int, num_labels: int) -> tuple[Any, Any]:
    random = np.random.default_rng(seed)
    scores = random.dirichlet(np.full(num_labels, 0.4), num_images)
    guesses = random.integers(0, num_labels, num_images)
    return np.where(random.uniform(size=num_images) < 0.7, scores.argmax(axis=1), guesses), scores


@pytest.mark.parametrize(("seed", "num_labels"), [(0, 2), (1, 3), (2, 8)])
def test_every_figure_is_scikit_learns(seed: int, num_labels: int) -> None:
    from sklearn import metrics as theirs

    true_ids, scores = random_answers(seed, 400, num_labels)
    said = scores.argmax(axis=1)
    ours = classification_metrics([str(i) for i in range(num_labels)], true_ids, scores)
    assert ours.summary["accuracy"] == theirs.accuracy_score(true_ids, said)
    assert ours.confusion.tolist() == theirs.confusion_matrix(true_ids, said).tolist()
    for average in ("macro", "weighted"):
        rates = theirs.precision_recall_fscore_support(true_ids, said, average=average)[:3]
        assert [ours.summary[f"{average}_{name}"] for name in ("precision", "recall", "f1")] == pytest.approx(rates)
    areas = [theirs.roc_auc_score(true_ids == i, scores[:, i]) for i in range(num_labels)]
    assert [each.auc for each in ours.per_class] == pytest.approx(areas)
    assert ours.summary["auc"] == pytest.approx(np.mean(areas))
    top5 = theirs.top_k_accuracy_score(true_ids, scores, k=5) if num_labels > 5 else math.nan
    assert ours.summary["top5"] == pytest.approx(top5, nan_ok=True)


def test_a_image_of_which_nothing_was_said_is_wrong_and_not_of_the_first_class() -> None:
    scores = np.array([[0.0, 0, 0], [0.9, 0, 0], [0, 0, 0]])
    metrics = classification_metrics(LABELS, np.array([0, 0, 2]), scores)
    assert metrics.summary["accuracy"] == pytest.approx(1 / 3)
    assert metrics.confusion.tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert metrics.unanswered.tolist() == [1, 0, 1]
    assert [(each.image, each.label, each.true_label) for each in metrics.mistakes] == [
        (0, "", "apple"),
        (2, "", "plum"),
    ]
    assert metrics.calibration.count.sum() == 1


def test_a_class_without_examples_is_null_and_left_out_of_the_means() -> None:
    scores = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.1, 0.2, 0.7]])
    metrics = classification_metrics(LABELS, np.array([0, 1, 1]), scores)
    plum = metrics.as_dict()["per_class"][2]
    assert [plum[name] for name in ("support", "num_said", "precision", "recall", "f1", "auc")] == [0, 1, *[None] * 4]
    assert plum["threshold"] == {"score": None, "precision": None, "recall": None, "f1": None}
    assert metrics.summary["macro_recall"] == pytest.approx((1 + 0.5) / 2)
    assert set(metrics.thresholds()) == {"apple", "pear"}


def test_a_class_never_said_has_precision_0() -> None:
    metrics = classification_metrics(LABELS, np.array([0, 1]), np.array([[0.9, 0.1, 0], [0.8, 0.2, 0]]))
    assert (metrics.per_class[1].precision, metrics.per_class[1].recall, metrics.per_class[1].f1) == (0, 0, 0)


def test_of_equal_scores_the_first_label_leads() -> None:
    metrics = classification_metrics(LABELS, np.array([0, 1]), np.array([[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]))
    assert metrics.confusion[:, 0].tolist() == [1, 1, 0]
    six = [str(i) for i in range(6)]
    assert classification_metrics(six, np.array([4, 5]), np.full((2, 6), 0.1)).summary["top5"] == 0.5


def test_a_true_label_below_the_floor_is_not_among_the_top_5() -> None:
    six = [str(i) for i in range(6)]
    assert classification_metrics(six, np.array([1]), np.array([[0.9, 0, 0, 0, 0, 0.0]])).summary["top5"] == 0


def test_thresholds_maximise_f1_against_the_rest_over_what_was_said() -> None:
    scores = np.array([[0.9, 0.0, 0.0], [0.6, 0.3, 0.0], [0.4, 0.5, 0.0], [0.0, 0.7, 0.0]])
    metrics = classification_metrics(LABELS, np.array([0, 0, 1, 1]), scores)
    assert metrics.thresholds() == pytest.approx({"apple": 0.5, "pear": 0.4})
    assert metrics.per_class[0].threshold.f1 == 1


def test_the_most_confident_mistakes_come_first() -> None:
    scores = np.array([[0.6, 0.4, 0], [0.1, 0.9, 0], [0.6, 0.3, 0.1], [1, 0, 0]])
    metrics = classification_metrics(LABELS, np.array([1, 0, 2, 0]), scores, worst=2)
    assert metrics.num_mistakes == 3
    assert [(each.image, each.label, each.score, each.true_label, each.true_score) for each in metrics.mistakes] == [
        (1, "pear", 0.9, "apple", 0.1),
        (0, "apple", 0.6, "pear", 0.4),
    ]


def test_a_long_roc_curve_is_thinned_and_keeps_its_ends_and_area() -> None:
    true_ids, scores = random_answers(5, 5_000, 2)
    for each in classification_metrics(["no", "yes"], true_ids, scores).per_class:
        x, y = each.roc.false_positive_rate, each.roc.true_positive_rate
        assert 100 < len(x) == len(y) <= 201
        assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
        assert (np.diff(x) >= 0).all()
        assert (np.diff(y) >= 0).all()
        assert np.trapezoid(y, x) == pytest.approx(each.auc, abs=2e-3)


@pytest.mark.parametrize("num_labels", [0, 1, 3, 7])
def test_no_images_and_single_classes_are_null_in_json_and_nobody_warns(num_labels: int) -> None:
    labels = [str(i) for i in range(num_labels)]
    empty = classification_metrics(labels, np.zeros(0, np.int64), np.zeros((0, num_labels)))
    assert set(json.loads(json.dumps(empty.as_dict(), allow_nan=False))["summary"].values()) == {None}
    if num_labels:
        alone = classification_metrics(labels, np.zeros(4, np.int64), np.full((4, num_labels), 0.5))
        again = json.loads(json.dumps(alone.as_dict(), allow_nan=False))
        assert (again["summary"]["accuracy"], again["summary"]["auc"]) == (1, None)


def test_whatever_does_not_fit_is_said_at_once() -> None:
    with pytest.raises(
        ValueError, match=r"shape \(2, 3\), got \(2, 2\); scores .* got 0\.0 to 2\.0; true_ids .* \[7\]"
    ):
        classification_metrics(LABELS, np.array([0, 7]), np.array([[0, 2.0], [1, 0]]))
