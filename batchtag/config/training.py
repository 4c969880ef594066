"""What a training job may say. Importable without torch.

The defaults are those of torchvision's reference scripts where a person with a few hundred images would keep them,
and gentler where they were made for a million: AdamW from a low rate, a short warm-up, a cosine down to nothing.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, JsonValue, model_validator

from batchtag.config.base import Spec
from batchtag.config.dataset import DataSpec
from batchtag.storage import absolute_uri, scheme_of

STATES = "_training"
"""The folder of an output that lives as long as its training is unfinished: Ray Train's states, and the lease."""

_AUTO = Literal["auto"]
_Share = Annotated[float, Field(ge=0, le=1)]
_Rgb = tuple[float, float, float]


class NetworkSpec(Spec):
    """Which network is trained, and from where it starts."""

    architecture: str = Field(min_length=1)
    """A torchvision detection or classification builder (`batchtag models`), or fasterrcnn_small_fpn, our small one."""
    arguments: dict[str, JsonValue] = Field(default_factory=dict)
    """The builder's own arguments, other than classes, weights and preprocessing."""
    start: str = "DEFAULT"
    """DEFAULT or another of the builder's published weights; `none` for random ones from train.seed; the folder of a
    checkpoint; or `torchvision:resnet50@DEFAULT`, another builder, of which all that fits is taken (a backbone)."""
    storage_options: dict[str, Any] = Field(default_factory=dict)
    """For a start that is a checkpoint in a store."""
    frozen_stages: int = Field(default=0, ge=0)
    """So many stages of the backbone, from the input on, keep their weights. -1 is not needed: say a large number."""
    batch_norm: Literal["auto", "train", "frozen"] = "auto"
    """Frozen ones keep their statistics and scales; `auto` freezes them in a detector that starts from weights, because
    the few images of a detector's batch give poor statistics (as torchvision's own fine-tuning does)."""


class InputSpec(Spec):
    """Preprocessing, which travels with the checkpoint; what is absent is the architecture's own."""

    min_size: int | None = Field(default=None, ge=32)
    """Detectors: the shorter side is resized to this, unless the longer would pass `max_size`."""
    max_size: int | None = Field(default=None, ge=32)
    resize_size: int | None = Field(default=None, ge=8)
    """Classifiers: the shorter side is resized to this, and the centre square of `crop_size` is looked at."""
    crop_size: int | None = Field(default=None, ge=8)
    mean: _Rgb | None = None
    std: _Rgb | None = None


class AugmentSpec(Spec):
    """Chances and strengths; 0 turns a thing off. Boxes follow."""

    flip: _Share = 0.5
    """Chance of a mirror image. Turn it off where left and right matter (printed words)."""
    vertical_flip: _Share = 0.0
    """For images without an up: microscopes, aerial views."""
    colour: _Share = 0.2
    """Brightness, contrast and saturation change by up to this share; hue by a tenth of it."""
    blur: _Share = 0.0
    """Chance of a slight Gaussian blur."""
    rotate_degrees: float = Field(default=0.0, ge=0, le=180)
    """Classifiers: turned by up to this much either way."""
    scale: tuple[float, float] = (0.8, 1.2)
    """Detectors: the size an image is resized to varies by these factors."""
    crop: _Share = 0.0
    """Detectors: chance of looking at a part only (v2.RandomIoUCrop, Liu et al. 2016)."""
    zoom_out: _Share = 0.0
    """Detectors: chance of standing in a larger empty image, for small things."""
    least_area: float = Field(default=0.35, gt=0, le=1)
    """Classifiers: the smallest share of the image's area that is cut out and resized (v2.RandomResizedCrop)."""
    erase: _Share = 0.0
    """Classifiers: chance that a rectangle is blanked out (Zhong et al. 2017)."""

    @model_validator(mode="after")
    def _check_scale(self) -> Self:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale is {list(self.scale)}; it must be [smallest, largest], both above 0")
        return self


