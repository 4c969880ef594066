"""Every kind of mistake, one small image each."""

from __future__ import annotations

import math

import pytest

from batchtag.datasets.base import LabelledImage
from batchtag.evaluation.metrics import DetectionMistake, detection_metrics
from tests.evaluation.metrics.images import Hit, found_image, random_case, true_image

LABELS = ("bottle", "can", "jar")
HERE = (0.0, 0.0, 100.0, 100.0)
BESIDE = (50.0, 0.0, 150.0, 100.0)  # IoU 1/3 with HERE
FAR = (500.0, 500.0, 600.0, 600.0)


def mistakes(ground_truth: LabelledImage, *hits: Hit) -> list[DetectionMistake]:
    return list(detection_metrics(LABELS, [ground_truth], [found_image(*hits)]).mistakes)


@pytest.mark.parametrize(
    ("hit", "kind", "iou"),
    [
        ((1, 0.9, HERE), "wrong_class", 1.0),
        ((0, 0.9, BESIDE), "wrong_place", 1 / 3),
        ((1, 0.9, BESIDE), "wrong_both", 1 / 3),
        ((0, 0.9, FAR), "background", 0.0),
    ],
)
def test_a_false_finding_has_the_kind_of_what_it_lies_on(hit: Hit, kind: str, iou: float) -> None:
    first, *others = mistakes(true_image((0, HERE)), hit)
    assert (first.kind, first.label, first.score) == (kind, LABELS[hit[0]], 0.9)
    assert first.box_xyxy == hit[2]
    assert first.iou == pytest.approx(iou)
    assert first.true_label == ("" if kind == "background" else "bottle")
    told = kind in ("wrong_class", "wrong_place")
    assert [each.kind for each in others] == ([] if told else ["missed"])


def test_the_second_finding_of_one_object_is_a_duplicate() -> None:
    both = mistakes(true_image((0, HERE), (0, FAR)), (0, 0.8, HERE), (0, 0.9, HERE), (0, 0.7, FAR))
    assert [(each.kind, each.score, each.true_box_xyxy) for each in both] == [("duplicate", 0.8, HERE)]


def test_a_missed_object_shows_the_finding_that_was_too_weak() -> None:
    ground_truth = true_image((0, HERE), (0, FAR))
    hits = [(0, 0.9, HERE), (0, 0.1, FAR), *[(0, 0.5, (200.0, 200.0 * i, 250.0, 200.0 * i + 50)) for i in range(5)]]
    (missed,) = mistakes(ground_truth, *hits)
    assert (missed.kind, missed.label, missed.score, missed.box_xyxy, missed.iou) == ("missed", "bottle", 0.1, FAR, 1.0)


def test_an_object_of_which_nothing_was_seen_has_no_found_box() -> None:
    (missed,) = mistakes(true_image((2, HERE)))
    assert (missed.kind, missed.score, missed.true_label, missed.true_box_xyxy) == ("missed", 0.0, "jar", HERE)
    assert all(math.isnan(value) for value in missed.box_xyxy)


def test_the_worst_of_each_kind_come_first_and_all_are_counted() -> None:
    ground_truth = [true_image((0, HERE), (1, FAR), (1, (0, 300, 50, 350))), true_image()]
    found = [found_image((0, 0.9, HERE)), found_image(*[(2, score / 10, HERE) for score in (3, 8, 5)])]
    metrics = detection_metrics(LABELS, ground_truth, found, worst=2)
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


@pytest.mark.parametrize("seed", range(4))
def test_every_finding_that_a_reader_sees_is_right_or_a_mistake_and_every_object_seen_or_missed(seed: int) -> None:
    ground_truth, found = random_case(200 + seed, crowds=False)
    metrics = detection_metrics(LABELS, ground_truth, found, worst=1000)
    least = metrics.thresholds()
    num_shown = sum(
        score >= least.get(LABELS[label_id], 0)
        for each in found
        for label_id, score in zip(each.label_ids.tolist(), each.scores.tolist(), strict=True)
    )
    num_right = sum(round(each.threshold.recall * each.num_true) for each in metrics.per_class)
    false = [each for each in metrics.mistakes if each.kind != "missed"]
    assert len(false) == num_shown - num_right
    told = {(each.image, each.true_box_xyxy) for each in false if each.kind in ("wrong_class", "wrong_place")}
    missed = {(each.image, each.true_box_xyxy) for each in metrics.mistakes if each.kind == "missed"}
    assert len(metrics.mistakes) == sum(metrics.mistake_counts.values())
    assert num_right + len(missed) <= metrics.num_true <= num_right + len(missed | told)
