"""The metrics of a classifier: compared with scikit-learn, and with small cases counted by hand."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from batchtag.evaluation.metrics import classification_metrics

LABELS = ("apple", "pear", "plum")


def random_predictions(seed: int, num_images: int, num_labels: int) -> tuple[Any, Any]:
    random = np.random.default_rng(seed)
    scores = random.dirichlet(np.full(num_labels, 0.4), num_images)
    guesses = random.integers(0, num_labels, num_images)
    return np.where(random.uniform(size=num_images) < 0.7, scores.argmax(axis=1), guesses), scores


@pytest.mark.parametrize(("seed", "num_labels"), [(0, 2), (1, 3), (2, 8)])
def test_every_metric_equals_that_of_scikit_learn(seed: int, num_labels: int) -> None:
    from sklearn import metrics as sklearn_metrics

    true_ids, scores = random_predictions(seed, 400, num_labels)
    predicted_ids = scores.argmax(axis=1)
    metrics = classification_metrics([str(i) for i in range(num_labels)], true_ids, scores)
    assert metrics.summary["accuracy"] == sklearn_metrics.accuracy_score(true_ids, predicted_ids)
    assert metrics.confusion.tolist() == sklearn_metrics.confusion_matrix(true_ids, predicted_ids).tolist()
    for average in ("macro", "weighted"):
        rates = sklearn_metrics.precision_recall_fscore_support(true_ids, predicted_ids, average=average)[:3]
        assert [metrics.summary[f"{average}_{name}"] for name in ("precision", "recall", "f1")] == pytest.approx(rates)
    areas = [sklearn_metrics.roc_auc_score(true_ids == i, scores[:, i]) for i in range(num_labels)]
    assert [each.auc for each in metrics.per_class] == pytest.approx(areas)
    assert metrics.summary["auc"] == pytest.approx(np.mean(areas))
    top5 = sklearn_metrics.top_k_accuracy_score(true_ids, scores, k=5) if num_labels > 5 else math.nan
    assert metrics.summary["top5"] == pytest.approx(top5, nan_ok=True)


def test_an_image_without_a_prediction_counts_as_wrong_and_not_as_the_first_class() -> None:
    scores = np.array([[0.0, 0, 0], [0.9, 0, 0], [0, 0, 0]])
    metrics = classification_metrics(LABELS, np.array([0, 0, 2]), scores)
    assert metrics.summary["accuracy"] == pytest.approx(1 / 3)
    assert metrics.confusion.tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert metrics.num_unpredicted.tolist() == [1, 0, 1]
    assert [(each.image, each.label, each.true_label) for each in metrics.mistakes] == [
        (0, "", "apple"),
        (2, "", "plum"),
    ]
    assert metrics.calibration.count.sum() == 1


def test_a_class_without_examples_is_null_and_left_out_of_the_means() -> None:
    scores = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.1, 0.2, 0.7]])
    metrics = classification_metrics(LABELS, np.array([0, 1, 1]), scores)
    plum = metrics.as_dict()["per_class"][2]
    assert [plum[name] for name in ("support", "num_predicted", "precision", "recall", "f1", "auc")] == [
        0,
        1,
        *[None] * 4,
    ]
    assert plum["threshold"] == {"score": None, "precision": None, "recall": None, "f1": None}
    assert metrics.summary["macro_recall"] == pytest.approx((1 + 0.5) / 2)
    assert set(metrics.thresholds()) == {"apple", "pear"}


def test_a_class_that_is_never_predicted_has_precision_0() -> None:
    metrics = classification_metrics(LABELS, np.array([0, 1]), np.array([[0.9, 0.1, 0], [0.8, 0.2, 0]]))
    assert (metrics.per_class[1].precision, metrics.per_class[1].recall, metrics.per_class[1].f1) == (0, 0, 0)


def test_among_equal_scores_the_first_label_is_predicted() -> None:
    metrics = classification_metrics(LABELS, np.array([0, 1]), np.array([[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]))
    assert metrics.confusion[:, 0].tolist() == [1, 1, 0]
    six = [str(i) for i in range(6)]
    assert classification_metrics(six, np.array([4, 5]), np.full((2, 6), 0.1)).summary["top5"] == 0.5


def test_a_true_label_below_the_floor_is_not_among_the_top_5() -> None:
    six = [str(i) for i in range(6)]
    assert classification_metrics(six, np.array([1]), np.array([[0.9, 0, 0, 0, 0, 0.0]])).summary["top5"] == 0


def test_thresholds_maximise_f1_of_each_class_against_the_others() -> None:
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


def test_a_long_roc_curve_is_reduced_and_keeps_its_ends_and_area() -> None:
    true_ids, scores = random_predictions(5, 5_000, 2)
    for each in classification_metrics(["no", "yes"], true_ids, scores).per_class:
        x, y = each.roc.false_positive_rate, each.roc.true_positive_rate
        assert 100 < len(x) == len(y) <= 201
        assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
        assert (np.diff(x) >= 0).all()
        assert (np.diff(y) >= 0).all()
        assert np.trapezoid(y, x) == pytest.approx(each.auc, abs=2e-3)


@pytest.mark.parametrize("num_labels", [0, 1, 7])
def test_metrics_of_no_images_and_of_single_classes_are_null_in_json_without_a_warning(num_labels: int) -> None:
    labels = [str(i) for i in range(num_labels)]
    empty = classification_metrics(labels, np.zeros(0, np.int64), np.zeros((0, num_labels)))
    assert set(json.loads(json.dumps(empty.as_dict(), allow_nan=False))["summary"].values()) == {None}
    if num_labels:
        single = classification_metrics(labels, np.zeros(4, np.int64), np.full((4, num_labels), 0.5))
        parsed = json.loads(json.dumps(single.as_dict(), allow_nan=False))
        assert (parsed["summary"]["accuracy"], parsed["summary"]["auc"]) == (1, None)


def test_everything_that_does_not_fit_is_in_one_error() -> None:
    with pytest.raises(
        ValueError, match=r"shape \(2, 3\), got \(2, 2\); scores .* got 0\.0 to 2\.0; true_ids .* \[7\]"
    ):
        classification_metrics(LABELS, np.array([0, 7]), np.array([[0, 2.0], [1, 0]]))
