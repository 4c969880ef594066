from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import pytest

from batchtag.cluster.machines import Machine
from batchtag.config.job import ComputeSpec
from batchtag.errors import UsageError
from batchtag.runs.capacity import decode_workers_per_worker
from batchtag.runs.placement import MAX_BUNDLE, MIN_BUNDLE, Placement, Workload, choose_bundle_size, place_run
from tests.support.samples import info

AUTO = ComputeSpec()


def node(cpus: float, gpus: float = 0.0) -> Machine:
    return Machine(cpus=cpus, gpus=gpus)


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
HEAVY = [info(gflops=280.0)]
"""A model that takes about 20 ms of a GPU for one image."""


def light_or_heavy(gflops: float, *, num_images: int = 10**9) -> Workload:
    return Workload(num_images=num_images, model_infos=[info(gflops=gflops)])


def capacity_for(placement: Placement, machines: Sequence[Machine]) -> int:
    """The number of these actors that Ray can start, each on one machine."""
    cpus, gpus = placement.cpus_per_actor, placement.gpus_per_actor
    return sum(int(min(m.cpus / cpus, m.gpus / gpus if gpus else m.cpus / cpus) + 1e-9) for m in machines)


def decode_workers(placement: Placement, machines: Sequence[Machine]) -> tuple[int, float]:
    """The number of decode workers of each worker, and the CPUs of each."""
    return decode_workers_per_worker(
        machines,
        actors=placement.actors,
        cpus_per_actor=placement.cpus_per_actor,
        gpus_per_actor=placement.gpus_per_actor,
    )


@pytest.mark.parametrize("name", CLUSTERS)
def test_all_workers_fit_and_one_cpu_stays_free_for_ray_data(name: str) -> None:
    """Otherwise Ray waits for ever without a message."""
    machines = CLUSTERS[name]
    placement = place_run(AUTO, machines)
    cpus = sum(machine.cpus for machine in machines)
    assert capacity_for(placement, machines) >= placement.actors >= 1
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
def test_known_clusters_get_these_numbers(name: str, actors: int, cpus_per_actor: float, threads: int) -> None:
    placement = place_run(AUTO, CLUSTERS[name])
    assert (placement.actors, placement.cpus_per_actor, placement.compute_threads) == (actors, cpus_per_actor, threads)


def test_a_gpu_is_used_if_there_is_one_unless_the_job_names_the_device() -> None:
    assert place_run(AUTO, [node(8, 1)]).device == "cuda"
    assert place_run(AUTO, [node(8, 1)]).gpus_per_actor == 1
    on_cpu = place_run(ComputeSpec(device="cpu"), [node(8, 1)])
    assert (on_cpu.device, on_cpu.gpus_per_actor) == ("cpu", 0)
    with pytest.raises(UsageError, match="the cluster has no GPU"):
        place_run(ComputeSpec(device="cuda"), [node(8)])


