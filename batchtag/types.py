"""What flows through the line: plain records, each with one meaning, checked at birth.

Nothing here imports anything of ours but the errors. Pixels are upright RGB uint8 (H, W, 3). Boxes are (x_min, y_min,
x_max, y_max) in pixels; a record says of which frame. There is no `None` between stages where an empty value says the
same: an unknown etag is "", an unknown size is -1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from batchtag.errors import Code
from batchtag.storage import ObjectInfo


class Stage(StrEnum):
    """Where on the line an image failed."""

    LIST = "list"
    FETCH = "fetch"
    DECODE = "decode"
    PREDICT = "predict"
    WRITE = "write"


class Status(StrEnum):
    """What became of one image. Every position of the index has exactly one."""

    TAGGED = "tagged"
    FAILED = "failed"
    DUPLICATE = "duplicate"


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why an image has no tags. `attempts` counts the tries of the stage that gave up."""

    stage: Stage
    code: Code
    message: str
    attempts: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRef(ObjectInfo):
    """An image not yet opened: a listed image at its `position` in the frozen index."""

    position: int


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodedImage:
    """Upright RGB pixels.

    `pixels` is (h, w, 3) uint8, C-contiguous, and may be smaller than the image (decoded at a DCT scale);
    `width` and `height` are the image's own, as displayed; `orientation` is the EXIF value that was applied, 1 to 8.
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
    """How many pixels of an image a model looks at, so that decoding need not give more.

    `fit`: scaled so that the shorter side is `shorter_px`, unless the longer would pass `longer_px` (torchvision's
    detectors). `cover`: scaled so that the shorter side is `shorter_px` (classifiers, before the crop). `stretch`:
    to `longer_px` wide and `shorter_px` high whatever the shape (SSD). `full`: every pixel (crops).
    """

    mode: Literal["fit", "cover", "stretch", "full"]
    shorter_px: int = 0
    longer_px: int = 0

    def scale(self, width: int, height: int) -> float:
        """The factor by which this model shrinks (below 1) or enlarges an image of that size; `full` gives 1."""
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
    """What the tables and the ledger need to know of a model, without the model.

    `digest` is 12 hex digits over everything that decides its answers; `labels[i]` is the tag of label id i, and ""
    is a label that never becomes a tag. `gflops` is the work for one image, for choosing bundle sizes; 0 if unknown.
    `crops_of` is the `name` of the detector whose boxes it looks at, "" for whole images. `thresholds` has the score
    from which a reader should believe a tag, where an evaluation found one; they decide no row.
    """

    name: str
    kind: Literal["object", "class"]
    digest: str
    labels: tuple[str, ...]
    input_resolution: InputResolution
    gflops: float = 0.0
    crops_of: str = ""
    crops_min_score: float = 0.0
    thresholds: tuple[tuple[str, float], ...] = ()

    @property
    def id(self) -> str:
        """How the tables call it: name@digest."""
        return f"{self.name}@{self.digest}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """What a model says of one array of pixels: N findings, best first.

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
    """One model's prediction for one image, on its way to the tables.

    `scale_xy` turns its boxes into pixels of the displayed image. `parent` is "<model id>#<rank>" of the box whose
    crop was looked at, "" for the whole image.
    """

    info: ModelInfo
    prediction: Prediction
    scale_xy: tuple[float, float] = (1.0, 1.0)
    parent: str = ""


@dataclass(kw_only=True, slots=True)
class ImageResult:
    """All that is known of one image at the end of the line: one row of `images`, and its tags or its failure.

    Filled stage by stage; `failure` is None exactly when the image was tagged. `etag`, `size_bytes` and
    `last_modified` are of the bytes that were really read, and else as listed.
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
    findings: list[ImagePrediction] = field(default_factory=list)

    @classmethod
    def of(cls, ref: ImageRef) -> ImageResult:
        """The outcome of an image about which only the listing is known."""
        return cls(ref=ref, etag=ref.etag, size_bytes=ref.size_bytes, last_modified=ref.last_modified)

    @property
    def status(self) -> Status:
        return Status.TAGGED if self.failure is None else Status.FAILED
