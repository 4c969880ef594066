from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from batchtag.cluster.machines import Machine
from batchtag.config.job import ComputeSpec
from batchtag.errors import UsageError
from batchtag.runs.placement import (
    MAX_BUNDLE,
    MIN_BUNDLE,
    Placement,
    bundle_size,
    decode_workers_per_worker,
    place,
)
from tests.support.samples import info

AUTO = ComputeSpec()


def node(cpus: float, gpus: float = 0.0) -> Machine:
    return Machine(cpus=cpus, gpus=gpus)


def room_for(placement: Placement, machines: Sequence[Machine]) -> int:
    """How many of these actors Ray can start, each on one machine."""
    cpus, gpus = placement.cpus_per_actor, placement.gpus_per_actor
    return sum(int(min(m.cpus / cpus, m.gpus / gpus if gpus else m.cpus / cpus) + 1e-9) for m in machines)


def openers(placement: Placement, machines: Sequence[Machine]) -> tuple[int, float]:
    """How many each worker may have, and of what size."""
    return decode_workers_per_worker(
        machines,
        actors=placement.actors,
        cpus_per_actor=placement.cpus_per_actor,
        gpus_per_actor=placement.gpus_per_actor,
    )


CLUSTERS = {
    "one core": [node(1)],
    "two cores": [node(2)],
    "three cores": [node(3)],
    "sixteen cores": [node(16)],
    "sixty-four cores": [node(64)],
    "four small nodes": [node(4)] * 4,
    "a head of one core and a large node": [node(1), node(32)],
    "one gpu": [node(16, 1)],
    "eight gpus": [node(64, 8)],
    "eight gpus and few cores": [node(4, 8)],
    "cpu nodes beside a gpu node": [node(2)] * 10 + [node(4, 4)],
    "uneven gpu nodes": [node(8, 1), node(96, 8)],
}


@pytest.mark.parametrize("name", CLUSTERS)
def test_all_actors_fit_and_a_cpu_is_left_for_ray_data(name: str) -> None:
    """Otherwise Ray waits for ever, without a word."""
    machines = CLUSTERS[name]
    placement = place(AUTO, machines)
    cpus = sum(machine.cpus for machine in machines)
    assert room_for(placement, machines) >= placement.actors >= 1
    assert placement.actors * placement.cpus_per_actor <= max(cpus - 1, 0.5) + 1e-9
    assert placement.compute_threads >= 1
    assert placement.decode_threads >= 1


@pytest.mark.parametrize(
    ("name", "actors", "cpus_per_actor", "threads"),
    [
        ("one core", 1, 0.5, 1),
        ("two cores", 2, 0.5, 1),
        ("three cores", 2, 1, 2),
        ("sixteen cores", 8, 1.8, 2),
        ("sixty-four cores", 32, 1.9, 2),
        ("four small nodes", 8, 1.5, 2),
        ("a head of one core and a large node", 17, 1.8, 2),
        ("one gpu", 1, 1, 16),
        ("eight gpus", 8, 1, 8),
        ("eight gpus and few cores", 8, 0.3, 1),
        ("cpu nodes beside a gpu node", 4, 1, 1),
        ("uneven gpu nodes", 9, 1, 8),
    ],
)
def test_numbers_for_clusters_we_know(name: str, actors: int, cpus_per_actor: float, threads: int) -> None:
    placement = place(AUTO, CLUSTERS[name])
    assert (placement.actors, placement.cpus_per_actor, placement.compute_threads) == (actors, cpus_per_actor, threads)


def test_the_device_is_the_best_there_is_unless_the_job_says_otherwise() -> None:
    assert place(AUTO, [node(8, 1)]).device == "cuda"
    assert place(AUTO, [node(8, 1)]).gpus_per_actor == 1
    on_cpu = place(ComputeSpec(device="cpu"), [node(8, 1)])
    assert (on_cpu.device, on_cpu.gpus_per_actor) == ("cpu", 0)
    with pytest.raises(UsageError, match="the cluster has no GPU"):
        place(ComputeSpec(device="cuda"), [node(8)])


