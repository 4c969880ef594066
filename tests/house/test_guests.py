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


def test_the_engine_for_cpus_is_not_let_to_tell_its_makers_of_its_use() -> None:
    """OpenVINO sends an event to them with every import and translation, unless its telemetry cannot be imported."""
    script = (
        "import sys, torch; from batchtag.models.openvino import compile_part; "
        "compile_part(torch.nn.Conv2d(3, 4, 3).eval(), torch.rand(1, 3, 8, 8), torch.rand(1, 3, 9, 9), "
        "usual=[(1, 3, 8, 8)], threads=1); "
        "print('openvino' in sys.modules, [name for name in sys.modules if name.startswith('openvino_telemetry')])"
    )
    said = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "True []"
