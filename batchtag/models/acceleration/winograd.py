"""Winograd's algorithm for 3 x 3 convolutions in an OpenVINO graph: a quarter of the multiplications.

OpenVINO has it for GPUs and ARM; on x86 it convolves directly. Here each convolution that gains is replaced by ordinary
operators (`winograd_graph` has the formulas). A feature pyramid, its proposal head and the convolutions of a box head
are most of the arithmetic of such a detector, and all of them are 3 x 3.

Measured on one core of an EPYC with AVX2, against OpenVINO's own convolution: 256 channels of 100 x 100 pixels 2.2
times as fast, four times 128 of 28 x 28 2.0, four times 64 of 56 x 56 1.4, 50 times 256 of 7 x 7 1.6. One image of
unknown size gains nothing with 64 channels; and where few patches share the transformed weights, reading these takes
longer than multiplying. It costs memory: weights take four times as much, and the intermediate results of a map of 256
channels and 200 x 336 pixels take 370 MB per thread. Outputs differ in the fifth digit, ten times as much as with
direct convolution. Importable only where OpenVINO is installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from batchtag.models.acceleration.winograd_graph import (
    PATCH,
    TILE,
    constant,
    convolve_known_size,
    convolve_one_image,
    op,
    transform_weights,
)

Shape = Sequence[int]


def use_winograd(model: Any, usual_shapes: Sequence[Shape], *, max_bytes: int) -> int:
    """Replace, in place, the convolutions of an `openvino.Model` that gain by it; return how many.

    `usual_shapes` has the shape (N, C, H, W) of each input as it usually is. These shapes decide which convolutions
    gain, and which would need more than `max_bytes` for intermediate results; those stay. Inputs of any other shape are
    computed as well.
    """
    output_shapes = _output_shapes(model, usual_shapes)
    transformed: dict[tuple[str, bool], Any] = {}
    num_replaced = 0
    for node in model.get_ordered_ops():
        if not _is_3x3_convolution(node):
            continue
        is_known = node.get_input_partial_shape(0).is_static
        weights = node.input_value(1).get_node()
        if not _gains(node, weights, output_shapes[node.get_friendly_name()], max_bytes=max_bytes):
            continue
        key = weights.get_name(), is_known
        if key not in transformed:  # levels of a pyramid share the weights of a head
            transformed[key] = constant(transform_weights(weights.data, channels_last=is_known))
        if is_known:
            _replace_with_activation(node, transformed[key])
        else:
            node.output(0).replace(convolve_one_image(node.input_value(0), transformed[key]).output(0))
        num_replaced += 1
    model.validate_nodes_and_infer_types()
    return num_replaced


def _gains(node: Any, weights: Any, output_shape: Shape, *, max_bytes: int) -> bool:
    """Whether a 3 x 3 convolution is faster by Winograd's algorithm, within `max_bytes` of intermediate results."""
    shape = node.get_input_partial_shape(0)
    if not (shape.is_static or shape[0] == 1):
        return False
    min_channels, min_patches = _least_sizes(is_known=shape.is_static)
    num_images, _, height, width = output_shape
    num_patches = num_images * -(-height // TILE) * -(-width // TILE)
    num_bytes = 2 * 4 * PATCH**2 * num_patches * max(weights.shape[:2])  # float32, before and after a product
    return min(weights.shape[:2]) >= min_channels and num_patches >= min_patches and num_bytes <= max_bytes


def _least_sizes(*, is_known: bool) -> tuple[int, int]:
    """Return the numbers of channels and of patches from which a convolution gains on this processor.

    With AVX-512 multiplications cost half as much, but cutting and transforming, which wait for memory, cost the same.
    The values for AVX-512 are not measured.
    """
    if torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return 256, 256
    return (64 if is_known else 128), 16


def _output_shapes(model: Any, usual_shapes: Sequence[Shape]) -> dict[str, list[int]]:
    """Return the output shape of each 3 x 3 convolution, by its name, for inputs of the usual shapes."""
    clone = model.clone()
    clone.reshape({model_input: list(shape) for model_input, shape in zip(clone.inputs, usual_shapes, strict=True)})
    nodes = [node for node in clone.get_ops() if _is_3x3_convolution(node)]
    return {node.get_friendly_name(): list(node.get_output_shape(0)) for node in nodes}


def _is_3x3_convolution(node: Any) -> bool:
    """Whether a node convolves with constant weights (K, C, 3, 3) and returns as many pixels as it takes."""
    if node.get_type_name() != "Convolution" or node.input_value(1).get_node().get_type_name() != "Constant":
        return False
    attributes = node.get_attributes()
    geometry = [list(attributes[name]) for name in ("strides", "dilations", "pads_begin", "pads_end")]
    return list(node.input_value(1).get_shape())[2:] == [3, 3] and geometry == [[1, 1]] * 4


def _replace_with_activation(node: Any, weights: Any) -> None:
    """Replace a convolution of known size together with the bias and the ReLU that follow it, if they do."""
    result, last = convolve_known_size(node.input_value(0), weights), node
    following = _only_user(last)
    if following is not None and following.get_type_name() == "Add" and (bias := _find_bias(following)) is not None:
        result, last = op.add(result, constant(bias)), following
        following = _only_user(last)
    if following is not None and following.get_type_name() == "Relu":
        result, last = op.relu(result), following
    last.output(0).replace(op.transpose(result, constant([0, 3, 1, 2])).output(0))


def _only_user(node: Any) -> Any:
    """Return the one node that takes the output of this one; None if several do."""
    users = list(node.output(0).get_target_inputs())
    return users[0].get_node() if len(users) == 1 else None


def _find_bias(add: Any) -> NDArray[np.float32] | None:
    """Return the bias (K,) of a sum with a constant (1, K, 1, 1); None for any other sum."""
    operands = [add.input_value(i).get_node() for i in range(2)]
    values = [node.data for node in operands if node.get_type_name() == "Constant"]
    num_channels = add.get_output_partial_shape(0)[1].get_length()
    return values[0].ravel() if len(values) == 1 and values[0].shape == (1, num_channels, 1, 1) else None
