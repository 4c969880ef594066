"""The placement of a run: how many workers of which size, on which device, with which batch size.

Pure arithmetic; starts nothing, so `submit --dry-run` can print it. The rates that choose a bundle size need only be of
the right order: a bundle should keep a worker busy for half a minute, so that starting it (15 ms of the driver) costs
nothing and losing it costs little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from batchtag.cluster.machines import Machine
from batchtag.config.job import ComputeSpec
from batchtag.errors import UsageError
from batchtag.models.acceleration.runtime import Engine, Precision, check_precision, choose_engine
from batchtag.runs.batch_size import choose_batch_size
from batchtag.runs.capacity import (
    Fit,
    actors_on_gpus,
    cores_per_actor,
    decode_workers_per_worker,
    find_fit,
    usable_machines,
)
from batchtag.types import ModelInfo

BUNDLE_S = 40.0
"""Seconds of one worker's time that a bundle should take."""
MIN_BUNDLE, MAX_BUNDLE = 16, 8192
"""Limits of the bundle size in images."""
BUNDLES_PER_WORKER = 8
"""Minimum number of bundles for each worker in small jobs: with one or two, workers wait for the last one to end."""
UNKNOWN_FROM_IMAGES = 131_072
"""The index asks for the bundle size when it has listed this many images, and does not know how many follow."""
CPU_GFLOPS_PER_CORE = 25.0
"""Rate of a server core in float32 convolutions through oneDNN: 20 to 40 were measured on an EPYC core."""
GPU_GFLOPS = 20_000.0
"""Rate of one data-centre GPU with detectors in float32/TF32, in order of magnitude."""
CPU_IMAGES_PER_S_PER_CORE = 150.0
"""Images that one core fetches and decodes per second, the limit for light models (measured: JPEGs of 80 KB)."""
CROPS_PER_IMAGE = 5.0
"""Assumed number of boxes that a classifier of crops gets per image."""
CORES_PER_CPU_WORKER, CORES_PER_LIGHT_WORKER = 8, 2
"""Python runs one thread of a process at a time. With `constant` on 10,000 photographs of 80 KB, two workers on two
cores tag 1,780 images/s and one worker with two threads 1,250; with mobilenet_v3_large 208 and 194. Heavier models gain
nothing from a second worker, and in short jobs its start costs more than it saves (92 photographs with resnet50: 17.2
and 22.0 s)."""
LIGHT_GFLOPS, LIGHT_MIN_S = 0.5, 20.0
"""Models with less work per image are light; in jobs that keep all cores busy for LIGHT_MIN_S their workers are
small."""
WORTH_STARTING_S, TOO_LONG_S = 120.0, 600.0
"""Starting a machine takes minutes. One more is requested if all machines including it have WORTH_STARTING_S of work,
or if the others alone would need TOO_LONG_S."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """The numbers of one run. `reason` explains them to a person in one line."""

    device: str
    engine: Engine
    precision: Precision
    actors: int
    cpus_per_actor: float
    gpus_per_actor: float
    compute_threads: int
    decode_threads: int
    batch_size: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What is to be done: images, bundles (None: not known yet), and the models. It decides the size of CPU workers."""

    num_images: int = 10**9
    num_bundles: int | None = None
    model_infos: Sequence[ModelInfo] = ()

    @property
    def gflops_per_image(self) -> float:
        """Work of all models for one image."""
        return sum(info.gflops * (CROPS_PER_IMAGE if info.crops_of else 1) for info in self.model_infos)

    @property
    def core_s_per_image(self) -> float:
        """Seconds of one core for one image (fetch, decode, predict), in order of magnitude."""
        return self.gflops_per_image / CPU_GFLOPS_PER_CORE + 1 / CPU_IMAGES_PER_S_PER_CORE

    def is_light(self, cores: float) -> bool:
        """Return whether light models keep this many cores busy for long enough to start more workers."""
        return self.gflops_per_image < LIGHT_GFLOPS and self.num_images * self.core_s_per_image >= LIGHT_MIN_S * cores


_UNKNOWN_WORKLOAD = Workload()


