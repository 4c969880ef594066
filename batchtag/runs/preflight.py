"""Whether OUT and the source keep out of each other's way. Only URIs are looked at, nothing is opened."""

from __future__ import annotations

import os

from batchtag.config.job import JobSpec
from batchtag.config.source import ManifestSource
from batchtag.errors import UsageError
from batchtag.output.layout import Layout
from batchtag.storage import scheme_of


def check_places(spec: JobSpec) -> None:
    """Raises UsageError when OUT lies inside the source, or the source where OUT's own files go."""
    if isinstance(spec.source, ManifestSource):
        return
    layout = Layout(spec.output.uri)
    own = [layout.table("images"), layout.table("tags"), layout.table("errors"), layout.index.rsplit("/", 1)[0]]
    for source in spec.source.uris:
        if _under(layout.out, source):
            raise UsageError(
                f"OUT {layout.out} lies inside the source {source}, so a later listing would find the run's own files; "
                "choose another --out"
            )
        for folder in own:
            if _under(source, folder):
                raise UsageError(f"the source {source} lies in {folder}, where the run writes; choose another --out")


def _under(inner: str, outer: str) -> bool:
    inner, outer = _plain(inner), _plain(outer)
    return inner == outer or inner.startswith(outer.rstrip("/") + "/")


def _plain(uri: str) -> str:
    return os.path.realpath(uri) if scheme_of(uri) == "file" else uri.rstrip("/")
