"""Arithmetic: spec + cluster -> numbers. How many workers, on which device, what batch and bundle size. Starts nothing.

Workers never take all CPUs: Ray Data needs one for its own tasks, and with none left it waits for ever without a word
(ray #44687). The figures for choosing a bundle size need not be exact, only of the right order: a bundle should keep a
worker busy for half a minute, so that starting one (15 ms of the driver) is nothing and losing one is little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from batchtag.errors import UsageError
from batchtag.records import ModelCard
from batchtag.spec import ComputeSpec

BUNDLE_S = 40.0
MIN_BUNDLE, MAX_BUNDLE = 64, 8192
CPU_GFLOPS_PER_CORE = 25.0
"""What a server core reaches in fp32 convolutions through oneDNN, of the order of: 20 to 40 measured on an EPYC core."""
GPU_GFLOPS = 20_000.0
"""What detectors reach on one data-centre GPU in fp32/TF32, of the order of."""
CPU_IMAGES_PER_S_PER_CORE = 150.0
"""Fetching and decoding ordinary photographs on one core: the limit of light models (measured 150/s, 80 KB JPEGs)."""
CROPS_PER_IMAGE = 5.0
GPU_SLAB, CPU_SLAB = 64, 16
"""Images handed to the models at once."""
CORES_PER_CPU_WORKER = 8


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One node, as Ray counts it."""

    cpus: float
    gpus: float


@dataclass(frozen=True, kw_only=True)
class Placement:
    """The numbers of one run. `reason` says them to a person, in one line."""

    device: str
    actors: int
    cpus_per_actor: float
    gpus_per_actor: float
    compute_threads: int
    decode_threads: int
    slab_images: int
    reason: str


def place(compute: ComputeSpec, machines: Sequence[Machine]) -> Placement:
    """Numbers for a run on these machines. Raises UsageError for a job that can never be placed there."""
    cpus, gpus = sum(m.cpus for m in machines), sum(m.gpus for m in machines)
    device = compute.device if compute.device != "auto" else ("cuda" if gpus >= 1 else "cpu")
    if device == "cuda" and gpus < 1:
        raise UsageError("compute.device is 'cuda' and the cluster has no GPU; use 'cpu' or 'auto', or add GPU nodes")
    spare = max(cpus - 1, 0.5)
    if device == "cuda":
        actors = int(gpus) if compute.actors == "auto" else min(compute.actors, int(gpus))
        share = spare / actors
    else:
        actors = max(1, int(spare // CORES_PER_CPU_WORKER)) if compute.actors == "auto" else compute.actors
        share = min(spare / actors, CORES_PER_CPU_WORKER if actors > 1 else spare)
    per_actor = _whole(share) if compute.cpus_per_actor == "auto" else compute.cpus_per_actor
    if actors * per_actor > cpus - 0.5:
        raise UsageError(
            f"compute asks for {actors} actors x {per_actor:g} CPUs and the cluster has {cpus:g}, one of which must stay "
            "free for Ray Data; lower compute.actors or compute.cpus_per_actor"
        )
    cores = max(1, round(cpus / actors))
    decode_threads = cores if compute.decode_threads == "auto" else compute.decode_threads
    slab = (GPU_SLAB if device == "cuda" else CPU_SLAB) if compute.batch_size == "auto" else compute.batch_size
    return Placement(
        device=device,
        actors=actors,
        cpus_per_actor=per_actor,
        gpus_per_actor=1.0 if device == "cuda" else 0.0,
        compute_threads=cores,
        decode_threads=decode_threads,
        slab_images=slab,
        reason=f"{actors} worker{'s' * (actors > 1)} on {device}, {per_actor:g} of {cpus:g} CPUs each, "
        f"{decode_threads} decode threads, slabs of {slab}",
    )


def _whole(share: float) -> float:
    """Whole CPUs where there is at least one; Ray takes tenths below that."""
    return float(int(share)) if share >= 1 else max(0.1, int(share * 10) / 10)


def bundle_size(
    num_images: int, *, compute: ComputeSpec, cards: Sequence[ModelCard], machines: Sequence[Machine]
) -> int:
    """How many images a bundle of this job gets: half a minute of one worker, and several bundles for every worker."""
    if compute.bundle_size != "auto":
        return compute.bundle_size
    placement = place(compute, machines)
    cores = placement.compute_threads
    gflops = sum(card.gflops * (CROPS_PER_IMAGE if card.crops_of else 1) for card in cards)
    device_rate = GPU_GFLOPS if placement.device == "cuda" else CPU_GFLOPS_PER_CORE * cores
    seconds_per_image = gflops / device_rate + 1 / (CPU_IMAGES_PER_S_PER_CORE * cores)
    fair_share = num_images / (4 * placement.actors)
    size = min(BUNDLE_S / seconds_per_image, max(fair_share, MIN_BUNDLE))
    return max(MIN_BUNDLE, min(MAX_BUNDLE, int(size)))
