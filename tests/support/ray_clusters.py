"""Ray clusters that the tests of a folder share: starting one takes some ten seconds, joining it one.

Each folder's conftest.py imports what it needs. A cluster ends with the tests of its folder, for two reasons: an idle
head with its dashboard takes 7 % of a core, and a test elsewhere that starts a private Ray in its own process ends all
Ray processes below that process, also these.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

from benchmarks.heads import Head, run_ray_head


@pytest.fixture(scope="package")
def ray_cluster() -> Iterator[Cluster]:
    """A head with three logical CPUs on this machine and no dashboard. Runs join it by its `address`."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 3, "object_store_memory": 128 * 2**20})
    yield cluster
    cluster.shutdown()  # type: ignore[no-untyped-call]


@pytest.fixture(scope="package")
def head() -> Iterator[Head]:
    """A head that demands a token."""
    with (
        tempfile.TemporaryDirectory(prefix="bt-", dir="/tmp") as name,
        run_ray_head(Path(name), token="t" * 32) as head,
    ):
        yield head


@pytest.fixture(scope="package")
def open_head() -> Iterator[Head]:
    """A head without authentication."""
    with tempfile.TemporaryDirectory(prefix="bt-", dir="/tmp") as name, run_ray_head(Path(name)) as head:
        yield head
