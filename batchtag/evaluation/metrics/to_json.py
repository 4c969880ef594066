"""Conversion of records of numbers to plain JSON values."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np


def to_json(value: Any) -> Any:
    """Convert to dicts, lists, strings, ints and floats. A dataclass becomes a dict of its fields, nan and inf None."""
    if dataclasses.is_dataclass(value):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return to_json(value.tolist())
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
