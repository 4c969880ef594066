"""A network that can be trained, and the way from it to a model that predicts and to a checkpoint.

What training measures must be what a run computes, so evaluation during training wraps the same network in the same
Detector or Classifier that a run uses.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from batchtag.config.model import CheckpointSpec, TorchvisionSpec
from batchtag.errors import ModelError
from batchtag.models.acceleration.runtime import Runtime
from batchtag.models.checkpoint.checkpoint_writer import CheckpointContent, save_checkpoint
from batchtag.models.classifier import Classifier
from batchtag.models.detector import Detector, keep_only_box_heads
from batchtag.models.info import make_model_info, tag_labels
from batchtag.models.preprocessing import Preprocessing
from batchtag.models.torchvision import architectures
from batchtag.models.torchvision.zoo import resolve_task
from batchtag.tasks import Task
from batchtag.training.preprocessing import resolve_preprocessing
from batchtag.training.starting_weights import load_starting_weights
from batchtag.types import InputResolution, ModelInfo

BACKGROUND = "__background__"
_DETECTOR_SCORE_FLOOR = 0.05
"""Lowest score of a detector's tags when it is evaluated; the default of a run."""
_DETECTOR_MAX_TAGS = 100
"""Most tags of an image when a detector is evaluated, as in COCO's protocol."""
_AUXILIARY_WEIGHTS = {"aux_logits": 0.4, "aux_logits1": 0.3, "aux_logits2": 0.3}
"""Weights of the losses of the side branches of Inception v3 and GoogLeNet, as in torchvision's reference scripts."""


