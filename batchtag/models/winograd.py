"""Convolutions of 3 x 3 by Winograd's way in a graph that OpenVINO is to compile: a quarter of the products.

F(4 x 4, 3 x 3) of Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (arXiv 1509.09308, section 4.3):
from 6 x 6 pixels come 4 x 4 outputs with 36 products for each pair of channels instead of 144. OpenVINO has it for GPUs
and ARM; on x86 it convolves directly. Here it is made of ordinary operators: patches are cut out, turned by one product
of matrices, meet the turned weights in 36 more, and are turned back. A feature pyramid, its proposal head and the
convolutions of a box head are most of such a detector's arithmetic, and all of this kind.

One core of an EPYC with AVX2, against OpenVINO's own convolution: 256 channels of 100 x 136 pixels 2.2 times as fast,
four times 128 of 28 x 28 1.6, 128 times 256 of 7 x 7 1.6; 64 channels gain nothing, and where few patches share the
turned weights, reading those takes longer than multiplying. It costs memory: weights take four times as much, and what
lies between, of a map of 256 channels and 200 x 336 pixels, 370 MB for each caller. Answers differ in the fifth digit,
ten times as much as by the direct way. Importable where OpenVINO is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from batchtag.models.openvino_library import quiet_openvino

op = quiet_openvino().opset15

Shape = Sequence[int]
_PIXELS = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
"""The paper's B^T; `_WEIGHTS` is its G and `_OUTPUTS` its A^T."""
_WEIGHTS = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)
_OUTPUTS = np.array(
    [
        [1, 1, 1, 1, 1, 0],
        [0, 1, -1, 2, -2, 0],
        [0, 1, 1, 4, 4, 0],
        [0, 1, -1, 8, -8, 1],
    ]
)
_TILE, _PATCH = 4, 6


