"""What a cluster may grow to."""

from __future__ import annotations

from pathlib import Path

from batchtag.cluster.machines import Machine, still_to_come
from batchtag.cluster.nodes import kinds_to_come
from batchtag.config.job import ComputeSpec, NodeKind
from batchtag.runs.placement import place

ROOT = Path(__file__).parents[2]
GPU, CPU, HEAD = Machine(cpus=8, gpus=1), Machine(cpus=16, gpus=0), Machine(cpus=0, gpus=0)
KINDS = [NodeKind(nodes=3, cpus=8, gpus=1), NodeKind(nodes=1, cpus=16)]


def test_of_each_kind_those_may_come_that_are_not_there() -> None:
    assert still_to_come(KINDS, there=[HEAD]) == [GPU] * 3 + [CPU]
    assert still_to_come(KINDS, there=[HEAD, GPU, GPU, CPU]) == [GPU]
    assert still_to_come(KINDS, there=[GPU] * 5 + [CPU] * 5) == []


def test_what_ray_up_left_on_the_head_counts_where_the_job_says_nothing(tmp_path: Path) -> None:
    bootstrap = tmp_path / "ray_bootstrap_config.yaml"

    def kinds(spec: ComputeSpec, *, joined: bool = True) -> list[NodeKind]:
        return kinds_to_come(spec, joined=joined, bootstrap=bootstrap)

    assert kinds(ComputeSpec()) == []
    bootstrap.write_text((ROOT / "cluster.yaml").read_text())
    assert still_to_come(kinds(ComputeSpec()), there=[HEAD]) == [GPU] * 16 + [CPU] * 4
    assert kinds(ComputeSpec(), joined=False) == []
    assert kinds(ComputeSpec(may_grow_to=KINDS)) == KINDS
    bootstrap.write_text(bootstrap.read_text().replace("max_workers: 8", "max_workers: 0"))
    assert still_to_come(kinds(ComputeSpec()), there=[HEAD]) == [CPU] * 4
    bootstrap.write_text(bootstrap.read_text().replace("max_workers: 20", "max_workers: 3"))
    assert still_to_come(kinds(ComputeSpec()), there=[HEAD]) == [CPU] * 3


def test_a_head_without_work_gets_workers_on_all_gpus_that_may_come() -> None:
    placement = place(ComputeSpec(), [HEAD], to_come=[GPU] * 3 + [CPU])
    assert (placement.device, placement.actors, placement.cpus_per_actor) == ("cuda", 3, 1)
    assert placement.reason.endswith("; 1 of 5 nodes are there")
