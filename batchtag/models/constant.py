"""The model that does not look: one and the same finding for every image.

A real kind that ships, because dry runs, demos, tests and measurements of the line itself all want it. It sleeps where
another model computes, which frees the core as a busy GPU does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from batchtag.config.model import ConstantSpec
from batchtag.models.info import make_info
from batchtag.tasks import Task
from batchtag.types import InputResolution, ModelInfo, Prediction

_RESOLUTION = InputResolution(mode="cover", shorter_px=1)


def prepare(spec: ConstantSpec) -> ModelInfo:
    """The card; nothing is fetched."""
    task = _task(spec)
    labels = ("", spec.tag) if task == "detect" else (spec.tag,)
    facts = {"kind": spec.kind, "score": spec.score}
    return make_info(spec, task=task, facts=facts, labels=labels, input_resolution=_RESOLUTION)


def load(spec: ConstantSpec) -> Constant:
    """The model; it needs no device."""
    return Constant(spec)


class Constant:
    """Gives a detector's box over the whole array, or a classifier's label, unless its score is below the floor."""

    def __init__(self, spec: ConstantSpec) -> None:
        self.info = prepare(spec)
        self._spec = spec
        self._label_id = len(self.info.labels) - 1
        self._device = threading.Lock()
        """It stands for one: whoever asks at the same time waits."""

    def predict(self, images: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        if self._spec.seconds_per_image > 0:
            with self._device:
                time.sleep(self._spec.seconds_per_image * len(images))
        num_findings = 1 if self._spec.score >= self._spec.score_floor and self._spec.tag else 0
        scores = np.full(num_findings, self._spec.score, np.float32)
        label_ids = np.full(num_findings, self._label_id, np.int32)
        num_boxes = num_findings if self.info.kind == "object" else 0
        boxes = [np.array([[0, 0, image.shape[1], image.shape[0]]], np.float32)[:num_boxes] for image in images]
        return [Prediction(scores=scores, label_ids=label_ids, boxes_xyxy=each) for each in boxes]


def _task(spec: ConstantSpec) -> Task:
    return "detect" if spec.task == "detect" else "classify"