@pytest.mark.parametrize(
    ("num_images", "gflops", "workers"),
    [(100_000, 0.2, 2), (1000, 0.2, 1), (100_000, 4.0, 1), (90, 4.0, 1), (10_000, 0.0, 2), (2000, 0.0, 1)],
)
def test_light_models_get_small_workers_on_cpus_in_long_jobs(num_images: int, gflops: float, workers: int) -> None:
    two_cores = place_run(AUTO, CLUSTERS["two cores"], light_or_heavy(gflops, num_images=num_images))
    assert (two_cores.actors, two_cores.compute_threads) == (workers, 2 // workers)


def test_heavy_models_get_workers_of_eight_cores() -> None:
    placement = place_run(AUTO, CLUSTERS["sixty-four cores"], light_or_heavy(100.0))
    assert (placement.actors, placement.cpus_per_actor, placement.compute_threads) == (8, 7.8, 8)


def test_there_are_no_more_workers_than_bundles_and_fewer_workers_get_more_cores_each() -> None:
    assert place_run(AUTO, [node(16)], Workload(num_bundles=100)) == place_run(AUTO, [node(16)])
    few = place_run(AUTO, [node(16)], Workload(num_bundles=2))
    assert (few.actors, few.cpus_per_actor, few.compute_threads) == (2, 7.5, 8)
    assert place_run(AUTO, [node(64, 8)], Workload(num_bundles=1)).actors == 1
    assert place_run(ComputeSpec(actors=3), [node(16)], Workload(num_bundles=1)).actors == 3


def test_workers_on_gpus_leave_cpus_for_decode_workers_unless_they_decode_themselves() -> None:
    machines = CLUSTERS["eight gpus"]
    assert decode_workers(place_run(AUTO, machines), machines) == (6, 1.0)
    with_models = place_run(ComputeSpec(decode="with_models"), machines)
    assert (with_models.cpus_per_actor, with_models.compute_threads) == (7.8, 8)


@pytest.mark.parametrize("name", [name for name in CLUSTERS if name != "one core"])
def test_with_separate_decoding_every_worker_has_a_decode_worker(name: str) -> None:
    machines = CLUSTERS[name]
    placement = place_run(ComputeSpec(decode="separate"), machines)
    count, cpus = decode_workers(placement, machines)
    assert count >= 1
    assert placement.actors * (placement.cpus_per_actor + count * cpus) <= sum(m.cpus for m in machines) - 1 + 1e-6


def test_with_separate_decoding_workers_of_a_given_size_have_decode_workers_too() -> None:
    placement = place_run(ComputeSpec(decode="separate", cpus_per_actor=1), [node(16)])
    assert (placement.actors, decode_workers(placement, [node(16)])) == (4, (2, 1.0))


def test_separate_decoding_is_refused_if_workers_leave_too_few_cpus() -> None:
    with pytest.raises(UsageError, match="of 8 CPUs too few remain for decode workers beside 1 x 7 of workers"):
        place_run(ComputeSpec(decode="separate", actors=1, cpus_per_actor=7), [node(8)])
    with pytest.raises(UsageError, match="of 1 CPUs too few"):
        place_run(ComputeSpec(decode="separate"), [node(1)])


@pytest.mark.parametrize(
    ("machines", "compute", "expected"),
    [
        ([node(4)] * 3 + [node(5)], ComputeSpec(actors=4, cpus_per_actor=3.5), (1, 0.5)),
        ([node(4)] * 4, ComputeSpec(actors=4, cpus_per_actor=3), (1, 0.5)),
        ([node(4)] * 5, ComputeSpec(actors=4, cpus_per_actor=3), (1, 1.0)),
        ([node(4, 1)] * 4, ComputeSpec(), (2, 1.0)),
        ([node(2, 1)] * 4 + [node(16)], ComputeSpec(), (4, 1.0)),
    ],
)
def test_each_decode_worker_fits_on_one_machine(
    machines: list[Machine], compute: ComputeSpec, expected: tuple[int, float]
) -> None:
    """Four machines with half a free CPU each have no place for a decode worker of one CPU."""
    placement = place_run(compute, machines)
    count, cpus = decode_workers(placement, machines)
    assert (count, cpus) == expected
    sizes = [placement.cpus_per_actor] * placement.actors + [cpus] * count * placement.actors
    free = [machine.cpus for machine in machines]
    for size in sizes:
        host = next(i for i, free_cpus in enumerate(free) if free_cpus >= size)
        free[host] -= size


def test_several_workers_may_share_a_gpu() -> None:
    machines = CLUSTERS["eight gpus"]
    halves = place_run(ComputeSpec(gpus_per_actor=0.5), machines)
    assert (halves.actors, halves.gpus_per_actor, halves.compute_threads) == (16, 0.5, 4)
    assert "16 workers on cuda (torch), 1 of 64 CPUs and 0.5 of a GPU each" in halves.reason
    assert place_run(ComputeSpec(gpus_per_actor=0.4), machines).actors == 16, "no worker has parts of two GPUs"
    assert place_run(ComputeSpec(gpus_per_actor=0.5, actors=3), machines).actors == 3
    on_cpus = place_run(ComputeSpec(gpus_per_actor=0.5), [node(8)])
    assert on_cpus.gpus_per_actor == 0
    assert "and no GPU (compute.gpus_per_actor)" in on_cpus.reason


def test_numbers_in_the_job_are_used() -> None:
    compute = ComputeSpec(actors=3, cpus_per_actor=2, batch_size=5, decode_threads=7)
    placement = place_run(compute, [node(16)])
    assert (placement.actors, placement.cpus_per_actor) == (3, 2)
    assert (placement.batch_size, placement.decode_threads) == (5, 7)
    assert place_run(ComputeSpec(actors=2), [node(64, 8)]).actors == 2
    assert place_run(ComputeSpec(cpus_per_actor=4), [node(16)]).actors == 3


def test_a_cluster_without_a_running_machine_is_an_error() -> None:
    """A head's dashboard lists none for a moment after its start."""
    with pytest.raises(UsageError, match="the cluster has no running machine"):
        place_run(AUTO, [])


@pytest.mark.parametrize(
    ("compute", "machines", "suggestion"),
    [
        (ComputeSpec(actors=4, cpus_per_actor=2), [node(8)], "3 actors x 2 CPUs or 4 actors x 1.7 CPUs"),
        (ComputeSpec(cpus_per_actor=9), [node(8)], "1 actor x 7 CPUs"),
        (ComputeSpec(cpus_per_actor=5), [node(4)] * 4, "3 actors x 4 CPUs"),
        (ComputeSpec(actors=40), [node(3)], "20 actors x 0.1 CPUs"),
        (ComputeSpec(cpus_per_actor=2), [node(32), node(1, 1)], "1 actor x 1 CPUs"),
    ],
)
def test_a_job_that_can_never_be_placed_is_refused_with_numbers_that_fit(
    compute: ComputeSpec, machines: list[Machine], suggestion: str
) -> None:
    message = rf"compute asks for .* lower compute\.actors or compute\.cpus_per_actor: {suggestion} would fit"
    with pytest.raises(UsageError, match=message):
        place_run(compute, machines)
    place_suggested(suggestion, compute, machines)


def test_a_refusal_of_separate_decoding_has_numbers_that_fit() -> None:
    compute = ComputeSpec(decode="separate", actors=1, cpus_per_actor=7)
    with pytest.raises(UsageError, match=r": 1 x 6\.9 would fit"):
        place_run(compute, [node(8)])
    place_suggested("1 x 6.9", compute, [node(8)])


def place_suggested(suggestion: str, compute: ComputeSpec, machines: list[Machine]) -> None:
    """Place each "<actors> x <CPUs>" of the text; raises UsageError if one does not fit."""
    pairs = re.findall(r"(\d+)[a-z ]* x ([\d.]+)", suggestion)
    assert pairs
    for actors, cpus in pairs:
        changes = {"actors": int(actors), "cpus_per_actor": float(cpus)}
        place_run(compute.model_copy(update=changes), machines)


@pytest.mark.parametrize(
    ("present", "may_come", "num_images", "workers", "note"),
    [
        ([node(0)], [node(8, 1)] * 16, 300, 1, "1 of 2 nodes are running; 15 more are not requested, because the work"),
        ([node(0)], [node(8, 1)] * 16, 70_000, 8, "1 of 9 nodes are running; 8 more are not requested"),
        ([node(0)], [node(8, 1)] * 16, 10**6, 16, "1 of 17 nodes are running"),
        ([node(8, 1)] * 4, [node(8, 1)] * 12, 300, 4, "4 of 4 nodes are running; 12 more are not requested"),
        ([node(8, 1)], [node(64, 8)], 20_000, 1, "1 of 1 nodes are running; 1 more are not requested"),
        ([node(8, 1)], [node(64, 8)], 50_000, 9, "1 of 2 nodes are running"),
        ([node(0)], [node(8, 1)] * 2 + [node(16)] * 4, 300, 1, "1 of 6 nodes are running; 1 more are not requested"),
    ],
)
def test_only_as_many_machines_are_requested_as_have_some_minutes_of_work(
    present: list[Machine], may_come: list[Machine], num_images: int, workers: int, note: str
) -> None:
    workload = Workload(num_images=num_images, model_infos=HEAVY)
    placement = place_run(AUTO, present, workload, may_come=may_come)
    assert placement.actors == workers
    assert f"; {note}" in placement.reason


@pytest.mark.parametrize(("num_images", "nodes"), [(100, 1), (400, 2), (10_000, 4)])
def test_only_as_many_cpu_machines_are_requested_as_have_some_minutes_of_work(num_images: int, nodes: int) -> None:
    workload = Workload(num_images=num_images, model_infos=HEAVY)
    placement = place_run(AUTO, [node(0)], workload, may_come=[node(16)] * 4)
    assert placement.actors == 2 * nodes
    assert f"; 1 of {1 + nodes} nodes are running" in placement.reason


def test_all_machines_are_requested_if_the_work_is_unknown_or_the_job_sets_the_number_of_workers() -> None:
    nodes = [node(8, 1)] * 16
    unknown = Workload(num_images=300, model_infos=[*HEAVY, info(gflops=0.0)])
    assert place_run(AUTO, [node(0)], unknown, may_come=nodes).actors == 16
    known = Workload(num_images=300, model_infos=HEAVY)
    assert place_run(ComputeSpec(actors=12), [node(0)], known, may_come=nodes).actors == 12


@pytest.mark.parametrize(
    ("compute", "may_come", "nodes"),
    [
        (ComputeSpec(cpus_per_actor=12), [node(8)] * 4 + [node(16)] * 4, 6),
        (ComputeSpec(cpus_per_actor=8), [node(8)] * 4, 3),
    ],
)
def test_a_job_that_fits_only_on_more_machines_requests_them(
    compute: ComputeSpec, may_come: list[Machine], nodes: int
) -> None:
    placement = place_run(compute, [node(0)], Workload(num_images=10, model_infos=HEAVY), may_come=may_come)
    assert placement.actors == 1
    assert f"; 1 of {nodes} nodes are running" in placement.reason


def test_the_reason_has_the_numbers_in_one_line() -> None:
    on_torch = place_run(ComputeSpec(engine="torch"), [node(2)])
    assert on_torch.reason == "2 workers on cpu (torch), 0.5 of 2 CPUs each, 1 decode threads, batches of 16"
    assert place_run(AUTO, [node(64, 8)]).reason.startswith("8 workers on cuda (torch), 1 of 64 CPUs each")


def test_the_reason_says_if_there_are_fewer_workers_than_the_job_asks_for() -> None:
    assert place_run(ComputeSpec(actors=9), [node(64, 8)]).reason.endswith("; the job asks for 9")


def test_a_bundle_is_neither_tiny_nor_huge_on_any_cluster_for_any_model_and_number_of_images() -> None:
    gflops_of_models = (0.0, 5.0, 280.0, 100_000.0)
    for machines, gflops, num_images in itertools.product(
        CLUSTERS.values(), gflops_of_models, (1, 100, 10_000, 131_072)
    ):
        infos = [info(gflops=gflops)]
        size = choose_bundle_size(num_images, compute=AUTO, model_infos=infos, machines=machines)
        assert MIN_BUNDLE <= size <= MAX_BUNDLE, (machines, gflops, num_images)


def test_heavier_models_more_workers_and_crops_make_smaller_bundles() -> None:
    def size(gflops: float, *, machines: Sequence[Machine] = CLUSTERS["sixteen cores"], crops_of: str = "") -> int:
        infos = [info(gflops=gflops, crops_of=crops_of)]
        return choose_bundle_size(100_000, compute=AUTO, model_infos=infos, machines=machines)

    assert size(4.0) > size(20.0) > size(5000.0) == MIN_BUNDLE
    assert size(4.0) > size(4.0, crops_of="things")
    assert size(0.0, machines=CLUSTERS["eight gpus"]) == 100_000 // 64


def test_the_bundle_size_of_the_job_is_used() -> None:
    assert choose_bundle_size(9, compute=ComputeSpec(bundle_size=3), model_infos=[], machines=[node(2)]) == 3


def test_bundles_are_not_made_smaller_for_machines_that_are_not_requested() -> None:
    def size(num_images: int) -> int:
        may_come = [node(8, 1)] * 16
        return choose_bundle_size(num_images, compute=AUTO, model_infos=HEAVY, machines=[node(0)], may_come=may_come)

    assert size(300) == 300 // 8
    assert size(10_000) == 10_000 // 8
