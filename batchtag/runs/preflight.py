"""The check that OUT and the source do not overlap. It compares URIs and opens nothing."""

from __future__ import annotations

import os

from batchtag.config.job import JobSpec
from batchtag.config.source import ManifestSource
from batchtag.errors import UsageError
from batchtag.output.layout import Layout
from batchtag.storage import scheme_of


def check_output_and_source(job: JobSpec) -> None:
    """Raise UsageError if OUT lies inside the source, or the source inside a folder where the run writes."""
    if isinstance(job.source, ManifestSource):
        return
    layout = Layout(job.output.uri)
    written = [layout.table("images"), layout.table("tags"), layout.table("errors"), layout.index.rsplit("/", 1)[0]]
    for source in job.source.uris:
        if _is_under(layout.out, source):
            raise UsageError(
                f"OUT {layout.out} lies inside the source {source}, so a later listing would find the run's own files; "
                "choose another --out"
            )
        for folder in written:
            if _is_under(source, folder):
                raise UsageError(f"the source {source} lies in {folder}, where the run writes; choose another --out")


def _is_under(inner: str, outer: str) -> bool:
    inner, outer = _normalise(inner), _normalise(outer)
    return inner == outer or inner.startswith(outer.rstrip("/") + "/")


def _normalise(uri: str) -> str:
    return os.path.realpath(uri) if scheme_of(uri) == "file" else uri.rstrip("/")
