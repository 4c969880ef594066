"""Sums over images and the time they took."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

EXAMPLES = 3


@dataclass(kw_only=True)
class RunStats:
    """Sums of one worker since it began. Seconds of `fetch` and `decode` are summed over threads."""

    num_images: int = 0
    num_failed: int = 0
    num_tags: int = 0
    num_batches: int = 0
    num_elsewhere: int = 0
    fetched_bytes: int = 0
    fetch_s: float = 0.0
    decode_s: float = 0.0
    predict_s: float = 0.0
    write_s: float = 0.0
    failed_by_code: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, other: RunStats) -> None:
        """Take in another worker's sums."""
        for name in ("num_images", "num_failed", "num_tags", "num_batches", "num_elsewhere", "fetched_bytes"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("fetch_s", "decode_s", "predict_s", "write_s"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.failed_by_code.update(other.failed_by_code)
        for code, uris in other.examples.items():
            mine = self.examples.setdefault(code, [])
            mine.extend(uri for uri in uris if uri not in mine)
            del mine[EXAMPLES:]

    def take_work(self, work: RunStats) -> None:
        """What it cost, and the examples, as `work` says; the images stay as they are counted here."""
        self.num_batches, self.num_elsewhere = work.num_batches, work.num_elsewhere
        self.fetched_bytes, self.fetch_s, self.decode_s = work.fetched_bytes, work.fetch_s, work.decode_s
        self.predict_s, self.write_s, self.examples = work.predict_s, work.write_s, work.examples

    def failed(self, code: str, uri: str) -> None:
        """One image failed."""
        self.num_failed += 1
        self.failed_by_code[code] += 1
        examples = self.examples.setdefault(code, [])
        if len(examples) < EXAMPLES:
            examples.append(uri)


def copy_of(counters: RunStats) -> RunStats:
    """The same sums, which no longer change with the original."""
    copy = RunStats()
    copy.add(counters)
    return copy


@dataclass(kw_only=True)
class WorkerHeartbeat:
    """The last sign of life of one worker: its sums, its age, and the threads that its seconds are summed over."""

    counters: RunStats
    alive_s: float
    decode_threads: int
    fetches: int
    openers: int = 0
    """How many openers elsewhere work for it; 0: it opens images itself."""
    num_waiting: int = 0
    """Images of the bundles it has in hand that are opened, and wait for the device."""
    doing: dict[str, str] = field(default_factory=dict)
    """What it does with each bundle it has in hand: waits, opens images, looks, or writes."""
    in_flight: dict[str, RunStats] = field(default_factory=dict)
    """The images of the last few bundles it took, by bundle: what is done of a bundle before its commit is known."""
    age_s: float = 0.0
    """How long ago that was, when the monitor was asked."""
