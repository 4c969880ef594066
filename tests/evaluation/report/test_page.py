"""The page of an evaluation: one file without requests, safe with hostile text, correct with many, few or no data."""

from __future__ import annotations

import base64
import io
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from batchtag.datasets.base import LabelledImage
from batchtag.evaluation.metrics import (
    ClassificationMetrics,
    DetectionMetrics,
    Detections,
    classification_metrics,
    detection_metrics,
)
from batchtag.evaluation.report import ReportHeader, render_report
from batchtag.evaluation.report.formatting import format_count, format_name, format_score, format_share
from batchtag.types import DecodedImage

HEADER = ReportHeader(
    model="cells", digest="0123456789ab", data="s3://b/val", evaluated_at=datetime(2026, 11, 21, 9, tzinfo=UTC)
)
HOSTILE = [
    "</title><script>alert(1)</script>",
    '"><img src=http://evil/x onerror=alert(1)>',
    "$\\frac{a}$ & \x1b[2J\u202e\udc80",
]


class Elements(HTMLParser):
    """Every element of a page with its attributes, and all its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str, css: str = "") -> list[dict[str, str]]:
        return [
            attrs for name, attrs in self.elements if name == tag and css in ["", *attrs.get("class", "").split(" ")]
        ]


def make_detection_metrics(labels: Sequence[str], *, num_images: int = 6, seed: int = 0) -> DetectionMetrics:
    """Detections of which some fit well, some are of the wrong class, some are missing; the last image is empty."""
    random = np.random.default_rng(seed)
    ground_truth, detections = [], []
    for i in range(num_images):
        n = 0 if i == num_images - 1 else 8
        corners = random.random((n, 2)) * 400
        boxes = np.concatenate([corners, corners + 20 + random.random((n, 2)) * 150], axis=1)
        label_ids = random.integers(0, len(labels), n)
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        is_crowd = np.zeros(n, np.bool_)
        ground_truth.append(
            LabelledImage(uri=f"p/{i}.jpg", label_ids=label_ids, boxes_xyxy=boxes, areas=areas, is_crowd=is_crowd)
        )
        predicted_ids = np.where(random.random(n) < 0.2, (label_ids + 1) % len(labels), label_ids)
        is_detected = random.random(n) < 0.8
        moved = (boxes + random.normal(0, 6, boxes.shape))[is_detected]
        scores = random.random(is_detected.sum())
        detections.append(Detections(boxes_xyxy=moved, scores=scores, label_ids=predicted_ids[is_detected]))
    return detection_metrics(labels, ground_truth, detections)


def make_classification_metrics(labels: Sequence[str], *, num_images: int = 60, seed: int = 0) -> ClassificationMetrics:
    random = np.random.default_rng(seed)
    true_ids = random.integers(0, len(labels), num_images)
    scores = random.random((num_images, len(labels))) * 0.5
    scores[np.arange(num_images), true_ids] += 0.3 * random.random(num_images)
    scores[0] = 0
    return classification_metrics(labels, true_ids, scores)


def open_image(i: int) -> DecodedImage:
    """Return an image of 640 x 480 pixels, decoded at half its size."""
    return DecodedImage(pixels=np.full((240, 320, 3), i, np.uint8), width=640, height=480, format="jpeg", orientation=1)


HISTORY = [
    {"epoch": i, "learning_rate": 0.1 / i, "loss_box": 1 / i, "seconds": 3.0, "AP50": 1 - 1 / i} for i in (1, 2, 3)
]
CLASSES = ["cat", "dog", "cow"]
EIGHTY = [f"kind {i}" for i in range(80)]
HOSTILE_HEADER = ReportHeader(
    model=HOSTILE[0],
    digest=HOSTILE[1],
    data=HOSTILE[2],
    evaluated_at=HEADER.evaluated_at,
    facts={HOSTILE[0]: HOSTILE[1]},
)
PAGES: dict[str, Callable[[], str]] = {
    "detector": lambda: render_report(
        make_detection_metrics(CLASSES), header=HEADER, open_image=open_image, history=HISTORY, best_epoch=2
    ),
    "detector of 80": lambda: render_report(make_detection_metrics(EIGHTY), header=HEADER, open_image=open_image),
    "detector, no images": lambda: render_report(detection_metrics(CLASSES, [], []), header=HEADER),
    "detector, no classes": lambda: render_report(detection_metrics([], [], []), header=HEADER),
    "hostile detector": lambda: render_report(
        make_detection_metrics(HOSTILE),
        header=HOSTILE_HEADER,
        uris=HOSTILE * 2,
        open_image=open_image,
        history=[{"epoch": 1, "loss</svg>": 1.0, HOSTILE[0]: 0.5}],
    ),
    "classifier": lambda: render_report(
        make_classification_metrics(CLASSES), header=HEADER, open_image=open_image, history=HISTORY
    ),
    "classifier of 80": lambda: render_report(make_classification_metrics(EIGHTY, num_images=800), header=HEADER),
    "classifier, no images": lambda: render_report(
        classification_metrics(CLASSES, np.zeros(0, np.int64), np.zeros((0, 3))), header=HEADER
    ),
    "hostile classifier": lambda: render_report(
        make_classification_metrics(HOSTILE), header=HOSTILE_HEADER, uris=HOSTILE * 20, open_image=open_image
    ),
}


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return {kind: make() for kind, make in PAGES.items()}


@pytest.fixture(params=PAGES)
def page(request: pytest.FixtureRequest, pages: dict[str, str]) -> str:
    return pages[request.param]


def test_a_page_makes_no_request_and_runs_no_script(page: str) -> None:
    elements = Elements(page)
    assert not {tag for tag, _ in elements.elements} & {
        "script",
        "link",
        "iframe",
        "object",
        "embed",
        "img",
        "base",
        "form",
    }
    assert [attrs["content"] for attrs in elements.all("meta") if attrs.get("http-equiv")] == [
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    ]
    references = [
        value for _, attrs in elements.elements for key, value in attrs.items() if key.split(":")[-1] in ("href", "src")
    ]
    assert all(value.startswith(("data:image/jpeg;base64,", "#")) for value in references)
    styles = re.sub(r"data:image/jpeg;base64,[A-Za-z0-9+/=]*", "", page)
    assert set(re.findall(r"url\(.", styles)) <= {"url(#"}
    assert "@import" not in styles
    assert not [key for _, attrs in elements.elements for key in attrs if key.startswith("on")]


def test_a_page_is_below_3_mb_and_every_drawing_in_it_is_well_formed(page: str) -> None:
    assert len(page.encode()) < 3_000_000
    drawings = re.findall(r"<svg.*?</svg>", page, flags=re.S)
    assert drawings
    for drawing in drawings:
        ET.fromstring(drawing)
    ids = [attrs["id"] for _, attrs in Elements(page).elements if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_colours_of_drawings_follow_light_and_dark(page: str) -> None:
    drawings = "".join(re.findall(r'<svg class="(?:plot|matrix)".*?</svg>', page, flags=re.S))
    assert "var(--ink)" in drawings
    assert re.findall(r"#[0-9a-f]{6}\b", drawings) == []
    assert "prefers-color-scheme: dark" in page


def test_hostile_labels_and_uris_appear_as_text_only(pages: dict[str, str]) -> None:
    for kind in ("hostile detector", "hostile classifier"):
        elements = Elements(pages[kind])
        assert HOSTILE[0] in elements.text
        assert HOSTILE[1] in elements.text
        assert "\\x1b[2J\\u202e\\udc80" in elements.text
        assert "\x1b" not in pages[kind]
        pages[kind].encode("utf-8")


def test_the_page_of_a_detector_has_all_parts(pages: dict[str, str]) -> None:
    metrics = make_detection_metrics(CLASSES)
    elements = Elements(pages["detector"])
    for text in (
        *("AP", "AP50", "AP75", "AR100", "cat", "dog", "Precision and recall", "Small and large objects"),
        *("Reliability", "Loss during training", "Metrics on the validation images", "Mistakes", "missed"),
        *(
            format_score(metrics.summary["AP"]),
            format_score(metrics.per_class[1].threshold.f1),
            "0123456789ab",
            "s3://b/val",
        ),
        *("21 November 2026", f"{metrics.num_true} objects on 6 images", "The checkpoint has the weights of epoch 2."),
    ):
        assert text in elements.text, text
    assert len(elements.all("svg", "plot")) == 5


def test_the_page_of_a_classifier_has_all_parts(pages: dict[str, str]) -> None:
    metrics = make_classification_metrics(CLASSES)
    elements = Elements(pages["classifier"])
    for text in (
        *("Accuracy", "Macro F1", "AUC", "Which classes are confused", "Most often confused", "(none)", "ROC"),
        *(
            format_score(metrics.summary["accuracy"]),
            format_score(metrics.per_class[0].auc),
            "1 image has no prediction",
        ),
    ):
        assert text in elements.text, text
    assert "Top 5" not in elements.text
    cells = re.findall(r"<title>(\w+) predicted as (\S+): (\d+) of (\d+) images</title>", pages["classifier"])
    assert sum(int(number) for *_, number, _ in cells) == metrics.num_images
    assert ("cat", "dog", str(metrics.confusion[0, 1]), str(metrics.per_class[0].support)) in cells


def test_a_mistake_is_a_small_image_with_a_dashed_true_box_and_a_solid_detected_box(pages: dict[str, str]) -> None:
    metrics, page = make_detection_metrics(CLASSES), pages["detector"]
    elements = Elements(page)
    shown = elements.all("svg", "image")
    assert len(shown) == min(24, len(metrics.mistakes))
    assert elements.all("rect", "found")
    assert elements.all("rect", "true")
    assert "stroke-dasharray: 7 4" in re.findall(r"rect\.true {[^}]*}", page)[0]
    for data in re.findall(r"data:image/jpeg;base64,([^\"]+)", page):
        with Image.open(io.BytesIO(base64.b64decode(data))) as opened:
            assert max(opened.size) <= 400


def test_a_box_is_scaled_to_the_decoded_pixels() -> None:
    """The image was decoded at half its size, so a box of the displayed image is halved."""
    nothing = Detections(boxes_xyxy=np.zeros((0, 4)), scores=np.zeros(0), label_ids=np.zeros(0, np.int64))
    ground_truth = LabelledImage(
        uri="a.jpg",
        label_ids=np.zeros(1, np.int64),
        boxes_xyxy=np.array([[100.0, 200, 300, 260]]),
        areas=np.array([12000.0]),
        is_crowd=np.zeros(1, np.bool_),
    )
    page = render_report(
        detection_metrics(["cat"], [ground_truth], [nothing]), header=HEADER, open_image=open_image, uris=["a.jpg"]
    )
    elements = Elements(page)
    (rect,) = elements.all("rect", "true")
    assert [rect[key] for key in ("x", "y", "width", "height")] == ["50.0", "100.0", "100.0", "30.0"]
    assert "cat: not detected at all" in elements.text
    assert "It detects none of 1 object on 1 image." in elements.text


def test_only_images_that_are_shown_are_opened_and_a_missing_one_is_named() -> None:
    opened = []

    def open_some(i: int) -> DecodedImage | None:
        opened.append(i)
        return open_image(i) if i % 2 else None

    page = render_report(make_classification_metrics(CLASSES, num_images=200), header=HEADER, open_image=open_some)
    assert len(opened) == 24
    assert page.count("image not available") == len([i for i in opened if i % 2 == 0]) > 0
    without = render_report(make_classification_metrics(CLASSES, num_images=200), header=HEADER)
    assert "image not available" not in without
    assert without.count("but it is") == 24


def test_with_many_classes_only_the_weakest_have_colours_and_the_matrix_is_limited(pages: dict[str, str]) -> None:
    elements = Elements(pages["classifier of 80"])
    assert "The 5 weakest of 80 classes are in colour" in elements.text
    assert len(elements.all("tr")) == 81
    many = render_report(make_classification_metrics([f"kind {i}" for i in range(300)], num_images=1200), header=HEADER)
    assert "It shows the 100 of 300 classes with the most mistakes" in Elements(many).text
    assert len(many) < 3_000_000


def test_a_page_without_images_or_classes_names_what_is_missing(pages: dict[str, str]) -> None:
    for kind in ("detector, no images", "detector, no classes", "classifier, no images"):
        text = Elements(pages[kind]).text
        assert "There were no images to measure on." in text
        assert "nothing to measure" in text
        assert "nan" not in text


def test_the_page_of_a_perfect_model_names_no_mistake() -> None:
    perfect = classification_metrics(["cat", "dog"], np.array([0, 1]), np.array([[0.9, 0.1], [0.2, 0.8]]))
    text = Elements(render_report(perfect, header=HEADER)).text
    assert "The prediction is correct for 2 of 2 images (100\u00a0%)" in text
    assert "No mistakes were made on these images" in text
    assert "No class was confused with another." in text


def test_equal_evaluations_give_equal_pages(pages: dict[str, str]) -> None:
    assert PAGES["detector"]() == pages["detector"]


def test_numbers_and_names_are_formatted_without_false_precision() -> None:
    assert [format_share(value) for value in (0.0, 1.0, 0.871, 0.996, 0.99999, 0.00001, math.nan)] == [
        *("0\u00a0%", "100\u00a0%", "87\u00a0%", "99.6\u00a0%", ">\u00a099.9\u00a0%", "<\u00a00.1\u00a0%", "\u2013"),
    ]
    assert (format_score(0.12345), format_score(math.nan)) == ("0.123", "\u2013")
    assert (format_count(1, "image"), format_count(1204, "image")) == ("1 image", "1,204 images")
    assert format_count(2, "class", "classes") == "2 classes"
    assert (format_name("a" * 50, 10), format_name(""), format_name("a\nb")) == (
        "aaaaaa\u2026aaa",
        "(no name)",
        "a\\nb",
    )
