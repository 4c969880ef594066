"""Heavy guests stay home, so that a command answers at once."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

HEAVY = {"torch", "torchvision", "ray", "duckdb", "pyarrow"}


def heavy_after(statement: str) -> str:
    script = f"import sys; {statement}; print(sorted({HEAVY!r} & set(sys.modules)))"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()


def test_the_front_door_lets_no_heavy_guest_in() -> None:
    assert heavy_after("import batchtag.cli") == "[]"


def test_a_job_file_is_checked_and_placed_without_torch_or_ray() -> None:
    assert heavy_after("import batchtag.spec, batchtag.placement, batchtag.places") == "[]"


def test_decoding_needs_neither_arrow_nor_torch_nor_ray() -> None:
    assert heavy_after("import batchtag.decode, batchtag.isolation") == "[]"


@pytest.mark.parametrize("arguments", [["--help"], ["verify", "--help"], ["run", "--help"]], ids=" ".join)
def test_help_comes_within_a_second(arguments: list[str]) -> None:
    """The best of three, because the machine that tests may be busy."""
    command = [str(Path(sys.executable).with_name("batchtag")), *arguments]
    walls = []
    for _ in range(3):
        began = time.perf_counter()
        shown = subprocess.run(command, capture_output=True, text=True, check=True)
        walls.append(time.perf_counter() - began)
        assert "Usage" in shown.stdout
        if walls[-1] < 1:
            return
    pytest.fail(f"`batchtag {' '.join(arguments)}` took {min(walls):.2f} s at best")
