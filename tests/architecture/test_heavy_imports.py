"""Heavy guests stay home, so that a command answers at once."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "torchvision", "ray", "duckdb", "pyarrow"}


def heavy_after(statement: str) -> str:
    script = f"import sys; {statement}; print(sorted({HEAVY!r} & set(sys.modules)))"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()


def test_the_front_door_lets_no_heavy_guest_in() -> None:
    assert heavy_after("import batchtag.cli") == "[]"


def test_a_job_file_is_checked_and_placed_without_torch_or_ray() -> None:
    assert heavy_after("import batchtag.config.job, batchtag.runs.placement, batchtag.runs.preflight") == "[]"


def test_decoding_needs_neither_arrow_nor_torch_nor_ray() -> None:
    assert heavy_after("import batchtag.decoding.decoder, batchtag.decoding.subprocess_decoder") == "[]"


@pytest.mark.parametrize("arguments", [["--help"], ["verify", "--help"], ["run", "--help"]], ids=" ".join)
def test_help_costs_less_than_a_second_of_a_core(arguments: list[str]) -> None:
    """The best of three, and of a core: what else the machine does is not the command's time."""
    command = [str(Path(sys.executable).with_name("batchtag")), *arguments]
    costs = []
    for _ in range(3):
        before = cpu_s_of_children()
        shown = subprocess.run(command, capture_output=True, text=True, check=True)
        costs.append(cpu_s_of_children() - before)
        assert "Usage" in shown.stdout
        if costs[-1] < 1:
            return
    pytest.fail(f"`batchtag {' '.join(arguments)}` took {min(costs):.2f} s of a core at best")


def cpu_s_of_children() -> float:
    """What all that have ended have used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_the_engine_for_cpus_is_not_let_to_tell_its_makers_of_its_use() -> None:
    """OpenVINO sends an event to them with every import and translation, unless its telemetry cannot be imported."""
    script = (
        "import sys, torch; from batchtag.models.acceleration.openvino import compile_part; "
        "compile_part(torch.nn.Conv2d(3, 4, 3).eval(), torch.rand(1, 3, 8, 8), torch.rand(1, 3, 9, 9), "
        "usual=[(1, 3, 8, 8)], threads=1); "
        "print('openvino' in sys.modules, [name for name in sys.modules if name.startswith('openvino_telemetry')])"
    )
    said = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "True []"
