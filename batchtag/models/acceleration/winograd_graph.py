"""Winograd's algorithm F(4 x 4, 3 x 3) as a graph of OpenVINO's ordinary operators.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (arXiv 1509.09308, section 4.3): 6 x 6 pixels give
4 x 4 outputs with 36 multiplications for each pair of channels instead of 144. Patches are cut out and transformed by
matrix products from both sides, multiplied with the transformed weights in 36 more products, and transformed back.

There are two forms. If every side is known, channels stay innermost as OpenVINO's convolutions have them, the images of
a batch are further patches, and bias and ReLU are applied in the same layout, so channels are never moved. One image of
unknown size has its patches innermost, because OpenVINO 2026.4 would really move the channels there, which is slow.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchtag.models.acceleration.openvino_core import import_openvino

op = import_openvino().opset15

TILE, PATCH = 4, 6
"""Sides of a tile of outputs and of the patch of pixels that it is computed from."""
_PIXEL_TRANSFORM = np.array(
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
"""The matrix B^T of the paper."""
_WEIGHT_TRANSFORM = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)
"""The matrix G of the paper."""
_OUTPUT_TRANSFORM = np.array(
    [
        [1, 1, 1, 1, 1, 0],
        [0, 1, -1, 2, -2, 0],
        [0, 1, 1, 4, 4, 0],
        [0, 1, -1, 8, -8, 1],
    ],
    dtype=np.float32,
)
"""The matrix A^T of the paper."""


def transform_weights(weights: NDArray[np.float32], *, channels_last: bool) -> NDArray[np.float32]:
    """Transform weights (K, C, 3, 3) to (36, K, C), or to (36, C, K) for channels last.

    Computed in float64 and rounded once.
    """
    num_out, num_in = weights.shape[:2]
    both_sides = np.kron(_WEIGHT_TRANSFORM, _WEIGHT_TRANSFORM)
    flat = both_sides @ weights.reshape(num_out * num_in, 9).T.astype(np.float64)
    transformed = flat.reshape(PATCH**2, num_out, num_in).astype(np.float32)
    return np.ascontiguousarray(transformed.transpose(0, 2, 1)) if channels_last else transformed


def convolve_known_size(pixels: Any, weights: Any) -> Any:
    """Return the node that computes (N, H, W, K) from (N, C, H, W); `weights` is the constant (36, C, K)."""
    num_images, num_in, height, width = pixels.get_shape()
    rows, columns = -(-height // TILE), -(-width // TILE)
    # OpenVINO takes the second of four sides for the channels and would move them; with five sides it does not.
    channels_last = op.unsqueeze(op.transpose(pixels, constant([0, 2, 3, 1])), constant([0]))
    ends = [0, 0, TILE * (rows + 1) - 1 - height, TILE * (columns + 1) - 1 - width, 0]
    padded = op.pad(channels_last, [0, 0, 1, 1, 0], ends, "constant", constant(np.float32(0)))
    squares = op.reshape(padded, constant([num_images, rows + 1, TILE, columns + 1, TILE, num_in]), False)
    patches = _transform_patches(op.transpose(squares, constant([2, 4, 0, 1, 3, 5])))
    products = op.matmul(op.reshape(patches, constant([PATCH**2, -1, num_in]), False), weights, False, False)
    tiles = op.reshape(_transform_back(products), constant([TILE, TILE, num_images, rows, columns, -1]), False)
    adjacent = op.transpose(tiles, constant([2, 3, 0, 4, 1, 5]))
    whole = op.reshape(adjacent, constant([num_images, TILE * rows, TILE * columns, -1]), False)
    return op.slice(whole, constant([0, 0]), constant([height, width]), constant([1, 1]), constant([1, 2]))


def convolve_one_image(pixels: Any, weights: Any) -> Any:
    """Return the node that computes (1, K, H, W) from (1, C, H, W) for any H and W.

    `weights` is the constant (36, K, C).
    """
    num_out, num_in = weights.shape[1:]
    size = _height_and_width(pixels)
    num_tiles = op.divide(op.add(size, constant([TILE - 1])), constant([TILE]))
    num_squares = op.add(num_tiles, constant([1]))
    ends = op.subtract(op.multiply(num_squares, constant([TILE])), op.add(size, constant([1])))
    zero = constant(np.float32(0))
    padded = op.pad(pixels, constant([0, 0, 1, 1]), op.concat([constant([0, 0]), ends], 0), "constant", zero)
    rows, columns = (op.gather(num_squares, constant([i]), constant(0)) for i in range(2))
    sides = op.concat([constant([num_in]), rows, constant([TILE]), columns, constant([TILE])], 0)
    squares = op.reshape(padded, sides, False)
    patches = _transform_patches(op.transpose(squares, constant([2, 4, 0, 1, 3])))
    products = op.matmul(weights, op.reshape(patches, constant([PATCH**2, num_in, -1]), False), False, False)
    shape = op.concat([constant([1, TILE**2 * num_out]), num_tiles], 0)
    whole = op.depth_to_space(op.reshape(_transform_back(products), shape, False), "blocks_first", TILE)
    return op.slice(whole, constant([0, 0]), size, constant([1, 1]), constant([2, 3]))


def _transform_patches(squares: Any) -> Any:
    """Transform overlapping patches of 6 x 6 pixels from both sides: (36, any).

    `squares` is (4, 4, any, h + 1, w + 1, ...): the pixels at each place of a square of 4 x 4, for all squares. A patch
    is a square and the adjacent pixels of the next ones.
    """
    tall = _append_next(squares, place=0, along=3)
    half = op.matmul(constant(_PIXEL_TRANSFORM), op.reshape(tall, constant([PATCH, -1]), False), False, False)
    whole = _append_next(op.reshape(half, op.shape_of(tall), False), place=1, along=4)
    flat = op.reshape(whole, constant([PATCH, PATCH, -1]), False)
    return op.matmul(constant(_PIXEL_TRANSFORM[None]), flat, False, False)


def _append_next(squares: Any, *, place: int, along: int) -> Any:
    """Extend axis `place` from 4 to 6: the last two are the first two of the next square along axis `along`."""
    own = op.slice(squares, constant([0]), constant([-1]), constant([1]), constant([along]))
    starts, ends = constant([0, 1]), constant([PATCH - TILE, np.iinfo(np.int64).max])
    following = op.slice(squares, starts, ends, constant([1, 1]), constant([place, along]))
    return op.concat([own, following], place)


def _transform_back(products: Any) -> Any:
    """Transform (36, ...) to the outputs of each tile: (16, any)."""
    both_sides = constant(np.kron(_OUTPUT_TRANSFORM, _OUTPUT_TRANSFORM))
    return op.matmul(both_sides, op.reshape(products, constant([PATCH**2, -1]), False), False, False)


def _height_and_width(node: Any) -> Any:
    """Return the node that gives the height and width of another node's output when it is computed."""
    return op.gather(op.shape_of(node), constant([2, 3]), constant(0))


def constant(values: Any) -> Any:
    """Return a constant node of the graph."""
    return op.constant(np.asarray(values))
