"""The recorder: the record of a run in OUT, kept up to date while the run lives, and the sums over all commits."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime

from batchtag.errors import OutputError, StorageError
from batchtag.output.layout import Layout
from batchtag.output.ledger import list_committed_parts, read_commits
from batchtag.pipeline.stats import CommittedStats
from batchtag.runs.progress import RunProgress
from batchtag.runs.report import RunReport
from batchtag.storage import Store
from batchtag.storage.retry import RetryPolicy

RECORD_EVERY_S = 5.0
"""Seconds between two writes of the record."""


class RunRecorder:
    """The report of one run, written every few seconds. Lives in the driver's main thread."""

    def __init__(self, report: RunReport, *, store: Store, layout: Layout) -> None:
        self.report = report
        self.committed = CommittedStats()
        """Sums over all committed parts of OUT."""
        self.progress = RunProgress(phase="starting")
        """What this run itself does."""
        self._store = store
        self._layout = layout
        self._began = time.monotonic()
        self._recorded_at = 0.0

    def write(self) -> None:
        """Write the record as it is, with retries."""
        self.report.write(store=self._store, layout=self._layout)

    def write_if_due(self, *, phase: str = "") -> None:
        """Write the record if the last one is RECORD_EVERY_S old, so that anyone who can read OUT can watch the run.

        `phase` replaces the phase of the progress. There is only one attempt, because the driver's loop waits
        meanwhile; what fails now is written the next time.
        """
        now = time.monotonic()
        if now - self._recorded_at < RECORD_EVERY_S:
            return
        self._recorded_at = now
        self._refresh(phase=phase)
        with contextlib.suppress(StorageError):
            self.report.write(store=self._store, layout=self._layout, policy=RetryPolicy(attempts=1))

    def set_phase_s(self, phase: str, began: float) -> None:
        """Set the seconds of a phase that began at `began` (time.monotonic) and ends now."""
        self.report.seconds_by_phase[phase] = round(time.monotonic() - began, 3)

    def count_parts(self, parts: Iterable[str]) -> None:
        """Add the commits of these parts to the sums; footers that are counted already are not read again.

        What was counted before an interruption stays counted.
        """
        missing = [part for part in parts if part not in self.committed.parts]
        # Closed at once when this is interrupted, or the remaining footers would be read while the run stops.
        with contextlib.closing(read_commits(missing, store=self._store, layout=self._layout)) as commits:
            for commit in commits:
                self.committed.add(commit)

    def find_uncounted_parts(self) -> set[str]:
        """Return the committed parts that are not in the sums.

        If a counted part has been removed, the sums start again from zero and all parts are returned.
        """
        parts = list_committed_parts(store=self._store, layout=self._layout)
        if not self.committed.parts <= parts:
            self.committed = CommittedStats()
        return parts - self.committed.parts

    def count_parts_at_end(self, parts: Iterable[str]) -> None:
        """Add these parts to the sums, up to the first one that batchtag did not write: the run's error names it."""
        with contextlib.suppress(OutputError):
            self.count_parts(parts)

    def close(self) -> None:
        """Write the final record."""
        self._refresh()
        self.report.ended_at = datetime.now(UTC).isoformat(timespec="seconds")
        self.write()

    def _refresh(self, *, phase: str = "") -> None:
        self.report.set_committed(self.committed.stats)
        self.report.this_run = replace(self.progress, phase=phase or self.progress.phase).to_json()
        self.report.seconds = round(time.monotonic() - self._began, 3)