def use_winograd(model: Any, usual: Sequence[Shape], *, max_bytes: int) -> int:
    """Replace, in place, the convolutions of an `openvino.Model` that gain by it; says how many.

    `usual` holds the shape (N, C, H, W) of each input as it will usually be: from those it is told which gain, and for
    which more than `max_bytes` would lie between their steps, which stay as well. Any other shape is computed, too.
    """
    sizes = _output_sizes(model, usual)
    fewest_channels, fewest_patches = _fewest()
    turned: dict[str, Any] = {}
    replaced = 0
    for node in model.get_ordered_ops():
        if not _is_of_this_kind(node) or not _can_be_replaced(node.get_input_partial_shape(0)):
            continue
        weights = node.input_value(1).get_node()
        num_images, _, height, width = sizes[node.get_friendly_name()]
        num_patches = num_images * -(-height // _TILE) * -(-width // _TILE)
        if min(weights.shape[:2]) < fewest_channels or num_patches < fewest_patches:
            continue
        if 2 * 4 * _PATCH**2 * num_patches * max(weights.shape[:2]) > max_bytes:  # float32, before and after a product
            continue
        name = weights.get_name()
        if name not in turned:  # the same head looks at each level of a pyramid
            turned[name] = _constant(_turned(weights.data))
        node.output(0).replace(_convolution(node.input_value(0), turned[name]).output(0))
        replaced += 1
    model.validate_nodes_and_infer_types()
    return replaced


def _fewest() -> tuple[int, int]:
    """The channels and the patches from which a convolution gains, on this processor.

    With AVX-512 products cost half, and cutting and turning, which wait for memory, as much as before; not measured.
    """
    return (256, 256) if torch.backends.cpu.get_cpu_capability().startswith("AVX512") else (128, 16)


def _output_sizes(model: Any, usual: Sequence[Shape]) -> dict[str, list[int]]:
    """By name, the shapes of what convolutions of this kind give for inputs of the usual shapes."""
    same = model.clone()
    same.reshape({one: list(shape) for one, shape in zip(same.inputs, usual, strict=True)})
    of_kind = [node for node in same.get_ops() if _is_of_this_kind(node)]
    return {node.get_friendly_name(): list(node.get_output_shape(0)) for node in of_kind}


def _is_of_this_kind(node: Any) -> bool:
    """Whether it convolves by constant weights (K, C, 3, 3) and gives as many pixels as it takes."""
    if node.get_type_name() != "Convolution" or node.input_value(1).get_node().get_type_name() != "Constant":
        return False
    said = node.get_attributes()
    geometry = [list(said[name]) for name in ("strides", "dilations", "pads_begin", "pads_end")]
    return list(node.input_value(1).get_shape())[2:] == [3, 3] and geometry == [[1, 1]] * 4


def _can_be_replaced(shape: Any) -> bool:
    """One picture of any size, or any number of one size: the two forms that there are."""
    return bool(shape[0] == 1 or (shape[2].is_static and shape[3].is_static))


def _turned(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """(K, C, 3, 3) to (36, K, C), computed in float64 and rounded once."""
    num_out, num_in = weights.shape[:2]
    flat = np.kron(_WEIGHTS, _WEIGHTS) @ weights.reshape(num_out * num_in, 9).T.astype(np.float64)
    return flat.reshape(_PATCH**2, num_out, num_in).astype(np.float32)


def _convolution(pixels: Any, weights: Any) -> Any:
    """The node that gives (N, K, H, W) from (N, C, H, W), of one picture or of any number of known size.

    `weights` is the constant (36, K, C).
    """
    if pixels.get_partial_shape()[0] != 1:
        return _of_many(pixels, weights)
    size = _height_width(pixels)
    padded = op.pad(pixels, [0, 0, 1, 1], [0, 0, _TILE, _TILE], "constant", _constant(np.float32(0)))
    return op.slice(_tiles(padded, weights), _constant([0, 0]), size, _constant([1, 1]), _constant([2, 3]))


def _of_many(pixels: Any, weights: Any) -> Any:
    """Pictures stand side by side, at least one column of zeros apart, and are one: their patches fill one matrix.

    A picture whose numbers are infinite spoils its neighbour, too.
    """
    num_in = weights.shape[2]
    height, width = (one.get_length() for one in list(pixels.get_partial_shape())[2:])
    rows, columns = _TILE * -(-height // _TILE), _TILE * -(-(width + 1) // _TILE)
    apart = op.pad(pixels, [0] * 4, [0, 0, rows - height, columns - width], "constant", _constant(np.float32(0)))
    row = op.reshape(op.transpose(apart, _constant([1, 2, 0, 3])), _constant([1, num_in, rows, -1]), False)
    padded = op.pad(row, [0, 0, 1, 1], [0, 0, 1, 1], "constant", _constant(np.float32(0)))
    given = op.reshape(_tiles(padded, weights), _constant([weights.shape[1], rows, -1, columns]), False)
    ends = _constant([height, width])
    return op.slice(
        op.transpose(given, _constant([2, 0, 1, 3])), _constant([0, 0]), ends, _constant([1, 1]), _constant([2, 3])
    )


def _tiles(padded: Any, weights: Any) -> Any:
    """(1, C, 4 h + 2 or more, 4 w + 2 or more) to (1, K, 4 h, 4 w)."""
    num_out, num_in = weights.shape[1:]
    patches = op.extract_image_patches(padded, [_PATCH] * 2, [_TILE] * 2, [1, 1], "VALID")  # (1, 36 C, h, w)
    turned = op.matmul(_both_height_width(_PIXELS), _matrices(patches), False, False)
    met = op.matmul(weights, op.reshape(turned, _constant([_PATCH**2, num_in, -1]), False), False, False)
    back = op.matmul(_both_height_width(_OUTPUTS), _matrices(met), False, False)
    shape = op.concat([_constant([1, _TILE**2 * num_out]), _height_width(patches)], 0)
    return op.depth_to_space(op.reshape(back, shape, False), "blocks_first", _TILE)


def _matrices(numbers: Any) -> Any:
    """What goes with each of a patch's 36 places, as a row."""
    return op.reshape(numbers, _constant([_PATCH**2, -1]), False)


def _both_height_width(matrix: NDArray[Any]) -> Any:
    """The constant that turns a patch from both sides at once."""
    return _constant(np.kron(matrix, matrix).astype(np.float32))


def _height_width(node: Any) -> Any:
    """Height and width of what a node gives, as they are when it is computed."""
    return op.gather(op.shape_of(node), _constant([2, 3]), _constant(0))


def _constant(values: Any) -> Any:
    return op.constant(np.asarray(values))