@pytest.mark.parametrize(
    ("num_images", "gflops", "workers"),
    [(100_000, 0.2, 2), (1000, 0.2, 1), (100_000, 4.0, 1), (90, 4.0, 1), (10_000, 0.0, 2), (2000, 0.0, 1)],
)
def test_light_models_in_long_jobs_get_small_workers_on_cpus(num_images: int, gflops: float, workers: int) -> None:
    two_cores = place(AUTO, CLUSTERS["two cores"], num_images=num_images, infos=[info(gflops=gflops)])
    assert (two_cores.actors, two_cores.compute_threads) == (workers, 2 // workers)


def test_heavy_models_get_workers_of_eight_cores() -> None:
    placement = place(AUTO, CLUSTERS["sixty-four cores"], infos=[info(gflops=100.0)])
    assert (placement.actors, placement.cpus_per_actor, placement.compute_threads) == (8, 7.8, 8)


def test_there_are_no_more_workers_than_bundles_and_fewer_have_more_cores_each() -> None:
    assert place(AUTO, [node(16)], num_bundles=100) == place(AUTO, [node(16)])
    few = place(AUTO, [node(16)], num_bundles=2)
    assert (few.actors, few.cpus_per_actor, few.compute_threads) == (2, 7.5, 8)
    assert place(AUTO, [node(64, 8)], num_bundles=1).actors == 1
    assert place(ComputeSpec(actors=3), [node(16)], num_bundles=1).actors == 3


def test_workers_of_gpus_leave_cpus_to_openers_unless_they_open_images_themselves() -> None:
    machines = CLUSTERS["eight gpus"]
    assert openers(place(AUTO, machines), machines) == (6, 1.0)
    with_models = place(ComputeSpec(decode="with_models"), machines)
    assert (with_models.cpus_per_actor, with_models.compute_threads) == (7.8, 8)


@pytest.mark.parametrize("name", [name for name in CLUSTERS if name != "one core"])
def test_an_own_pool_has_room_for_an_opener_of_every_worker(name: str) -> None:
    machines = CLUSTERS[name]
    placement = place(ComputeSpec(decode="own_pool"), machines)
    count, cpus = openers(placement, machines)
    assert count >= 1
    assert placement.actors * (placement.cpus_per_actor + count * cpus) <= sum(m.cpus for m in machines) - 1 + 1e-6


@pytest.mark.parametrize(
    ("machines", "asked", "expected"),
    [
        ([node(4)] * 3 + [node(5)], ComputeSpec(actors=4, cpus_per_actor=3.5), (1, 0.5)),
        ([node(4)] * 4, ComputeSpec(actors=4, cpus_per_actor=3), (1, 0.5)),
        ([node(4)] * 5, ComputeSpec(actors=4, cpus_per_actor=3), (1, 1.0)),
        ([node(4, 1)] * 4, ComputeSpec(), (2, 1.0)),
        ([node(2, 1)] * 4 + [node(16)], ComputeSpec(), (4, 1.0)),
    ],
)
def test_an_opener_has_room_on_one_machine(
    machines: list[Machine], asked: ComputeSpec, expected: tuple[int, float]
) -> None:
    """Of four machines with half a CPU left on each, none has room for a whole one."""
    placement = place(asked, machines)
    count, cpus = openers(placement, machines)
    assert (count, cpus) == expected
    by_worker = [placement.cpus_per_actor] * placement.actors
    left = [machine.cpus for machine in machines]
    for size in [*by_worker, *[cpus] * count * placement.actors]:
        roomy = next(i for i, free in enumerate(left) if free >= size)
        left[roomy] -= size


def test_workers_may_share_gpus() -> None:
    machines = CLUSTERS["eight gpus"]
    halves = place(ComputeSpec(gpus_per_actor=0.5), machines)
    assert (halves.actors, halves.gpus_per_actor, halves.compute_threads) == (16, 0.5, 4)
    assert "16 workers on cuda (torch), 1 of 64 CPUs and 0.5 of a GPU each" in halves.reason
    assert place(ComputeSpec(gpus_per_actor=0.4), machines).actors == 16, "Ray puts no actor on parts of two GPUs"
    assert place(ComputeSpec(gpus_per_actor=0.5, actors=3), machines).actors == 3
    on_cpus = place(ComputeSpec(gpus_per_actor=0.5), [node(8)])
    assert on_cpus.gpus_per_actor == 0
    assert "and no GPU (compute.gpus_per_actor)" in on_cpus.reason


def test_an_own_pool_beside_workers_of_a_given_size_has_room_too() -> None:
    placement = place(ComputeSpec(decode="own_pool", cpus_per_actor=1), [node(16)])
    assert (placement.actors, openers(placement, [node(16)])) == (4, (2, 1.0))


def test_an_own_pool_that_has_no_room_is_refused() -> None:
    with pytest.raises(UsageError, match="of 8 CPUs too few are left for it beside 1 x 7 of workers"):
        place(ComputeSpec(decode="own_pool", actors=1, cpus_per_actor=7), [node(8)])
    with pytest.raises(UsageError, match="of 1 CPUs too few"):
        place(ComputeSpec(decode="own_pool"), [node(1)])


def test_what_the_job_asks_for_is_obeyed() -> None:
    asked = ComputeSpec(actors=3, cpus_per_actor=2, batch_size=5, decode_threads=7)
    placement = place(asked, [node(16)])
    assert (placement.actors, placement.cpus_per_actor) == (3, 2)
    assert (placement.batch_images, placement.decode_threads) == (5, 7)
    assert place(ComputeSpec(actors=2), [node(64, 8)]).actors == 2
    assert place(ComputeSpec(cpus_per_actor=4), [node(16)]).actors == 3


def test_a_cluster_without_a_machine_is_told() -> None:
    """As a head's dashboard says for a moment after its start."""
    with pytest.raises(UsageError, match="the cluster has no machine that is alive"):
        place(AUTO, [])


@pytest.mark.parametrize(
    ("asked", "machines"),
    [
        (ComputeSpec(actors=4, cpus_per_actor=2), [node(8)]),
        (ComputeSpec(cpus_per_actor=9), [node(8)]),
        (ComputeSpec(cpus_per_actor=5), [node(4)] * 4),
        (ComputeSpec(actors=40), [node(3)]),
        (ComputeSpec(cpus_per_actor=2), [node(32), node(1, 1)]),
    ],
)
def test_a_job_that_can_never_be_placed_is_refused(asked: ComputeSpec, machines: list[Machine]) -> None:
    with pytest.raises(UsageError, match=r"compute asks for .* lower compute\.actors or compute\.cpus_per_actor"):
        place(asked, machines)


@pytest.mark.parametrize(
    ("asked", "machines", "fits"),
    [
        (ComputeSpec(actors=4, cpus_per_actor=2), [node(8)], "3 actors x 2 CPUs or 4 actors x 1.7 CPUs"),
        (ComputeSpec(cpus_per_actor=9), [node(8)], "1 actor x 7 CPUs"),
        (ComputeSpec(cpus_per_actor=5), [node(4)] * 4, "3 actors x 4 CPUs"),
        (ComputeSpec(actors=40), [node(3)], "20 actors x 0.1 CPUs"),
        (ComputeSpec(cpus_per_actor=2), [node(32), node(1, 1)], "1 actor x 1 CPUs"),
        (ComputeSpec(decode="own_pool", actors=1, cpus_per_actor=7), [node(8)], "1 x 6.9"),
    ],
)
def test_a_refusal_says_what_would_fit_and_that_does(asked: ComputeSpec, machines: list[Machine], fits: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f": {fits} would fit")):
        place(asked, machines)
    for actors, cpus in re.findall(r"(\d+)[a-z ]* x ([\d.]+)", fits):
        place(asked.model_copy(update={"actors": int(actors), "cpus_per_actor": float(cpus)}), machines)


