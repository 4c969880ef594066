"""What a job may say of its models. Importable without torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from batchtag.config.base import Spec


class CropsOf(Spec):
    """Look at the crops that a detector of the same job found, not at whole images."""

    crops_of: str
    """The `name` of that detector."""
    min_score: float = Field(default=0.5, ge=0, le=1)
    """Boxes below this score are not cropped: a detector keeps dozens of doubtful boxes an image."""


class _AnyModel(Spec):
    name: str = Field(default="", pattern=r"^[A-Za-z0-9_.\-]*$")
    """How the tables call it (`name@digest`). By default the builder's or the checkpoint folder's name."""
    on: Literal["image"] | CropsOf = "image"
    score_floor: float = Field(default=0.05, ge=0, le=1)
    """Tags below it are not written. Keep it low: thresholds are applied when reading, and cost no GPU then."""
    max_tags: int = Field(default=0, ge=0)
    """Most tags of this model for one image (or crop); 0 means 100 for a detector and 5 for a classifier."""


class TorchvisionSpec(_AnyModel):
    """A torchvision builder, its published weights, categories and preprocessing."""

    kind: Literal["torchvision"] = "torchvision"
    builder: str
    """A name that `batchtag models` lists, such as fasterrcnn_resnet50_fpn_v2 or resnet50."""
    weights: str = "DEFAULT"
    """A member of the builder's weight enum, "DEFAULT" for its best, "none" for untrained weights from `seed`."""
    seed: int = 0
    """Used with `weights: none` only, for tests and benchmarks: the same seed gives the same weights."""
    task: Literal["", "detect", "classify"] = ""
    """Checked against the builder if given; `--detector` and `--classifier` give it."""


class CheckpointSpec(_AnyModel):
    """A folder with model.json and weights.safetensors, as `save_checkpoint` writes it."""

    kind: Literal["checkpoint"] = "checkpoint"
    uri: str = Field(min_length=1)
    storage_options: dict[str, Any] = Field(default_factory=dict)
    task: Literal["", "detect", "classify"] = ""


class ConstantSpec(_AnyModel):
    """Says the same of every image, without looking: for dry runs, tests and measuring the line itself."""

    kind: Literal["constant"] = "constant"
    task: Literal["", "detect", "classify"] = "classify"
    tag: str = "constant"
    score: float = Field(default=1.0, ge=0, le=1)
    seconds_per_image: float = Field(default=0.0, ge=0)
    """Pretends to compute for that long, without using a core: a stand-in for a busy device."""


ModelSpec = Annotated[TorchvisionSpec | CheckpointSpec | ConstantSpec, Field(discriminator="kind")]


def model_name(spec: ModelSpec) -> str:
    """How the tables call a model: the name it was given, or one that says what it is."""
    if spec.name:
        return spec.name
    match spec:
        case TorchvisionSpec():
            return spec.builder
        case CheckpointSpec():
            return spec.uri.rstrip("/").rsplit("/", 1)[-1]
        case ConstantSpec():
            return "constant"
