"""The constant model, which gives every image the same tag and reads no pixels.

It is a real kind of model and is part of the package, because dry runs, demos, tests and measurements of the pipeline
all need it. It sleeps where another model computes, which leaves the core free as a busy GPU does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from batchtag.config.model import ConstantSpec
from batchtag.models.info import make_model_info
from batchtag.tasks import Task
from batchtag.types import InputResolution, ModelInfo, Prediction

_RESOLUTION = InputResolution(mode="cover", shorter_px=1)
"""One pixel is enough, because no pixel is read."""


def prepare(spec: ConstantSpec) -> ModelInfo:
    """Return the model info. There is nothing to fetch."""
    task = _find_task(spec)
    labels = ("", spec.tag) if task == "detect" else (spec.tag,)
    facts = {"kind": spec.kind, "score": spec.score}
    return make_model_info(spec, task=task, facts=facts, labels=labels, input_resolution=_RESOLUTION)


def load(spec: ConstantSpec) -> ConstantModel:
    """Return the model. It uses no device."""
    return ConstantModel(spec)


class ConstantModel:
    """Gives each image one tag: a box around the whole array for `detect`, a class for `classify`.

    A tag whose score is below the spec's `score_floor` is left out.
    """

    def __init__(self, spec: ConstantSpec) -> None:
        self.info = prepare(spec)
        self._spec = spec
        self._label_id = len(self.info.labels) - 1
        self._device_lock = threading.Lock()
        """Stands for a device: callers that predict at the same time wait for one another."""

    def predict(self, images: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        """Return the prediction of each image, after `seconds_per_image` for each."""
        if self._spec.seconds_per_image > 0:
            with self._device_lock:
                time.sleep(self._spec.seconds_per_image * len(images))
        num_tags = 1 if self._spec.score >= self._spec.score_floor and self._spec.tag else 0
        num_boxes = num_tags if self.info.kind == "object" else 0
        scores = np.full(num_tags, self._spec.score, np.float32)
        label_ids = np.full(num_tags, self._label_id, np.int32)
        boxes = [np.array([[0, 0, image.shape[1], image.shape[0]]], np.float32)[:num_boxes] for image in images]
        return [Prediction(scores=scores, label_ids=label_ids, boxes_xyxy=boxes_xyxy) for boxes_xyxy in boxes]


def _find_task(spec: ConstantSpec) -> Task:
    return "detect" if spec.task == "detect" else "classify"
