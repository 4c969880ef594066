"""What is measured: a row of the table each, with the bar it has to reach and the peers' settings.

The settings are what a fair expert arrives at on few cores: light models want the second core for decoding, heavy ones
for the forward pass. `--tune` looks for better ones on this machine and keeps what it finds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Images = Literal["ordinary", "12-megapixel"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a peer is set up. `batch_size` images share a forward pass; `threads` are torch's for one such pass."""

    batch_size: int
    workers: int
    threads: int


@dataclass(frozen=True, kw_only=True)
class Work:
    """One row: builders over images. `of_peer` and `of_limit` are the ratios to reach, 0 where there is no bar."""

    name: str
    classifiers: tuple[str, ...] = ()
    detectors: tuple[str, ...] = ()
    images: Images = "ordinary"
    peers: tuple[str, ...] = ("plain", "daft")
    once: tuple[str, ...] = ("ray",)
    """Peers that were never the fastest by more than the noise, so one round shows where they stand: after all works,
    while there is time. The reference runs in the first round of its work."""
    reference: str = "plain"
    """The peer whose answers all others' are held against."""
    of_peer: float = 0.0
    of_limit: float = 0.0
    batch_size: int = 16
    least: int = 4
    most: int = 2000
    """Images of a run."""
    quick: bool = False
    """Whether `--quick` measures it."""

    @property
    def builders(self) -> tuple[str, ...]:
        """All models of the job, detectors first, as the line runs them."""
        return (*self.detectors, *self.classifiers)


WORKS = (
    Work(
        name="mobilenet_v3_large",
        classifiers=("mobilenet_v3_large",),
        of_peer=1.3,
        of_limit=0.85,
        quick=True,
    ),
    Work(name="resnet50", classifiers=("resnet50",), of_peer=1.2, of_limit=0.90, least=80),
    Work(
        name="12-megapixel",
        classifiers=("mobilenet_v3_large",),
        images="12-megapixel",
        peers=("plain",),
        once=("daft", "ray"),
        of_peer=3.0,
        batch_size=8,
        least=160,  # the first and the last half second of a run are not at full rate
    ),
    Work(
        name="fasterrcnn_320",
        detectors=("fasterrcnn_mobilenet_v3_large_320_fpn",),
        peers=("plain", "list"),
        once=("daft", "ray"),
        of_peer=1.3,
        batch_size=1,
        quick=True,
    ),
    Work(
        name="fasterrcnn_v2",
        detectors=("fasterrcnn_resnet50_fpn_v2",),
        peers=("list",),
        once=("plain", "daft", "ray"),
        reference="list",  # as plain is torchvision's own, and a run of either takes most of a minute
        of_peer=1.15,
        batch_size=1,
        least=2,  # of four to sixteen seconds each, two at a time
    ),
    # Its bar is of the limit: at most 1.1 times the sum of the two bare times, which is 0.91 of the rate they allow. No
    # peer is to be outrun, so one shows what the same answers are.
    Work(
        name="detector + classifier",
        detectors=("fasterrcnn_mobilenet_v3_large_320_fpn",),
        classifiers=("resnet50",),
        peers=(),
        once=("plain",),
        of_limit=0.91,
        batch_size=1,
        least=32,
    ),
)


def settings_of(work: Work, peer: str, *, cores: int, tuned: Mapping[str, Settings]) -> Settings:
    """How this peer runs this work: as found by `--tune`, or by the rule that suits most."""
    if found := tuned.get(tuning_key(work, peer)):
        return found
    return candidates(work, peer, cores=cores)[0]


def candidates(work: Work, peer: str, *, cores: int) -> list[Settings]:
    """What is worth trying for a peer, the most likely first.

    A DataLoader's workers decode while the parent computes; Ray's reading tasks and Daft's threads do so by themselves,
    so for these two it is the threads of torch, and how many processes (or calls) look. A detector's batch is 1:
    beside neighbours of another shape torchvision gives other boxes, and what gives other tags is no comparison.
    """
    few = max(1, cores // 2)
    if peer == "list":
        return [Settings(batch_size=size, workers=0, threads=threads) for size in (1, 4) for threads in (cores, few)]
    both, beside = [(cores, cores), (few, cores), (cores, few), (few, few)], [(1, cores), (1, few), (cores, 1)]
    pairs = both if peer == "plain" else beside
    sizes = [work.batch_size] if work.detectors else [work.batch_size, 4 * work.batch_size]
    return [Settings(batch_size=size, workers=workers, threads=threads) for size in sizes for workers, threads in pairs]


def tuning_key(work: Work, peer: str) -> str:
    """How tuned settings are called in their file."""
    return f"{work.name}/{peer}"


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is run: `seconds` of tagging aimed at for a contender."""

    rounds: int
    seconds: float
    works: tuple[Work, ...] = field(default=WORKS)

    def num_images(self, work: Work, images_per_s: float) -> int:
        """How many images a work gets whose limit is that rate. In whole fours, so that batches are full."""
        return max(work.least, min(work.most, round(images_per_s * self.seconds) // 4 * 4))


FULL = Scale(rounds=3, seconds=4.0)
QUICK = Scale(rounds=1, seconds=3.0, works=tuple(work for work in WORKS if work.quick))
