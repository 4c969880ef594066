"""One Ray cluster for all tests of the line: starting one takes ten seconds, joining it one."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ray.cluster_utils import Cluster
from rich.console import Console

from batchtag.config.job import make_spec
from batchtag.runs.driver import run_job
from batchtag.runs.report import RunReport

Tag = Callable[..., RunReport]


@pytest.fixture(scope="package")
def cluster() -> Iterator[Cluster]:
    """A head with three logical CPUs on this machine."""
    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 3, "object_store_memory": 128 * 2**20})
    yield started
    started.shutdown()  # type: ignore[no-untyped-call]


@pytest.fixture
def tag(cluster: Cluster) -> Tag:
    """Run a job, given as the keys of its file, on the suite's cluster."""

    def run(source: str | dict[str, Any], out: str, **keys: Any) -> RunReport:
        content = {
            "version": 1,
            "source": source if isinstance(source, dict) else {"kind": "prefix", "uris": [source]},
            "models": [{"kind": "constant"}],
            "output": {"uri": out},
            **keys,
        }
        content["compute"] = {"address": cluster.address, **keys.get("compute", {})}
        return run_job(make_spec(content, origin="test"), console=Console(file=io.StringIO()))

    return run
