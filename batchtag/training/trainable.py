"""A network that is to be trained, and the way from it to a model of the line and to a checkpoint.

What training measures must be what the line runs, so evaluation during training wraps the very network in the same
Detector or Classifier. Weights to start from are taken tensor by tensor, wherever name and shape agree: that carries
everything but the heads from COCO's 91 classes to anybody's, a backbone from an ImageNet classifier, and all of it from
a checkpoint; what could not be taken is told.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import get_model_weights
from torchvision.ops import FrozenBatchNorm2d

from batchtag.config.model import CheckpointSpec, TorchvisionSpec
from batchtag.errors import ModelError, UsageError
from batchtag.models.acceleration.runtime import Runtime
from batchtag.models.checkpoint import model
from batchtag.models.checkpoint.model import save_checkpoint
from batchtag.models.classifier import Classifier
from batchtag.models.detector import Detector, only_boxes
from batchtag.models.info import make_info, tag_labels
from batchtag.models.preprocessing import Preprocessing
from batchtag.models.torchvision import architectures, pretrained
from batchtag.models.torchvision.zoo import task_of
from batchtag.models.torchvision.zoo_table import SMALL_FASTER_RCNN
from batchtag.tasks import Task
from batchtag.types import InputResolution, ModelInfo

BACKGROUND = "__background__"
_DETECTOR_INPUT = ("min_size", "max_size", "image_mean", "image_std")
_MAX_TAGS_DETECTOR = 100
_AUXILIARY = {"aux_logits": 0.4, "aux_logits1": 0.3, "aux_logits2": 0.3}
"""What the answers of Inception v3's and GoogLeNet's side branches weigh, as in torchvision's reference scripts."""


