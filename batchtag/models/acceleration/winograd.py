"""Convolutions of 3 x 3 by Winograd's way in a graph that OpenVINO is to compile: a quarter of the products.

F(4 x 4, 3 x 3) of Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (arXiv 1509.09308, section 4.3):
from 6 x 6 pixels come 4 x 4 outputs with 36 products for each pair of channels instead of 144. OpenVINO has it for GPUs
and ARM; on x86 it convolves directly. Here it is made of ordinary operators: patches are cut out, turned from both
sides by products of matrices, meet the turned weights in 36 more, and are turned back. A feature pyramid, its proposal
head and the convolutions of a box head are most of such a detector's arithmetic, and all of this kind.

Two forms. Where every side is known, channels stay innermost as OpenVINO's convolutions have them, images of a batch
are more patches, and a bias and a ReLU behind the convolution are applied before the next one takes over: so channels
are moved nowhere. One image of unknown size has its patches innermost: there OpenVINO 2026.4 would move the channels
in earnest, and slowly.

One core of an EPYC with AVX2, against OpenVINO's own convolution: 256 channels of 100 x 100 pixels 2.2 times as fast,
four times 128 of 28 x 28 2.0, four times 64 of 56 x 56 1.4, 50 times 256 of 7 x 7 1.6; one image of unknown size
gains nothing with 64, and where few patches share the turned weights, reading those takes longer than multiplying. It
costs memory: weights take four times as much, and what lies between, of a map of 256 channels and 200 x 336 pixels,
370 MB for each caller. Answers differ in the fifth digit, ten times as much as by the direct way. Importable where
OpenVINO is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from batchtag.models.acceleration.openvino_core import quiet_openvino

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
    ],
    dtype=np.float32,
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
    ],
    dtype=np.float32,
)
_TILE, _PATCH = 4, 6


def use_winograd(model: Any, usual: Sequence[Shape], *, max_bytes: int) -> int:
    """Replace, in place, the convolutions of an `openvino.Model` that gain by it; says how many.

    `usual` holds the shape (N, C, H, W) of each input as it will usually be: from those it is told which gain, and for
    which more than `max_bytes` would lie between their steps, which stay as well. Any other shape is computed, too.
    """
    sizes = _output_sizes(model, usual)
    turned: dict[tuple[str, bool], Any] = {}
    replaced = 0
    for node in model.get_ordered_ops():
        if not _is_of_this_kind(node):
            continue
        shape, weights = node.get_input_partial_shape(0), node.input_value(1).get_node()
        is_known = shape.is_static
        if not (is_known or shape[0] == 1):
            continue
        fewest_channels, fewest_patches = _fewest(is_known=is_known)
        num_images, _, height, width = sizes[node.get_friendly_name()]
        num_patches = num_images * -(-height // _TILE) * -(-width // _TILE)
        if min(weights.shape[:2]) < fewest_channels or num_patches < fewest_patches:
            continue
        if 2 * 4 * _PATCH**2 * num_patches * max(weights.shape[:2]) > max_bytes:  # float32, before and after a product
            continue
        key = weights.get_name(), is_known
        if key not in turned:  # the same head looks at each level of a pyramid
            turned[key] = _constant(_turned(weights.data, channels_last=is_known))
        if is_known:
            _replace_with_what_follows(node, turned[key])
        else:
            node.output(0).replace(_of_one_image(node.input_value(0), turned[key]).output(0))
        replaced += 1
    model.validate_nodes_and_infer_types()
    return replaced


def _fewest(*, is_known: bool) -> tuple[int, int]:
    """The channels and the patches from which a convolution gains, on this processor.

    With AVX-512 products cost half, and cutting and turning, which wait for memory, as much as before; not measured.
    """
    if torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return 256, 256
    return (64 if is_known else 128), 16


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


def _turned(weights: NDArray[np.float32], *, channels_last: bool) -> NDArray[np.float32]:
    """(K, C, 3, 3) to (36, K, C), or (36, C, K), computed in float64 and rounded once."""
    num_out, num_in = weights.shape[:2]
    flat = np.kron(_WEIGHTS, _WEIGHTS) @ weights.reshape(num_out * num_in, 9).T.astype(np.float64)
    turned = flat.reshape(_PATCH**2, num_out, num_in).astype(np.float32)
    return np.ascontiguousarray(turned.transpose(0, 2, 1)) if channels_last else turned


def _replace_with_what_follows(node: Any, weights: Any) -> None:
    """Replace a convolution of images of known size, with the bias and the ReLU that follow it, if they do."""
    given, last = _of_known_size(node.input_value(0), weights), node
    following = _only_user(last)
    if following is not None and following.get_type_name() == "Add" and (bias := _bias(following)) is not None:
        given, last = op.add(given, _constant(bias)), following
        following = _only_user(last)
    if following is not None and following.get_type_name() == "Relu":
        given, last = op.relu(given), following
    last.output(0).replace(op.transpose(given, _constant([0, 3, 1, 2])).output(0))


def _only_user(node: Any) -> Any:
    """The one node that takes what this gives; None if several do."""
    users = list(node.output(0).get_target_inputs())
    return users[0].get_node() if len(users) == 1 else None


def _bias(add: Any) -> NDArray[np.float32] | None:
    """(K,) of a sum with a constant (1, K, 1, 1); None of any other."""
    constants = [add.input_value(i).get_node() for i in range(2)]
    values = [one.data for one in constants if one.get_type_name() == "Constant"]
    num_channels = add.get_output_partial_shape(0)[1].get_length()
    return values[0].ravel() if len(values) == 1 and values[0].shape == (1, num_channels, 1, 1) else None


def _of_known_size(pixels: Any, weights: Any) -> Any:
    """The node that gives (N, H, W, K) from (N, C, H, W); `weights` is the constant (36, C, K)."""
    num_images, num_in, height, width = pixels.get_shape()
    rows, columns = -(-height // _TILE), -(-width // _TILE)
    # Of four sides OpenVINO takes the second for the channels, and would move them to where they are.
    channels_last = op.unsqueeze(op.transpose(pixels, _constant([0, 2, 3, 1])), _constant([0]))
    ends = [0, 0, _TILE * (rows + 1) - 1 - height, _TILE * (columns + 1) - 1 - width, 0]
    padded = op.pad(channels_last, [0, 0, 1, 1, 0], ends, "constant", _constant(np.float32(0)))
    split = op.reshape(padded, _constant([num_images, rows + 1, _TILE, columns + 1, _TILE, num_in]), False)
    turned = _turned_patches(op.transpose(split, _constant([2, 4, 0, 1, 3, 5])))
    met = op.matmul(op.reshape(turned, _constant([_PATCH**2, -1, num_in]), False), weights, False, False)
    tiles = op.reshape(_turned_back(met), _constant([_TILE, _TILE, num_images, rows, columns, -1]), False)
    side_by_side = op.transpose(tiles, _constant([2, 3, 0, 4, 1, 5]))
    whole = op.reshape(side_by_side, _constant([num_images, _TILE * rows, _TILE * columns, -1]), False)
    return op.slice(whole, _constant([0, 0]), _constant([height, width]), _constant([1, 1]), _constant([1, 2]))


def _of_one_image(pixels: Any, weights: Any) -> Any:
    """The node that gives (1, K, H, W) from (1, C, H, W), H and W unknown; `weights` is the constant (36, K, C)."""
    num_out, num_in = weights.shape[1:]
    size = _height_width(pixels)
    tiles = op.divide(op.add(size, _constant([_TILE - 1])), _constant([_TILE]))
    squares = op.add(tiles, _constant([1]))
    ends = op.subtract(op.multiply(squares, _constant([_TILE])), op.add(size, _constant([1])))
    zero = _constant(np.float32(0))
    padded = op.pad(pixels, _constant([0, 0, 1, 1]), op.concat([_constant([0, 0]), ends], 0), "constant", zero)
    rows, columns = (op.gather(squares, _constant([i]), _constant(0)) for i in range(2))
    sides = op.concat([_constant([num_in]), rows, _constant([_TILE]), columns, _constant([_TILE])], 0)
    split = op.reshape(padded, sides, False)
    turned = _turned_patches(op.transpose(split, _constant([2, 4, 0, 1, 3])))
    met = op.matmul(weights, op.reshape(turned, _constant([_PATCH**2, num_in, -1]), False), False, False)
    shape = op.concat([_constant([1, _TILE**2 * num_out]), tiles], 0)
    whole = op.depth_to_space(op.reshape(_turned_back(met), shape, False), "blocks_first", _TILE)
    return op.slice(whole, _constant([0, 0]), size, _constant([1, 1]), _constant([2, 3]))


def _turned_patches(squares: Any) -> Any:
    """(36, any) from (4, 4, any, h + 1, w + 1, ...), which holds by its place in a square what is there in each square.

    A patch is a square and what borders on it of the next ones; it is turned from one side, then from the other.
    """
    high = _with_next(squares, place=0, along=3)
    half = op.matmul(_constant(_PIXELS), op.reshape(high, _constant([_PATCH, -1]), False), False, False)
    whole = _with_next(op.reshape(half, op.shape_of(high), False), place=1, along=4)
    return op.matmul(_constant(_PIXELS[None]), op.reshape(whole, _constant([_PATCH, _PATCH, -1]), False), False, False)


def _with_next(squares: Any, *, place: int, along: int) -> Any:
    """Six places instead of four on one axis: the last two are the first two of the next square along another."""
    own = op.slice(squares, _constant([0]), _constant([-1]), _constant([1]), _constant([along]))
    starts, ends = _constant([0, 1]), _constant([_PATCH - _TILE, np.iinfo(np.int64).max])
    following = op.slice(squares, starts, ends, _constant([1, 1]), _constant([place, along]))
    return op.concat([own, following], place)


def _turned_back(met: Any) -> Any:
    """(36, ...) to (16, any)."""
    both_sides = _constant(np.kron(_OUTPUTS, _OUTPUTS))
    return op.matmul(both_sides, op.reshape(met, _constant([_PATCH**2, -1]), False), False, False)


def _height_width(node: Any) -> Any:
    """Height and width of what a node gives, as they are when it is computed."""
    return op.gather(op.shape_of(node), _constant([2, 3]), _constant(0))


def _constant(values: Any) -> Any:
    return op.constant(np.asarray(values))
