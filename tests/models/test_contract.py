"""The contract of every kind of model: the numbered points of `models.Model`."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from torchvision import models as torchvision_models

from batchtag.config.model import CheckpointSpec, ConstantSpec, CropsOf, ModelSpec, TorchvisionSpec
from batchtag.models import Model, Runtime, describe, load, prepare
from batchtag.models.checkpoint.checkpoint_writer import CheckpointContent, save_checkpoint
from batchtag.types import Prediction

Pixels = NDArray[np.uint8]
MakeSpec = Callable[[Path], ModelSpec]
TORCH = Runtime(batch_size=2)
OPENVINO = Runtime(engine="openvino", threads=2, batch_size=2)


def constant_detector(folder: Path) -> ModelSpec:
    return ConstantSpec(task="detect", tag="thing", score=0.5)


def constant_classifier(folder: Path) -> ModelSpec:
    return ConstantSpec(tag="thing", score=0.5)


def torchvision_detector(folder: Path) -> ModelSpec:
    return TorchvisionSpec(builder="fasterrcnn_mobilenet_v3_large_320_fpn", weights="none", score_floor=0.011)


def torchvision_detector_of_fixed_size(folder: Path) -> ModelSpec:
    return TorchvisionSpec(builder="ssdlite320_mobilenet_v3_large", weights="none", score_floor=0.0, max_tags=20)


def torchvision_classifier(folder: Path) -> ModelSpec:
    return TorchvisionSpec(builder="resnet18", weights="none", score_floor=0.0)


def checkpoint_detector(folder: Path) -> ModelSpec:
    builder = "fasterrcnn_mobilenet_v3_large_320_fpn"
    network = torchvision_models.get_model(builder, weights=None, weights_backbone=None, num_classes=3)
    content = CheckpointContent(
        architecture=builder,
        labels=["__background__", "crate", "pallet"],
        task="detect",
        preprocessing={"min_size": 200, "max_size": 300},
        state_dict=network.state_dict(),
    )
    save_checkpoint(str(folder / "crates"), content)
    return CheckpointSpec(uri=str(folder / "crates"), score_floor=0.0)


def checkpoint_classifier(folder: Path) -> ModelSpec:
    network = torchvision_models.get_model("squeezenet1_1", weights=None, num_classes=3)
    content = CheckpointContent(
        architecture="squeezenet1_1",
        labels=["cat", "dog", "bird"],
        task="classify",
        preprocessing={"resize_size": 72, "crop_size": 64, "mean": [0.5] * 3, "std": [0.25] * 3},
        state_dict=network.state_dict(),
    )
    save_checkpoint(str(folder / "animals"), content)
    return CheckpointSpec(uri=str(folder / "animals"), score_floor=0.0)


CASES = [
    pytest.param((constant_detector, TORCH), id="constant_detector"),
    pytest.param((constant_classifier, TORCH), id="constant_classifier"),
    pytest.param((torchvision_detector, TORCH), id="torchvision_detector-torch"),
    pytest.param((torchvision_classifier, TORCH), id="torchvision_classifier-torch"),
    pytest.param((torchvision_detector_of_fixed_size, OPENVINO), id="torchvision_detector_of_fixed_size-openvino"),
    pytest.param((checkpoint_detector, OPENVINO), id="checkpoint_detector-openvino"),
    pytest.param((checkpoint_classifier, OPENVINO), id="checkpoint_classifier-openvino"),
    *(
        pytest.param((make_spec, runtime), id=f"{make_spec.__name__}-{runtime.engine}", marks=pytest.mark.slow)
        for make_spec, runtime in (
            (torchvision_detector, OPENVINO),
            (torchvision_classifier, OPENVINO),
            (torchvision_detector_of_fixed_size, TORCH),
            (checkpoint_detector, TORCH),
            (checkpoint_classifier, TORCH),
        )
    ),
]
"""Every kind of model in one engine, and in the other one in the slow tier. A constant model uses no engine."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model and its predictions for all odd images in one call."""

    spec: ModelSpec
    runtime: Runtime
    model: Model
    predictions: list[Prediction]
    images_before: list[Pixels]


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, odd_images: list[Pixels]) -> Case:
    make_spec, runtime = request.param
    spec = make_spec(tmp_path_factory.mktemp("checkpoint"))
    model = load(spec, runtime=runtime)
    images_before = [image.copy() for image in odd_images]
    return Case(
        spec=spec,
        runtime=runtime,
        model=model,
        predictions=model.predict(odd_images),
        images_before=images_before,
    )


