"""The nodes that a cluster may still add."""

from __future__ import annotations

from pathlib import Path

from batchtag.cluster.machines import Machine, list_missing_machines
from batchtag.cluster.nodes import find_node_kinds
from batchtag.config.job import ComputeSpec, NodeKind
from batchtag.runs.placement import place_run

ROOT = Path(__file__).parents[2]
GPU, CPU, HEAD = Machine(cpus=8, gpus=1), Machine(cpus=16, gpus=0), Machine(cpus=0, gpus=0)
KINDS = [NodeKind(nodes=3, cpus=8, gpus=1), NodeKind(nodes=1, cpus=16)]


def test_a_cluster_may_add_the_limit_of_each_kind_less_the_nodes_present() -> None:
    assert list_missing_machines(KINDS, present=[HEAD]) == [GPU] * 3 + [CPU]
    assert list_missing_machines(KINDS, present=[HEAD, GPU, GPU, CPU]) == [GPU]
    assert list_missing_machines(KINDS, present=[GPU] * 5 + [CPU] * 5) == []


def test_the_file_of_ray_up_counts_if_the_job_names_no_machines(tmp_path: Path) -> None:
    bootstrap = tmp_path / "ray_bootstrap_config.yaml"

    def kinds(spec: ComputeSpec, *, is_joined: bool = True) -> list[NodeKind]:
        return find_node_kinds(spec, is_joined=is_joined, bootstrap=bootstrap)

    assert kinds(ComputeSpec()) == []
    bootstrap.write_text((ROOT / "cluster.yaml").read_text())
    assert list_missing_machines(kinds(ComputeSpec()), present=[HEAD]) == [GPU] * 16 + [CPU] * 4
    assert kinds(ComputeSpec(), is_joined=False) == []
    assert kinds(ComputeSpec(may_grow_to=KINDS)) == KINDS
    bootstrap.write_text(bootstrap.read_text().replace("max_workers: 8", "max_workers: 0"))
    assert list_missing_machines(kinds(ComputeSpec()), present=[HEAD]) == [CPU] * 4
    bootstrap.write_text(bootstrap.read_text().replace("max_workers: 20", "max_workers: 3"))
    assert list_missing_machines(kinds(ComputeSpec()), present=[HEAD]) == [CPU] * 3


def test_a_head_without_resources_gets_workers_on_all_gpus_that_may_be_added() -> None:
    placement = place_run(ComputeSpec(), [HEAD], may_come=[GPU] * 3 + [CPU])
    assert (placement.device, placement.actors, placement.cpus_per_actor) == ("cuda", 3, 1)
    assert placement.reason.endswith("; 1 of 5 nodes are running")