def place_run(
    compute: ComputeSpec,
    machines: Sequence[Machine],
    workload: Workload = _UNKNOWN_WORKLOAD,
    *,
    may_come: Sequence[Machine] = (),
) -> Placement:
    """Return the numbers for a run on these machines. Raises UsageError for a job that can never be placed there.

    `may_come` are machines that the cluster's autoscaler may add. They count as if they were present, because Ray adds
    them while actors wait for a place. But there are no more workers than bundles, and only as many machines are
    requested as have some minutes of work, unless the job sets the number of workers or the work of a model is unknown.
    """
    if not machines and not may_come:
        raise UsageError("the cluster has no running machine; try again when there is one")
    requested, not_requested = _choose_requested(compute, machines, may_come, workload)
    while True:
        all_machines = [*machines, *requested]
        try:
            placement = _place_on(compute, all_machines, workload)
            break
        except UsageError:  # it may fit if one machine more is requested
            if not not_requested:
                raise
            requested.append(not_requested.pop(0))
    note = f"; {len(machines)} of {len(all_machines)} nodes are running" if may_come else ""
    if not_requested:
        rate = sum(_images_per_s(compute, machine, placement.device, workload) for machine in all_machines)
        seconds = workload.num_images / rate
        note += (
            f"; {len(not_requested)} more are not requested, because the work takes about {seconds:,.0f} s without them"
        )
    return replace(placement, reason=placement.reason + note)


def choose_bundle_size(
    num_images: int,
    *,
    compute: ComputeSpec,
    model_infos: Sequence[ModelInfo],
    machines: Sequence[Machine],
    may_come: Sequence[Machine] = (),
) -> int:
    """Return the images per bundle of this job: half a minute of one worker, and several bundles for every worker."""
    if compute.bundle_size != "auto":
        return compute.bundle_size
    expected = num_images if num_images < UNKNOWN_FROM_IMAGES else 8 * UNKNOWN_FROM_IMAGES
    workload = Workload(num_images=expected, model_infos=model_infos)
    placement = place_run(compute, machines, workload, may_come=may_come)
    cores = placement.compute_threads
    device_rate = GPU_GFLOPS if placement.device == "cuda" else CPU_GFLOPS_PER_CORE * cores
    seconds_per_image = workload.gflops_per_image / device_rate + 1 / (CPU_IMAGES_PER_S_PER_CORE * cores)
    fair_share = expected / (BUNDLES_PER_WORKER * placement.actors)
    size = min(BUNDLE_S / seconds_per_image, max(fair_share, MIN_BUNDLE))
    return max(MIN_BUNDLE, min(MAX_BUNDLE, int(size)))


def _place_on(compute: ComputeSpec, machines: Sequence[Machine], workload: Workload) -> Placement:
    device = _choose_device(compute, machines)
    on_gpu = device == "cuda"
    hosts = [machine for machine in machines if int(machine.gpus)] if on_gpu else list(machines)
    gpus = (1.0 if compute.gpus_per_actor == "auto" else compute.gpus_per_actor) if on_gpu else 0.0
    fit = _fit_workers(compute, machines, hosts, workload, on_gpu=on_gpu, gpus=gpus)
    if compute.decode == "separate":
        _check_cpus_for_decode_workers(machines, fit, gpus)
    cores = cores_per_actor(hosts, fit, gpus_per_actor=gpus)
    engine = choose_engine(device, requested=compute.engine)
    placement = Placement(
        device=device,
        engine=engine,
        precision=check_precision(device, engine, requested=compute.precision),
        actors=fit.actors,
        cpus_per_actor=fit.cpus_per_actor,
        gpus_per_actor=gpus,
        compute_threads=cores,
        decode_threads=cores if compute.decode_threads == "auto" else compute.decode_threads,
        batch_size=choose_batch_size(compute, is_on_gpu=on_gpu),
        reason="",
    )
    return replace(placement, reason=_explain(placement, compute, machines))


