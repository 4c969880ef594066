"""COCO's metrics: compared with those published for real files, with pycocotools, and with counts by hand."""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batchtag.datasets.base import LabelledImage
from batchtag.evaluation.metrics import DetectionMetrics, Detections, detection_metrics
from tests.evaluation.metrics.images import make_detections, random_case, true_image

LABELS = ("bottle", "can", "jar")
HERE = (0.0, 0.0, 100.0, 100.0)
THERE = (200.0, 0.0, 300.0, 100.0)
CASES = ("coco_val2014_fakebbox100", "torchmetrics_4img")


def read_expected_case(folder: Path, name: str) -> dict[str, Any]:
    cases = json.loads((folder / "EXPECTED.json").read_text())["cases"]
    case: dict[str, Any] = next(case for case in cases if case["id"] == name)
    return case


def measure_case(folder: Path, case: dict[str, Any]) -> DetectionMetrics:
    content = json.loads((folder / case["gt"]).read_text())
    ids = sorted(category["id"] for category in content["categories"])
    numbers = {category: number for number, category in enumerate(ids)}
    images = sorted(image["id"] for image in content["images"])
    listed = json.loads((folder / case["dt"]).read_text())
    ground_truth, detections = [], []
    for image in images:
        true = [each for each in content["annotations"] if each["image_id"] == image]
        detected = [each for each in listed if each["image_id"] == image]
        ground_truth.append(
            LabelledImage(
                uri=str(image),
                label_ids=np.array([numbers[each["category_id"]] for each in true], np.int64),
                boxes_xyxy=boxes_xyxy(true),
                areas=np.array([each["area"] for each in true], np.float64),
                is_crowd=np.array([each.get("iscrowd", 0) for each in true], np.bool_),
            )
        )
        detections.append(
            Detections(
                boxes_xyxy=boxes_xyxy(detected),
                scores=np.array([each["score"] for each in detected], np.float64),
                label_ids=np.array([numbers[each["category_id"]] for each in detected], np.int64),
            )
        )
    return detection_metrics([str(category) for category in ids], ground_truth, detections)


def boxes_xyxy(annotations: Sequence[dict[str, Any]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    xywh = np.array([each["bbox"] for each in annotations], np.float64).reshape(-1, 4)
    return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)


@pytest.mark.parametrize("name", CASES)
def test_metrics_of_the_reference_files_equal_the_published_ones(shared_data: Path, name: str) -> None:
    case = read_expected_case(shared_data / "eval_reference", name)
    metrics = measure_case(shared_data / "eval_reference", case)
    assert metrics.summary == pytest.approx(case["pycocotools"], abs=1e-6)
    assert metrics.num_images == len(json.loads((shared_data / "eval_reference" / case["gt"]).read_text())["images"])
    for each in metrics.per_class:
        expected = case["pycocotools_per_category"].get(each.label, {"AP": -1, "AP50": -1})
        actual = {"AP": each.AP, "AP50": each.AP50}
        assert {name: -1 if math.isnan(value) else value for name, value in actual.items()} == pytest.approx(
            expected, abs=1e-6
        ), each.label


def test_a_detected_class_without_true_objects_is_left_out_of_the_mean(shared_data: Path) -> None:
    metrics = measure_case(
        shared_data / "eval_reference", read_expected_case(shared_data / "eval_reference", "torchmetrics_4img")
    )
    (without_objects,) = [each for each in metrics.per_class if each.num_true == 0]
    assert (without_objects.label, without_objects.num_found) == ("3", 1)
    assert math.isnan(without_objects.AP)
    assert metrics.summary["AP"] == pytest.approx(np.nanmean([each.AP for each in metrics.per_class]))


@pytest.mark.parametrize(
    ("seed", "max_random"),
    [(0, 8), (1, 8), (2, 8), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((3, 8), (4, 8), (5, 150)))],
)
def test_metrics_of_random_images_equal_those_of_pycocotools(seed: int, max_random: int) -> None:
    """The images have crowds, equal scores, and areas that differ from those of the boxes."""
    ground_truth, detections = random_case(seed, num_images=10, max_random=max_random, num_labels=1 + seed % 3)
    expected = run_pycocotools(ground_truth, detections)
    metrics = detection_metrics(LABELS, ground_truth, detections)
    assert np.nan_to_num([*metrics.summary.values()], nan=-1) == pytest.approx(expected.stats, abs=1e-12)
    for label_id, each in enumerate(metrics.per_class):
        curve = expected.eval["precision"][0, :, label_id, 0, 2]
        assert np.nan_to_num(each.curve.precision, nan=-1) == pytest.approx(curve, abs=1e-12)


