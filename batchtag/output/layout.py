"""The paths under OUT, defined in this module alone.

    OUT/images|tags|errors/part-<id>.parquet    the tables
    OUT/_batchtag/job.json                      the job as resolved, without secrets; digests of models and labels
    OUT/_batchtag/index.json, index/part-*      the frozen index of the input; the JSON file is written last
    OUT/_batchtag/thresholds.json               the score from which a reader should trust a tag, as of the last run
    OUT/_batchtag/lease.json                    the run that may write
    OUT/_batchtag/runs/<run id>.json            one record per run

Engines skip folders that begin with an underscore, so `_batchtag` is invisible to a glob over OUT.
"""

from __future__ import annotations

from dataclasses import dataclass

from batchtag.output.types import positions_of_part
from batchtag.storage import join_uri

PART_PREFIX, PART_SUFFIX = "part-", ".parquet"


@dataclass(frozen=True)
class Layout:
    """The URIs under one OUT."""

    out: str

    def table(self, table: str) -> str:
        """Return the folder of `images`, `tags` or `errors`."""
        return join_uri(self.out, table)

    def part(self, table: str, part: str) -> str:
        """Return the file of one part of a table."""
        return join_uri(self.out, table, f"{PART_PREFIX}{part}{PART_SUFFIX}")

    def index_part(self, name: str) -> str:
        """Return a file of the index by its name."""
        return join_uri(self.out, "_batchtag", "index", name)

    @property
    def index(self) -> str:
        """The file that makes the index parts valid."""
        return join_uri(self.out, "_batchtag", "index.json")

    @property
    def job(self) -> str:
        """The job as resolved."""
        return join_uri(self.out, "_batchtag", "job.json")

    @property
    def thresholds(self) -> str:
        """The thresholds for readers."""
        return join_uri(self.out, "_batchtag", "thresholds.json")

    @property
    def lease(self) -> str:
        """The lease of the run that may write."""
        return join_uri(self.out, "_batchtag", "lease.json")

    @property
    def runs(self) -> str:
        """The folder of the runs' records."""
        return join_uri(self.out, "_batchtag", "runs")

    def run(self, run_id: str) -> str:
        """Return the record of one run."""
        return join_uri(self.runs, f"{run_id}.json")


def part_of_uri(uri: str) -> str:
    """Return the part id in the URI of a table's file; "" if the file is not a part."""
    name = uri.rsplit("/", 1)[-1]
    if not (name.startswith(PART_PREFIX) and name.endswith(PART_SUFFIX)):
        return ""
    part = name.removeprefix(PART_PREFIX).removesuffix(PART_SUFFIX)
    try:
        positions_of_part(part)
    except ValueError:
        return ""
    return part
