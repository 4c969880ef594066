from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest
from numpy.typing import NDArray

from batchtag.errors import Code
from batchtag.models import Model
from batchtag.pipeline import inference
from batchtag.pipeline.inference import DeviceLost, predict_batch, predict_each
from batchtag.pipeline.loader import LoadedImage
from batchtag.types import DecodedImage, Failure, ModelInfo, Prediction, Stage
from tests.support.samples import boxes, classes, decoded, info, ref

Pixels = NDArray[np.uint8]


class Scripted:
    """A model that answers by a function of the pixels, and remembers the sizes of its calls."""

    def __init__(self, answer: Callable[[Pixels], Prediction], info: ModelInfo) -> None:
        self.info = info
        self.calls: list[int] = []
        self.shapes: list[tuple[int, ...]] = []
        self._answer = answer

    def predict(self, images: Sequence[Pixels]) -> list[Prediction]:
        self.calls.append(len(images))
        self.shapes += [image.shape[:2] for image in images]
        return [self._answer(image) for image in images]


def model(answer: Callable[[Pixels], Prediction], which: ModelInfo | None = None) -> Scripted:
    return Scripted(answer, which or info())


def images(num_images: int) -> list[Pixels]:
    """One-colour arrays, whose first sample is their number."""
    return [np.full((6, 8, 3), i, np.uint8) for i in range(num_images)]


def batch_of(images: Sequence[Pixels]) -> list[LoadedImage]:
    """Loaded images with these pixels."""
    batch = []
    for i, pixels in enumerate(images):
        image = decoded(pixels.shape[1], pixels.shape[0])
        image.pixels[:] = pixels
        batch.append(loaded_image(image, position=i))
    return batch


def loaded_image(image: DecodedImage | Failure, *, position: int = 0) -> LoadedImage:
    image_ref = ref(position)
    return LoadedImage(ref=image_ref, etag=image_ref.etag, size_bytes=10, last_modified=None, image=image)


def poisoned_by(*numbers: int, error: Exception) -> Callable[[Pixels], Prediction]:
    def answer(image: Pixels) -> Prediction:
        if image[0, 0, 0] in numbers:
            raise error
        return classes(0.5 + image[0, 0, 0] / 100)

    return answer


