"""Every model of the job on the same pixels, and the one broad `except` around one image.

A batch that fails is halved until it works or is one image; that image is a failure row and its neighbours are tagged.
The device is held for what a model computes and nothing else: what it found is checked and noted beside the next batch.
A device that is broken for good (every further call would fail) is no fault of an image: it raises DeviceLost, and
the worker ends itself so that a fresh process gets the bundle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
from numpy.typing import NDArray

from batchtag.errors import Code
from batchtag.models import Model
from batchtag.pipeline.loader import LoadedImage
from batchtag.types import Failure, ImagePrediction, ModelInfo, Prediction, Stage

Hold = Callable[[], AbstractContextManager[object]]
"""What holds the device while a model computes."""


class DeviceLost(Exception):
    """The accelerator answers no more in this process."""


def look(sights: Sequence[LoadedImage], models: Sequence[tuple[ModelInfo, Model]], *, hold: Hold = nullcontext) -> None:
    """Add every model's findings, or the failure, to the outcome of each image. Runs in the worker, models in turn.

    Models of whole images first, then those that look at crops of what the first found. DeviceLost is raised while the
    device is held, so that nobody else gets it.
    """
    for info, model in models:
        if not info.crops_of:
            _look_at_images(sights, info, model, hold)
    for info, model in models:
        if info.crops_of:
            _look_at_crops(sights, info, model, hold)


def _look_at_images(sights: Sequence[LoadedImage], info: ModelInfo, model: Model, hold: Hold) -> None:
    alive = [sight for sight in sights if sight.outcome.failure is None]
    results = predict_each(model, [sight.image.pixels for sight in alive], hold=hold)
    for sight, result in zip(alive, results, strict=True):
        if isinstance(result, Failure):
            sight.outcome.failure = result
        else:
            finding = ImagePrediction(info=info, prediction=result, scale_xy=sight.scale_xy)
            sight.outcome.findings.append(finding)


def _look_at_crops(sights: Sequence[LoadedImage], info: ModelInfo, model: Model, hold: Hold) -> None:
    owners: list[tuple[LoadedImage, str]] = []
    crops: list[NDArray[np.uint8]] = []
    for sight in sights:
        if sight.outcome.failure is None:
            for parent, crop in _crops(sight, info):
                owners.append((sight, parent))
                crops.append(crop)
    for (sight, parent), result in zip(owners, predict_each(model, crops, hold=hold), strict=True):
        if isinstance(result, Failure):
            sight.outcome.failure = result
        else:
            sight.outcome.findings.append(ImagePrediction(info=info, prediction=result, parent=parent))


def _crops(sight: LoadedImage, info: ModelInfo) -> list[tuple[str, NDArray[np.uint8]]]:
    """The boxes of the card's detector as ("<model id>#<rank>", pixels): whole pixels around the box, at least one."""
    found = next(f for f in sight.outcome.findings if f.info.name == info.crops_of and not f.parent)
    height, width = sight.image.pixels.shape[:2]
    crops = []
    for rank, (box, score) in enumerate(
        zip(found.prediction.boxes_xyxy, found.prediction.scores, strict=True), start=1
    ):
        if score < info.crops_min_score:
            break  # best first
        x0, y0 = (max(0, min(int(low), end - 1)) for low, end in zip(box[:2], (width, height), strict=True))
        x1, y1 = max(int(np.ceil(box[2])), x0 + 1), max(int(np.ceil(box[3])), y0 + 1)
        crops.append((f"{found.info.id}#{rank}", sight.image.pixels[y0:y1, x0:x1]))
    return crops


def predict_each(
    model: Model, images: Sequence[NDArray[np.uint8]], *, hold: Hold = nullcontext
) -> list[Prediction | Failure]:
    """One prediction or failure per image, in order. A failing batch is halved, down to the image that fails."""
    if not images:
        return []
    with hold():
        answer = _answer(model, images)
    if not isinstance(answer, Failure):
        return _checked(answer, model.info)
    if len(images) == 1:
        return [answer]
    half = len(images) // 2
    return [*predict_each(model, images[:half], hold=hold), *predict_each(model, images[half:], hold=hold)]


def _answer(model: Model, images: Sequence[NDArray[np.uint8]]) -> list[Prediction] | Failure:
    """Once it has returned, the traceback is gone, which kept a failed batch in the device's memory."""
    try:
        predictions = model.predict(images)
        if len(predictions) != len(images):
            raise RuntimeError(f"the model gave {len(predictions)} predictions for {len(images)} images")
    except Exception as error:  # around one image: whatever a model raises for it, its neighbours must not pay
        if _is_device_lost(error):
            raise DeviceLost(str(error)) from error
        return _failure(error)
    return predictions


def _checked(predictions: Sequence[Prediction], info: ModelInfo) -> list[Prediction | Failure]:
    """Each, or a failure where the tables cannot hold it: one such image must not cost its part."""
    if not _what_is_wrong(predictions, info):
        return list(predictions)
    return [_failure_of(wrong, info) if (wrong := _what_is_wrong([one], info)) else one for one in predictions]


def _what_is_wrong(predictions: Sequence[Prediction], info: ModelInfo) -> str:
    """In words, or nothing. All at once, because numpy asks 10 µs a call whatever the length."""
    scores = np.concatenate([one.scores for one in predictions])
    label_ids = np.concatenate([one.label_ids for one in predictions])
    boxes = np.concatenate([one.boxes_xyxy for one in predictions])
    if not (np.isfinite(scores).all() and np.isfinite(boxes).all()):
        return "scores or boxes that are not numbers"
    if len(scores) and (scores.min() < 0 or scores.max() > 1):
        return f"scores from {scores.min():g} to {scores.max():g}, expected 0 to 1,"
    if len(scores) and (label_ids.min() < 0 or label_ids.max() >= len(info.labels)):
        return f"a label id of {label_ids.max()} or {label_ids.min()}, which is none of its {len(info.labels)} labels,"
    return ""


def _failure_of(wrong: str, info: ModelInfo) -> Failure:
    return Failure(stage=Stage.PREDICT, code=Code.MODEL_ERROR, message=f"{info.name} gave {wrong} for this image")


def _failure(error: Exception) -> Failure:
    code = Code.OUT_OF_MEMORY if _is_out_of_memory(error) else Code.MODEL_ERROR
    return Failure(stage=Stage.PREDICT, code=code, message=f"{type(error).__name__}: {error}"[:1000])


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error)
    words = ("out of memory", "can't allocate memory", "STATUS_ALLOC_FAILED")
    return isinstance(error, MemoryError) or any(word in text for word in words)


def _is_device_lost(error: Exception) -> bool:
    """A CUDA error other than out-of-memory leaves the process's context unusable (CUDA's own "sticky" errors)."""
    return "CUDA error" in str(error) and not _is_out_of_memory(error)
