"""The report of a run: the one object behind its summary, `--json` and `_batchtag/runs/<run id>.json`."""

from __future__ import annotations

import json
import platform
import socket
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from batchtag import __version__
from batchtag.console import format_duration
from batchtag.output.layout import Layout
from batchtag.pipeline.stats import RunStats
from batchtag.storage import Store
from batchtag.storage.retry import WRITES, RetryPolicy, with_retries

_VERSIONS_OF = ("ray", "torch", "torchvision", "pyarrow", "pillow")


def _installed_versions() -> dict[str, str]:
    packages = {name: version(name) for name in _VERSIONS_OF}
    return {"python": platform.python_version(), "batchtag": __version__, **packages}


@dataclass(kw_only=True)
class RunReport:
    """The facts of one run. The sums are over all committed parts of OUT; `this_run` is what this run itself did.

    `state` is running, done, interrupted, failed or too_many_failures. A record that says running although its process
    has ended belongs to a run that was killed.
    """

    run_id: str
    out: str
    started_at: str
    state: str = "running"
    message: str = ""
    updated_at: str = ""
    """Time of the last write of this record: every few seconds while the run lives."""
    ended_at: str = ""
    seconds: float = 0.0
    seconds_by_phase: dict[str, float] = field(default_factory=dict)
    num_images: int = 0
    num_done: int = 0
    num_tagged: int = 0
    num_failed: int = 0
    num_tags: int = 0
    failed_by_code: dict[str, int] = field(default_factory=dict)
    this_run: dict[str, Any] = field(default_factory=dict)
    models: list[str] = field(default_factory=list)
    placement: str = ""
    host: str = field(default_factory=socket.gethostname)
    versions: dict[str, str] = field(default_factory=_installed_versions)

    def set_committed(self, stats: RunStats) -> None:
        """Set the sums over all commits."""
        self.num_done, self.num_tagged, self.num_failed = stats.num_images, stats.num_tagged, stats.num_failed
        self.num_tags, self.failed_by_code = stats.num_tags, dict(stats.failed_by_code.most_common())

    def write(self, *, store: Store, layout: Layout, policy: RetryPolicy = WRITES) -> None:
        """Write the record, or overwrite it."""
        self.updated_at = datetime.now(UTC).isoformat(timespec="seconds")
        text = json.dumps(asdict(self), indent=1, ensure_ascii=False)
        with_retries(lambda: store.write(layout.run(self.run_id), text.encode()), policy=policy)

    def summary(self) -> str:
        """Return a few lines for a person."""
        lines = [
            f"run {self.run_id} {self.state.replace('_', ' ')} after {format_duration(self.seconds)}: "
            f"{self.num_done:,} of {self.num_images:,} images, {self.num_tagged:,} tagged, {self.num_failed:,} failed, "
            f"{self.num_tags:,} tags"
        ]
        if self.failed_by_code:
            codes = ", ".join(f"{code} {count:,}" for code, count in self.failed_by_code.items())
            lines.append(f"  failed: {codes}. See: batchtag query {self.out} 'select * from errors'")
        this_run = self.this_run
        if this_run.get("images"):
            busy = " ".join(f"{stage} {share:.0%}" for stage, share in this_run["busy"].items())
            lines.append(
                f"  this run: {this_run['images']:,} images in {format_duration(this_run['tagging_s'])} of tagging, "
                f"{this_run['images_per_s']:,.1f}/s; busy: {busy}; bottleneck {this_run['bottleneck']}"
            )
        lines.append(f"  tables: {self.out}")
        return "\n".join(lines)
