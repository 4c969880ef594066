"""Records that pass from one package to another: an image before, during and after tagging, and its predictions.

Plain data that checks itself when it is made. Pixels are upright RGB uint8 (H, W, 3). Boxes are (x_min, y_min, x_max,
y_max) in pixels; each record says of which frame. Empty values stand for unknown ones, so that no stage has to handle
`None`: an unknown etag is "", an unknown size is -1. What belongs to one package alone is defined there
(`output.types`, `storage.base`, `datasets.base`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from batchtag.errors import Code
from batchtag.storage.base import ObjectInfo


class Stage(StrEnum):
    """The stage of the pipeline in which an image failed."""

    LIST = "list"
    FETCH = "fetch"
    DECODE = "decode"
    PREDICT = "predict"
    WRITE = "write"


class Status(StrEnum):
    """The outcome of one image. Every position of the index has exactly one."""

    TAGGED = "tagged"
    FAILED = "failed"
    DUPLICATE = "duplicate"


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """The reason why an image has no tags. `attempts` counts the tries of the stage that failed."""

    stage: Stage
    code: Code
    message: str
    attempts: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRef(ObjectInfo):
    """An image that has not been fetched yet.

    `uri` is its identity, exactly as the store has it. `position` is its place in the frozen index; -1 until the index
    has numbered it. A member of a tar shard has `shard`, the URI to read from, and `offset_bytes`, where its content
    begins in it. `problem` is not empty when the listing already shows that the object cannot be tagged; it is then
    "<code>: <message>".
    """

    shard: str = ""
    offset_bytes: int = -1
    problem: str = ""
    position: int = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodedImage:
    """Upright RGB pixels of one image.

    `pixels` is (H, W, 3) uint8, C-contiguous, and may be smaller than the image (a JPEG decoded at a DCT scale).
    `width` and `height` are the image's own, as displayed. `orientation` is the EXIF value that was applied, 1 to 8.
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int
    format: str
    orientation: int

    def __post_init__(self) -> None:
        if self.pixels.dtype != np.uint8 or self.pixels.ndim != 3 or self.pixels.shape[2] != 3:
            raise ValueError(f"pixels must be (H, W, 3) uint8, got {self.pixels.shape} {self.pixels.dtype}")


@dataclass(frozen=True, kw_only=True, slots=True)
class InputResolution:
    """The number of pixels that a model uses, so that the decoder need not deliver more.

    `fit`: the shorter side is scaled to `shorter_px`, unless the longer side would exceed `longer_px` (torchvision's
    detectors). `cover`: the shorter side is scaled to `shorter_px` (classifiers, before the crop). `stretch`: the image
    is scaled to `longer_px` wide and `shorter_px` high, whatever its shape (SSD). `full`: every pixel (crops).
    """

    mode: Literal["fit", "cover", "stretch", "full"]
    shorter_px: int = 0
    longer_px: int = 0

    def scale(self, width: int, height: int) -> float:
        """Return the factor by which the model scales an image of `width` x `height` pixels; 1.0 for `full`."""
        shorter, longer = min(width, height), max(width, height)
        match self.mode:
            case "fit":
                return min(self.shorter_px / shorter, self.longer_px / longer)
            case "cover":
                return self.shorter_px / shorter
            case "stretch":
                return max(self.longer_px / width, self.shorter_px / height)
            case "full":
                return 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelInfo:
    """The facts of a model that the driver and the tables need without loading it.

    `kind` is the kind of tag that it gives (`tasks` lists them). `digest` is 12 hex digits over everything that
    decides its predictions. `labels[i]` is the tag of label id i; "" is a label that never becomes a tag. `gflops` is
    the work for one image, for choosing bundle sizes; 0 if unknown. `crops_of` is the `name` of the detector whose
    boxes the model classifies, "" for whole images. `thresholds` has, by tag, the score from which a reader should
    trust it, where an evaluation found one; thresholds decide no row.
    """

    name: str
    kind: str
    digest: str
    labels: tuple[str, ...]
    input_resolution: InputResolution
    gflops: float = 0.0
    crops_of: str = ""
    crops_min_score: float = 0.0
    thresholds: tuple[tuple[str, float], ...] = ()

    @property
    def id(self) -> str:
        """The model's name in the tables: name@digest."""
        return f"{self.name}@{self.digest}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """The N tags that a model gives to one array of pixels, best first.

    `scores` (N,) float32 in [0, 1], descending; `label_ids` (N,) int32; `boxes_xyxy` (N, 4) float32 in pixels of the
    array given, inside it, for a detector, and (0, 4) for a classifier.
    """

    scores: NDArray[np.float32]
    label_ids: NDArray[np.int32]
    boxes_xyxy: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 4), np.float32))

    def __post_init__(self) -> None:
        n = len(self.scores)
        if self.label_ids.shape != (n,):
            raise ValueError(f"label_ids must have shape ({n},), got {self.label_ids.shape}")
        if self.boxes_xyxy.shape not in ((n, 4), (0, 4)):
            raise ValueError(f"boxes_xyxy must have shape ({n}, 4) or (0, 4), got {self.boxes_xyxy.shape}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImagePrediction:
    """The prediction of one model for one image.

    `scale_xy` converts its boxes into pixels of the displayed image. `parent` is "<model id>#<rank>" of the box whose
    crop was classified, "" for the whole image.
    """

    model_info: ModelInfo
    prediction: Prediction
    scale_xy: tuple[float, float] = (1.0, 1.0)
    parent: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageResult:
    """Everything known of one image after tagging: one row of `images`, and its tags or its failure.

    `failure` is None exactly when the image was tagged. `etag`, `size_bytes` and `last_modified` describe the bytes
    that were read; if none were read, they are as listed. `width`, `height` (as displayed), `format` and `orientation`
    are empty if the image was not decoded.
    """

    ref: ImageRef
    etag: str
    size_bytes: int
    last_modified: datetime | None
    content_hash: str = ""
    width: int = 0
    height: int = 0
    format: str = ""
    orientation: int = 0
    failure: Failure | None = None
    predictions: tuple[ImagePrediction, ...] = ()

    @property
    def status(self) -> Status:
        """TAGGED or FAILED."""
        return Status.TAGGED if self.failure is None else Status.FAILED

    @property
    def num_tags(self) -> int:
        """Number of rows of `tags`. A failed image has none, also if one of several models predicted something."""
        if self.failure is not None:
            return 0
        return sum(len(one.prediction.scores) for one in self.predictions)
