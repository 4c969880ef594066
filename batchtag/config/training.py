"""A training job, typed: which data, which network, how it is trained, and where the checkpoint goes.

Importable without torch. The defaults are those of torchvision's reference scripts where they suit a few hundred
images, and gentler where those scripts assume a million: AdamW from a low rate, a short warm-up, a cosine decay to
zero.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, JsonValue, model_validator

from batchtag.config.base import Spec
from batchtag.config.dataset import DataSpec
from batchtag.storage import absolute_uri, scheme_of

STATES = "_training"
"""Name of the folder in an output that exists while its training is unfinished: Ray Train's states, and the lease."""

_AUTO = Literal["auto"]
_Share = Annotated[float, Field(ge=0, le=1)]
_Rgb = tuple[float, float, float]


class NetworkSpec(Spec):
    """The network to train, and the weights it starts from."""

    architecture: str = Field(min_length=1)
    """A torchvision detection or classification builder (see `batchtag models`), or fasterrcnn_small_fpn, our own small
    one."""
    arguments: dict[str, JsonValue] = Field(default_factory=dict)
    """Arguments of the builder, except those for classes, weights and preprocessing."""
    start: str = "DEFAULT"
    """The weights to start from. `DEFAULT` or another name of the builder's published weights; `none` for random
    weights from `train.seed`; the folder of a checkpoint; or another builder, such as `torchvision:resnet50@DEFAULT`,
    from which all weights that fit are taken (a backbone)."""
    storage_options: dict[str, Any] = Field(default_factory=dict)
    """fsspec options for a `start` that is a checkpoint in a store."""
    frozen_stages: int = Field(default=0, ge=0)
    """Number of stages of the backbone, counted from the input, whose weights stay as they are. A number larger than
    the number of stages freezes all of them."""
    batch_norm: Literal["auto", "train", "frozen"] = "auto"
    """Whether batch normalisation is trained. `frozen` keeps its statistics and scales. `auto` freezes it in a detector
    that starts from weights, because the few images of a detector's batch give poor statistics (as torchvision's own
    fine-tuning does)."""


class InputSpec(Spec):
    """Preprocessing, which is stored with the checkpoint. A key that is absent takes the architecture's own value."""

    min_size: int | None = Field(default=None, ge=32)
    """Detectors: pixels of the shorter side after resizing, unless the longer side would then exceed `max_size`."""
    max_size: int | None = Field(default=None, ge=32)
    """Detectors: largest number of pixels of the longer side after resizing."""
    resize_size: int | None = Field(default=None, ge=8)
    """Classifiers: pixels of the shorter side after resizing. The network then gets the centre square of
    `crop_size`."""
    crop_size: int | None = Field(default=None, ge=8)
    """Classifiers: pixels of the side of the square that the network gets."""
    mean: _Rgb | None = None
    """The mean that is subtracted from the red, green and blue values, which range from 0 to 1."""
    std: _Rgb | None = None
    """The standard deviation by which red, green and blue values are divided."""


class AugmentSpec(Spec):
    """Probabilities and strengths of the random changes of training images; 0 turns a change off. Boxes follow."""

    flip: _Share = 0.5
    """Probability of a mirror image. Turn it off where left and right matter (printed words)."""
    vertical_flip: _Share = 0.0
    """Probability of an image upside down, for images without an up: microscopes, aerial views."""
    colour: _Share = 0.2
    """Brightness, contrast and saturation change by up to this share; hue by a tenth of it."""
    blur: _Share = 0.0
    """Probability of a slight Gaussian blur."""
    rotate_degrees: float = Field(default=0.0, ge=0, le=180)
    """Classifiers: largest rotation to either side, in degrees."""
    scale: tuple[float, float] = (0.8, 1.2)
    """Detectors: the smallest and largest factor by which the size after resizing varies."""
    crop: _Share = 0.0
    """Detectors: probability that only a part of the image is shown (v2.RandomIoUCrop, Liu et al. 2016)."""
    zoom_out: _Share = 0.0
    """Detectors: probability that the image is placed in a larger empty one, for small objects."""
    least_area: float = Field(default=0.35, gt=0, le=1)
    """Classifiers: the smallest share of the image's area that is cut out and resized (v2.RandomResizedCrop)."""
    erase: _Share = 0.0
    """Classifiers: probability that a rectangle is blanked out (Zhong et al. 2017)."""

    @model_validator(mode="after")
    def _check_scale(self) -> Self:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale is {list(self.scale)}; it must be [smallest, largest], both above 0")
        return self


