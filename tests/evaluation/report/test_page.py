"""The page of an evaluation: whole in one file, harmless whatever it shows, and right with much, little and nothing."""

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
from batchtag.evaluation.report import About, write_page
from batchtag.evaluation.report.formatting import count, name, score, share
from batchtag.types import DecodedImage

ABOUT = About(
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
        self.found: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {key: value or "" for key, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str, css: str = "") -> list[dict[str, str]]:
        return [
            attrs for found, attrs in self.found if found == tag and css in ["", *attrs.get("class", "").split(" ")]
        ]


def detection(labels: Sequence[str], *, num_images: int = 6, seed: int = 0) -> DetectionMetrics:
    """Some found well, some doubtful, some of the wrong class, some where nothing is; the last image is empty."""
    dice = np.random.default_rng(seed)
    ground_truth, found = [], []
    for i in range(num_images):
        n = 0 if i == num_images - 1 else 8
        corners = dice.random((n, 2)) * 400
        boxes = np.concatenate([corners, corners + 20 + dice.random((n, 2)) * 150], axis=1)
        label_ids = dice.integers(0, len(labels), n)
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        crowd = np.zeros(n, np.bool_)
        ground_truth.append(
            LabelledImage(uri=f"p/{i}.jpg", label_ids=label_ids, boxes_xyxy=boxes, areas=areas, is_crowd=crowd)
        )
        said = np.where(dice.random(n) < 0.2, (label_ids + 1) % len(labels), label_ids)
        kept = dice.random(n) < 0.8
        moved = (boxes + dice.normal(0, 6, boxes.shape))[kept]
        found.append(Detections(boxes_xyxy=moved, scores=dice.random(kept.sum()), label_ids=said[kept]))
    return detection_metrics(labels, ground_truth, found)


def classification(labels: Sequence[str], *, num_images: int = 60, seed: int = 0) -> ClassificationMetrics:
    dice = np.random.default_rng(seed)
    true_ids = dice.integers(0, len(labels), num_images)
    scores = dice.random((num_images, len(labels))) * 0.5
    scores[np.arange(num_images), true_ids] += 0.3 * dice.random(num_images)
    scores[0] = 0
    return classification_metrics(labels, true_ids, scores)


def image(i: int) -> DecodedImage:
    """640 x 480, decoded at half its size."""
    return DecodedImage(pixels=np.full((240, 320, 3), i, np.uint8), width=640, height=480, format="jpeg", orientation=1)


HISTORY = [
    {"epoch": i, "learning_rate": 0.1 / i, "loss_box": 1 / i, "seconds": 3.0, "AP50": 1 - 1 / i} for i in (1, 2, 3)
]
CLASSES = ["cat", "dog", "cow"]
EIGHTY = [f"kind {i}" for i in range(80)]
HARMFUL = About(
    model=HOSTILE[0],
    digest=HOSTILE[1],
    data=HOSTILE[2],
    evaluated_at=ABOUT.evaluated_at,
    facts={HOSTILE[0]: HOSTILE[1]},
)
PAGES: dict[str, Callable[[], str]] = {
    "detector": lambda: write_page(detection(CLASSES), about=ABOUT, images=image, history=HISTORY, best_epoch=2),
    "detector of 80": lambda: write_page(detection(EIGHTY), about=ABOUT, images=image),
    "detector, no images": lambda: write_page(detection_metrics(CLASSES, [], []), about=ABOUT),
    "detector, no classes": lambda: write_page(detection_metrics([], [], []), about=ABOUT),
    "hostile detector": lambda: write_page(
        detection(HOSTILE),
        about=HARMFUL,
        uris=HOSTILE * 2,
        images=image,
        history=[{"epoch": 1, "loss</svg>": 1.0, HOSTILE[0]: 0.5}],
    ),
    "classifier": lambda: write_page(classification(CLASSES), about=ABOUT, images=image, history=HISTORY),
    "classifier of 80": lambda: write_page(classification(EIGHTY, num_images=800), about=ABOUT),
    "classifier, no images": lambda: write_page(
        classification_metrics(CLASSES, np.zeros(0, np.int64), np.zeros((0, 3))), about=ABOUT
    ),
    "hostile classifier": lambda: write_page(classification(HOSTILE), about=HARMFUL, uris=HOSTILE * 20, images=image),
}


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return {kind: make() for kind, make in PAGES.items()}


@pytest.fixture(params=PAGES)
def page(request: pytest.FixtureRequest, pages: dict[str, str]) -> str:
    return pages[request.param]


def test_a_page_asks_nobody_for_anything(page: str) -> None:
    seen = Elements(page)
    assert not {tag for tag, _ in seen.found} & {"script", "link", "iframe", "object", "embed", "img", "base", "form"}
    assert [attrs["content"] for attrs in seen.all("meta") if attrs.get("http-equiv")] == [
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    ]
    references = [
        value for _, attrs in seen.found for key, value in attrs.items() if key.split(":")[-1] in ("href", "src")
    ]
    assert all(value.startswith(("data:image/jpeg;base64,", "#")) for value in references)
    styles = re.sub(r"data:image/jpeg;base64,[A-Za-z0-9+/=]*", "", page)
    assert set(re.findall(r"url\(.", styles)) <= {"url(#"}
    assert "@import" not in styles
    assert not [key for _, attrs in seen.found for key in attrs if key.startswith("on")]


def test_a_page_is_small_and_every_drawing_in_it_is_well_formed(page: str) -> None:
    assert len(page.encode()) < 3_000_000
    drawings = re.findall(r"<svg.*?</svg>", page, flags=re.S)
    assert drawings
    for drawing in drawings:
        ET.fromstring(drawing)
    ids = [attrs["id"] for _, attrs in Elements(page).found if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_colours_of_drawings_follow_light_and_dark(page: str) -> None:
    drawings = "".join(re.findall(r'<svg class="(?:plot|matrix)".*?</svg>', page, flags=re.S))
    assert "var(--ink)" in drawings
    assert re.findall(r"#[0-9a-f]{6}\b", drawings) == []
    assert "prefers-color-scheme: dark" in page


def test_what_strangers_wrote_is_text_and_nothing_else(pages: dict[str, str]) -> None:
    for kind in ("hostile detector", "hostile classifier"):
        seen = Elements(pages[kind])
        assert HOSTILE[0] in seen.text
        assert HOSTILE[1] in seen.text
        assert "\\x1b[2J\\u202e\\udc80" in seen.text
        assert "\x1b" not in pages[kind]
        pages[kind].encode("utf-8")


def test_the_page_of_a_detector_has_every_part(pages: dict[str, str]) -> None:
    metrics = detection(CLASSES)
    seen = Elements(pages["detector"])
    for text in (
        *("AP", "AP50", "AP75", "AR100", "cat", "dog", "Precision and recall", "Small and large objects"),
        *("Reliability", "Loss while training", "On images not trained on", "What goes wrong", "missed"),
        *(score(metrics.summary["AP"]), score(metrics.per_class[1].threshold.f1), "0123456789ab", "s3://b/val"),
        *("21 November 2026", f"{metrics.num_true} objects on 6 images", "The weights of epoch 2 were kept."),
    ):
        assert text in seen.text, text
    assert len(seen.all("svg", "plot")) == 5


def test_the_page_of_a_classifier_has_every_part(pages: dict[str, str]) -> None:
    metrics = classification(CLASSES)
    seen = Elements(pages["classifier"])
    for text in (
        *("Accuracy", "Macro F1", "AUC", "What is taken for what", "Most often mistaken", "(nothing)", "ROC"),
        *(score(metrics.summary["accuracy"]), score(metrics.per_class[0].auc), "of 1 it says nothing".capitalize()),
    ):
        assert text in seen.text, text
    assert "Top 5" not in seen.text
    said = re.findall(r"<title>(\w+) said to be (\S+): (\d+) of (\d+) images</title>", pages["classifier"])
    cells = [int(number) for *_, number, _ in said]
    assert sum(cells) == metrics.num_images
    assert ("cat", "dog", str(metrics.confusion[0, 1]), str(metrics.per_class[0].support)) in said


def test_a_mistake_is_a_small_image_with_the_true_box_dashed_and_the_found_one_solid(pages: dict[str, str]) -> None:
    metrics, page = detection(CLASSES), pages["detector"]
    seen = Elements(page)
    shown = seen.all("svg", "image")
    assert len(shown) == min(24, len(metrics.mistakes))
    assert seen.all("rect", "found")
    assert seen.all("rect", "true")
    assert "stroke-dasharray: 7 4" in re.findall(r"rect\.true {[^}]*}", page)[0]
    for data in re.findall(r"data:image/jpeg;base64,([^\"]+)", page):
        with Image.open(io.BytesIO(base64.b64decode(data))) as opened:
            assert max(opened.size) <= 400


def test_a_box_is_drawn_in_the_pixels_that_are_shown() -> None:
    """The image was decoded at half its size, so a box of the displayed image is halved."""
    nothing = Detections(boxes_xyxy=np.zeros((0, 4)), scores=np.zeros(0), label_ids=np.zeros(0, np.int64))
    ground_truth = LabelledImage(
        uri="a.jpg",
        label_ids=np.zeros(1, np.int64),
        boxes_xyxy=np.array([[100.0, 200, 300, 260]]),
        areas=np.array([12000.0]),
        is_crowd=np.zeros(1, np.bool_),
    )
    page = write_page(detection_metrics(["cat"], [ground_truth], [nothing]), about=ABOUT, images=image, uris=["a.jpg"])
    seen = Elements(page)
    (rect,) = seen.all("rect", "true")
    assert [rect[key] for key in ("x", "y", "width", "height")] == ["50.0", "100.0", "100.0", "30.0"]
    assert "cat: not found at all" in seen.text
    assert "it finds none" in seen.text


def test_no_more_images_are_opened_than_shown_and_one_that_is_gone_is_said_to_be() -> None:
    asked = []

    def some(i: int) -> DecodedImage | None:
        asked.append(i)
        return image(i) if i % 2 else None

    page = write_page(classification(CLASSES, num_images=200), about=ABOUT, images=some)
    assert len(asked) == 24
    assert page.count("image not at hand") == len([i for i in asked if i % 2 == 0]) > 0
    without = write_page(classification(CLASSES, num_images=200), about=ABOUT)
    assert "image not at hand" not in without
    assert without.count("but it is") == 24


def test_with_many_classes_only_the_weakest_have_colours_and_the_square_stays_readable(pages: dict[str, str]) -> None:
    seen = Elements(pages["classifier of 80"])
    assert "In colour the 5 weakest of 80 classes" in seen.text
    assert len(seen.all("tr")) == 81
    thousand = write_page(classification([f"kind {i}" for i in range(1000)], num_images=3000), about=ABOUT)
    assert "Shown are the 100 of 1,000 classes with the most mistakes" in Elements(thousand).text
    assert len(thousand) < 3_000_000


def test_with_nothing_to_judge_the_page_says_so(pages: dict[str, str]) -> None:
    for kind in ("detector, no images", "detector, no classes", "classifier, no images"):
        text = Elements(pages[kind]).text
        assert "There was nothing to get wrong." in text
        assert "nothing to measure" in text
        assert "nan" not in text


def test_a_model_without_a_mistake_is_told_so() -> None:
    perfect = classification_metrics(["cat", "dog"], np.array([0, 1]), np.array([[0.9, 0.1], [0.2, 0.8]]))
    text = Elements(write_page(perfect, about=ABOUT)).text
    assert "Of 2 images it names 2 rightly (100\u00a0%)" in text
    assert "there is no mistake among these images" in text
    assert "No class was taken for another." in text


def test_the_same_evaluation_gives_the_same_page(pages: dict[str, str]) -> None:
    assert PAGES["detector"]() == pages["detector"]


def test_figures_are_said_in_words_that_claim_no_more_than_is_known() -> None:
    assert [share(value) for value in (0.0, 1.0, 0.871, 0.996, 0.99999, 0.00001, math.nan)] == [
        *("0\u00a0%", "100\u00a0%", "87\u00a0%", "99.6\u00a0%", ">\u00a099.9\u00a0%", "<\u00a00.1\u00a0%", "\u2013"),
    ]
    assert (score(0.12345), score(math.nan)) == ("0.123", "\u2013")
    assert (count(1, "image"), count(1204, "image"), count(2, "class", "classes")) == ("1 image", "1,204 images", "2 classes")  # fmt: skip  # noqa: E501
    assert (name("a" * 50, 10), name(""), name("a\nb")) == ("aaaaaa\u2026aaa", "(no name)", "a\\nb")
