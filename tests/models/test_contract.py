"""What every kind of model promises, by the numbers of `Model`'s docstring."""

from __future__ import annotations

import itertools
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from torchvision import models as published

from batchtag.config.model import CheckpointSpec, ConstantSpec, CropsOf, ModelSpec, TorchvisionSpec
from batchtag.models import Model, Runtime, describe, load, prepare
from batchtag.models.checkpoint.model import save_checkpoint
from batchtag.types import Prediction

Pixels = NDArray[np.uint8]
_RGB = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}


def constant_detector(folder: Path) -> ModelSpec:
    return ConstantSpec(task="detect", tag="thing", score=0.5)


def constant_classifier(folder: Path) -> ModelSpec:
    return ConstantSpec(tag="thing", score=0.5)


def torchvision_detector(folder: Path) -> ModelSpec:
    return TorchvisionSpec(builder="fasterrcnn_mobilenet_v3_large_320_fpn", weights="none", score_floor=0.011)


def torchvision_detector_of_one_shape(folder: Path) -> ModelSpec:
    return TorchvisionSpec(builder="ssdlite320_mobilenet_v3_large", weights="none", score_floor=0.0, max_tags=20)


def torchvision_classifier(folder: Path) -> ModelSpec:
    return TorchvisionSpec(builder="resnet18", weights="none", score_floor=0.0)


def checkpoint_detector(folder: Path) -> ModelSpec:
    builder, labels = "fasterrcnn_mobilenet_v3_large_320_fpn", ["__background__", "crate", "pallet"]
    network = published.get_model(builder, weights=None, weights_backbone=None, num_classes=3)
    save_checkpoint(
        str(folder / "crates"),
        architecture=builder,
        arguments={},
        labels=labels,
        task="detect",
        preprocessing={"min_size": 200, "max_size": 300},
        state_dict=network.state_dict(),
    )
    return CheckpointSpec(uri=str(folder / "crates"), score_floor=0.0)


def checkpoint_classifier(folder: Path) -> ModelSpec:
    network = published.get_model("squeezenet1_1", weights=None, num_classes=3)
    save_checkpoint(
        str(folder / "kinds"),
        architecture="squeezenet1_1",
        arguments={},
        labels=["cat", "dog", "bird"],
        task="classify",
        preprocessing={"resize_size": 72, "crop_size": 64, **_RGB},
        state_dict=network.state_dict(),
    )
    return CheckpointSpec(uri=str(folder / "kinds"), score_floor=0.0)


KINDS = [
    constant_detector,
    constant_classifier,
    torchvision_detector,
    torchvision_detector_of_one_shape,
    torchvision_classifier,
    checkpoint_detector,
    checkpoint_classifier,
]


WAYS = {"torch": Runtime(batch_size=2), "openvino": Runtime(engine="openvino", threads=2, batch_size=2)}


@dataclass(frozen=True)
class Case:
    """A model and what it said, once, of all the odd images together."""

    spec: ModelSpec
    runtime: Runtime
    model: Model
    together: list[Prediction]
    images_before: list[Pixels]


@pytest.fixture(scope="module", params=itertools.product(KINDS, WAYS), ids=lambda case: f"{case[0].__name__}-{case[1]}")
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, odd_images: list[Pixels]) -> Case:
    kind, way = request.param
    spec = kind(tmp_path_factory.mktemp("checkpoint"))
    model = load(spec, runtime=WAYS[way])
    before = [image.copy() for image in odd_images]
    return Case(spec=spec, runtime=WAYS[way], model=model, together=model.predict(odd_images), images_before=before)


def again(case: Case, **changes: Any) -> Model:
    return load(case.spec.model_copy(update=changes), runtime=case.runtime)


def test_there_is_one_prediction_for_each_image_in_the_order_given(case: Case, odd_images: list[Pixels]) -> None:
    backwards = case.model.predict(odd_images[::-1])
    assert len(case.together) == len(odd_images)
    for one, same in zip(case.together, backwards[::-1], strict=True):
        assert_same(one, same)


