"""What a cluster may grow to."""

from __future__ import annotations

from pathlib import Path

import yaml

from batchtag.nodes import machines_to_come
from batchtag.placement import Machine, place
from batchtag.spec import ComputeSpec, NodeKind

ROOT = Path(__file__).parents[1]
GPU, CPU, HEAD = Machine(cpus=8, gpus=1), Machine(cpus=16, gpus=0), Machine(cpus=0, gpus=0)
KINDS = [NodeKind(nodes=3, cpus=8, gpus=1), NodeKind(nodes=1, cpus=16)]


def test_of_each_kind_those_may_come_that_are_not_there() -> None:
    assert machines_to_come(KINDS, there=[HEAD]) == [GPU] * 3 + [CPU]
    assert machines_to_come(KINDS, there=[HEAD, GPU, GPU, CPU]) == [GPU]
    assert machines_to_come(KINDS, there=[GPU] * 5 + [CPU] * 5) == []


def test_what_ray_up_left_on_the_head_counts_where_the_job_says_nothing(tmp_path: Path) -> None:
    bootstrap = tmp_path / "ray_bootstrap_config.yaml"
    assert machines_to_come([], there=[HEAD], bootstrap=bootstrap) == []
    bootstrap.write_text((ROOT / "cluster.yaml").read_text())
    kinds = yaml.safe_load(bootstrap.read_text())["available_node_types"]
    to_come = machines_to_come([], there=[HEAD], bootstrap=bootstrap)
    assert len(to_come) == sum(kind.get("max_workers", 0) for kind in kinds.values())
    assert machines_to_come(KINDS, there=[HEAD], bootstrap=bootstrap) == [GPU] * 3 + [CPU]


def test_a_head_without_work_gets_workers_on_all_gpus_that_may_come() -> None:
    placement = place(ComputeSpec(), [HEAD], to_come=[GPU] * 3 + [CPU])
    assert (placement.device, placement.actors, placement.cpus_per_actor) == ("cuda", 3, 1)
    assert placement.free_cpus == 3 * 7 + 16 - 1
    assert placement.reason.endswith("; 1 of 5 nodes are there")