HEAVY = [info(gflops=280.0)]
"""20 ms of a GPU, of the order of."""


@pytest.mark.parametrize(
    ("there", "to_come", "num_images", "workers", "told"),
    [
        ([node(0)], [node(8, 1)] * 16, 300, 1, "1 of 2 nodes are there; 15 more are not asked for, the work being"),
        ([node(0)], [node(8, 1)] * 16, 70_000, 8, "1 of 9 nodes are there; 8 more are not asked for"),
        ([node(0)], [node(8, 1)] * 16, 10**6, 16, "1 of 17 nodes are there"),
        ([node(8, 1)] * 4, [node(8, 1)] * 12, 300, 4, "4 of 4 nodes are there; 12 more are not asked for"),
        ([node(8, 1)], [node(64, 8)], 20_000, 1, "1 of 1 nodes are there; 1 more are not asked for"),
        ([node(8, 1)], [node(64, 8)], 50_000, 9, "1 of 2 nodes are there"),
        ([node(0)], [node(8, 1)] * 2 + [node(16)] * 4, 300, 1, "1 of 6 nodes are there; 1 more are not asked for"),
    ],
)
def test_no_more_machines_are_asked_for_than_have_some_minutes_of_work(
    there: list[Machine], to_come: list[Machine], num_images: int, workers: int, told: str
) -> None:
    placement = place(AUTO, there, to_come=to_come, num_images=num_images, infos=HEAVY)
    assert placement.actors == workers
    assert f"; {told}" in placement.reason