def load_changed(case: Case, **changes: Any) -> Model:
    return load(case.spec.model_copy(update=changes), runtime=case.runtime)


def test_there_is_one_prediction_for_each_image_in_the_order_given(case: Case, odd_images: list[Pixels]) -> None:
    reversed_predictions = case.model.predict(odd_images[::-1])
    assert len(case.predictions) == len(odd_images)
    for prediction, same in zip(case.predictions, reversed_predictions[::-1], strict=True):
        assert_same(prediction, same)


def test_for_no_images_there_are_no_predictions(case: Case) -> None:
    assert case.model.predict([]) == []


def test_no_image_is_modified(case: Case, odd_images: list[Pixels]) -> None:
    assert all(np.array_equal(a, b) for a, b in zip(case.images_before, odd_images, strict=True))


def test_boxes_are_inside_the_array_and_a_classifier_has_none(case: Case, odd_images: list[Pixels]) -> None:
    for image, prediction in zip(odd_images, case.predictions, strict=True):
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
    for image, prediction in zip(odd_images, case.predictions, strict=True):
        assert_same(prediction, case.model.predict([image])[0])


def test_scores_are_probabilities_and_come_best_first(case: Case) -> None:
    for prediction in case.predictions:
        scores = prediction.scores
        assert len(scores) > 0
        assert scores.dtype == np.float32
        assert prediction.label_ids.dtype == np.int32
        assert ((scores >= 0) & (scores <= 1)).all()
        assert (np.diff(scores) <= 0).all()


def test_every_label_given_is_a_tag_of_the_model_info(case: Case) -> None:
    labels = case.model.info.labels
    for prediction in case.predictions:
        assert all(labels[i] for i in prediction.label_ids)


def test_tags_below_the_score_floor_are_left_out(case: Case, odd_images: list[Pixels]) -> None:
    predictions = load_changed(case, score_floor=1.0).predict(odd_images)
    assert [len(prediction.scores) for prediction in predictions] == [0] * len(odd_images)


def test_no_more_tags_than_max_tags_are_given(case: Case, odd_images: list[Pixels]) -> None:
    predictions = load_changed(case, max_tags=1).predict(odd_images)
    assert {len(prediction.scores) for prediction in predictions} <= {0, 1}


def test_the_model_info_is_known_before_loading_and_survives_pickling(case: Case) -> None:
    info = prepare(case.spec)
    assert info == case.model.info
    assert describe(case.spec) == info, "describe needs no weights"
    assert pickle.loads(pickle.dumps(info)) == info
    assert info.kind == ("object" if "detect" in str(case.spec) or info.labels[0] == "" else "class")


def test_the_digest_covers_what_decides_the_predictions_and_not_the_name(case: Case) -> None:
    info = prepare(case.spec)
    renamed = prepare(case.spec.model_copy(update={"name": "mine"}))
    assert (renamed.name, renamed.digest) == ("mine", info.digest)
    assert prepare(case.spec.model_copy(update={"score_floor": 0.25})).digest != info.digest
    assert prepare(case.spec.model_copy(update={"max_tags": 3})).digest != info.digest
    written_out = {"max_tags": 100 if info.kind == "object" else 5}
    if case.spec.max_tags == 0:
        assert prepare(case.spec.model_copy(update=written_out)).digest == info.digest


def test_the_model_info_names_the_detector_whose_crops_are_classified(case: Case) -> None:
    info = prepare(case.spec.model_copy(update={"on": CropsOf(crops_of="shelf", min_score=0.3)}))
    assert (info.crops_of, info.crops_min_score) == ("shelf", 0.3)


def assert_same(prediction: Prediction, other: Prediction) -> None:
    assert len(prediction.scores) == len(other.scores)
    np.testing.assert_allclose(prediction.scores, other.scores, atol=1e-4)
    np.testing.assert_allclose(prediction.boxes_xyxy, other.boxes_xyxy, atol=0.05)
    np.testing.assert_array_equal(prediction.label_ids, other.label_ids)