def _fit_workers(
    compute: ComputeSpec,
    machines: Sequence[Machine],
    hosts: Sequence[Machine],
    workload: Workload,
    *,
    on_gpu: bool,
    gpus: float,
) -> Fit:
    """Return the workers that fit on `hosts`. Raises UsageError if what the job asks for fits nowhere."""
    if gpus:
        max_workers = sum(actors_on_gpus(machine, gpus) for machine in hosts)
    else:
        is_light = workload.is_light(sum(machine.cpus for machine in hosts))
        max_workers = _max_cpu_workers(hosts, CORES_PER_LIGHT_WORKER if is_light else CORES_PER_CPU_WORKER)
    wanted = _wanted_workers(compute, max_workers, on_gpu=on_gpu, num_bundles=workload.num_bundles)
    max_cpus = _max_cpus_per_worker(compute, machines, wanted, on_gpu=on_gpu)
    others = [machine for machine in machines if on_gpu and not int(machine.gpus)]
    options = usable_machines(hosts, has_free_cpu_elsewhere=any(machine.cpus >= 1 for machine in others))
    fit = find_fit(wanted, compute.cpus_per_actor, options, gpus_per_actor=gpus, max_cpus=max_cpus)
    if not fit.actors:
        raise UsageError(
            f"compute asks for {compute.actors} actors x {_format_number(compute.cpus_per_actor)} CPUs, each on one "
            f"machine of {', '.join(f'{host.cpus:g}' for host in hosts[:8])} CPUs, one of which must stay free for Ray "
            "Data; lower compute.actors or compute.cpus_per_actor"
            + _suggest_fit(wanted, compute.cpus_per_actor, options, gpus=gpus, max_cpus=max_cpus)
        )
    return fit


def _explain(placement: Placement, compute: ComputeSpec, machines: Sequence[Machine]) -> str:
    cpus = sum(machine.cpus for machine in machines)
    workers, gpus = placement.actors, placement.gpus_per_actor
    return (
        f"{workers} worker{'s' * (workers > 1)} on {placement.device} ({placement.engine}), "
        f"{placement.cpus_per_actor:g} of {cpus:g} CPUs"
        + (f" and {gpus:g} of a GPU" if 0 < gpus < 1 else "")
        + (" and no GPU (compute.gpus_per_actor)" if compute.gpus_per_actor != "auto" and not gpus else "")
        + f" each, {placement.decode_threads} decode threads, batches of {placement.batch_size}"
        + (f"; the job asks for {compute.actors}" if compute.actors not in ("auto", workers) else "")
    )


def _choose_requested(
    compute: ComputeSpec, present: Sequence[Machine], may_come: Sequence[Machine], workload: Workload
) -> tuple[list[Machine], list[Machine]]:
    """Split the machines that may come into those worth requesting and the others.

    A machine on which no worker fits is requested too: decode workers may run on it.
    """
    infos = workload.model_infos
    if compute.actors != "auto" or not infos or not all(info.gflops for info in infos):
        return list(may_come), []
    device = _choose_device(compute, [*present, *may_come])
    rate = sum(_images_per_s(compute, machine, device, workload) for machine in present)
    requested: list[Machine] = []
    not_requested: list[Machine] = []
    for machine in may_come:
        more = _images_per_s(compute, machine, device, workload)
        is_worthwhile = (
            workload.num_images >= WORTH_STARTING_S * (rate + more) or workload.num_images > TOO_LONG_S * rate
        )
        if more and not is_worthwhile:
            not_requested.append(machine)
        else:
            requested.append(machine)
            rate += more
    return requested, not_requested


def _images_per_s(compute: ComputeSpec, machine: Machine, device: str, workload: Workload) -> float:
    """Return the rate of one machine, in order of magnitude; 0 if no worker fits on it."""
    min_cpus = 0.1 if compute.cpus_per_actor == "auto" else compute.cpus_per_actor
    if device == "cpu":
        return machine.cpus / workload.core_s_per_image if machine.cpus >= min_cpus else 0.0
    if not int(machine.gpus) or machine.cpus < min_cpus:
        return 0.0
    decoded_per_s = CPU_IMAGES_PER_S_PER_CORE * machine.cpus
    return 1 / (workload.gflops_per_image / (GPU_GFLOPS * int(machine.gpus)) + 1 / decoded_per_s)


