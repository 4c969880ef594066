"""The workloads, one for each row of the table, with the ratios that batchtag must reach, and the peers' settings.

The settings are those that a fair expert would choose on few cores: with light models the second core decodes, with
heavy ones it runs the model too. `--tune` searches for better ones on this machine and keeps them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Images = Literal["ordinary", "12-megapixel"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a peer. `batch_size` images share a forward pass; `threads` are torch's for one forward pass."""

    batch_size: int
    workers: int
    threads: int


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One row: models and images. `of_peer` and `of_limit` are the bars: ratios to reach, 0 for no bar."""

    name: str
    classifiers: tuple[str, ...] = ()
    detectors: tuple[str, ...] = ()
    images: Images = "ordinary"
    peers: tuple[str, ...] = ("plain", "daft")
    once: tuple[str, ...] = ("ray",)
    """Peers that were never clearly the fastest, so one run is enough: after all workloads, if there is time. The
    reference runs in the first round of its workload."""
    reference: str = "plain"
    """The peer with whose answers all others are compared."""
    of_peer: float = 0.0
    of_limit: float = 0.0
    batch_size: int = 16
    min_images: int = 4
    max_images: int = 2000
    quick: bool = False
    """Whether `--quick` measures it."""

    @property
    def builders(self) -> tuple[str, ...]:
        """All models of the job, detectors first, in the order in which batchtag runs them."""
        return (*self.detectors, *self.classifiers)


WORKLOADS = (
    Workload(
        name="mobilenet_v3_large",
        classifiers=("mobilenet_v3_large",),
        of_peer=1.3,
        of_limit=0.85,
        quick=True,
    ),
    Workload(name="resnet50", classifiers=("resnet50",), of_peer=1.2, of_limit=0.90, min_images=80),
    Workload(
        name="12-megapixel",
        classifiers=("mobilenet_v3_large",),
        images="12-megapixel",
        peers=("plain",),
        once=("daft", "ray"),
        of_peer=3.0,
        batch_size=8,
        min_images=160,  # the first and the last half second of a run have less than the full rate
    ),
    Workload(
        name="fasterrcnn_320",
        detectors=("fasterrcnn_mobilenet_v3_large_320_fpn",),
        peers=("plain", "list"),
        once=("daft", "ray"),
        of_peer=1.3,
        batch_size=1,
        quick=True,
    ),
    Workload(
        name="fasterrcnn_v2",
        detectors=("fasterrcnn_resnet50_fpn_v2",),
        peers=("list",),
        once=("plain", "daft", "ray"),
        reference="list",  # its answers are torchvision's own, like those of plain; a run of either takes a minute
        of_peer=1.15,
        batch_size=1,
        min_images=2,  # each takes four to sixteen seconds, two at a time
    ),
    # Only the limit has a bar: at most 1.1 times the sum of the two bare times, which is 0.91 of the rate that they
    # allow. One peer gives the answers to compare with.
    Workload(
        name="detector + classifier",
        detectors=("fasterrcnn_mobilenet_v3_large_320_fpn",),
        classifiers=("resnet50",),
        peers=(),
        once=("plain",),
        of_limit=0.91,
        batch_size=1,
        min_images=32,
    ),
)


def settings_of(workload: Workload, peer: str, *, cores: int, tuned: Mapping[str, Settings]) -> Settings:
    """Return the settings of a peer for a workload: those that `--tune` found, or else the first candidate."""
    if settings := tuned.get(tuning_key(workload, peer)):
        return settings
    return list_candidates(workload, peer, cores=cores)[0]


def list_candidates(workload: Workload, peer: str, *, cores: int) -> list[Settings]:
    """Return the settings that are worth trying for a peer, the most likely first.

    The workers of a DataLoader decode while the parent runs the models. Ray's reading tasks and Daft's threads decode
    without a setting, so for these two the settings are torch's threads and the number of processes (or calls) that run
    the models. The batch of a detector is 1: in a batch with images of other shapes torchvision gives other boxes, and
    then there is nothing to compare.
    """
    few = max(1, cores // 2)
    if peer == "list":
        return [Settings(batch_size=size, workers=0, threads=threads) for size in (1, 4) for threads in (cores, few)]
    of_plain, of_others = [(cores, cores), (few, cores), (cores, few), (few, few)], [(1, cores), (1, few), (cores, 1)]
    pairs = of_plain if peer == "plain" else of_others
    sizes = [workload.batch_size] if workload.detectors else [workload.batch_size, 4 * workload.batch_size]
    return [Settings(batch_size=size, workers=workers, threads=threads) for size in sizes for workers, threads in pairs]


def tuning_key(workload: Workload, peer: str) -> str:
    """Return the key of tuned settings in their file."""
    return f"{workload.name}/{peer}"


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The size of the benchmark. `seconds` of tagging are aimed at for each run."""

    rounds: int
    seconds: float
    workloads: tuple[Workload, ...] = field(default=WORKLOADS)

    def num_images(self, workload: Workload, images_per_s: float) -> int:
        """Return the images of a run whose limit is that rate: a multiple of four, so that batches are full."""
        return max(workload.min_images, min(workload.max_images, round(images_per_s * self.seconds) // 4 * 4))


FULL = Scale(rounds=3, seconds=4.0)
QUICK = Scale(rounds=1, seconds=3.0, workloads=tuple(workload for workload in WORKLOADS if workload.quick))
