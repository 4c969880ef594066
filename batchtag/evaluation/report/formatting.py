"""How the page says a number, a count, a name: one way for each, and a dash where there was nothing to measure."""

from __future__ import annotations

import math

from batchtag.console import printable

NOTHING = "\u2013"
_SPACE = "\u00a0"
"""One that no line breaks at."""


def score(value: float, digits: int = 3) -> str:
    """A figure between 0 and 1."""
    return f"{value:.{digits}f}" if math.isfinite(value) else NOTHING


def share(value: float) -> str:
    """0.8712 as "87 %"; never "100 %" or "0 %" for what is not quite so."""
    if not math.isfinite(value):
        return NOTHING
    percent = round(100 * value)
    if percent in (0, 100) and value not in (0, 1):
        return (
            f"{100 * value:.1f}{_SPACE}%"
            if 0.0005 <= value <= 0.9995
            else (f">{_SPACE}99.9{_SPACE}%" if percent else f"<{_SPACE}0.1{_SPACE}%")
        )
    return f"{percent}{_SPACE}%"


def count(number: int, what: str = "", many: str = "") -> str:
    """1204, "image" as "1,204 images"; `many` where the plural is another."""
    if not what:
        return f"{number:,}"
    return f"{number:,} {what if number == 1 else many or f'{what}s'}"


def name(text: str, length: int = 0) -> str:
    """A label or URI, which strangers wrote: what is not printable is spelled out; cut in the middle at `length`."""
    shown = printable(text) or "(no name)"
    if length and len(shown) > length:
        tail = (length - 1) // 3
        return f"{shown[: length - 1 - tail]}…{shown[len(shown) - tail :]}"
    return shown


def file_name(uri: str) -> str:
    """The last step of a URI, for a caption."""
    return name(uri.rstrip("/").rsplit("/", 1)[-1], 40)
