"""Every kind of mistake of a detector, on one small image each."""

from __future__ import annotations

import math

import pytest

from batchtag.datasets.base import LabelledImage
from batchtag.evaluation.metrics import DetectionMistake, detection_metrics
from tests.evaluation.metrics.images import Detection, make_detections, random_case, true_image

LABELS = ("bottle", "can", "jar")
HERE = (0.0, 0.0, 100.0, 100.0)
BESIDE = (50.0, 0.0, 150.0, 100.0)  # IoU 1/3 with HERE
FAR = (500.0, 500.0, 600.0, 600.0)


def find_mistakes(ground_truth: LabelledImage, *detections: Detection) -> list[DetectionMistake]:
    return list(detection_metrics(LABELS, [ground_truth], [make_detections(*detections)]).mistakes)


@pytest.mark.parametrize(
    ("detection", "kind", "iou"),
    [
        ((1, 0.9, HERE), "wrong_class", 1.0),
        ((0, 0.9, BESIDE), "wrong_place", 1 / 3),
        ((1, 0.9, BESIDE), "wrong_both", 1 / 3),
        ((0, 0.9, FAR), "background", 0.0),
    ],
)
def test_the_kind_of_a_false_detection_depends_on_what_it_overlaps(detection: Detection, kind: str, iou: float) -> None:
    first, *others = find_mistakes(true_image((0, HERE)), detection)
    assert (first.kind, first.label, first.score) == (kind, LABELS[detection[0]], 0.9)
    assert first.box_xyxy == detection[2]
    assert first.iou == pytest.approx(iou)
    assert first.true_label == ("" if kind == "background" else "bottle")
    explains_the_object = kind in ("wrong_class", "wrong_place")
    assert [each.kind for each in others] == ([] if explains_the_object else ["missed"])


def test_the_second_detection_of_one_object_is_a_duplicate() -> None:
    mistakes = find_mistakes(true_image((0, HERE), (0, FAR)), (0, 0.8, HERE), (0, 0.9, HERE), (0, 0.7, FAR))
    assert [(each.kind, each.score, each.true_box_xyxy) for each in mistakes] == [("duplicate", 0.8, HERE)]


def test_a_missed_object_names_the_correct_detection_below_the_threshold() -> None:
    ground_truth = true_image((0, HERE), (0, FAR))
    detections = [
        (0, 0.9, HERE),
        (0, 0.1, FAR),
        *[(0, 0.5, (200.0, 200.0 * i, 250.0, 200.0 * i + 50)) for i in range(5)],
    ]
    (missed,) = find_mistakes(ground_truth, *detections)
    assert (missed.kind, missed.label, missed.score, missed.box_xyxy, missed.iou) == ("missed", "bottle", 0.1, FAR, 1.0)


def test_a_missed_object_without_any_detection_has_no_detected_box() -> None:
    (missed,) = find_mistakes(true_image((2, HERE)))
    assert (missed.kind, missed.score, missed.true_label, missed.true_box_xyxy) == ("missed", 0.0, "jar", HERE)
    assert all(math.isnan(value) for value in missed.box_xyxy)


def test_the_worst_of_each_kind_come_first_and_all_are_counted() -> None:
    ground_truth = [true_image((0, HERE), (1, FAR), (1, (0, 300, 50, 350))), true_image()]
    detections = [make_detections((0, 0.9, HERE)), make_detections(*[(2, score / 10, HERE) for score in (3, 8, 5)])]
    metrics = detection_metrics(LABELS, ground_truth, detections, worst=2)
    assert metrics.mistake_counts == {
        "wrong_class": 0,
        "wrong_place": 0,
        "wrong_both": 0,
        "duplicate": 0,
        "background": 3,
        "missed": 2,
    }
    assert [(each.kind, each.image, each.score) for each in metrics.mistakes[:2]] == [
        ("background", 1, 0.8),
        ("background", 1, 0.5),
    ]
    assert [each.true_box_xyxy for each in metrics.mistakes[2:]] == [FAR, (0, 300, 50, 350)]


@pytest.mark.parametrize("seed", range(2))
def test_every_shown_detection_is_correct_or_a_mistake_and_every_object_is_detected_or_missed(seed: int) -> None:
    ground_truth, detections = random_case(200 + seed, crowds=False)
    metrics = detection_metrics(LABELS, ground_truth, detections, worst=1000)
    thresholds = metrics.thresholds()
    num_shown = sum(
        score >= thresholds.get(LABELS[label_id], 0)
        for each in detections
        for label_id, score in zip(each.label_ids.tolist(), each.scores.tolist(), strict=True)
    )
    num_correct = sum(round(each.threshold.recall * each.num_true) for each in metrics.per_class)
    false = [each for each in metrics.mistakes if each.kind != "missed"]
    assert len(false) == num_shown - num_correct
    explained = {(each.image, each.true_box_xyxy) for each in false if each.kind in ("wrong_class", "wrong_place")}
    missed = {(each.image, each.true_box_xyxy) for each in metrics.mistakes if each.kind == "missed"}
    assert len(metrics.mistakes) == sum(metrics.mistake_counts.values())
    assert num_correct + len(missed) <= metrics.num_true <= num_correct + len(missed | explained)