def test_the_device_is_held_only_while_a_model_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Predictions are checked while the next batch uses the device."""
    held = threading.Lock()
    seen: list[tuple[str, bool]] = []
    check = inference._check_predictions

    def answer(image: Pixels) -> Prediction:
        seen.append(("computes", held.locked()))
        return classes(0.5)

    def watched(predictions: Sequence[Prediction], which: ModelInfo) -> list[Prediction | Failure]:
        seen.append(("checks", held.locked()))
        return check(predictions, which)

    monkeypatch.setattr(inference, "_check_predictions", watched)
    predict_batch(
        batch_of(images(1)), pairs(model(answer, info("first")), model(answer, info("second"))), hold=lambda: held
    )
    assert seen == [("computes", True), ("checks", False)] * 2


def test_a_poison_image_in_a_batch_of_seven_fails_alone() -> None:
    poison = model(poisoned_by(4, error=ValueError("no such luck")))
    results = predict_each(poison, images(7))
    failure = results[4]
    assert isinstance(failure, Failure)
    assert (failure.code, failure.message) == (Code.MODEL_ERROR, "ValueError: no such luck")
    rest = [result.scores[0] for i, result in enumerate(results) if isinstance(result, Prediction) and i != 4]
    assert rest == pytest.approx([0.5, 0.51, 0.52, 0.53, 0.55, 0.56])
    assert poison.calls == [7, 3, 4, 2, 1, 1, 2]


def test_every_image_may_fail_and_none_is_lost() -> None:
    results = predict_each(model(poisoned_by(*range(5), error=RuntimeError("dead"))), images(5))
    assert [type(result) for result in results] == [Failure] * 5


def test_a_model_is_not_called_without_images() -> None:
    idle = model(lambda image: classes())
    assert predict_each(idle, []) == []
    assert idle.calls == []


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_out_of_memory_has_its_own_code(error: Exception) -> None:
    (failure,) = predict_each(model(poisoned_by(0, error=error)), images(1))
    assert isinstance(failure, Failure)
    assert (failure.code, failure.code.is_retryable) == (Code.OUT_OF_MEMORY, True)


def test_a_broken_device_is_not_blamed_on_an_image() -> None:
    error = RuntimeError("CUDA error: device-side assert triggered")
    with pytest.raises(DeviceLost, match="device-side assert"):
        predict_each(model(poisoned_by(2, error=error)), images(4))


def test_the_loss_of_the_device_is_raised_while_it_is_held() -> None:
    """Otherwise the images of another bundle would fail on it meanwhile."""
    raised: list[type[BaseException]] = []

    @contextmanager
    def hold() -> Iterator[None]:
        try:
            yield
        except DeviceLost:
            raised.append(DeviceLost)
            raise

    with pytest.raises(DeviceLost):
        predict_each(model(poisoned_by(2, error=RuntimeError("CUDA error: unspecified"))), images(4), hold=hold)
    assert raised == [DeviceLost]


def test_the_memory_of_a_failed_batch_is_freed_before_the_device_is_released() -> None:
    """The traceback of an out-of-memory error keeps the frames of the batch, and with them its tensors, alive."""

    class Tensor:
        pass

    held: list[weakref.ref[Tensor]] = []

    class Hungry:
        info = info()

        def predict(self, images: Sequence[Pixels]) -> list[Prediction]:
            assert [tensor() for tensor in held if tensor() is not None] == []
            tensor = Tensor()
            held.append(weakref.ref(tensor))
            if len(images) > 1:
                raise RuntimeError("CUDA out of memory")
            return [classes(0.5)]

    left: list[object] = []

    @contextmanager
    def hold() -> Iterator[None]:
        try:
            yield
        finally:
            left.extend(tensor() for tensor in held if tensor() is not None)

    assert [type(result) for result in predict_each(Hungry(), images(4), hold=hold)] == [Prediction] * 4
    assert left == []


def test_a_model_that_returns_too_few_predictions_is_called_again_with_halves() -> None:
    class Forgetful(Scripted):
        def predict(self, images: Sequence[Pixels]) -> list[Prediction]:
            return super().predict(images)[:2]

    results = predict_each(Forgetful(lambda image: classes(image[0, 0, 0] / 10), info()), images(4))
    assert [result.scores[0] for result in results if isinstance(result, Prediction)] == pytest.approx(
        [0, 0.1, 0.2, 0.3]
    )


@pytest.mark.parametrize(
    "prediction",
    [classes(float("nan")), boxes([0, 0, float("inf"), 1]), classes(1.5), classes(-0.1)],
)
def test_values_that_no_table_can_hold_fail_only_their_image(prediction: Prediction) -> None:
    answers = iter([classes(0.5), prediction, classes(0.5)])
    results = predict_each(model(lambda image: next(answers), info(labels=("", "bottle"))), images(3))
    assert [type(result) for result in results] == [Prediction, Failure, Prediction]
    failure = results[1]
    assert isinstance(failure, Failure)
    assert failure.code is Code.MODEL_ERROR


def test_an_unknown_label_id_fails_the_image_and_not_the_part() -> None:
    (failure,) = predict_each(model(lambda image: boxes([0, 0, 1, 1]), info(labels=("only",))), images(1))
    assert isinstance(failure, Failure)
    assert "label" in failure.message


def test_every_model_predicts_every_image_except_those_that_failed_in_an_earlier_model() -> None:
    first = model(poisoned_by(1, error=ValueError("no")))
    second = model(lambda image: classes(0.25), info("second"))
    results = predict_batch(batch_of(images(3)), pairs(first, second))
    assert second.calls == [2]
    assert [len(result.predictions) for result in results if result.failure is None] == [2, 2]
    assert results[1].failure is not None
    assert results[1].num_tags == 0


def test_an_image_that_failed_to_load_is_not_predicted_and_keeps_its_place() -> None:
    broken = Failure(stage=Stage.DECODE, code=Code.CORRUPT, message="broken")
    batch = [*batch_of(images(2)), loaded_image(broken, position=2)]
    only = model(lambda image: classes(0.5))
    results = predict_batch([batch[2], *batch[:2]], pairs(only))
    assert only.calls == [2]
    assert [result.ref.position for result in results] == [2, 0, 1]
    assert [result.failure for result in results] == [broken, None, None]


def pairs(*models: Scripted) -> list[tuple[ModelInfo, Model]]:
    return [(each.info, each) for each in models]


def detector_of(prediction: Prediction) -> Scripted:
    return model(lambda image: prediction, info("things", "object", labels=("", "bottle")))


def test_crops_have_the_whole_pixels_around_the_box_in_any_order_of_models() -> None:
    detector = detector_of(boxes([1.5, 0.2, 3.1, 2.0], [0, 0, 8, 6], scores=[0.9, 0.6]))
    product = model(lambda image: classes(0.5), info("product", crops_of="things"))
    results = predict_batch(batch_of(images(2)), pairs(product, detector))
    assert product.shapes == [(2, 3), (6, 8)] * 2
    parents = [(one.model_info.name, one.parent) for one in results[0].predictions]
    assert parents == [
        ("things", ""),
        ("product", "things@0123456789ab#1"),
        ("product", "things@0123456789ab#2"),
    ]


@pytest.mark.parametrize(
    ("box", "shape"),
    [
        ([3, 3, 3, 3], (1, 1)),
        ([8, 6, 8, 6], (1, 1)),
        ([-2, -3, 4, 2], (2, 4)),
        ([-9, -9, -5, -5], (1, 1)),
        ([5, 4, 90, 90], (2, 3)),
    ],
)
def test_a_box_without_area_or_beyond_the_edge_still_gives_a_crop(box: list[float], shape: tuple[int, int]) -> None:
    product = model(lambda image: classes(0.5), info("product", crops_of="things"))
    predict_batch(batch_of(images(1)), pairs(detector_of(boxes(box)), product))
    assert product.shapes == [shape]


def test_boxes_below_the_minimum_score_are_not_cropped() -> None:
    product = model(lambda image: classes(0.5), info("product", crops_of="things", crops_min_score=0.5))
    predict_batch(
        batch_of(images(1)), pairs(detector_of(boxes([0, 0, 4, 4], [0, 0, 2, 2], scores=[0.5, 0.49])), product)
    )
    assert product.shapes == [(4, 4)]
    predict_batch(batch_of(images(1)), pairs(detector_of(boxes()), product))
    assert product.calls == [1]


def test_a_crop_that_fails_makes_only_its_image_fail() -> None:
    product = model(poisoned_by(1, error=ValueError("odd crop")), info("product", crops_of="things"))
    results = predict_batch(batch_of(images(3)), pairs(detector_of(boxes([0, 0, 4, 4])), product))
    assert [result.failure is None for result in results] == [True, False, True]


def test_a_prediction_has_the_factors_from_decoded_to_displayed_pixels() -> None:
    batch = [loaded_image(decoded(8, 6, displayed=(64, 47)))]
    (result,) = predict_batch(batch, pairs(detector_of(boxes([0, 0, 8, 6]))))
    assert result.predictions[0].scale_xy == (8.0, 47 / 6)
