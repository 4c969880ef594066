"""The model info of a checkpoint, and its weights file on this machine. Knows no torch.

The input resolution of a detector follows from the table of its builder and from what model.json changes, so no network
is built for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from batchtag.config.model import CheckpointSpec
from batchtag.errors import ModelError, StorageError
from batchtag.models.checkpoint.model_file import (
    MODEL_FILE,
    WEIGHTS_FILE,
    ClassifierFile,
    DetectorFile,
    ModelFile,
    read_model_file,
)
from batchtag.models.downloads import cache_folder, check_file, fetch_file
from batchtag.models.info import make_model_info, tag_labels
from batchtag.models.torchvision.zoo import get_builder
from batchtag.models.torchvision.zoo_table import SMALL_FASTER_RCNN, SMALL_SIZES
from batchtag.storage import absolute_uri, join_uri, scheme_of
from batchtag.types import InputResolution, ModelInfo


def prepare(spec: CheckpointSpec) -> ModelInfo:
    """Fetch the weights to this machine, check them against model.json, and return the model info."""
    model_file = read_model_file(spec)
    fetch_checkpoint_weights(spec, model_file)
    return make_checkpoint_info(spec, model_file)


def describe(spec: CheckpointSpec) -> ModelInfo:
    """Return the model info from model.json alone."""
    return make_checkpoint_info(spec, read_model_file(spec))


def make_checkpoint_info(spec: CheckpointSpec, model_file: ModelFile) -> ModelInfo:
    """Return the model info of the model that a file describes."""
    return make_model_info(
        spec,
        task=model_file.task,
        facts={"checkpoint": model_file.digest},
        labels=tag_labels(model_file.labels, task=model_file.task),
        input_resolution=_detector_resolution(model_file)
        if isinstance(model_file, DetectorFile)
        else _classifier_resolution(model_file),
        gflops=_published_gflops(model_file.architecture),
        thresholds=model_file.thresholds,
    )


def fetch_checkpoint_weights(spec: CheckpointSpec, model_file: ModelFile) -> Path:
    """Return the path of the checked weights on this machine.

    A local checkpoint is read in place. The weights of a remote one are kept in this node's cache by their hash.
    """
    uri = join_uri(spec.uri, WEIGHTS_FILE)
    expected = model_file.weights_sha256
    mismatch = f"{MODEL_FILE} says {expected[:16]}...; the checkpoint is damaged or mixed up. Copy or save it again"
    try:
        if scheme_of(uri) == "file":
            return check_file(Path(absolute_uri(uri)), sha256_prefix=expected, mismatch=mismatch)
        path = cache_folder() / "batchtag" / f"{expected}.safetensors"
        return fetch_file(uri, path, sha256_prefix=expected, mismatch=mismatch, storage_options=spec.storage_options)
    except StorageError as error:
        raise ModelError(f"{uri}: the weights of the checkpoint cannot be read: {error.message}") from error


def _classifier_resolution(model_file: ClassifierFile) -> InputResolution:
    return InputResolution(mode="cover", shorter_px=model_file.preprocessing.resize_size)


def _detector_resolution(model_file: DetectorFile) -> InputResolution:
    """Return the resolution that the built network has.

    The file's preprocessing decides; where it says nothing the file's arguments decide, then the builder's defaults.
    """
    if model_file.architecture == SMALL_FASTER_RCNN:
        sizes: dict[str, Any] = {"fixed_size": None} | SMALL_SIZES
    else:
        builder = get_builder(model_file.architecture)
        sizes = dict(builder.weights[builder.default].preprocessing)
    sizes |= model_file.arguments | model_file.preprocessing.model_dump(exclude_none=True)
    if sizes["fixed_size"] is not None:
        width, height = sizes["fixed_size"]
        return InputResolution(mode="stretch", shorter_px=height, longer_px=width)
    shorter: Any = sizes["min_size"]
    shorter_px = shorter[-1] if isinstance(shorter, list) else shorter
    return InputResolution(mode="fit", shorter_px=shorter_px, longer_px=sizes["max_size"])


def _published_gflops(architecture: str) -> float:
    """Return the work for one image with the builder's best published weights; 0 if it is not known."""
    if architecture == SMALL_FASTER_RCNN:
        return 0.0
    builder = get_builder(architecture)
    return builder.weights[builder.default].gflops