@pytest.mark.parametrize(("num_images", "nodes"), [(100, 1), (400, 2), (10_000, 4)])
def test_on_cpus_too_no_more_machines_are_asked_for(num_images: int, nodes: int) -> None:
    placement = place(AUTO, [node(0)], to_come=[node(16)] * 4, num_images=num_images, infos=HEAVY)
    assert placement.actors == 2 * nodes
    assert f"; 1 of {1 + nodes} nodes are there" in placement.reason


def test_where_the_work_is_unknown_or_the_job_says_how_many_all_machines_may_come() -> None:
    nodes = [node(8, 1)] * 16
    unknown = [*HEAVY, info(gflops=0.0)]
    assert place(AUTO, [node(0)], to_come=nodes, num_images=300, infos=unknown).actors == 16
    assert place(ComputeSpec(actors=12), [node(0)], to_come=nodes, num_images=300, infos=HEAVY).actors == 12


@pytest.mark.parametrize(
    ("asked", "to_come", "nodes"),
    [
        (ComputeSpec(cpus_per_actor=12), [node(8)] * 4 + [node(16)] * 4, 6),
        (ComputeSpec(cpus_per_actor=8), [node(8)] * 4, 3),
    ],
)
def test_a_job_that_fits_only_on_more_machines_is_not_refused(
    asked: ComputeSpec, to_come: list[Machine], nodes: int
) -> None:
    placement = place(asked, [node(0)], to_come=to_come, num_images=10, infos=HEAVY)
    assert placement.actors == 1
    assert f"; 1 of {nodes} nodes are there" in placement.reason


def test_bundles_are_not_made_small_for_machines_that_are_not_asked_for() -> None:
    nodes = [node(8, 1)] * 16
    assert bundle_size(300, compute=AUTO, infos=HEAVY, machines=[node(0)], to_come=nodes) == 300 // 8
    assert bundle_size(10_000, compute=AUTO, infos=HEAVY, machines=[node(0)], to_come=nodes) == 10_000 // 8


def test_the_reason_says_the_numbers_to_a_person() -> None:
    on_torch = ComputeSpec(engine="torch")
    assert (
        place(on_torch, [node(2)]).reason
        == "2 workers on cpu (torch), 0.5 of 2 CPUs each, 1 decode threads, batches of 16"
    )
    assert place(AUTO, [node(64, 8)]).reason.startswith("8 workers on cuda (torch), 1 of 64 CPUs each")


@pytest.mark.parametrize("num_images", [1, 100, 10_000, 131_072])
@pytest.mark.parametrize("gflops", [0.0, 5.0, 280.0, 100_000.0])
@pytest.mark.parametrize("name", CLUSTERS)
def test_a_bundle_is_neither_tiny_nor_huge(name: str, gflops: float, num_images: int) -> None:
    size = bundle_size(num_images, compute=AUTO, infos=[info(gflops=gflops)], machines=CLUSTERS[name])
    assert MIN_BUNDLE <= size <= MAX_BUNDLE


def test_heavier_models_more_workers_and_crops_make_smaller_bundles() -> None:
    def size(gflops: float, *, machines: Sequence[Machine] = CLUSTERS["sixteen cores"], crops_of: str = "") -> int:
        infos = [info(gflops=gflops, crops_of=crops_of)]
        return bundle_size(100_000, compute=AUTO, infos=infos, machines=machines)

    assert size(4.0) > size(20.0) > size(5000.0) == MIN_BUNDLE
    assert size(4.0) > size(4.0, crops_of="things")
    assert size(0.0, machines=CLUSTERS["eight gpus"]) == 100_000 // 64
    assert bundle_size(9, compute=ComputeSpec(bundle_size=3), infos=[], machines=[node(2)]) == 3
