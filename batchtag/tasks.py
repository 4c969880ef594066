"""The tasks that a model may have, and the kind of tag that each gives."""

from __future__ import annotations

from typing import Literal

Task = Literal["detect", "classify"]
