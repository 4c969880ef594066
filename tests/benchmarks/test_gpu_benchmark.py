"""`benchmarks.gpu` runs without the rest of batchtag's dependencies, runs every step on a CPU, and names what it
lacks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.on_gpu.images import draw_jpeg, read_or_draw_jpegs
from benchmarks.on_gpu.limits import union_length
from benchmarks.on_gpu.methods import Rows, compute_agreement

ROOT = Path(__file__).parents[2]
RUN_WITHOUT_PACKAGES = """
import runpy, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("ray", "pydantic", "obstore", "duckdb", "pyarrow"):
            raise ModuleNotFoundError(f"{name} is not on a GPU machine")

sys.meta_path.insert(0, Absent())
sys.argv = ["gpu.py", *sys.argv[1:]]
runpy.run_path("benchmarks/gpu.py", run_name="__main__")
"""


def run_benchmark(*arguments: str) -> str:
    """Return its stdout on a machine without the packages that a GPU machine lacks; a GPU is hidden."""
    command = [sys.executable, "-c", RUN_WITHOUT_PACKAGES, *arguments]
    variables = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    completed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=variables)
    assert completed.returncode == 0, completed.stderr
    return completed.stdout


@pytest.mark.slow
def test_every_step_runs_on_a_cpu_without_ray_and_pydantic(tmp_path: Path) -> None:
    """With drawn images and seeded weights, so that only the repository is needed."""
    file = tmp_path / "gpu.json"
    stdout = run_benchmark("--device", "cpu", "--quick", "--photos", str(tmp_path), "--json", str(file))
    assert "drawn images" in stdout
    assert "not measured/s by nvJPEG" in stdout
    content = json.loads(file.read_text())
    (row,) = content["rows"]
    assert row["builder"] == "fasterrcnn_mobilenet_v3_large_320_fpn"
    assert row["exact_agrees"] > 0.95
    assert 5 < row["gflop"] < 8  # two for each multiply-add, and all 150 proposals
    assert min(row[name] for name in ("plain", "amp", "ours", "own_graph", "arithmetic_limit", "busy")) > 0
    assert content["decode_cpu_per_s"] > 1


@pytest.mark.slow
def test_without_a_gpu_the_table_has_not_measured_and_the_command_succeeds(tmp_path: Path) -> None:
    stdout = run_benchmark("--json", str(tmp_path / "gpu.json"))
    lines = [line for line in stdout.splitlines() if line.startswith(("fasterrcnn", "resnet50"))]
    assert len(lines) == 4
    assert all(line.count("not measured") == 12 for line in lines)
    assert "This machine has no GPU" in stdout


def test_drawn_images_are_the_same_on_every_machine_and_different_from_one_another(tmp_path: Path) -> None:
    assert draw_jpeg(0, 3) == draw_jpeg(0, 3) != draw_jpeg(0, 4)
    jpegs, origin = read_or_draw_jpegs(tmp_path, num_images=30)
    assert (len(jpegs), len(set(jpegs)), origin) == (30, 20, "drawn images")


@pytest.mark.parametrize(
    ("spans", "length"), [([], 0.0), ([(0, 2), (1, 3)], 3.0), ([(5, 6), (0, 1)], 2.0), ([(0, 9), (2, 3)], 9.0)]
)
def test_the_device_is_busy_while_anything_runs_on_it(spans: list[tuple[float, float]], length: float) -> None:
    assert union_length(spans) == length


def test_agreement_counts_the_rows_of_which_either_is_sure() -> None:
    box = one_row(1, 0.9, 10, 10, 50, 50)
    near = one_row(1, 0.905, 10.4, 10, 50, 50)
    far = one_row(1, 0.9, 10.6, 10, 50, 50)
    unsure = one_row(1, 0.2, 9, 9, 50, 50)
    nothing = np.zeros((0, 6), np.float32)
    assert compute_agreement([box], [near]) == 1.0
    assert compute_agreement([box], [far]) == 0.0
    assert compute_agreement([box], [nothing]) == compute_agreement([nothing], [box]) == 0.0
    assert compute_agreement([unsure], [nothing]) == compute_agreement([], []) == 1.0
    assert compute_agreement([one_row(7, 0.1, 0, 0, 0, 0)], [one_row(7, 0.6, 0, 0, 0, 0)]) == 1.0
    assert compute_agreement([one_row(7, 0.1, 0, 0, 0, 0)], [one_row(8, 0.1, 0, 0, 0, 0)]) == 0.0


def one_row(*values: float) -> Rows:
    return np.array([values], np.float32)
