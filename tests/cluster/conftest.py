"""Heads of real Ray clusters with their dashboards, for all tests of this folder: an idle one takes 7 % of a core."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.heads import Head, ray_head


@pytest.fixture(scope="package")
def head() -> Iterator[Head]:
    """One that asks for a token."""
    with tempfile.TemporaryDirectory(prefix="bt-", dir="/tmp") as name, ray_head(Path(name), token="t" * 32) as one:
        yield one


@pytest.fixture(scope="package")
def open_head() -> Iterator[Head]:
    """One that asks for nothing."""
    with tempfile.TemporaryDirectory(prefix="bt-", dir="/tmp") as name, ray_head(Path(name)) as one:
        yield one
