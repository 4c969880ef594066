"""Inference: every model of the job on one batch of loaded images, one result per image.

The broad `except` around a single image is here. A batch that fails is halved until it works or holds one image; this
image becomes a failure and its neighbours are tagged. The device is held only while a model computes; predictions are
checked while the next batch uses it. A device that is broken for good, so that every further call would fail, is not
the fault of an image: it raises DeviceLost, and the worker ends itself so that a fresh process gets the bundle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
from numpy.typing import NDArray

from batchtag.errors import Code
from batchtag.models import Model
from batchtag.pipeline.loader import LoadedImage
from batchtag.types import DecodedImage, Failure, ImagePrediction, ImageResult, ModelInfo, Prediction, Stage

Hold = Callable[[], AbstractContextManager[object]]
"""Returns a context that holds the device while a model computes."""


class DeviceLost(Exception):
    """The accelerator can no longer be used in this process."""


def predict_batch(
    batch: Sequence[LoadedImage], models: Sequence[tuple[ModelInfo, Model]], *, hold: Hold = nullcontext
) -> list[ImageResult]:
    """Return one result per image, in order: the predictions of every model, or the failure. Runs in the worker.

    Models of whole images run first, then those that classify the crops of what the first ones found. DeviceLost is
    raised while the device is held, so that no other bundle gets it.
    """
    state = _BatchState(batch)
    for model_info, model in sorted(models, key=lambda pair: bool(pair[0].crops_of)):
        if model_info.crops_of:
            _predict_crops(state, model_info, model, hold)
        else:
            _predict_images(state, model_info, model, hold)
    return [loaded.to_result(state.predictions[i], failure=state.failures.get(i)) for i, loaded in enumerate(batch)]


class _BatchState:
    """What is known of the images of one batch, by their place in it, while the models run."""

    def __init__(self, batch: Sequence[LoadedImage]) -> None:
        self.images = {i: loaded.image for i, loaded in enumerate(batch) if isinstance(loaded.image, DecodedImage)}
        self.predictions: list[list[ImagePrediction]] = [[] for _ in batch]
        self.failures: dict[int, Failure] = {}

    def remaining(self) -> list[int]:
        """Return the places of images that are decoded and have not failed in a model."""
        return [i for i in self.images if i not in self.failures]


def _predict_images(state: _BatchState, model_info: ModelInfo, model: Model, hold: Hold) -> None:
    remaining = state.remaining()
    results = predict_each(model, [state.images[i].pixels for i in remaining], hold=hold)
    for i, result in zip(remaining, results, strict=True):
        if isinstance(result, Failure):
            state.failures[i] = result
        else:
            scale_xy = _scale_xy(state.images[i])
            state.predictions[i].append(ImagePrediction(model_info=model_info, prediction=result, scale_xy=scale_xy))


def _scale_xy(image: DecodedImage) -> tuple[float, float]:
    """Return the factors from pixels as decoded to pixels as displayed."""
    height, width = image.pixels.shape[:2]
    return image.width / width, image.height / height


def _predict_crops(state: _BatchState, model_info: ModelInfo, model: Model, hold: Hold) -> None:
    owners: list[tuple[int, str]] = []
    crops: list[NDArray[np.uint8]] = []
    for i in state.remaining():
        for parent, crop in _cut_crops(state.images[i].pixels, state.predictions[i], model_info):
            owners.append((i, parent))
            crops.append(crop)
    for (i, parent), result in zip(owners, predict_each(model, crops, hold=hold), strict=True):
        if isinstance(result, Failure):
            state.failures[i] = result
        else:
            state.predictions[i].append(ImagePrediction(model_info=model_info, prediction=result, parent=parent))


def _cut_crops(
    pixels: NDArray[np.uint8], predictions: Sequence[ImagePrediction], model_info: ModelInfo
) -> list[tuple[str, NDArray[np.uint8]]]:
    """Return the boxes of the detector that `model_info` names, as ("<model id>#<rank>", pixels).

    A crop has the whole pixels around its box, at least one.
    """
    detected = next(p for p in predictions if p.model_info.name == model_info.crops_of and not p.parent)
    height, width = pixels.shape[:2]
    crops = []
    boxes_and_scores = zip(detected.prediction.boxes_xyxy, detected.prediction.scores, strict=True)
    for rank, (box, score) in enumerate(boxes_and_scores, start=1):
        if score < model_info.crops_min_score:
            break  # boxes come best first
        x0, y0 = (max(0, min(int(low), end - 1)) for low, end in zip(box[:2], (width, height), strict=True))
        x1, y1 = max(int(np.ceil(box[2])), x0 + 1), max(int(np.ceil(box[3])), y0 + 1)
        crops.append((f"{detected.model_info.id}#{rank}", pixels[y0:y1, x0:x1]))
    return crops


def predict_each(
    model: Model, images: Sequence[NDArray[np.uint8]], *, hold: Hold = nullcontext
) -> list[Prediction | Failure]:
    """Return one prediction or failure per image, in order. A failing batch is halved, down to the image that fails."""
    if not images:
        return []
    with hold():
        predictions = _try_predict(model, images)
    if not isinstance(predictions, Failure):
        return _check_predictions(predictions, model.info)
    if len(images) == 1:
        return [predictions]
    half = len(images) // 2
    return [*predict_each(model, images[:half], hold=hold), *predict_each(model, images[half:], hold=hold)]


def _try_predict(model: Model, images: Sequence[NDArray[np.uint8]]) -> list[Prediction] | Failure:
    """Return the predictions, or the failure of the whole batch.

    When this function has returned, the traceback of an error is freed; it kept a failed batch in the device's memory.
    """
    try:
        predictions = model.predict(images)
        if len(predictions) != len(images):
            raise RuntimeError(f"the model gave {len(predictions)} predictions for {len(images)} images")
    except Exception as error:  # around one image: whatever a model raises for it, its neighbours must not fail
        if _is_device_lost(error):
            raise DeviceLost(str(error)) from error
        return _failure_of_error(error)
    return predictions


def _check_predictions(predictions: Sequence[Prediction], model_info: ModelInfo) -> list[Prediction | Failure]:
    """Return each prediction, or a failure where the tables cannot hold it, so that its part can still be written."""
    if not _find_invalid(predictions, model_info):
        return list(predictions)
    checked: list[Prediction | Failure] = []
    for prediction in predictions:
        invalid = _find_invalid([prediction], model_info)
        checked.append(_failure_of_values(invalid, model_info) if invalid else prediction)
    return checked


def _find_invalid(predictions: Sequence[Prediction], model_info: ModelInfo) -> str:
    """Return what is invalid, in words, or "". All arrays at once, because a numpy call takes 10 µs at any length."""
    scores = np.concatenate([prediction.scores for prediction in predictions])
    label_ids = np.concatenate([prediction.label_ids for prediction in predictions])
    boxes = np.concatenate([prediction.boxes_xyxy for prediction in predictions])
    if not (np.isfinite(scores).all() and np.isfinite(boxes).all()):
        return "scores or boxes that are not finite numbers"
    if len(scores) and (scores.min() < 0 or scores.max() > 1):
        return f"scores from {scores.min():g} to {scores.max():g}; they must lie between 0 and 1"
    if len(scores) and (label_ids.min() < 0 or label_ids.max() >= len(model_info.labels)):
        return f"label ids from {label_ids.min()} to {label_ids.max()}; it has {len(model_info.labels)} labels"
    return ""


def _failure_of_values(invalid: str, model_info: ModelInfo) -> Failure:
    message = f"{model_info.name} gave this image {invalid}"
    return Failure(stage=Stage.PREDICT, code=Code.MODEL_ERROR, message=message)


def _failure_of_error(error: Exception) -> Failure:
    code = Code.OUT_OF_MEMORY if _is_out_of_memory(error) else Code.MODEL_ERROR
    return Failure(stage=Stage.PREDICT, code=code, message=f"{type(error).__name__}: {error}"[:1000])


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error)
    phrases = ("out of memory", "can't allocate memory", "STATUS_ALLOC_FAILED")
    return isinstance(error, MemoryError) or any(phrase in text for phrase in phrases)


def _is_device_lost(error: Exception) -> bool:
    """Return whether the process's context is unusable: a CUDA error other than out-of-memory is "sticky"."""
    return "CUDA error" in str(error) and not _is_out_of_memory(error)
