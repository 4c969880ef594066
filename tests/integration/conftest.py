"""Whole runs on the Ray cluster that the tests share."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from ray.cluster_utils import Cluster
from rich.console import Console

from batchtag.config.job import make_spec
from batchtag.runs.driver import run_job
from batchtag.runs.report import RunReport
from tests.support.ray_clusters import ray_cluster

__all__ = ["ray_cluster"]
Tag = Callable[..., RunReport]
"""`tag(source, out, **keys)`: run a job, given as the keys of its file, and return its report."""


@pytest.fixture
def tag(ray_cluster: Cluster) -> Tag:
    """Run jobs on the shared cluster, in this process. `source` is a folder or the keys of a source."""

    def run(source: str | dict[str, Any], out: str, **keys: Any) -> RunReport:
        content = {
            "version": 1,
            "source": source if isinstance(source, dict) else {"kind": "prefix", "uris": [source]},
            "models": [{"kind": "constant"}],
            "output": {"uri": out},
            **keys,
        }
        content["compute"] = {"address": ray_cluster.address, **keys.get("compute", {})}
        return run_job(make_spec(content, origin="test"), console=Console(file=io.StringIO()))

    return run