class ScheduleSpec(Spec):
    """How the weights are found."""

    epochs: int = Field(default=30, ge=1)
    batch_size: int = Field(default=8, ge=1)
    """Images a step and worker."""
    optimizer: Literal["sgd", "adamw"] = "adamw"
    learning_rate: float = Field(default=0.0005, gt=0)
    weight_decay: float = Field(default=0.0001, ge=0)
    """Not applied to biases and norms."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """SGD's, with Nesterov's look ahead."""
    warmup_epochs: float = Field(default=1.0, ge=0)
    decay: Literal["cosine", "none"] = "cosine"
    clip_norm: float = Field(default=10.0, ge=0)
    """The gradient is scaled down to this length; 0 leaves it alone."""
    ema: float = Field(default=0.0, ge=0, lt=1)
    """The weights that are kept are an average over the steps, this much of it old: 0.99 to 0.999; 0 is none."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    class_balance: Literal["none", "repeat"] = "none"
    """`repeat` shows images of rare classes more often: repeat factors of LVIS (Gupta et al. 2019), with the share of
    the commonest class's images as the threshold."""
    metric: Literal["auto", "AP", "AP50", "accuracy", "macro_f1"] = "auto"
    """Which epoch is the best. By default AP of a detector and accuracy of a classifier."""
    patience: int = Field(default=0, ge=0)
    """Stop after so many epochs without a better one; 0 goes on to the end."""
    evaluate_every: int = Field(default=1, ge=1)
    """Epochs from one evaluation to the next; the last one is always evaluated."""
    seed: int = 0
    amp: bool = True
    """Mixed precision, where there is a GPU."""


class TrainOutputSpec(Spec):
    """Where the checkpoint goes."""

    uri: str = Field(min_length=1)
    storage_options: dict[str, Any] = Field(default_factory=dict)
    weights: Literal["float32", "float16"] = "float32"
    """How the checkpoint stores them; half the size, and the figures are measured on the stored ones."""


class TrainComputeSpec(Spec):
    """How to run it; changes no weights but by rounding, unless `workers` does (each adds a batch a step)."""

    address: str = ""
    """A Ray cluster to join; by default a private Ray on this machine, or RAY_ADDRESS."""
    workers: int = Field(default=1, ge=1)
    """Processes that train together, one a GPU."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    loaders: Annotated[int, Field(ge=0)] | _AUTO = "auto"
    """Processes a worker that open and change images ahead of it; 0 does it in between."""
    max_failures: int = Field(default=3, ge=0)
    """So often training goes on from the last epoch when a worker or its node dies."""


class TrainSpec(Spec):
    """One training job."""

    version: Literal[1]
    data: DataSpec
    network: NetworkSpec
    input: InputSpec = Field(default_factory=InputSpec)
    augment: AugmentSpec = Field(default_factory=AugmentSpec)
    train: ScheduleSpec = Field(default_factory=ScheduleSpec)
    output: TrainOutputSpec
    compute: TrainComputeSpec = Field(default_factory=TrainComputeSpec)


_PLACES = ("uri", "images", "annotations", "labels")


def with_absolute_uris(spec: TrainSpec) -> TrainSpec:
    """The same job with every local path made absolute, because workers stand elsewhere."""
    data = spec.data.model_copy(update={"train": _absolute(spec.data.train), "val": _absolute(spec.data.val)})
    output = spec.output.model_copy(update={"uri": absolute_uri(spec.output.uri).rstrip("/")})
    network = spec.network
    if not network.start.startswith("torchvision:") and ("/" in network.start or scheme_of(network.start) != "file"):
        network = network.model_copy(update={"start": absolute_uri(network.start)})
    return spec.model_copy(update={"data": data, "output": output, "network": network})


def _absolute(data: Any) -> Any:
    said = {name: getattr(data, name, "") for name in _PLACES}
    names = getattr(data, "names", "")
    if isinstance(names, str):
        said["names"] = names
    return data.model_copy(update={name: absolute_uri(uri) for name, uri in said.items() if uri})