def test_for_no_images_there_are_no_predictions(case: Case) -> None:
    assert case.model.predict([]) == []


def test_no_image_is_modified(case: Case, odd_images: list[Pixels]) -> None:
    assert all(np.array_equal(a, b) for a, b in zip(case.images_before, odd_images, strict=True))


def test_boxes_lie_inside_the_array_and_a_classifier_has_none(case: Case, odd_images: list[Pixels]) -> None:
    for image, prediction in zip(odd_images, case.together, strict=True):
        boxes, (height, width) = prediction.boxes_xyxy, image.shape[:2]
        assert boxes.dtype == np.float32
        if case.model.info.kind == "class":
            assert boxes.shape == (0, 4)
            continue
        assert boxes.shape == (len(prediction.scores), 4)
        assert (boxes >= 0).all()
        assert (boxes <= [width, height, width, height]).all()
        assert (boxes[:, :2] <= boxes[:, 2:]).all()


def test_a_prediction_does_not_depend_on_the_other_images_of_the_call(case: Case, odd_images: list[Pixels]) -> None:
    for image, one in zip(odd_images, case.together, strict=True):
        assert_same(one, case.model.predict([image])[0])


def test_scores_are_probabilities_and_come_best_first(case: Case) -> None:
    for prediction in case.together:
        scores = prediction.scores
        assert len(scores) > 0
        assert scores.dtype == np.float32
        assert prediction.label_ids.dtype == np.int32
        assert ((scores >= 0) & (scores <= 1)).all()
        assert (np.diff(scores) <= 0).all()


def test_every_label_given_is_a_tag_of_the_info(case: Case) -> None:
    labels = case.model.info.labels
    for prediction in case.together:
        assert all(labels[i] for i in prediction.label_ids)


def test_findings_below_the_floor_are_not_given(case: Case, odd_images: list[Pixels]) -> None:
    high = again(case, score_floor=1.0)
    assert [len(one.scores) for one in high.predict(odd_images)] == [0] * len(odd_images)


def test_no_more_findings_are_given_than_were_asked_for(case: Case, odd_images: list[Pixels]) -> None:
    assert {len(one.scores) for one in again(case, max_tags=1).predict(odd_images)} <= {0, 1}


def test_the_info_is_known_before_the_model_is_loaded_and_crosses_processes(case: Case) -> None:
    info = prepare(case.spec)
    assert info == case.model.info
    assert describe(case.spec) == info, "which needs no weights"
    assert pickle.loads(pickle.dumps(info)) == info
    assert info.kind == ("object" if "detect" in str(case.spec) or info.labels[0] == "" else "class")


def test_the_digest_covers_what_decides_the_answers_and_not_the_name(case: Case) -> None:
    info = prepare(case.spec)
    named = prepare(case.spec.model_copy(update={"name": "mine"}))
    assert (named.name, named.digest) == ("mine", info.digest)
    assert prepare(case.spec.model_copy(update={"score_floor": 0.25})).digest != info.digest
    assert prepare(case.spec.model_copy(update={"max_tags": 3})).digest != info.digest
    in_words = {"max_tags": 100 if info.kind == "object" else 5}
    if case.spec.max_tags == 0:
        assert prepare(case.spec.model_copy(update=in_words)).digest == info.digest


def test_the_info_says_whose_crops_it_looks_at(case: Case) -> None:
    info = prepare(case.spec.model_copy(update={"on": CropsOf(crops_of="shelf", min_score=0.3)}))
    assert (info.crops_of, info.crops_min_score) == ("shelf", 0.3)


def assert_same(one: Prediction, other: Prediction) -> None:
    assert len(one.scores) == len(other.scores)
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)
    np.testing.assert_allclose(one.boxes_xyxy, other.boxes_xyxy, atol=0.05)
    np.testing.assert_array_equal(one.label_ids, other.label_ids)
