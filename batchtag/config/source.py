"""What a job may say of where its images come from."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from batchtag.config.base import Spec


class _AnySource(Spec):
    storage_options: dict[str, Any] = Field(default_factory=dict)
    """fsspec options: credentials, endpoint, region. Better in the environment; never written anywhere by us."""
    limit: int | None = Field(default=None, ge=1)
    """Only the first so many images of the listing."""


class PrefixSource(_AnySource):
    """Every image under one or more folders or prefixes, recursively."""

    kind: Literal["prefix"] = "prefix"
    uris: list[Annotated[str, Field(min_length=1)]] = Field(min_length=1)
    include: list[str] = Field(default_factory=list)
    """Globs over the path below the prefix (`*` and `**` cross folders); by default the image extensions, any case."""
    exclude: list[str] = Field(default_factory=list)


class ManifestSource(_AnySource):
    """A list of URIs that somebody else made: Parquet, CSV, JSONL, or plain text with one URI a line."""

    kind: Literal["manifest"] = "manifest"
    uri: str = Field(min_length=1)
    format: Literal["auto", "parquet", "csv", "jsonl", "text"] = "auto"
    column: str = "uri"
    etag_column: str = ""
    size_column: str = ""


class ShardsSource(_AnySource):
    """Tar files of images (webdataset). A member's URI is <shard URI>#<member name>."""

    kind: Literal["shards"] = "shards"
    uris: list[Annotated[str, Field(min_length=1)]] = Field(min_length=1)
    """Folders, prefixes or single .tar files."""
    include: list[str] = Field(default_factory=list)
    exclude: list[str] = Field(default_factory=list)


SourceSpec = Annotated[PrefixSource | ManifestSource | ShardsSource, Field(discriminator="kind")]
