"""Every image under folders or prefixes, recursively: the source for a bucket that somebody simply filled.

Listing is the store's work (folders in parallel, byte-exact keys, an order that depends on the keys alone); here is
only the choice of names. One prefix under another is refused rather than sorted out: each object must come exactly
once, and remembering 100 million URIs to notice a repeated one would cost more memory than all the rest of a run.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from batchtag.config.source import PrefixSource
from batchtag.errors import Code, StorageError
from batchtag.sources.credentials import check_without_credentials
from batchtag.sources.globs import name_filter
from batchtag.sources.listing import as_folder, check_apart, named_object, objects_under, paged
from batchtag.storage import open_store
from batchtag.storage.base import ObjectInfo


class PrefixListing:
    """Lists the prefixes in the order named."""

    def __init__(self, spec: PrefixSource) -> None:
        """Raises UsageError if one prefix lies under another, or carries a password."""
        check_without_credentials({f"source.uris[{i}]": uri for i, uri in enumerate(spec.uris)})
        check_apart(spec.uris)
        self._spec = spec
        self._is_wanted = name_filter(include=spec.include, exclude=spec.exclude)
        self._is_wanted_by_name = name_filter(include=spec.include, exclude=spec.exclude, by_extension=False)

    def pages(self) -> Iterator[list[ObjectInfo]]:
        """See `Source`. All prefixes are begun before the first is finished: a listing may take an hour, a typo not."""
        streams = [self._images_of(uri) for uri in self._spec.uris]
        heads = [list(itertools.islice(stream, 1)) for stream in streams]
        images = (itertools.chain(head, stream) for head, stream in zip(heads, streams, strict=True))
        yield from paged(itertools.chain.from_iterable(images))

    def _images_of(self, uri: str) -> Iterator[ObjectInfo]:
        """A file that is named itself is wanted whatever its extension, unless a folder has the same name."""
        store = open_store(uri, self._spec.storage_options)
        alone = named_object(uri, store=store)
        pages = objects_under(uri, store=store)
        try:
            first = next(pages, [])
        except StorageError as error:
            if alone is None or error.code is not Code.NOT_FOUND:
                raise
            first = []
        name = uri.rsplit("/", 1)[-1]
        if alone is not None and (self._is_wanted if first else self._is_wanted_by_name)(name):
            yield alone
        start = len(as_folder(uri))
        for page in itertools.chain([first], pages):
            yield from (image for image in page if self._is_wanted(image.uri[start:]))