@dataclass(kw_only=True)
class Trainable:
    """A network on the CPU in float32, with everything that its checkpoint needs. `labels` are those of the data."""

    network: nn.Module
    task: Task
    architecture: str
    arguments: dict[str, Any]
    labels: tuple[str, ...]
    preprocessing: dict[str, Any]
    """The fields of DetectorInput or ClassifierInput."""
    batch_norm_eps: float | None = None
    loaded_tensors: tuple[str, ...] = ()
    """Names of the tensors that were copied from the starting weights."""
    new_tensors: tuple[str, ...] = ()
    """Names of the tensors that the starting weights do not have; they are random."""
    all_tensors: dict[str, Tensor] = field(default_factory=dict, repr=False)
    """Also the tensors of heads that are not trained (masks, keypoints), because the builder builds these heads."""

    @property
    def model_labels(self) -> tuple[str, ...]:
        """The labels as the checkpoint has them; label 0 of a detector is the background."""
        return (BACKGROUND, *self.labels) if self.task == "detect" else self.labels

    @property
    def input_resolution(self) -> InputResolution:
        """The resolution that the network uses."""
        if self.task == "classify":
            return Preprocessing(**self.preprocessing).input_resolution
        transform: Any = self.network.transform
        if transform.fixed_size is not None:
            width, height = transform.fixed_size
            return InputResolution(mode="stretch", shorter_px=height, longer_px=width)
        return InputResolution(
            mode="fit", shorter_px=int(self.preprocessing["min_size"]), longer_px=int(self.preprocessing["max_size"])
        )

    def compute_losses(
        self,
        network: nn.Module,
        pixels: Sequence[Tensor],
        targets: Sequence[Mapping[str, Tensor]],
        *,
        label_smoothing: float = 0.0,
    ) -> dict[str, Tensor]:
        """Compute the losses of a batch by kind, each a scalar; the total loss is their sum.

        `network` is this one or a wrapper of it. `pixels` are (3, H, W) uint8. A detector's targets have `boxes` (N, 4)
        float32 xyxy in these pixels, and `labels` (N,) with background 0. A classifier's images have one size, and its
        targets have `label` (). Everything is on one device.
        """
        if self.task == "detect":
            losses: dict[str, Tensor] = network([image.float().div(255) for image in pixels], list(targets))
            return losses
        labels = torch.stack([target["label"] for target in targets])
        batch = Preprocessing(**self.preprocessing).normalize(torch.stack(list(pixels)))
        output = network(batch)
        loss = nn.functional.cross_entropy(getattr(output, "logits", output), labels, label_smoothing=label_smoothing)
        for name, weight in _AUXILIARY_WEIGHTS.items():
            logits = getattr(output, name, None)
            if logits is not None:
                loss = loss + weight * nn.functional.cross_entropy(logits, labels, label_smoothing=label_smoothing)
        return {"loss": loss}

    def make_model(
        self, network: nn.Module, *, device: str, batch_size: int | None = None
    ) -> tuple[ModelInfo, Detector | Classifier]:
        """Make the model that a run would make of `network`: this one, or its average. It gives every label's score.

        The network is copied, because the model changes what it is given. A classifier changes the memory layout, and
        training on a CPU is ten times slower in the new layout (measured: 6.4 s a step instead of 0.5). A detector
        needs its own input size, which training varies.
        """
        network = copy.deepcopy(network).to("cpu")  # models are prepared on the CPU and then moved to their device
        network.requires_grad_(False)
        is_detector = self.task == "detect"
        score_floor = _DETECTOR_SCORE_FLOOR if is_detector else 0.0
        max_tags = _DETECTOR_MAX_TAGS if is_detector else len(self.labels)
        runtime = Runtime(device=device, batch_size=batch_size)
        info = make_model_info(
            CheckpointSpec(uri="training", score_floor=score_floor, max_tags=max_tags),
            task=self.task,
            facts={},
            labels=tag_labels(self.model_labels, task=self.task),
            input_resolution=self.input_resolution,
        )
        if is_detector:
            if "min_size" in self.preprocessing:
                network.transform.min_size = (self.preprocessing["min_size"],)  # type: ignore[union-attr]
            return info, Detector(network, info=info, runtime=runtime)
        return info, Classifier(
            network,
            info=info,
            preprocessing=Preprocessing(**self.preprocessing),
            score_floor=score_floor,
            max_tags=max_tags,
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
        """Write a checkpoint with these trained tensors and return its digest. `half` stores float16."""
        complete = self.all_tensors | dict(tensors)
        if half:
            complete = {n: tensor.half() if tensor.is_floating_point() else tensor for n, tensor in complete.items()}
        return save_checkpoint(
            folder_uri,
            CheckpointContent(
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
            ),
            storage_options=storage_options,
        )


def make_trainable(
    architecture: str,
    *,
    task: Task,
    labels: Sequence[str],
    arguments: Mapping[str, Any] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    starting_model: TorchvisionSpec | CheckpointSpec | None = None,
    seed: int = 0,
) -> Trainable:
    """Build the network of these labels, ready to be trained.

    `preprocessing` has what the job file asks for; the rest is the architecture's own. The weights come from
    `starting_model`; those that it does not have are random, from `seed`. Raises UsageError for a builder that does not
    exist or has the other task, and ModelError for arguments or weights that do not fit.
    """
    resolve_task(architecture, expected=task)
    arguments = dict(arguments or {})
    resolved = resolve_preprocessing(architecture, arguments=arguments, requested=preprocessing or {}, task=task)
    if architecture.startswith("vit_"):
        arguments.setdefault("image_size", resolved["crop_size"])
    if architecture.startswith("maxvit_"):
        arguments.setdefault("input_size", [resolved["crop_size"]] * 2)
    network = _build(architecture, arguments, resolved, task=task, num_labels=len(labels), seed=seed)
    trainable = Trainable(
        network=network,
        task=task,
        architecture=architecture,
        arguments=arguments,
        labels=tuple(labels),
        preprocessing=resolved,
    )
    if starting_model is not None:
        weights = load_starting_weights(network, starting_model, architecture=architecture)
        trainable.loaded_tensors, trainable.new_tensors = weights.loaded_tensors, weights.new_tensors
        trainable.batch_norm_eps = weights.batch_norm_eps
    trainable.all_tensors = network.state_dict()  # before the heads that are not trained are removed
    if task == "detect":
        trainable.network = keep_only_box_heads(network)
    return trainable


def _build(
    architecture: str,
    arguments: Mapping[str, Any],
    preprocessing: Mapping[str, Any],
    *,
    task: Task,
    num_labels: int,
    seed: int,
) -> nn.Module:
    all_arguments = architectures.untrained_arguments(architecture, task=task) | dict(arguments)
    all_arguments["num_classes"] = num_labels
    if task == "detect":
        all_arguments["num_classes"] += 1  # the background
        all_arguments |= preprocessing
        all_arguments |= architectures.limit_arguments(
            architecture, score_floor=_DETECTOR_SCORE_FLOOR, max_tags=_DETECTOR_MAX_TAGS
        )
    try:
        return architectures.build_network(architecture, all_arguments, seed=seed)
    except (TypeError, ValueError, AssertionError) as error:
        raise ModelError(f"{architecture} cannot be built with {dict(arguments)}: {error}") from error
