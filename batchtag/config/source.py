"""The `source` section of a tagging job: where its images come from."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from batchtag.config.base import Spec


class _AnySource(Spec):
    storage_options: dict[str, Any] = Field(default_factory=dict)
    """fsspec options: credentials, endpoint, region. Credentials are better given in the environment. Storage
    options are never written into OUT."""
    limit: int | None = Field(default=None, ge=1)
    """Largest number of images: the first ones of the listing. By default all of them."""


class PrefixSource(_AnySource):
    """All images under one or more folders or prefixes, at any depth."""

    kind: Literal["prefix"] = "prefix"
    """The kind of source."""
    uris: list[Annotated[str, Field(min_length=1)]] = Field(min_length=1)
    """The folders or prefixes, as paths or URIs."""
    include: list[str] = Field(default_factory=list)
    """Globs for the path below the prefix; only matching objects are taken. `*` and `**` also match slashes. By default
    all names with the extension of an image format are taken, in upper or lower case."""
    exclude: list[str] = Field(default_factory=list)
    """Globs for the path below the prefix; matching objects are left out, also those that `include` matches."""


class ManifestSource(_AnySource):
    """A list of URIs in a file: Parquet, CSV, JSONL, or plain text with one URI per line."""

    kind: Literal["manifest"] = "manifest"
    """The kind of source."""
    uri: str = Field(min_length=1)
    """The file with the list."""
    format: Literal["auto", "parquet", "csv", "jsonl", "text"] = "auto"
    """The format of the file. `auto` decides by its extension."""
    column: str = "uri"
    """The column that holds the URIs."""
    etag_column: str = ""
    """The column that holds the ETags, if there is one. They are stored in the index."""
    size_column: str = ""
    """The column that holds the sizes in bytes, if there is one. Images larger than `decode.max_bytes` are then not
    fetched at all."""


class ShardsSource(_AnySource):
    """Tar files of images (webdataset shards). The URI of a member is <shard URI>#<member name>."""

    kind: Literal["shards"] = "shards"
    """The kind of source."""
    uris: list[Annotated[str, Field(min_length=1)]] = Field(min_length=1)
    """Folders or prefixes with .tar files, or single .tar files."""
    include: list[str] = Field(default_factory=list)
    """Globs for the names of members; only matching members are taken. By default all names with the extension of an
    image format."""
    exclude: list[str] = Field(default_factory=list)
    """Globs for the names of members; matching members are left out."""


SourceSpec = Annotated[PrefixSource | ManifestSource | ShardsSource, Field(discriminator="kind")]
