"""Arithmetic: spec + cluster -> numbers. How many workers, on which device, what batch and bundle size. Starts nothing.

Workers never take all CPUs: Ray Data needs one for its own tasks, and with none left it waits for ever without a word
(ray #44687). The figures for choosing a bundle size need not be exact, only of the right order: a bundle should keep a
worker busy for half a minute, so that starting one (15 ms of the driver) is nothing and losing one is little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from batchtag.cluster.machines import Machine
from batchtag.config.job import ComputeSpec
from batchtag.errors import UsageError
from batchtag.models.acceleration.runtime import Engine, Precision, engine_on, precision_on
from batchtag.types import ModelInfo

BUNDLE_S = 40.0
MIN_BUNDLE, MAX_BUNDLE = 16, 8192
BUNDLES_PER_WORKER = 8
"""At least, in small jobs: with one or two for each, workers wait for the last one to end."""
MANY = 131_072
"""So many images or more: the index asks for the size when it has listed that many, and does not know the rest."""
CPU_GFLOPS_PER_CORE = 25.0
"""What a server core reaches in fp32 convolutions through oneDNN: 20 to 40 were measured on an EPYC core."""
GPU_GFLOPS = 20_000.0
"""What detectors reach on one data-centre GPU in fp32/TF32, of the order of."""
CPU_IMAGES_PER_S_PER_CORE = 150.0
"""Fetching and decoding ordinary photographs on one core: the limit of light models (measured 150/s, 80 KB JPEGs)."""
CROPS_PER_IMAGE = 5.0
CORES_PER_CPU_WORKER, CORES_PER_LIGHT_WORKER = 8, 2
"""Python runs one thread of a process at a time: with `constant` on 10,000 photographs of 80 KB, two workers on two
cores tag 1,780 images/s and one with two threads 1,250; mobilenet_v3_large 208 and 194. Heavier models gain nothing by
a second worker, and in short jobs its start costs more than it brings (92 photographs, resnet50: 17.2 and 22.0)."""
LIGHT_GFLOPS, WORTH_S = 0.5, 20.0
"""Models lighter than that, in jobs that keep all cores busy for so long, get small workers."""
WORTH_COMING_S, TOO_LONG_S = 120.0, 600.0
"""A machine that may come is asked for if with it all have so much work, or if without it the others need so long: to
start one takes minutes."""
GPU_BATCH, CPU_BATCH = 64, 16
"""Images handed to the models at once."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """The numbers of one run. `reason` says them to a person, in one line."""

    device: str
    engine: Engine
    precision: Precision
    actors: int
    cpus_per_actor: float
    gpus_per_actor: float
    compute_threads: int
    decode_threads: int
    batch_images: int
    reason: str


def place(
    compute: ComputeSpec,
    machines: Sequence[Machine],
    *,
    to_come: Sequence[Machine] = (),
    num_bundles: int | None = None,
    num_images: int = 10**9,
    infos: Sequence[ModelInfo] = (),
) -> Placement:
    """Numbers for a run on these machines. Raises UsageError for a job that can never be placed there.

    Machines `to_come` are those that the cluster's autoscaler may add: they count as if they were there, for Ray adds
    them while actors wait for a place. But there are no more workers than bundles to do, and no more machines are asked
    for than have some minutes of work, unless the job says how many workers, or nobody knows the work of its models.
    What is to be done (`num_images`, `infos`) decides too how many cores a worker gets on CPUs.

    An actor runs on one machine, so what counts is how many fit on each, not the sum of the CPUs: on four nodes of 4
    CPUs, one actor of 15 would be waited for in vain.
    """
    if not machines and not to_come:
        raise UsageError("the cluster has no machine that is alive; try again when one is there")
    asked, left = _worth_coming(compute, machines, to_come, num_images=num_images, infos=infos)
    while True:
        everywhere = [*machines, *asked]
        try:
            placement = _place_on(compute, everywhere, num_bundles=num_bundles, num_images=num_images, infos=infos)
            break
        except UsageError:  # perhaps there is room where more have come
            if not left:
                raise
            asked.append(left.pop(0))
    told = f"; {len(machines)} of {len(everywhere)} nodes are there" if to_come else ""
    if left:
        rate = sum(_images_per_s(compute, machine, placement.device, infos) for machine in everywhere)
        told += f"; {len(left)} more are not asked for, the work being some {num_images / rate:,.0f} s without them"
    return replace(placement, reason=placement.reason + told)


def _place_on(
    compute: ComputeSpec,
    machines: Sequence[Machine],
    *,
    num_bundles: int | None,
    num_images: int,
    infos: Sequence[ModelInfo],
) -> Placement:
    device = _device(compute, machines)
    hosts = [m for m in machines if int(m.gpus)] if device == "cuda" else list(machines)
    gpus = (1.0 if compute.gpus_per_actor == "auto" else compute.gpus_per_actor) if device == "cuda" else 0.0
    cores = sum(machine.cpus for machine in hosts)
    is_light = _gflops(infos) < LIGHT_GFLOPS and num_images * _cpu_seconds(infos) >= WORTH_S * cores
    per_worker = CORES_PER_LIGHT_WORKER if is_light else CORES_PER_CPU_WORKER
    most = sum(_room_by_gpu(machine, gpus) for machine in hosts) if gpus else _cpu_workers(hosts, per_worker)
    wanted = _wanted(compute, most, on_gpu=device == "cuda", num_bundles=num_bundles)
    at_most = _largest_actor(compute, machines, wanted, on_gpu=device == "cuda")
    beside = [machine for machine in machines if device == "cuda" and not int(machine.gpus)]
    spares = _spares(hosts, one_is_free=any(machine.cpus >= 1 for machine in beside))
    fits = [(*_actors(wanted, compute.cpus_per_actor, spare, gpus, at_most=at_most), spare) for spare in spares]
    actors, per_actor, spare = max(fits, key=lambda fit: fit[0] * fit[1])
    if not actors:
        raise UsageError(
            f"compute asks for {compute.actors} actors x {_number(compute.cpus_per_actor)} CPUs, each on one machine "
            f"of {', '.join(f'{m.cpus:g}' for m in hosts[:8])} CPUs, one of which must stay free for Ray Data; "
            "lower compute.actors or compute.cpus_per_actor"
            + _what_fits(wanted, compute.cpus_per_actor, spares, gpus, at_most=at_most)
        )
    cpus = sum(machine.cpus for machine in machines)
    if compute.decode == "own_pool":
        openers, _ = decode_workers_per_worker(machines, actors=actors, cpus_per_actor=per_actor, gpus_per_actor=gpus)
        if not openers:
            raise UsageError(
                f"compute.decode is 'own_pool' and of {cpus:g} CPUs too few are left for it beside {actors} x "
                f"{per_actor:g} of workers and one for Ray Data; lower compute.actors or compute.cpus_per_actor"
                + _what_fits_beside_a_pool(machines, actors=actors, per_actor=per_actor, gpus=gpus)
            )
    cores = _cores(hosts, spare, actors=actors, per_actor=per_actor, gpus=gpus)
    engine = engine_on(device, asked=compute.engine)
    precision = precision_on(device, engine, asked=compute.precision)
    decode_threads = cores if compute.decode_threads == "auto" else compute.decode_threads
    batch = (GPU_BATCH if device == "cuda" else CPU_BATCH) if compute.batch_size == "auto" else compute.batch_size
    return Placement(
        device=device,
        engine=engine,
        precision=precision,
        actors=actors,
        cpus_per_actor=per_actor,
        gpus_per_actor=gpus,
        compute_threads=cores,
        decode_threads=decode_threads,
        batch_images=batch,
        reason=f"{actors} worker{'s' * (actors > 1)} on {device} ({engine}), {per_actor:g} of {cpus:g} CPUs"
        + (f" and {gpus:g} of a GPU" if 0 < gpus < 1 else "")
        + (" and no GPU (compute.gpus_per_actor)" if compute.gpus_per_actor != "auto" and not gpus else "")
        + f" each, {decode_threads} decode threads, batches of {batch}"
        + (f"; {compute.actors} were asked for" if compute.actors not in ("auto", actors) else ""),
    )


def decode_workers_per_worker(
    machines: Sequence[Machine], *, actors: int, cpus_per_actor: float, gpus_per_actor: float
) -> tuple[int, float]:
    """How many openers each worker may employ where so many workers are, and the CPUs of each: one, or a part of one.

    An opener runs on one machine, so what counts is what workers leave on each; one CPU, where most is left, is Ray
    Data's. Which machines workers are on is not asked: they are taken to fill one after the other.
    """
    left, waiting = [], actors
    for machine in machines:
        here = min(waiting, _room_on(machine, cpus_per_actor, gpus_per_actor))
        waiting -= here
        left.append(machine.cpus - here * cpus_per_actor)
    left.sort()
    left[-1] = max(0.0, left[-1] - 1)
    for tenths in range(10, 0, -1):
        count = sum(int(10 * cpus / tenths + 1e-9) for cpus in left) // actors
        if count:
            return count, tenths / 10
    return 0, 0.0


def _number(asked: float | Literal["auto"]) -> str:
    return asked if isinstance(asked, str) else f"{asked:g}"


def _worth_coming(
    compute: ComputeSpec,
    there: Sequence[Machine],
    to_come: Sequence[Machine],
    *,
    num_images: int,
    infos: Sequence[ModelInfo],
) -> tuple[list[Machine], list[Machine]]:
    """Of the machines to come those that count, and the others. Where no worker has room, it may do for openers."""
    if compute.actors != "auto" or not infos or not all(info.gflops for info in infos):
        return list(to_come), []
    device = _device(compute, [*there, *to_come])
    rate = sum(_images_per_s(compute, machine, device, infos) for machine in there)
    asked: list[Machine] = []
    left: list[Machine] = []
    for machine in to_come:
        more = _images_per_s(compute, machine, device, infos)
        is_worth = num_images >= WORTH_COMING_S * (rate + more) or num_images > TOO_LONG_S * rate
        if more and not is_worth:
            left.append(machine)
        else:
            asked.append(machine)
            rate += more
    return asked, left


def _images_per_s(compute: ComputeSpec, machine: Machine, device: str, infos: Sequence[ModelInfo]) -> float:
    """What a machine tags, of the order of; 0 where no worker has room."""
    size = 0.1 if compute.cpus_per_actor == "auto" else compute.cpus_per_actor
    if device == "cpu":
        return machine.cpus / _cpu_seconds(infos) if machine.cpus >= size else 0.0
    if not int(machine.gpus) or machine.cpus < size:
        return 0.0
    opened = CPU_IMAGES_PER_S_PER_CORE * machine.cpus
    return 1 / (_gflops(infos) / (GPU_GFLOPS * int(machine.gpus)) + 1 / opened)


def _what_fits(
    wanted: int | Literal["auto"],
    asked: float | Literal["auto"],
    spares: Sequence[Sequence[Machine]],
    gpus: float,
    *,
    at_most: float,
) -> str:
    """The most actors of the size asked for, and the largest of which so many fit."""
    small = 0.1 if asked == "auto" else asked
    most = [_actors("auto", small, spare, gpus, at_most=at_most) for spare in spares]
    largest = [_actors(wanted, "auto", spare, gpus, at_most=at_most) for spare in spares]
    found = [max(fits, key=lambda fit: fit[0] * fit[1]) for fits in (most, largest)]
    told = [f"{actors} actor{'s' * (actors > 1)} x {size:g} CPUs" for actors, size in found if actors]
    return f": {' or '.join(told)} would fit" if told else ""


def _what_fits_beside_a_pool(machines: Sequence[Machine], *, actors: int, per_actor: float, gpus: float) -> str:
    """The largest of so many actors that leave room for the pool."""
    for tenths in range(int(10 * per_actor + 1e-9), 0, -1):
        if decode_workers_per_worker(machines, actors=actors, cpus_per_actor=tenths / 10, gpus_per_actor=gpus)[0]:
            return f": {actors} x {tenths / 10:g} would fit"
    return ""


def _device(compute: ComputeSpec, machines: Sequence[Machine]) -> str:
    has_gpu = any(int(machine.gpus) for machine in machines)
    if compute.device == "cuda" and not has_gpu:
        raise UsageError("compute.device is 'cuda' and the cluster has no GPU; use 'cpu' or 'auto', or add GPU nodes")
    return compute.device if compute.device != "auto" else ("cuda" if has_gpu else "cpu")


def _wanted(compute: ComputeSpec, most: int, *, on_gpu: bool, num_bundles: int | None) -> int | Literal["auto"]:
    """How many workers there should be, `most` if the job says nothing; "auto" for as many as fit."""
    if compute.actors != "auto":
        return min(compute.actors, most) if on_gpu else compute.actors
    if compute.cpus_per_actor != "auto" and not on_gpu and compute.decode != "own_pool":
        return "auto"
    if compute.decode == "own_pool" and not on_gpu:
        most = max(1, most // 2)
    return min(most, num_bundles) if num_bundles else most


def _largest_actor(
    compute: ComputeSpec, machines: Sequence[Machine], wanted: int | Literal["auto"], *, on_gpu: bool
) -> float:
    """The CPUs that a worker takes at most, so that openers have some: on a GPU one, with an own pool its half."""
    if compute.decode == "with_models" or wanted == "auto" or (compute.decode == "auto" and not on_gpu):
        return float("inf")
    half = (sum(machine.cpus for machine in machines) - 1) / (2 * wanted)
    if compute.decode == "own_pool":
        return max(0.1, min(1.0, half) if on_gpu else half)
    return 1.0


def _cpu_workers(hosts: Sequence[Machine], per_worker: int) -> int:
    """One for so many cores; of small ones two at least where there are as many cores."""
    whole = [int(host.cpus) for host in hosts if host.cpus >= 1]
    least = min(2, sum(whole)) if per_worker == CORES_PER_LIGHT_WORKER else 1
    return max(1, least, sum(max(1, cores // per_worker) for cores in whole))


def _gflops(infos: Sequence[ModelInfo]) -> float:
    """Of an image, by all models."""
    return sum(info.gflops * (CROPS_PER_IMAGE if info.crops_of else 1) for info in infos)


def _cpu_seconds(infos: Sequence[ModelInfo]) -> float:
    """What an image takes of a core, fetched, decoded and looked at, of the order of."""
    return _gflops(infos) / CPU_GFLOPS_PER_CORE + 1 / CPU_IMAGES_PER_S_PER_CORE


def _spares(hosts: Sequence[Machine], *, one_is_free: bool) -> list[list[Machine]]:
    """What actors may take of each host: all, but one CPU of the largest, or of the smallest, whichever costs less.

    Nothing need be kept if other nodes have a CPU for Ray Data.
    """
    whole = [i for i, host in enumerate(hosts) if host.cpus >= 1]
    if one_is_free:
        return [list(hosts)]
    if not whole:
        return [[Machine(cpus=host.cpus / 2, gpus=host.gpus) for host in hosts]]
    largest, smallest = max(whole, key=lambda i: hosts[i].cpus), min(whole, key=lambda i: hosts[i].cpus)
    least = 0.5 if len(hosts) == 1 else 0.0
    return [
        [
            Machine(cpus=max(host.cpus - 1, least) if i == kept else host.cpus, gpus=host.gpus)
            for i, host in enumerate(hosts)
        ]
        for kept in (largest, smallest)
    ]


def _actors(
    wanted: int | Literal["auto"],
    asked: float | Literal["auto"],
    spare: Sequence[Machine],
    gpus: float,
    *,
    at_most: float,
) -> tuple[int, float]:
    """How many actors of how many CPUs each; (0, 0) if they have no room."""
    largest = min(at_most, max(machine.cpus for machine in spare))
    sizes = [float(asked)] if asked != "auto" else [tenths / 10 for tenths in range(int(10 * largest + 1e-9), 0, -1)]
    for size in sizes:
        room = _room(spare, size, gpus)
        if room and (wanted == "auto" or room >= wanted):
            return (room if wanted == "auto" else wanted), size
    return 0, 0.0


def _room(spare: Sequence[Machine], cpus: float, gpus: float) -> int:
    return sum(_room_on(machine, cpus, gpus) for machine in spare)


def _room_on(machine: Machine, cpus: float, gpus: float) -> int:
    """How many actors fit on a machine. A hair is added because 0.9 / 0.3 is 2.9999999999999996."""
    by_cpu = int(machine.cpus / cpus + 1e-9)
    return min(by_cpu, _room_by_gpu(machine, gpus)) if gpus else by_cpu


def _room_by_gpu(machine: Machine, gpus: float) -> int:
    """Ray does not put an actor on parts of two GPUs."""
    return int(machine.gpus) * int(1 / gpus + 1e-9)


def _cores(hosts: Sequence[Machine], spare: Sequence[Machine], *, actors: int, per_actor: float, gpus: float) -> int:
    """The cores beside each actor where they are scarcest: what its threads may use, whatever Ray was told."""
    shares = [
        host.cpus / min(actors, room)
        for host, machine in zip(hosts, spare, strict=True)
        if (room := _room_on(machine, per_actor, gpus))
    ]
    return max(1, round(min(shares)))


def bundle_size(
    num_images: int,
    *,
    compute: ComputeSpec,
    infos: Sequence[ModelInfo],
    machines: Sequence[Machine],
    to_come: Sequence[Machine] = (),
) -> int:
    """How many images a bundle of this job gets: half a minute of one worker, and several bundles for every worker."""
    if compute.bundle_size != "auto":
        return compute.bundle_size
    expected = num_images if num_images < MANY else 8 * MANY
    placement = place(compute, machines, to_come=to_come, num_images=expected, infos=infos)
    cores = placement.compute_threads
    gflops = _gflops(infos)
    device_rate = GPU_GFLOPS if placement.device == "cuda" else CPU_GFLOPS_PER_CORE * cores
    seconds_per_image = gflops / device_rate + 1 / (CPU_IMAGES_PER_S_PER_CORE * cores)
    fair_share = expected / (BUNDLES_PER_WORKER * placement.actors)
    size = min(BUNDLE_S / seconds_per_image, max(fair_share, MIN_BUNDLE))
    return max(MIN_BUNDLE, min(MAX_BUNDLE, int(size)))
