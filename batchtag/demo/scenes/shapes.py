"""The six shapes of products, as a table: silhouette from top to bottom, proportions, and position of the print."""

from __future__ import annotations

from dataclasses import dataclass

Profile = tuple[tuple[float, float], ...]
"""(share of the height from the top, share of the full width) at each bend; the silhouette is straight between them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """The common properties of all products of one shape.

    Ranges (from, to): `aspect` is width / height, `stature` is height / clearance above the board. `label` has top,
    bottom and width of the printed part as shares. `lid` is the lower end of the lid as a share of the height. `round`
    is 1 for a cylinder and 0 for a flat face.
    """

    name: str
    aspect: tuple[float, float]
    stature: tuple[float, float]
    label: tuple[float, float, float]
    round: float
    profiles: tuple[Profile, ...]
    lid: float = 0.0
    can_lie: bool = False


_BOTTLES: tuple[Profile, ...] = (
    (
        (0, 0.36), (0.1, 0.38), (0.101, 0.3), (0.26, 0.32), (0.3, 0.4), (0.35, 0.62), (0.4, 0.86), (0.45, 0.97),
        (0.5, 1), (0.97, 1), (1, 0.92),
    ),
    (
        (0, 0.4), (0.1, 0.42), (0.101, 0.34), (0.17, 0.36), (0.24, 0.58), (0.32, 0.84), (0.4, 0.97), (0.46, 1),
        (0.66, 0.93), (0.78, 0.95), (0.9, 1), (0.97, 1), (1, 0.9),
    ),
)  # fmt: skip
_CANS: tuple[Profile, ...] = (
    ((0, 0.86), (0.02, 0.9), (0.05, 0.9), (0.12, 1), (0.93, 1), (1, 0.88)),
    ((0, 0.98), (0.03, 1), (0.05, 0.97), (0.95, 0.97), (0.97, 1), (1, 0.98)),
)
_JARS: tuple[Profile, ...] = (
    (
        (0, 0.76), (0.02, 0.8), (0.18, 0.8), (0.181, 0.7), (0.23, 0.72), (0.28, 0.9), (0.34, 0.98), (0.4, 1), (0.88, 1),
        (0.95, 0.95), (1, 0.8),
    ),
    (
        (0, 0.7), (0.02, 0.73), (0.18, 0.73), (0.181, 0.66), (0.23, 0.68), (0.32, 0.86), (0.45, 0.98), (0.6, 1),
        (0.76, 0.96), (0.9, 0.86), (1, 0.66),
    ),
)  # fmt: skip
_BAGS: tuple[Profile, ...] = (
    (
        (0, 0.97), (0.07, 0.95), (0.13, 0.9), (0.22, 0.94), (0.4, 0.99), (0.6, 1), (0.8, 0.96), (0.9, 0.9),
        (0.95, 0.95), (1, 0.97),
    ),
    ((0, 0.72), (0.08, 0.7), (0.14, 0.74), (0.26, 0.88), (0.45, 0.97), (0.75, 1), (0.93, 0.99), (1, 0.94)),
)  # fmt: skip
_TUBES: tuple[Profile, ...] = (
    (
        (0, 1), (0.07, 1), (0.08, 0.97), (0.4, 0.9), (0.7, 0.82), (0.78, 0.76), (0.82, 0.64), (0.821, 0.7),
        (0.98, 0.72), (1, 0.7),
    ),
)  # fmt: skip

SHAPES = (
    Shape(
        name="bottle",
        aspect=(0.30, 0.37),
        stature=(0.74, 0.94),
        label=(0.5, 0.9, 0.94),
        round=1.0,
        profiles=_BOTTLES,
        lid=0.1,
        can_lie=True,
    ),
    Shape(
        name="can",
        aspect=(0.52, 0.66),
        stature=(0.42, 0.62),
        label=(0.16, 0.88, 0.9),
        round=1.0,
        profiles=_CANS,
        lid=0.06,
        can_lie=True,
    ),
    Shape(
        name="box",
        aspect=(0.58, 0.98),
        stature=(0.5, 0.88),
        label=(0.16, 0.84, 0.84),
        round=0.0,
        profiles=(((0, 1), (1, 1)),),
        can_lie=True,
    ),
    Shape(
        name="jar",
        aspect=(0.68, 0.86),
        stature=(0.42, 0.62),
        label=(0.4, 0.86, 0.9),
        round=1.0,
        profiles=_JARS,
        lid=0.19,
    ),
    Shape(
        name="bag",
        aspect=(0.66, 0.86),
        stature=(0.58, 0.86),
        label=(0.22, 0.8, 0.86),
        round=0.45,
        profiles=_BAGS,
    ),
    Shape(
        name="tube",
        aspect=(0.31, 0.4),
        stature=(0.56, 0.84),
        label=(0.14, 0.74, 0.8),
        round=0.8,
        profiles=_TUBES,
        can_lie=True,
    ),
)
