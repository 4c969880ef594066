"""Which finding is which true object, against the library that counts AP and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from batchtag.evaluation.metrics.coco import RECALLS, coco_counts
from batchtag.evaluation.metrics.matching import match
from tests.evaluation.metrics.images import found_image, random_case, true_image

HERE = (0.0, 0.0, 100.0, 100.0)
NEAR = (0.0, 0.0, 100.0, 80.0)
FAR = (500.0, 500.0, 600.0, 600.0)


@pytest.mark.parametrize("seed", range(10))
def test_the_matches_give_the_precision_recall_curve_of_the_library(seed: int) -> None:
    matches = match(*random_case(300 + seed, num_images=12))
    counts = coco_counts(matches, num_labels=3)
    for label_id in range(3):
        rows = np.flatnonzero((matches.label_ids == label_id) & ~matches.is_ignored)
        rows = rows[np.argsort(-matches.scores[rows], kind="stable")]
        num_true = int(((matches.true_label_ids == label_id) & ~matches.is_crowd).sum())
        num_right = np.cumsum(matches.is_right[rows])
        recall, precision = num_right / num_true, num_right / np.arange(1, len(rows) + 1)
        curve = [precision[recall >= point].max(initial=0) for point in RECALLS]
        assert counts.precision[0, :, label_id, 0] == pytest.approx(np.array(curve), abs=1e-12)


def test_the_most_confident_chooses_first_and_takes_the_best_overlap() -> None:
    matches = match([true_image((0, NEAR), (0, HERE))], [found_image((0, 0.5, HERE), (0, 0.9, HERE))])
    assert matches.ground_truth.tolist() == [0, 1]
    assert matches.finder.tolist() == [0, 1]


def test_of_equal_scores_the_first_given_chooses_first() -> None:
    matches = match([true_image((0, HERE))], [found_image((0, 0.9, NEAR), (0, 0.9, HERE))])
    assert matches.ground_truth.tolist() == [0, -1]


def test_a_crowd_takes_in_any_number_but_only_what_is_no_single_object() -> None:
    ground_truth = true_image((0, HERE), (0, HERE), crowds=(0,))
    matches = match([ground_truth], [found_image(*[(0, score, HERE) for score in (0.9, 0.8, 0.7)])])
    assert matches.ground_truth.tolist() == [1, 0, 0]
    assert matches.is_ignored.tolist() == [False, True, True]
    assert matches.finder.tolist() == [-1, 0]


def test_rows_are_counted_over_all_images() -> None:
    ground_truth = [true_image((0, FAR)), true_image(), true_image((1, FAR), (0, HERE))]
    found = [found_image(), found_image((0, 0.9, HERE)), found_image((0, 0.9, HERE), (0, 0.8, FAR))]
    matches = match(ground_truth, found)
    assert matches.images.tolist() == [1, 2, 2]
    assert matches.ground_truth.tolist() == [-1, 2, -1]
    assert matches.same_ground_truth.tolist() == [-1, 2, -1]
    assert matches.other_ground_truth.tolist() == [-1, -1, 1]
    assert matches.other_iou.tolist() == [0, 0, 1]


def test_empty_boxes_overlap_nothing() -> None:
    nothing = (50.0, 50.0, 50.0, 50.0)
    matches = match([true_image((0, nothing))], [found_image((0, 0.9, nothing))])
    assert matches.ground_truth.tolist() == [-1]
