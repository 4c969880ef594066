"""Run statistics: one structure of sums, and the views of it that a worker sends and a driver keeps.

`RunStats` counts images, tags, failures, bytes and seconds, whether of one bundle, one worker, one run or a whole OUT.
A worker sends a `WorkerHeartbeat` every second; the driver adds up commits in `CommittedStats`. What a user sees is
`runs.progress.RunProgress`. Nothing here reads a clock or a store.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from batchtag.output.types import Commit
from batchtag.types import ImageResult

MAX_EXAMPLES = 3
"""Number of example URIs kept for each failure code."""
_COUNTS = ("num_images", "num_failed", "num_tags", "num_batches", "num_decoded_remotely", "fetched_bytes")
_SECONDS = ("fetch_s", "decode_s", "predict_s", "write_s")


@dataclass(kw_only=True)
class RunStats:
    """Sums over images. `fetch_s` and `decode_s` are summed over threads; `predict_s` is the time of device use."""

    num_images: int = 0
    num_failed: int = 0
    num_tags: int = 0
    num_batches: int = 0
    num_decoded_remotely: int = 0
    fetched_bytes: int = 0
    fetch_s: float = 0.0
    decode_s: float = 0.0
    predict_s: float = 0.0
    write_s: float = 0.0
    failed_by_code: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    """By failure code, up to MAX_EXAMPLES URIs."""

    @property
    def num_tagged(self) -> int:
        """Images with tags; today every image is either tagged or failed."""
        return self.num_images - self.num_failed

    def add(self, other: RunStats) -> None:
        """Add the sums of `other`."""
        for name in _COUNTS + _SECONDS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.failed_by_code.update(other.failed_by_code)
        for code, uris in other.examples.items():
            kept = self.examples.setdefault(code, [])
            kept.extend(uri for uri in uris if uri not in kept)
            del kept[MAX_EXAMPLES:]

    def add_result(self, result: ImageResult) -> None:
        """Count one image."""
        self.num_images += 1
        self.num_tags += result.num_tags
        if result.failure is not None:
            code = str(result.failure.code)
            self.num_failed += 1
            self.failed_by_code[code] += 1
            examples = self.examples.setdefault(code, [])
            if len(examples) < MAX_EXAMPLES:
                examples.append(result.ref.uri)

    def add_commit(self, commit: Commit) -> None:
        """Count the images of one committed part."""
        self.num_images += commit.num_images
        self.num_failed += commit.num_failed
        self.num_tags += commit.num_tags
        self.failed_by_code.update(commit.failed_by_code)

    def copy(self) -> RunStats:
        """Return the same sums in a record of its own."""
        copied = RunStats()
        copied.add(self)
        return copied

    def loading_since(self, earlier: RunStats) -> RunStats:
        """Return the fetched bytes and the seconds of fetching and decoding that were added after `earlier`."""
        return RunStats(
            fetched_bytes=self.fetched_bytes - earlier.fetched_bytes,
            fetch_s=self.fetch_s - earlier.fetch_s,
            decode_s=self.decode_s - earlier.decode_s,
        )

    def with_images_of(self, counted: RunStats) -> RunStats:
        """Return this work (bytes, batches, seconds, examples) with images, tags and failures as in `counted`."""
        merged = self.copy()
        merged.num_images, merged.num_failed, merged.num_tags = (
            counted.num_images,
            counted.num_failed,
            counted.num_tags,
        )
        merged.failed_by_code = Counter(counted.failed_by_code)
        return merged

    def to_json(self) -> dict[str, Any]:
        """Return the sums as plain JSON values, for a run's record."""
        return {
            "images": self.num_images,
            "tags": self.num_tags,
            "failed": self.num_failed,
            "failed_by_code": dict(self.failed_by_code.most_common()),
            "examples": self.examples,
            "fetched_bytes": self.fetched_bytes,
            "batches": self.num_batches,
            "decoded_remotely": self.num_decoded_remotely,
            "stage_s": {name.removesuffix("_s"): round(getattr(self, name), 3) for name in _SECONDS},
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> RunStats:
        """Return the sums that `to_json` wrote. Keys that an older version did not write are 0."""
        seconds = content.get("stage_s", {})
        return cls(
            num_images=content.get("images", 0),
            num_failed=content.get("failed", 0),
            num_tags=content.get("tags", 0),
            num_batches=content.get("batches", 0),
            num_decoded_remotely=content.get("decoded_remotely", content.get("opened_elsewhere", 0)),  # until 0.1
            fetched_bytes=content.get("fetched_bytes", 0),
            failed_by_code=Counter(content.get("failed_by_code", {})),
            examples=dict(content.get("examples", {})),
            **{name: seconds.get(name.removesuffix("_s"), 0.0) for name in _SECONDS},
        )


@dataclass(kw_only=True)
class CommittedStats:
    """Sums over committed parts, each part counted once. Kept by the driver."""

    stats: RunStats = field(default_factory=RunStats)
    parts: set[str] = field(default_factory=set, repr=False)
    """Ids of the parts that are counted."""

    def add(self, commit: Commit) -> bool:
        """Count a commit; return whether it was new. A restarted worker may report a part a second time."""
        if commit.part in self.parts:
            return False
        self.parts.add(commit.part)
        self.stats.add_commit(commit)
        return True


@dataclass(kw_only=True)
class WorkerHeartbeat:
    """The state of one worker, sent to the supervisor every second."""

    stats: RunStats
    alive_s: float
    """Seconds since the worker started."""
    decode_threads: int
    """Threads, or decode workers, over which `stats.decode_s` is summed."""
    fetches: int
    """Concurrent fetches over which `stats.fetch_s` is summed."""
    decode_workers: int = 0
    """Decode workers that this worker uses; 0 while it decodes its images itself."""
    num_waiting: int = 0
    """Images that are decoded and wait for the device."""
    activities: dict[str, str] = field(default_factory=dict)
    """By bundle in progress: what the worker does with it (waiting, loading, predicting, writing)."""
    in_flight: dict[str, RunStats] = field(default_factory=dict)
    """By bundle, for the last few bundles: the images counted before the driver knows of the commit."""
    age_s: float = 0.0
    """Seconds since this heartbeat arrived, filled in when the supervisor is asked."""