def run_pycocotools(ground_truth: Sequence[LabelledImage], detections: Sequence[Detections]) -> Any:
    """Return its evaluation, with `stats`, the twelve figures, and `eval`, its arrays."""
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    true_annotations, annotations = coco_annotations(ground_truth), coco_annotations(detections)
    with contextlib.redirect_stdout(io.StringIO()):
        sides = [coco.COCO(), coco.COCO()]
        for side, listed in zip(sides, (true_annotations, annotations), strict=True):
            side.dataset = {
                "images": [{"id": image} for image in range(len(ground_truth))],
                "categories": [{"id": label_id} for label_id in range(len(LABELS))],
                "annotations": listed,
            }
            side.createIndex()
        evaluation = cocoeval.COCOeval(*sides, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def coco_annotations(images: Sequence[LabelledImage | Detections]) -> list[dict[str, Any]]:
    annotations: list[dict[str, Any]] = []
    for image, each in enumerate(images):
        for row, (x, y, x_max, y_max) in enumerate(each.boxes_xyxy.tolist()):
            annotation = {
                "id": len(annotations) + 1,
                "image_id": image,
                "category_id": int(each.label_ids[row]),
                "bbox": [x, y, x_max - x, y_max - y],
            }
            if isinstance(each, LabelledImage):
                annotation |= {"area": float(each.areas[row]), "iscrowd": int(each.is_crowd[row])}
            else:
                annotation |= {"area": (x_max - x) * (y_max - y), "iscrowd": 0, "score": float(each.scores[row])}
            annotations.append(annotation)
    return annotations


def naive_ap50(ground_truth: Sequence[LabelledImage], detections: Sequence[Detections], label_id: int) -> float:
    """Return the average precision at IoU 0.5 of one class without crowds, directly from the definition."""
    by_score = sorted(
        ((-score, i, row) for i, each in enumerate(detections) for row, score in enumerate(each.scores.tolist())),
    )
    taken: set[tuple[int, int]] = set()
    is_correct = []
    for _, i, row in by_score:
        if detections[i].label_ids[row] != label_id:
            continue
        best, chosen = 0.5, None
        for column, true_id in enumerate(ground_truth[i].label_ids):
            overlap = naive_iou(detections[i].boxes_xyxy[row].tolist(), ground_truth[i].boxes_xyxy[column].tolist())
            if true_id == label_id and (i, column) not in taken and overlap >= best:
                best, chosen = overlap, column
        is_correct.append(chosen is not None)
        if chosen is not None:
            taken.add((i, chosen))
    num_true = sum(int((each.label_ids == label_id).sum()) for each in ground_truth)
    points = [(sum(is_correct[: n + 1]) / num_true, sum(is_correct[: n + 1]) / (n + 1)) for n in range(len(is_correct))]
    best_at = [max([p for r, p in points if r >= recall], default=0.0) for recall in np.linspace(0, 1, 101)]
    return sum(best_at) / 101


def naive_iou(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


@pytest.mark.parametrize("seed", range(3))
def test_ap50_equals_its_definition(seed: int) -> None:
    ground_truth, detections = random_case(100 + seed, crowds=False)
    metrics = detection_metrics(LABELS, ground_truth, detections)
    for label_id, each in enumerate(metrics.per_class):
        assert each.num_true > 0
        assert abs(each.AP50 - naive_ap50(ground_truth, detections, label_id)) < 1e-9


def test_one_correct_one_wrong_and_one_missed_object_are_counted_as_by_hand() -> None:
    """Detected: one of two bottles (0.9), and a bottle where there is none (0.6). The second bottle is missed."""
    ground_truth = [true_image((0, HERE), (0, THERE))]
    detections = [make_detections((0, 0.6, (500, 500, 600, 600)), (0, 0.9, HERE))]
    metrics = detection_metrics(LABELS, ground_truth, detections)
    bottle = metrics.per_class[0]
    ap50, ar100 = bottle.AP50, bottle.AR100
    assert (ap50, ar100) == pytest.approx((51 / 101, 0.5))  # precision 1 at the recalls 0, 0.01 ... 0.5
    assert (bottle.num_true, bottle.num_found) == (2, 2)
    assert (bottle.threshold.score, bottle.threshold.precision, bottle.threshold.recall) == (0.75, 1.0, 0.5)
    assert metrics.thresholds() == {"bottle": 0.75}
    assert bottle.curve.precision.tolist() == [1.0] * 51 + [0.0] * 50


def test_size_classes_use_the_labelled_area_and_not_that_of_the_box() -> None:
    ground_truth = [true_image((0, HERE), areas=[500.0])]
    summary = detection_metrics(LABELS, ground_truth, [make_detections((0, 0.9, HERE))]).summary
    assert summary["APsmall"] == 1
    assert math.isnan(summary["APlarge"])


def test_a_detection_on_a_crowd_is_neither_correct_nor_wrong() -> None:
    ground_truth = [true_image((0, HERE), (0, (200, 0, 600, 400)), crowds=(1,))]
    inside = [(0, 0.95, (210.0, 10.0, 250.0, 50.0)), (0, 0.94, (300.0, 10.0, 350.0, 50.0))]
    metrics = detection_metrics(LABELS, ground_truth, [make_detections(*inside, (0, 0.9, HERE))])
    assert metrics.summary["AP"] == 1
    assert (metrics.num_true, metrics.num_found, metrics.calibration.count.sum()) == (1, 3, 1)
    assert sum(metrics.mistake_counts.values()) == 0


NO_IMAGES: tuple[list[LabelledImage], list[Detections]] = ([], [])
NO_OBJECTS = ([true_image()] * 3, [make_detections((0, 0.9, HERE))] * 3)
NO_DETECTIONS = ([true_image((0, HERE))] * 3, [make_detections()] * 3)
NO_OBJECTS_OR_DETECTIONS = ([true_image()], [make_detections()])
ONLY_CROWDS = ([true_image((0, HERE), crowds=(0,))], [make_detections((0, 0.9, HERE))])


@pytest.mark.parametrize(
    ("ground_truth", "detections", "ap"),
    [
        (*NO_IMAGES, math.nan),
        (*NO_OBJECTS, math.nan),
        (*NO_DETECTIONS, 0.0),
        (*NO_OBJECTS_OR_DETECTIONS, math.nan),
        (*ONLY_CROWDS, math.nan),
    ],
    ids=["no images", "no objects", "no detections", "neither", "only crowds"],
)
def test_what_cannot_be_measured_is_null_in_json_and_nothing_is_printed(
    ground_truth: list[LabelledImage], detections: list[Detections], ap: float, capfd: pytest.CaptureFixture[str]
) -> None:
    metrics = detection_metrics(["bottle"], ground_truth, detections)
    assert metrics.summary["AP"] == pytest.approx(ap, nan_ok=True)
    assert metrics.thresholds() == {}
    parsed = json.loads(json.dumps(metrics.as_dict(), allow_nan=False))
    assert parsed["summary"]["AP"] == (None if math.isnan(ap) else ap)
    assert parsed["per_class"][0]["threshold"]["score"] is None
    assert capfd.readouterr() == ("", "")


def test_detections_on_images_without_objects_lower_precision() -> None:
    ground_truth = [true_image((0, HERE)), *[true_image()] * 3]
    detections = [make_detections((0, 0.5, HERE)), *[make_detections((0, 0.9, THERE))] * 3]
    assert detection_metrics(LABELS, ground_truth, detections).summary["AP50"] == pytest.approx(1 / 4)


def test_the_order_of_the_detections_does_not_matter() -> None:
    ground_truth, detections = random_case(7)
    random = np.random.default_rng(0)
    with_different_scores = [
        Detections(
            boxes_xyxy=each.boxes_xyxy,
            scores=np.linspace(0.1, 0.9, len(each.scores)) + 0.001 * i,
            label_ids=each.label_ids,
        )
        for i, each in enumerate(detections)
    ]
    orders = [random.permutation(len(each.scores)) for each in with_different_scores]
    shuffled = [
        Detections(boxes_xyxy=each.boxes_xyxy[order], scores=each.scores[order], label_ids=each.label_ids[order])
        for each, order in zip(with_different_scores, orders, strict=True)
    ]
    first, second = (
        detection_metrics(LABELS, ground_truth, side).as_dict() for side in (with_different_scores, shuffled)
    )
    assert first["summary"] == second["summary"]
    assert first["per_class"] == second["per_class"]
    assert first["mistake_counts"] == second["mistake_counts"]


def test_everything_that_does_not_fit_is_in_one_error() -> None:
    unknown_label = [make_detections((3, 0.5, HERE))] * 2
    with pytest.raises(
        ValueError, match=r"have the same images, got 1 and 2; label_ids of detections .* 0\.\.2, got \[3\]"
    ):
        detection_metrics(LABELS, [true_image()], unknown_label)
    with pytest.raises(ValueError, match=r"boxes_xyxy must have shape \(1, 4\).*scores must lie in \[0, 1\], got 1\.5"):
        Detections(boxes_xyxy=np.zeros((2, 4)), scores=np.array([1.5]), label_ids=np.array([0]))
