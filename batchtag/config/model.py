"""The `models` section of a tagging job: which models run, and on what. Importable without torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from batchtag.config.base import Spec


class CropsOf(Spec):
    """The crops that a detector of the same job found, as the input of a model in place of whole images."""

    crops_of: str
    """The `name` of that detector."""
    min_score: float = Field(default=0.5, ge=0, le=1)
    """Least score of a box that is cropped. A detector writes dozens of uncertain boxes for each image; 0.5 leaves them
    out."""


class _AnyModel(Spec):
    name: str = Field(default="", pattern=r"^[A-Za-z0-9_.\-]*$")
    """The model's name in the tables (`name@digest`). By default the name of the builder or of the checkpoint
    folder."""
    on: Literal["image"] | CropsOf = "image"
    """The input of the model: whole images (`image`), or the crops of a detector (`crops_of: <its name>`)."""
    score_floor: float = Field(default=0.05, ge=0, le=1)
    """Least score of a tag that is written. The default is low because thresholds are applied when the tables are read,
    and can then change without a GPU."""
    max_tags: int = Field(default=0, ge=0)
    """Largest number of tags of this model for one image or crop; 0 means 100 for a detector and 5 for a classifier."""


class TorchvisionSpec(_AnyModel):
    """A torchvision builder with its published weights, categories and preprocessing."""

    kind: Literal["torchvision"] = "torchvision"
    """The kind of model."""
    builder: str
    """A name that `batchtag models` lists, such as fasterrcnn_resnet50_fpn_v2 or resnet50."""
    weights: str = "DEFAULT"
    """A member of the builder's weights enum; `DEFAULT` for its best weights, `none` for untrained ones from `seed`."""
    seed: int = 0
    """Seed of untrained weights, for tests and benchmarks: the same seed gives the same weights. Used only with
    `weights: none`."""
    task: Literal["", "detect", "classify"] = ""
    """The task that the builder must have. By default it is not checked; `--detector` and `--classifier` set it."""


class CheckpointSpec(_AnyModel):
    """A folder with model.json and weights.safetensors, as `batchtag train` writes it."""

    kind: Literal["checkpoint"] = "checkpoint"
    """The kind of model."""
    uri: str = Field(min_length=1)
    """The folder, as a path or URI."""
    storage_options: dict[str, Any] = Field(default_factory=dict)
    """fsspec options for the folder. Credentials are better given in the environment. Storage
    options are never written into OUT."""
    task: Literal["", "detect", "classify"] = ""
    """The task that the checkpoint must have. By default it is not checked; `--detector` and `--classifier` set it."""


class ConstantSpec(_AnyModel):
    """A model that gives every image the same tag and reads no pixels: for dry runs, tests and measurements."""

    kind: Literal["constant"] = "constant"
    """The kind of model."""
    task: Literal["", "detect", "classify"] = "classify"
    """The kind of tags: a box around the whole image (`detect`), or a class (`classify`)."""
    tag: str = "constant"
    """The tag that every image gets."""
    score: float = Field(default=1.0, ge=0, le=1)
    """The score of the tag."""
    seconds_per_image: float = Field(default=0.0, ge=0)
    """Seconds to wait for each image without using a core, as a stand-in for a busy GPU."""


ModelSpec = Annotated[TorchvisionSpec | CheckpointSpec | ConstantSpec, Field(discriminator="kind")]


def model_name(spec: ModelSpec) -> str:
    """The model's name in the tables: the given one, else one from what the model is."""
    if spec.name:
        return spec.name
    match spec:
        case TorchvisionSpec():
            return spec.builder
        case CheckpointSpec():
            return spec.uri.rstrip("/").rsplit("/", 1)[-1]
        case ConstantSpec():
            return "constant"
