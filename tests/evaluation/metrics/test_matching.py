"""The assignment of detections to true objects, compared with the library that counts AP, and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from batchtag.evaluation.metrics.coco import RECALLS, coco_counts
from batchtag.evaluation.metrics.matching import match_detections
from tests.evaluation.metrics.images import make_detections, random_case, true_image

HERE = (0.0, 0.0, 100.0, 100.0)
NEAR = (0.0, 0.0, 100.0, 80.0)
FAR = (500.0, 500.0, 600.0, 600.0)


@pytest.mark.parametrize("seed", range(5))
def test_the_assignment_gives_the_precision_recall_curve_of_the_library(seed: int) -> None:
    matches = match_detections(*random_case(300 + seed, num_images=12))
    counts = coco_counts(matches, num_labels=3)
    for label_id in range(3):
        rows = np.flatnonzero((matches.label_ids == label_id) & ~matches.is_ignored)
        rows = rows[np.argsort(-matches.scores[rows], kind="stable")]
        num_true = int(((matches.true_label_ids == label_id) & ~matches.is_crowd).sum())
        num_correct = np.cumsum(matches.is_correct[rows])
        recall, precision = num_correct / num_true, num_correct / np.arange(1, len(rows) + 1)
        curve = [precision[recall >= point].max(initial=0) for point in RECALLS]
        assert counts.precision[0, :, label_id, 0] == pytest.approx(np.array(curve), abs=1e-12)


def test_the_most_confident_detection_chooses_first_and_takes_the_best_overlap() -> None:
    matches = match_detections([true_image((0, NEAR), (0, HERE))], [make_detections((0, 0.5, HERE), (0, 0.9, HERE))])
    assert matches.true_rows.tolist() == [0, 1]
    assert matches.detection_rows.tolist() == [0, 1]


def test_among_equal_scores_the_first_detection_given_chooses_first() -> None:
    matches = match_detections([true_image((0, HERE))], [make_detections((0, 0.9, NEAR), (0, 0.9, HERE))])
    assert matches.true_rows.tolist() == [0, -1]


def test_a_crowd_takes_any_number_of_detections_but_only_after_single_objects() -> None:
    ground_truth = true_image((0, HERE), (0, HERE), crowds=(0,))
    matches = match_detections([ground_truth], [make_detections(*[(0, score, HERE) for score in (0.9, 0.8, 0.7)])])
    assert matches.true_rows.tolist() == [1, 0, 0]
    assert matches.is_ignored.tolist() == [False, True, True]
    assert matches.detection_rows.tolist() == [-1, 0]


def test_rows_are_counted_over_all_images() -> None:
    ground_truth = [true_image((0, FAR)), true_image(), true_image((1, FAR), (0, HERE))]
    detections = [make_detections(), make_detections((0, 0.9, HERE)), make_detections((0, 0.9, HERE), (0, 0.8, FAR))]
    matches = match_detections(ground_truth, detections)
    assert matches.images.tolist() == [1, 2, 2]
    assert matches.true_rows.tolist() == [-1, 2, -1]
    assert matches.same_true_rows.tolist() == [-1, 2, -1]
    assert matches.other_true_rows.tolist() == [-1, -1, 1]
    assert matches.other_iou.tolist() == [0, 0, 1]


def test_empty_boxes_have_no_overlap() -> None:
    empty = (50.0, 50.0, 50.0, 50.0)
    matches = match_detections([true_image((0, empty))], [make_detections((0, 0.9, empty))])
    assert matches.true_rows.tolist() == [-1]
