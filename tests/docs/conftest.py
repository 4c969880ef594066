"""The Ray cluster that the commands of the documentation join."""

from __future__ import annotations

from tests.support.ray_clusters import ray_cluster

__all__ = ["ray_cluster"]