@dataclass(kw_only=True)
class Trainable:
    """A network on the CPU in float32, and what must be known to save it. `labels` are the dataset's own."""

    network: nn.Module
    task: Task
    architecture: str
    arguments: dict[str, Any]
    labels: tuple[str, ...]
    preprocessing: dict[str, Any]
    """The fields of DetectorInput or ClassifierInput."""
    batch_norm_eps: float | None = None
    taken: tuple[str, ...] = ()
    """The names of the tensors that came from the weights it started from."""
    left: tuple[str, ...] = ()
    """The names of those that nothing fitted: they are random."""
    _all_tensors: dict[str, Tensor] = field(default_factory=dict, repr=False)
    """With the heads that are not trained (masks, keypoints), because the builder builds them."""

    @property
    def model_labels(self) -> tuple[str, ...]:
        """As the checkpoint has them: a detector's label 0 is its background."""
        return (BACKGROUND, *self.labels) if self.task == "detect" else self.labels

    @property
    def input_resolution(self) -> InputResolution:
        """How many pixels the network looks at."""
        if self.task == "classify":
            return Preprocessing(**self.preprocessing).input_resolution
        transform: Any = self.network.transform
        if transform.fixed_size is not None:
            width, height = transform.fixed_size
            return InputResolution(mode="stretch", shorter_px=height, longer_px=width)
        return InputResolution(
            mode="fit", shorter_px=int(self.preprocessing["min_size"]), longer_px=int(self.preprocessing["max_size"])
        )

    def normalised(self, batch: Tensor) -> Tensor:
        """A classifier's images (N, 3, S, S) uint8 as its network takes them, float32."""
        return Preprocessing(**self.preprocessing).normalised(batch)

    def losses(
        self,
        network: nn.Module,
        pixels: Sequence[Tensor],
        targets: Sequence[Mapping[str, Tensor]],
        *,
        label_smoothing: float = 0.0,
    ) -> dict[str, Tensor]:
        """What a batch of training costs by kind, each a number to be added up. `network` is this one or wraps it.

        `pixels` are (3, H, W) uint8. A detector's targets hold `boxes` (N, 4) float32 xyxy in them and `labels` (N,)
        with background 0; a classifier's images share one size, and its targets hold `label` (). All on one device.
        """
        if self.task == "detect":
            found: dict[str, Tensor] = network([one.float().div(255) for one in pixels], list(targets))
            return found
        labels = torch.stack([target["label"] for target in targets])
        answer = network(self.normalised(torch.stack(list(pixels))))
        loss = nn.functional.cross_entropy(getattr(answer, "logits", answer), labels, label_smoothing=label_smoothing)
        for name, weight in _AUXILIARY.items():
            extra = getattr(answer, name, None)
            if extra is not None:
                loss = loss + weight * nn.functional.cross_entropy(extra, labels, label_smoothing=label_smoothing)
        return {"loss": loss}

    def as_model(
        self, network: nn.Module, *, device: str, batch_size: int | None = None
    ) -> tuple[ModelInfo, Detector | Classifier]:
        """`network` (this one, or its average over time) as the line would run it, with every label's score.

        It is copied, because the line changes what it runs: a classifier's memory layout, in which training on a CPU is
        ten times slower (measured: 6.4 s a step instead of 0.5), and a detector's input size, which training varies.
        """
        network = copy.deepcopy(network).to("cpu")  # where models are made ready, before they go to their device
        network.requires_grad_(False)
        is_detector = self.task == "detect"
        floor, most = (0.05, _MAX_TAGS_DETECTOR) if is_detector else (0.0, len(self.labels))
        runtime = Runtime(device=device, batch_size=batch_size)
        info = make_info(
            CheckpointSpec(uri="training", score_floor=floor, max_tags=most),
            task=self.task,
            facts={},
            labels=tag_labels(self.model_labels, task=self.task),
            input_resolution=self.input_resolution,
        )
        if is_detector:
            if "min_size" in self.preprocessing:
                network.transform.min_size = (self.preprocessing["min_size"],)  # type: ignore[union-attr]
            return info, Detector(network, info=info, runtime=runtime)
        preprocessing = Preprocessing(**self.preprocessing)
        return info, Classifier(
            network,
            info=info,
            preprocessing=preprocessing,
            score_floor=floor,
            max_tags=most,
            runtime=runtime,
        )

    def save(
        self,
        folder_uri: str,
        tensors: Mapping[str, Tensor],
        *,
        half: bool = False,
        metrics: Mapping[str, float],
        thresholds: Mapping[str, float],
        extra: Mapping[str, Any],
        storage_options: Mapping[str, Any] | None = None,
    ) -> str:
        """Write a checkpoint with these trained tensors; gives its digest. `half` stores float16."""
        complete = self._all_tensors | dict(tensors)
        if half:
            complete = {name: one.half() if one.is_floating_point() else one for name, one in complete.items()}
        return save_checkpoint(
            folder_uri,
            architecture=self.architecture,
            arguments=self.arguments,
            labels=self.model_labels,
            task=self.task,
            preprocessing=self.preprocessing,
            state_dict=complete,
            metrics=metrics,
            thresholds=thresholds,
            extra=extra,
            batch_norm_eps=self.batch_norm_eps,
            storage_options=storage_options,
        )


