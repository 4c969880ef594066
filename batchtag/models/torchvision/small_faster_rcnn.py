"""A Faster R-CNN that is small enough to be trained from scratch on a laptop, made of torchvision's own parts.

The backbone is a ResNet of half the usual width with five basic blocks. The pyramid has 48 channels where torchvision's
builders have 256, and the box head 256 units where they have 1,024: 2.2 million weights instead of 19 to 43 million,
and less than 5 MB in float16. That is enough for a few classes of objects between 12 and 250 pixels of an image resized
to 320.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.resnet import BasicBlock
from torchvision.ops import Conv2dNormActivation, MultiScaleRoIAlign

from batchtag.models.torchvision.zoo_table import SMALL_SIZES

_WIDTHS = (32, 64, 128, 256)
"""Channels of the four stages of the backbone."""
_BLOCKS = (1, 1, 2, 1)
"""Basic blocks of the four stages."""
_ASPECT_RATIOS = (0.5, 1.0, 2.0)
"""Height divided by width of the anchors."""


def fasterrcnn_small_fpn(
    *,
    num_classes: int,
    anchor_sizes: Sequence[Sequence[float]] = ((12, 20), (32, 48), (72, 108), (160, 240)),
    channels: int = 48,
    representation: int = 256,
    min_size: int = SMALL_SIZES["min_size"],
    max_size: int = SMALL_SIZES["max_size"],
    **limits_and_preprocessing: Any,
) -> nn.Module:
    """Build the network with random weights.

    `anchor_sizes` are pixels of the resized image, for strides 4, 8, 16 and 32. The other arguments are those of
    torchvision's FasterRCNN. Its numbers of proposals and samples are meant for 80 classes; about a quarter of them is
    enough for a few classes, and faster to train on a CPU.
    """
    levels = [str(i) for i in range(len(_WIDTHS))]
    backbone: Any = BackboneWithFPN(
        _build_backbone(),
        {f"layer{i + 1}": level for i, level in enumerate(levels)},
        list(_WIDTHS),
        channels,
        extra_blocks=None,
    )
    backbone.fpn.extra_blocks = None  # BackboneWithFPN reads None as a further level of stride 64
    sizes = tuple(tuple(level) for level in anchor_sizes)
    arguments: dict[str, Any] = {
        "rpn_pre_nms_top_n_train": 500,
        "rpn_pre_nms_top_n_test": 500,
        "rpn_post_nms_top_n_train": 500,
        "rpn_post_nms_top_n_test": 300,
        "box_batch_size_per_image": 128,
        **limits_and_preprocessing,
    }
    network: nn.Module = FasterRCNN(
        backbone,
        min_size=min_size,
        max_size=max_size,
        rpn_anchor_generator=AnchorGenerator(sizes, (_ASPECT_RATIOS,) * len(sizes)),
        box_roi_pool=MultiScaleRoIAlign(featmap_names=levels, output_size=7, sampling_ratio=2),
        box_head=TwoMLPHead(channels * 7 * 7, representation),
        box_predictor=FastRCNNPredictor(representation, num_classes),
        **arguments,
    )
    return network


def _build_backbone() -> nn.Module:
    """Build stages of strides 4, 8, 16 and 32, named layer1 to layer4. Weights are drawn as in torchvision's ResNet."""
    stages = OrderedDict[str, nn.Module](
        stem=Conv2dNormActivation(3, _WIDTHS[0], kernel_size=7, stride=2),
        pool=nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
    )
    channels = _WIDTHS[0]
    for i, (width, num_blocks) in enumerate(zip(_WIDTHS, _BLOCKS, strict=True)):
        blocks: list[nn.Module] = [_build_first_block(channels, width, stride=1 if i == 0 else 2)]
        blocks += [BasicBlock(width, width) for _ in range(num_blocks - 1)]
        stages[f"layer{i + 1}"] = nn.Sequential(*blocks)
        channels = width
    backbone = nn.Sequential(stages)
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return backbone


def _build_first_block(channels: int, width: int, *, stride: int) -> nn.Module:
    """Build the first block of a stage, with a shortcut that changes size and channels where necessary."""
    if stride == 1 and channels == width:
        block: nn.Module = BasicBlock(width, width)
        return block
    shortcut = nn.Sequential(
        nn.Conv2d(channels, width, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(width)
    )
    block = BasicBlock(channels, width, stride=stride, downsample=shortcut)
    return block
