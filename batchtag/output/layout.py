"""Where everything lies under OUT: the one owner of its paths.

    OUT/images|tags|errors/part-<id>.parquet    the tables
    OUT/_batchtag/job.json                      the job as resolved, without secrets; digests of models and labels
    OUT/_batchtag/index.json, index/part-*      the frozen index of the input; the json is written last
    OUT/_batchtag/thresholds.json               from which score a reader should believe a tag; the last run's
    OUT/_batchtag/lease.json                    who may write
    OUT/_batchtag/runs/<run id>.json            one record per run

Engines skip folders that begin with an underscore, so `_batchtag` is invisible to whoever globs OUT.
"""

from __future__ import annotations

from dataclasses import dataclass

from batchtag.output.types import positions_of_part
from batchtag.storage import join_uri

PART_PREFIX, PART_SUFFIX = "part-", ".parquet"


@dataclass(frozen=True)
class Layout:
    """The paths under one OUT, as URIs."""

    out: str

    def table(self, table: str) -> str:
        """The folder of `images`, `tags` or `errors`."""
        return join_uri(self.out, table)

    def part(self, table: str, part: str) -> str:
        return join_uri(self.out, table, f"{PART_PREFIX}{part}{PART_SUFFIX}")

    def index_part(self, name: str) -> str:
        return join_uri(self.out, "_batchtag", "index", name)

    @property
    def index(self) -> str:
        return join_uri(self.out, "_batchtag", "index.json")

    @property
    def job(self) -> str:
        return join_uri(self.out, "_batchtag", "job.json")

    @property
    def thresholds(self) -> str:
        return join_uri(self.out, "_batchtag", "thresholds.json")

    @property
    def lease(self) -> str:
        return join_uri(self.out, "_batchtag", "lease.json")

    @property
    def runs(self) -> str:
        return join_uri(self.out, "_batchtag", "runs")

    def run(self, run_id: str) -> str:
        return join_uri(self.runs, f"{run_id}.json")


def part_of_uri(uri: str) -> str:
    """The part id in the URI of a table's file; "" for a file that is not a part."""
    name = uri.rsplit("/", 1)[-1]
    if not (name.startswith(PART_PREFIX) and name.endswith(PART_SUFFIX)):
        return ""
    part = name.removeprefix(PART_PREFIX).removesuffix(PART_SUFFIX)
    try:
        positions_of_part(part)
    except ValueError:
        return ""
    return part
