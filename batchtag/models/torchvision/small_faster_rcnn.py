"""A Faster R-CNN small enough to be trained from nothing on a laptop: torchvision's own parts, with less of each.

The trunk is a ResNet of half the usual width with five basic blocks, the pyramid has 48 channels where torchvision's
builders have 256, and the box head 256 units where they have 1,024: 2.2 million weights against 19 to 43 million, less
than 5 MB in float16. For a few classes of things between 12 and 250 pixels of an image resized to 320, that is enough.
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
_BLOCKS = (1, 1, 2, 1)
_RATIOS = (0.5, 1.0, 2.0)


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
    """The network, with random weights. `anchor_sizes` are pixels after resizing, for strides 4, 8, 16 and 32.

    The rest are torchvision's arguments of FasterRCNN. Its numbers of proposals and samples are made for 80 classes; a
    quarter of them does for a handful, and is faster to train on a CPU.
    """
    levels = [str(i) for i in range(len(_WIDTHS))]
    backbone: Any = BackboneWithFPN(
        _trunk(),
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
        rpn_anchor_generator=AnchorGenerator(sizes, (_RATIOS,) * len(sizes)),
        box_roi_pool=MultiScaleRoIAlign(featmap_names=levels, output_size=7, sampling_ratio=2),
        box_head=TwoMLPHead(channels * 7 * 7, representation),
        box_predictor=FastRCNNPredictor(representation, num_classes),
        **arguments,
    )
    return network


def _trunk() -> nn.Module:
    """Strides 4, 8, 16 and 32 as layer1 to layer4; weights are drawn as torchvision's ResNet draws its own."""
    stages = OrderedDict[str, nn.Module](
        stem=Conv2dNormActivation(3, _WIDTHS[0], kernel_size=7, stride=2),
        pool=nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
    )
    before = _WIDTHS[0]
    for i, (width, num_blocks) in enumerate(zip(_WIDTHS, _BLOCKS, strict=True)):
        blocks: list[nn.Module] = [_first_block(before, width, stride=1 if i == 0 else 2)]
        blocks += [BasicBlock(width, width) for _ in range(num_blocks - 1)]
        stages[f"layer{i + 1}"] = nn.Sequential(*blocks)
        before = width
    trunk = nn.Sequential(stages)
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return trunk


def _first_block(before: int, width: int, *, stride: int) -> nn.Module:
    if stride == 1 and before == width:
        block: nn.Module = BasicBlock(width, width)
        return block
    shortcut = nn.Sequential(nn.Conv2d(before, width, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(width))
    block = BasicBlock(before, width, stride=stride, downsample=shortcut)
    return block