def make_trainable(
    architecture: str,
    *,
    arguments: Mapping[str, Any],
    labels: Sequence[str],
    task: Task,
    preprocessing: Mapping[str, Any],
    start: TorchvisionSpec | CheckpointSpec | None,
    seed: int,
) -> Trainable:
    """The network for these labels. `preprocessing` holds what the job says of it; the rest is the builder's own.

    `start` is where weights come from, None for random ones of `seed`. Raises UsageError for a builder that is not
    there or does the other task, and ModelError for arguments or weights that do not fit.
    """
    task_of(architecture, asked=task)
    facts = _preprocessing(architecture, dict(arguments), preprocessing, task=task)
    arguments = dict(arguments)
    if architecture.startswith("vit_"):
        arguments.setdefault("image_size", facts["crop_size"])
    if architecture.startswith("maxvit_"):
        arguments.setdefault("input_size", [facts["crop_size"]] * 2)
    told = architectures.untrained_arguments(architecture, task=task) | arguments
    if task == "detect":
        told |= facts | architectures.limits(architecture, score_floor=0.05, max_tags=_MAX_TAGS_DETECTOR)
    num_classes = len(labels) + (task == "detect")
    try:
        network = architectures.build(architecture, told | {"num_classes": num_classes}, seed=seed)
    except (TypeError, ValueError, AssertionError) as error:
        raise ModelError(f"{architecture} cannot be built with {arguments}: {error}") from error
    made = Trainable(
        network=network,
        task=task,
        architecture=architecture,
        arguments=arguments,
        labels=tuple(labels),
        preprocessing=facts,
    )
    if start is not None:
        _take_weights(made, start)
    made._all_tensors = network.state_dict()
    if task == "detect":
        made.network = only_boxes(network)
    return made


def _preprocessing(
    architecture: str, arguments: Mapping[str, Any], asked: Mapping[str, Any], *, task: Task
) -> dict[str, Any]:
    given = {name: value for name, value in asked.items() if value is not None}
    if task == "detect":
        told = architectures.untrained_arguments(architecture, task=task) | dict(arguments)
        sizes = {name: given[name] for name in _DETECTOR_INPUT if name in given}
        try:
            _, facts = architectures.detector_resolution(architecture, told | {"num_classes": 2})
        except (TypeError, ValueError, AssertionError) as error:
            raise ModelError(f"{architecture} cannot be built with {dict(arguments)}: {error}") from error
        if facts["fixed_size"] is not None:
            if {"min_size", "max_size"} & set(given):
                raise UsageError(
                    f"{architecture} looks at {facts['fixed_size']} pixels always; leave input.min_size out"
                )
            return {name: (facts | sizes)[name] for name in ("image_mean", "image_std")}
        facts |= sizes
        if facts["min_size"] > facts["max_size"]:
            raise UsageError(
                f"input.min_size is {facts['min_size']} and input.max_size {facts['max_size']}; the shorter side "
                "cannot be the longer one"
            )
        return {name: facts[name] for name in _DETECTOR_INPUT}
    preset = Preprocessing.of_preset(get_model_weights(architecture).DEFAULT.transforms()).facts()
    if "crop_size" in given and "resize_size" not in given:
        given["resize_size"] = round(given["crop_size"] * 8 / 7)
    facts = preset | given
    if facts["crop_size"] > facts["resize_size"]:
        raise UsageError(
            f"input.crop_size is {facts['crop_size']} and input.resize_size {facts['resize_size']}; "
            "the crop is cut out of the resized image, so it cannot be larger"
        )
    return facts


def _take_weights(made: Trainable, start: TorchvisionSpec | CheckpointSpec) -> None:
    """Copy what fits, and the eps of its batch norms with it."""
    source = _started_network(start)
    theirs = source.state_dict()
    mine = made.network.state_dict()
    taken = {
        name: theirs[found]
        for name, tensor in mine.items()
        if (found := _same_tensor(name, tensor, theirs)) is not None and not name.endswith("num_batches_tracked")
    }
    if not taken:
        raise ModelError(f"nothing of {_name(start)} fits {made.architecture}: no tensor has its name and shape")
    architectures.fill(made.network, mine | taken)
    made.taken = tuple(sorted(taken))
    made.left = tuple(sorted(name for name in mine if name not in taken and not name.endswith("num_batches_tracked")))
    made.batch_norm_eps = _take_eps(made.network, source)


def _started_network(start: TorchvisionSpec | CheckpointSpec) -> nn.Module:
    if isinstance(start, CheckpointSpec):
        return model.network_of(start)
    if start.weights.upper() == "DEFAULT" and start.builder == SMALL_FASTER_RCNN:
        raise ModelError(f"{start.builder} has no published weights; say network.start: none, or name a checkpoint")
    return pretrained.network_of(start)