class ScheduleSpec(Spec):
    """How the network is trained."""

    epochs: int = Field(default=30, ge=1)
    """Number of passes over the images of `train`."""
    batch_size: int = Field(default=8, ge=1)
    """Number of images per step and worker."""
    optimizer: Literal["sgd", "adamw"] = "adamw"
    """The optimizer."""
    learning_rate: float = Field(default=0.0005, gt=0)
    """The learning rate after the warm-up."""
    weight_decay: float = Field(default=0.0001, ge=0)
    """The weight decay. It is not applied to biases and norms."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """The momentum of SGD, which is Nesterov's."""
    warmup_epochs: float = Field(default=1.0, ge=0)
    """Number of epochs during which the learning rate rises."""
    decay: Literal["cosine", "none"] = "cosine"
    """How the learning rate falls after the warm-up."""
    clip_norm: float = Field(default=10.0, ge=0)
    """Largest norm of the gradient; longer gradients are scaled down to it. 0 scales nothing."""
    ema: float = Field(default=0.0, ge=0, lt=1)
    """Weight of the old average in the exponential moving average of the weights, which is then what is evaluated and
    stored: 0.99 to 0.999. 0 stores the weights themselves."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Classifiers: label smoothing of the loss."""
    class_balance: Literal["none", "repeat"] = "none"
    """`repeat` shows images of rare classes more often, by the repeat factors of LVIS (Gupta et al. 2019). The
    threshold is the share of images that show the commonest class."""
    metric: Literal["auto", "AP", "AP50", "accuracy", "macro_f1"] = "auto"
    """The metric by which the best epoch is chosen. By default AP of a detector and accuracy of a classifier."""
    patience: int = Field(default=0, ge=0)
    """Number of epochs without a better one after which training stops; 0 trains all epochs."""
    evaluate_every: int = Field(default=1, ge=1)
    """Number of epochs from one evaluation to the next. The last epoch is always evaluated."""
    seed: int = 0
    """Seed of random weights, of the order of images and of augmentation."""
    amp: bool = True
    """Whether to train in mixed precision on a GPU."""


class TrainOutputSpec(Spec):
    """Where the checkpoint goes."""

    uri: str = Field(min_length=1)
    """The folder of the checkpoint, as a path or URI."""
    storage_options: dict[str, Any] = Field(default_factory=dict)
    """fsspec options for the folder. Credentials are better given in the environment."""
    weights: Literal["float32", "float16"] = "float32"
    """The number format of the stored weights. float16 halves the size; the scores are measured on the stored
    weights."""


class TrainComputeSpec(Spec):
    """How the training is run. It changes the weights only by rounding, except `workers`: each adds a batch to a
    step."""

    address: str = ""
    """The Ray cluster to join. By default RAY_ADDRESS, else a private Ray on this machine."""
    workers: int = Field(default=1, ge=1)
    """Number of processes that train together, one per GPU."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the network runs. `auto` takes GPUs if there are any."""
    loaders: Annotated[int, Field(ge=0)] | _AUTO = "auto"
    """Number of processes per worker that decode and augment images ahead of it; 0 does both in the worker."""
    max_failures: int = Field(default=3, ge=0)
    """How often training resumes from the last epoch after a worker or its node has died."""


class TrainSpec(Spec):
    """One training job."""

    version: Literal[1]
    """The version of the format of job files."""
    data: DataSpec
    """The images to train on, and the images to measure on."""
    network: NetworkSpec
    """The network to train, and the weights it starts from."""
    input: InputSpec = Field(default_factory=InputSpec)
    """Preprocessing; by default the architecture's own."""
    augment: AugmentSpec = Field(default_factory=AugmentSpec)
    """Random changes of training images."""
    train: ScheduleSpec = Field(default_factory=ScheduleSpec)
    """How the network is trained."""
    output: TrainOutputSpec
    """Where the checkpoint goes."""
    compute: TrainComputeSpec = Field(default_factory=TrainComputeSpec)
    """How the training is run."""


_URI_KEYS = ("uri", "images", "annotations", "labels")
"""Keys of a data set that hold a path or URI."""


def with_absolute_uris(spec: TrainSpec) -> TrainSpec:
    """Return the job with every local path made absolute, because workers have other working folders."""
    data = spec.data.model_copy(
        update={"train": _with_absolute_uris(spec.data.train), "val": _with_absolute_uris(spec.data.val)}
    )
    output = spec.output.model_copy(update={"uri": absolute_uri(spec.output.uri).rstrip("/")})
    network = spec.network
    if not network.start.startswith("torchvision:") and ("/" in network.start or scheme_of(network.start) != "file"):
        network = network.model_copy(update={"start": absolute_uri(network.start)})
    return spec.model_copy(update={"data": data, "output": output, "network": network})


def _with_absolute_uris(data: Any) -> Any:
    uris = {key: getattr(data, key, "") for key in _URI_KEYS}
    names = getattr(data, "names", "")
    if isinstance(names, str):  # a list holds the classes themselves
        uris["names"] = names
    return data.model_copy(update={key: absolute_uri(uri) for key, uri in uris.items() if uri})
