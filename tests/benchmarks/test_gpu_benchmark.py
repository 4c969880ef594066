"""`benchmarks.gpu` stands alone, tries all of its steps on a CPU, and says what it did not measure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmarks.on_gpu.images import drawn, jpegs

from benchmarks.on_gpu.limits import covered
from benchmarks.on_gpu.ways import Found, agreement

ROOT = Path(__file__).parents[2]
WITHOUT = """
import runpy, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("ray", "pydantic", "obstore", "duckdb", "pyarrow"):
            raise ModuleNotFoundError(f"{name} is not on a GPU machine")

sys.meta_path.insert(0, Absent())
sys.argv = ["gpu.py", *sys.argv[1:]]
runpy.run_path("benchmarks/gpu.py", run_name="__main__")
"""


def run(*arguments: str) -> str:
    """What it prints on a machine that lacks what a GPU machine lacks; its GPU, if there is one, is hidden."""
    command = [sys.executable, "-c", WITHOUT, *arguments]
    variables = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=variables)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_every_step_runs_on_a_cpu_without_ray_and_pydantic(tmp_path: Path) -> None:
    """Drawn images and seeded weights, so nothing is needed but the repository."""
    file = tmp_path / "gpu.json"
    said = run("--device", "cpu", "--quick", "--images", str(tmp_path), "--json", str(file))
    assert "drawn images" in said
    assert "not measured/s by nvJPEG" in said
    content = json.loads(file.read_text())
    (row,) = content["rows"]
    assert row["builder"] == "fasterrcnn_mobilenet_v3_large_320_fpn"
    assert row["exact_agrees"] > 0.95
    assert 5 < row["gflop"] < 8  # two for each multiply-add, and all 150 proposals
    assert min(row[name] for name in ("plain", "amp", "ours", "own_graph", "arithmetic_limit", "busy")) > 0
    assert content["decode_cpu_per_s"] > 1


def test_without_a_gpu_the_table_says_so_and_that_is_no_failure(tmp_path: Path) -> None:
    said = run("--json", str(tmp_path / "gpu.json"))
    lines = [line for line in said.splitlines() if line.startswith(("fasterrcnn", "resnet50"))]
    assert len(lines) == 4
    assert all(line.count("not measured") == 12 for line in lines)
    assert "There is no GPU here" in said


def test_drawn_images_are_the_same_everywhere_and_differ_from_one_another(tmp_path: Path) -> None:
    assert drawn(0, 3) == drawn(0, 3) != drawn(0, 4)
    some, origin = jpegs(tmp_path, num_images=30)
    assert (len(some), len(set(some)), origin) == (30, 20, "drawn images")


@pytest.mark.parametrize(
    ("spans", "length"), [([], 0.0), ([(0, 2), (1, 3)], 3.0), ([(5, 6), (0, 1)], 2.0), ([(0, 9), (2, 3)], 9.0)]
)
def test_the_device_is_busy_while_anything_runs_on_it(spans: list[tuple[float, float]], length: float) -> None:
    assert covered(spans) == length


def test_agreement_counts_what_either_is_sure_of() -> None:
    box = found(1, 0.9, 10, 10, 50, 50)
    near, far, doubtful = (
        found(1, 0.905, 10.4, 10, 50, 50),
        found(1, 0.9, 10.6, 10, 50, 50),
        found(1, 0.2, 9, 9, 50, 50),
    )
    nothing = np.zeros((0, 6), np.float32)
    assert agreement([box], [near]) == 1.0
    assert agreement([box], [far]) == 0.0
    assert agreement([box], [nothing]) == agreement([nothing], [box]) == 0.0
    assert agreement([doubtful], [nothing]) == agreement([], []) == 1.0
    assert agreement([found(7, 0.1, 0, 0, 0, 0)], [found(7, 0.6, 0, 0, 0, 0)]) == 1.0
    assert agreement([found(7, 0.1, 0, 0, 0, 0)], [found(8, 0.1, 0, 0, 0, 0)]) == 0.0


def found(*row: float) -> Found:
    return np.array([row], np.float32)
