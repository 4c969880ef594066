"""Ray heads for the tests of this folder."""

from __future__ import annotations

from tests.support.ray_clusters import head, open_head

__all__ = ["head", "open_head"]
