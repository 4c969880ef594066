"""The preprocessing of a network that is to be trained: what the job file asks for, over the network's own defaults.

The result is written into the checkpoint, so that a run prepares images exactly as the training did.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torchvision.models import get_model_weights

from batchtag.config.training import TrainSpec
from batchtag.errors import ModelError, UsageError
from batchtag.models.preprocessing import Preprocessing
from batchtag.models.torchvision import architectures
from batchtag.tasks import TASKS, Task

_SIZES = {"detect": ("min_size", "max_size"), "classify": ("resize_size", "crop_size")}
"""Size settings of the section `input` of a job file, by task."""
_DETECTOR_FIELDS = ("min_size", "max_size", "image_mean", "image_std")


def requested_preprocessing(spec: TrainSpec, *, task: Task) -> dict[str, Any]:
    """Return the job file's section `input` under the names that a checkpoint uses; None for what it leaves open.

    Raises UsageError for settings of the other task.
    """
    section = spec.input
    other: Task = "classify" if task == "detect" else "detect"
    wrong = [f"input.{name}" for name in _SIZES[other] if getattr(section, name) is not None]
    if wrong:
        known = " and ".join(f"input.{name}" for name in _SIZES[task])
        raise UsageError(
            f"{' and '.join(wrong)} can only be set for a {TASKS[other].noun}, but {spec.network.architecture} is a "
            f"{TASKS[task].noun}; set {known} instead"
        )
    sizes = {name: getattr(section, name) for name in _SIZES[task]}
    if task == "detect":
        mean, std = (values and list(values) for values in (section.mean, section.std))
        return sizes | {"image_mean": mean, "image_std": std}
    return sizes | {"mean": section.mean, "std": section.std}


def resolve_preprocessing(
    architecture: str, *, arguments: Mapping[str, Any], requested: Mapping[str, Any], task: Task
) -> dict[str, Any]:
    """Fill in the architecture's own preprocessing where nothing is requested; the fields of DetectorInput or
    ClassifierInput.

    Raises UsageError for sizes that contradict each other or the architecture, and ModelError if the network cannot be
    built with `arguments`.
    """
    settings = {name: value for name, value in requested.items() if value is not None}
    if task == "detect":
        return _resolve_for_detector(architecture, arguments, settings)
    return _resolve_for_classifier(architecture, settings)


def _resolve_for_detector(
    architecture: str, arguments: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    all_arguments = architectures.untrained_arguments(architecture, task="detect") | dict(arguments)
    try:
        _, facts = architectures.detector_resolution(architecture, all_arguments | {"num_classes": 2})
    except (TypeError, ValueError, AssertionError) as error:
        raise ModelError(f"{architecture} cannot be built with {dict(arguments)}: {error}") from error
    fixed_size = facts["fixed_size"]
    facts |= settings
    if fixed_size is not None:
        set_sizes = [f"input.{name}" for name in _SIZES["detect"] if name in settings]
        if set_sizes:
            raise UsageError(
                f"{architecture} always resizes images to {fixed_size} pixels; remove {' and '.join(set_sizes)}"
            )
        return {name: facts[name] for name in ("image_mean", "image_std")}
    if facts["min_size"] > facts["max_size"]:
        raise UsageError(
            f"input.min_size is {facts['min_size']} and input.max_size is {facts['max_size']}; the shorter side cannot "
            "be longer than the longer one. Lower min_size or raise max_size"
        )
    return {name: facts[name] for name in _DETECTOR_FIELDS}


def _resolve_for_classifier(architecture: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    facts: dict[str, Any] = Preprocessing.from_preset(get_model_weights(architecture).DEFAULT.transforms()).as_dict()
    facts |= settings
    if "crop_size" in settings and "resize_size" not in settings:
        facts["resize_size"] = round(settings["crop_size"] * 8 / 7)  # as 256 to 224, the ratio of most presets
    if facts["crop_size"] > facts["resize_size"]:
        raise UsageError(
            f"input.crop_size is {facts['crop_size']} and input.resize_size is {facts['resize_size']}; the crop is cut "
            "out of the resized image, so it cannot be larger. Lower crop_size or raise resize_size"
        )
    return facts
