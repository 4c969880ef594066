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
from batchtag.pipeline import inference as look_room
from batchtag.pipeline.inference import DeviceLost, look, predict_each
from batchtag.pipeline.loader import LoadedImage
from batchtag.types import Failure, ImageResult, ModelInfo, Prediction
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


def sights(images: Sequence[Pixels]) -> list[LoadedImage]:
    seen = []
    for i, pixels in enumerate(images):
        image = decoded(pixels.shape[1], pixels.shape[0])
        image.pixels[:] = pixels
        outcome = ImageResult.of(ref(i))
        outcome.width, outcome.height = image.width, image.height
        seen.append(LoadedImage(outcome, image))
    return seen


def poisoned_by(*numbers: int, error: Exception) -> Callable[[Pixels], Prediction]:
    def answer(image: Pixels) -> Prediction:
        if image[0, 0, 0] in numbers:
            raise error
        return classes(0.5 + image[0, 0, 0] / 100)

    return answer


def test_the_device_is_held_while_a_model_computes_and_at_no_other_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found is checked while the next batch is on it."""
    held = threading.Lock()
    seen: list[tuple[str, bool]] = []
    check = look_room._checked

    def answer(image: Pixels) -> Prediction:
        seen.append(("computes", held.locked()))
        return classes(0.5)

    def watched(predictions: Sequence[Prediction], which: ModelInfo) -> list[Prediction | Failure]:
        seen.append(("checks", held.locked()))
        return check(predictions, which)

    monkeypatch.setattr(look_room, "_checked", watched)
    look(sights(images(1)), loaded(model(answer, info("first")), model(answer, info("second"))), hold=lambda: held)
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


def test_no_images_are_not_shown_to_the_model() -> None:
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
def test_want_of_memory_has_a_code_of_its_own(error: Exception) -> None:
    (failure,) = predict_each(model(poisoned_by(0, error=error)), images(1))
    assert isinstance(failure, Failure)
    assert (failure.code, failure.code.retryable) == (Code.OUT_OF_MEMORY, True)


def test_a_broken_device_is_no_fault_of_an_image() -> None:
    error = RuntimeError("CUDA error: device-side assert triggered")
    with pytest.raises(DeviceLost, match="device-side assert"):
        predict_each(model(poisoned_by(2, error=error)), images(4))


def test_whoever_holds_the_device_learns_that_it_is_lost_before_letting_go() -> None:
    """Another bundle would have its images fail on it meanwhile."""
    told: list[type[BaseException]] = []

    @contextmanager
    def hold() -> Iterator[None]:
        try:
            yield
        except DeviceLost:
            told.append(DeviceLost)
            raise

    with pytest.raises(DeviceLost):
        predict_each(model(poisoned_by(2, error=RuntimeError("CUDA error: unspecified"))), images(4), hold=hold)
    assert told == [DeviceLost]


def test_what_a_failed_batch_held_is_free_before_anybody_else_computes() -> None:
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


def test_a_model_that_loses_an_image_is_asked_again_in_halves() -> None:
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
def test_findings_that_no_table_can_hold_fail_only_their_image(prediction: Prediction) -> None:
    answers = iter([classes(0.5), prediction, classes(0.5)])
    results = predict_each(model(lambda image: next(answers), info(labels=("", "bottle"))), images(3))
    assert [type(result) for result in results] == [Prediction, Failure, Prediction]
    failure = results[1]
    assert isinstance(failure, Failure)
    assert failure.code is Code.MODEL_ERROR


def test_a_label_that_the_info_does_not_have_fails_the_image_and_not_the_part() -> None:
    (failure,) = predict_each(model(lambda image: boxes([0, 0, 1, 1]), info(labels=("only",))), images(1))
    assert isinstance(failure, Failure)
    assert "label" in failure.message


def test_several_models_see_every_image_and_a_failed_one_is_not_shown_to_the_next() -> None:
    first = model(poisoned_by(1, error=ValueError("no")))
    second = model(lambda image: classes(0.25), info("second"))
    seen = sights(images(3))
    look(seen, loaded(first, second))
    assert second.calls == [2]
    assert [len(sight.outcome.findings) for sight in seen] == [2, 0, 2]
    assert seen[1].outcome.failure is not None


def loaded(*models: Scripted) -> list[tuple[ModelInfo, Model]]:
    return [(each.info, each) for each in models]


def detector_of(prediction: Prediction) -> Scripted:
    return model(lambda image: prediction, info("things", "object", labels=("", "bottle")))


def test_crops_are_cut_in_whole_pixels_around_the_box_whatever_the_order_of_the_models() -> None:
    detector = detector_of(boxes([1.5, 0.2, 3.1, 2.0], [0, 0, 8, 6], scores=[0.9, 0.6]))
    product = model(lambda image: classes(0.5), info("product", crops_of="things"))
    seen = sights(images(2))
    look(seen, loaded(product, detector))
    assert product.shapes == [(2, 3), (6, 8)] * 2
    parents = [(finding.info.name, finding.parent) for finding in seen[0].outcome.findings]
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
    look(sights(images(1)), loaded(detector_of(boxes(box)), product))
    assert product.shapes == [shape]


def test_doubtful_boxes_are_not_cropped_and_no_boxes_give_no_crops() -> None:
    product = model(lambda image: classes(0.5), info("product", crops_of="things", crops_min_score=0.5))
    look(sights(images(1)), loaded(detector_of(boxes([0, 0, 4, 4], [0, 0, 2, 2], scores=[0.5, 0.49])), product))
    assert product.shapes == [(4, 4)]
    look(sights(images(1)), loaded(detector_of(boxes()), product))
    assert product.calls == [1]


def test_a_crop_that_fails_fails_its_image_and_no_other() -> None:
    product = model(poisoned_by(1, error=ValueError("odd crop")), info("product", crops_of="things"))
    seen = sights(images(3))
    look(seen, loaded(detector_of(boxes([0, 0, 4, 4])), product))
    assert [sight.outcome.failure is None for sight in seen] == [True, False, True]


def test_boxes_know_how_to_get_back_to_the_displayed_image() -> None:
    sight = LoadedImage(ImageResult.of(ref(0)), decoded(8, 6, shown=(64, 47)))
    look([sight], loaded(detector_of(boxes([0, 0, 8, 6]))))
    assert sight.outcome.findings[0].scale_xy == (8.0, 47 / 6)
