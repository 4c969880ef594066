"""Ray heads for the commands that speak to a cluster."""

from __future__ import annotations

from tests.support.ray_clusters import head, open_head

__all__ = ["head", "open_head"]
