"""The text of numbers, counts and names on the page: one format for each, and a dash for what cannot be measured."""

from __future__ import annotations

import math

from batchtag.console import escape_unprintable

DASH = "\u2013"
"""The text of a figure that cannot be measured."""
_SPACE = "\u00a0"
"""A no-break space."""


def format_score(value: float, digits: int = 3) -> str:
    """Format a figure between 0 and 1."""
    return f"{value:.{digits}f}" if math.isfinite(value) else DASH


def format_share(value: float) -> str:
    """Format 0.8712 as "87 %". Only exactly 1 is "100 %", and only exactly 0 is "0 %"."""
    if not math.isfinite(value):
        return DASH
    percent = round(100 * value)
    if percent not in (0, 100) or value in (0, 1):
        return f"{percent}{_SPACE}%"
    if 0.0005 <= value <= 0.9995:
        return f"{100 * value:.1f}{_SPACE}%"
    return f">{_SPACE}99.9{_SPACE}%" if percent else f"<{_SPACE}0.1{_SPACE}%"


def format_count(number: int, singular: str = "", plural: str = "") -> str:
    """Format 1204 as "1,204", and with "image" as "1,204 images". `plural` is for words that do not add an s."""
    if not singular:
        return f"{number:,}"
    return f"{number:,} {singular if number == 1 else plural or f'{singular}s'}"


def format_name(text: str, max_length: int = 0) -> str:
    """Format a label or a URI: unprintable characters are spelled out, and the middle is cut out at `max_length`."""
    shown = escape_unprintable(text) or "(no name)"
    if max_length and len(shown) > max_length:
        tail = (max_length - 1) // 3
        return f"{shown[: max_length - 1 - tail]}…{shown[len(shown) - tail :]}"
    return shown


def format_file_name(uri: str) -> str:
    """Format the last part of a URI, for a caption."""
    return format_name(uri.rstrip("/").rsplit("/", 1)[-1], 40)