def _same_tensor(name: str, tensor: Tensor, theirs: Mapping[str, Tensor]) -> str | None:
    """What a tensor of a network is called in another: the same, or as a classifier that became a backbone."""
    inner = name.removeprefix("backbone.").removeprefix("body.")
    for candidate in dict.fromkeys((name, inner, f"features.{inner}")):
        if candidate in theirs and theirs[candidate].shape == tensor.shape:
            return candidate
    return None


def _take_eps(mine: nn.Module, theirs: nn.Module) -> float | None:
    """Published Faster R-CNN COCO_V1 runs with eps 0: statistics taken from there must be read the same way."""
    norms = (nn.BatchNorm2d, FrozenBatchNorm2d)
    eps = {module.eps for module in theirs.modules() if isinstance(module, norms)}
    own = {module.eps for module in mine.modules() if isinstance(module, norms)}
    if len(eps) != 1 or eps == own:
        return None
    found = float(eps.pop())
    for module in mine.modules():
        if isinstance(module, norms):
            module.eps = found
    return found


def _name(start: TorchvisionSpec | CheckpointSpec) -> str:
    return start.uri if isinstance(start, CheckpointSpec) else f"{start.builder}@{start.weights}"


def freeze(network: nn.Module, *, stages: int, batch_norm: bool) -> None:
    """Stop training the first `stages` of the backbone, counted from the input, and, if asked, every batch norm."""
    for module in backbone_stages(network)[:stages]:
        module.requires_grad_(False)
    if batch_norm:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(False)


def training_mode(network: nn.Module, *, stages: int, batch_norm: bool) -> None:
    """`network.train()`, but what is frozen keeps its statistics too."""
    network.train()
    frozen: list[nn.Module] = backbone_stages(network)[:stages]
    for module in frozen:
        module.eval()
    if batch_norm:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()


_HEADS = frozenset(
    ["fc", "classifier", "head", "heads", "AuxLogits", "aux1", "aux2", "dropout", "avgpool", "fpn", "extra", "norm"]
)
"""What the networks of torchvision call what is no backbone."""
_LISTS = ("blocks", "trunk_output")
"""What MaxViT and RegNet call the list of their stages."""


def backbone_stages(network: nn.Module) -> list[nn.Module]:
    """The parts of a backbone in the order pixels go through them: a stem, then one part a stage or block.

    Bare layers (VGG, AlexNet and every stem are made of them) are one stage up to and with their pool.
    """
    stages: list[list[nn.Module]] = []
    is_open = False
    for part in _parts(network):
        is_layer = next(part.children(), None) is None
        is_weightless = next(part.parameters(), None) is None
        if stages and is_layer and (is_open or is_weightless):
            stages[-1].append(part)
        else:
            stages.append([part])
        is_open = is_layer and "Pool" not in type(part).__name__
    return [stage[0] if len(stage) == 1 else nn.ModuleList(stage) for stage in stages]


def _parts(network: nn.Module) -> list[nn.Module]:
    trunk: Any = getattr(network, "backbone", network)
    trunk = getattr(trunk, "body", trunk)
    if isinstance(getattr(trunk, "features", None), nn.Sequential):
        return list(trunk.features.children())
    parts: list[nn.Module] = []
    for name, module in trunk.named_children():
        if name == "encoder":  # a vision transformer's
            parts += module.layers.children()
        elif name in _LISTS or (name == "layers" and isinstance(module, nn.Sequential)):
            parts += module.children()
        elif name not in _HEADS:
            parts.append(module)
    return parts


def float_tensors(network: nn.Module) -> dict[str, Tensor]:
    """The state of a network on the CPU, copied: what is saved."""
    with torch.no_grad():
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in network.state_dict().items()}