def _choose_device(compute: ComputeSpec, machines: Sequence[Machine]) -> str:
    has_gpu = any(int(machine.gpus) for machine in machines)
    if compute.device == "cuda" and not has_gpu:
        raise UsageError("compute.device is 'cuda' and the cluster has no GPU; use 'cpu' or 'auto', or add GPU nodes")
    return compute.device if compute.device != "auto" else ("cuda" if has_gpu else "cpu")


def _wanted_workers(
    compute: ComputeSpec, max_workers: int, *, on_gpu: bool, num_bundles: int | None
) -> int | Literal["auto"]:
    """Return how many workers there should be: what the job says, else `max_workers`; "auto" for as many as fit."""
    if compute.actors != "auto":
        return min(compute.actors, max_workers) if on_gpu else compute.actors
    if compute.cpus_per_actor != "auto" and not on_gpu and compute.decode != "separate":
        return "auto"
    if compute.decode == "separate" and not on_gpu:
        max_workers = max(1, max_workers // 2)
    return min(max_workers, num_bundles) if num_bundles else max_workers


def _max_cpus_per_worker(
    compute: ComputeSpec, machines: Sequence[Machine], wanted: int | Literal["auto"], *, on_gpu: bool
) -> float:
    """Return the most CPUs that a worker may take, so that some remain for decode workers.

    This is one CPU for a worker on a GPU. If a job wants separate decoding on CPUs, all workers together take half.
    """
    if compute.decode == "with_models" or wanted == "auto" or (compute.decode == "auto" and not on_gpu):
        return float("inf")
    half = (sum(machine.cpus for machine in machines) - 1) / (2 * wanted)
    if compute.decode == "separate":
        return max(0.1, min(1.0, half) if on_gpu else half)
    return 1.0


def _max_cpu_workers(hosts: Sequence[Machine], cores_per_worker: int) -> int:
    """Return how many workers of this size the hosts have cores for; two small ones if there are only two cores."""
    cores_of_hosts = [int(host.cpus) for host in hosts if host.cpus >= 1]
    least = min(2, sum(cores_of_hosts)) if cores_per_worker == CORES_PER_LIGHT_WORKER else 1
    return max(1, least, sum(max(1, cores // cores_per_worker) for cores in cores_of_hosts))


def _check_cpus_for_decode_workers(machines: Sequence[Machine], fit: Fit, gpus: float) -> None:
    """Raise UsageError if the workers of a job with separate decoding leave too few CPUs for decode workers."""

    def leaves_enough(cpus_per_actor: float) -> bool:
        count, _ = decode_workers_per_worker(
            machines, actors=fit.actors, cpus_per_actor=cpus_per_actor, gpus_per_actor=gpus
        )
        return count > 0

    if leaves_enough(fit.cpus_per_actor):
        return
    tenths = range(int(10 * fit.cpus_per_actor + 1e-9), 0, -1)
    largest = next((n / 10 for n in tenths if leaves_enough(n / 10)), 0.0)
    cpus = sum(machine.cpus for machine in machines)
    raise UsageError(
        f"compute.decode is 'separate', and of {cpus:g} CPUs too few remain for decode workers beside {fit.actors} x "
        f"{fit.cpus_per_actor:g} of workers and one for Ray Data; lower compute.actors or compute.cpus_per_actor"
        + (f": {fit.actors} x {largest:g} would fit" if largest else "")
    )


def _suggest_fit(
    wanted: int | Literal["auto"],
    cpus_per_actor: float | Literal["auto"],
    options: Sequence[Sequence[Machine]],
    *,
    gpus: float,
    max_cpus: float,
) -> str:
    """Return the most actors of the size asked for, and the largest actors of the number asked for, in words."""
    small = 0.1 if cpus_per_actor == "auto" else cpus_per_actor
    most = find_fit("auto", small, options, gpus_per_actor=gpus, max_cpus=max_cpus)
    largest = find_fit(wanted, "auto", options, gpus_per_actor=gpus, max_cpus=max_cpus)
    suggestions = [
        f"{fit.actors} actor{'s' * (fit.actors > 1)} x {fit.cpus_per_actor:g} CPUs"
        for fit in (most, largest)
        if fit.actors
    ]
    return f": {' or '.join(suggestions)} would fit" if suggestions else ""


def _format_number(value: float | Literal["auto"]) -> str:
    return value if isinstance(value, str) else f"{value:g}"
