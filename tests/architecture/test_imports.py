"""The import graph: heavy packages are imported only where they are used, and nothing imports in a circle."""

from __future__ import annotations

import resource
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

HEAVY = {"torch", "torchvision", "ray", "duckdb", "pyarrow"}


def heavy_packages_after(statement: str) -> str:
    """Return the heavy packages that a new Python has imported after this statement."""
    script = f"import sys; {statement}; print(sorted({HEAVY!r} & set(sys.modules)))"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()


def test_the_command_line_imports_no_heavy_package() -> None:
    assert heavy_packages_after("import batchtag.cli") == "[]"


def test_a_job_file_is_checked_and_placed_without_heavy_packages() -> None:
    assert heavy_packages_after("import batchtag.config.job, batchtag.runs.placement, batchtag.runs.preflight") == "[]"


def test_decoding_imports_no_heavy_package() -> None:
    assert heavy_packages_after("import batchtag.decoding.decoder, batchtag.decoding.subprocess_decoder") == "[]"


def test_no_module_is_in_an_import_cycle() -> None:
    """Imports inside functions count. Unlike import-linter's contract, this covers a package's own `__init__` too.

    `prepare` raises CycleError with the modules of a cycle.
    """
    graph = grimp.build_graph("batchtag", exclude_type_checking_imports=True, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert len(imports) > 100
    TopologicalSorter(imports).prepare()


@pytest.mark.parametrize("arguments", [["--help"], ["verify", "--help"], ["run", "--help"]], ids=" ".join)
def test_help_takes_less_than_a_second_of_cpu(arguments: list[str]) -> None:
    """The best of three runs in CPU time, so that other work on the machine does not count."""
    command = [str(Path(sys.executable).with_name("batchtag")), *arguments]
    costs_s = []
    for _ in range(3):
        before_s = cpu_s_of_children()
        shown = subprocess.run(command, capture_output=True, text=True, check=True)
        costs_s.append(cpu_s_of_children() - before_s)
        assert "Usage" in shown.stdout
        if costs_s[-1] < 1:
            return
    pytest.fail(f"`batchtag {' '.join(arguments)}` took {min(costs_s):.2f} s of CPU at best")


def cpu_s_of_children() -> float:
    """Return the CPU seconds of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_openvino_does_not_send_telemetry() -> None:
    """OpenVINO sends an event with every import and conversion, unless its telemetry package cannot be imported."""
    script = (
        "import sys, torch; from batchtag.models.acceleration.openvino import compile_part; "
        "compile_part(torch.nn.Conv2d(3, 4, 3).eval(), torch.rand(1, 3, 8, 8), torch.rand(1, 3, 9, 9), "
        "usual_shapes=[(1, 3, 8, 8)], threads=1); "
        "print('openvino' in sys.modules, [name for name in sys.modules if name.startswith('openvino_telemetry')])"
    )
    ended = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "True []"
