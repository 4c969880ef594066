"""A cluster that loses a node in the middle of a run."""

from __future__ import annotations

import io
import threading
from pathlib import Path

from ray.cluster_utils import Cluster
from rich.console import Console

from batchtag.runs import run_job
from batchtag.spec import make_spec
from batchtag.verify import verify
from tests.line.test_line import draw


def test_a_node_that_vanishes_costs_its_bundles_in_flight_and_no_row(tmp_path: Path) -> None:
    out = tmp_path / "out"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 96 * 2**20})
    keeper = cluster.add_node(num_cpus=2, object_store_memory=96 * 2**20)
    victim = cluster.add_node(num_cpus=2, object_store_memory=96 * 2**20)
    assert keeper is not victim
    spec = make_spec(
        {
            "version": 1,
            "source": {"kind": "prefix", "uris": [str(draw(tmp_path / "in", 600))]},
            "models": [{"kind": "constant", "seconds_per_image": 0.02}],
            "output": {"uri": str(out)},
            "compute": {"address": cluster.address, "actors": 2, "cpus_per_actor": 2, "bundle_size": 30},
        },
        origin="test",
    )

    over = threading.Event()
    killed: list[object] = []

    def vanish_after_three_parts() -> None:
        while not over.wait(0.05):
            if len(list((out / "images").glob("*.parquet"))) >= 3:
                cluster.remove_node(victim, allow_graceful=False)
                killed.append(victim)
                return

    killer = threading.Thread(target=vanish_after_three_parts)
    killer.start()
    try:
        report = run_job(spec, console=Console(file=io.StringIO()))
    finally:
        over.set()
        killer.join()
        cluster.shutdown()  # type: ignore[no-untyped-call]
    assert report.num_tagged == 600
    assert killed
    assert verify(str(out)).ok
