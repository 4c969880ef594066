"""Every image under folders or prefixes, recursively: the source for a bucket that holds nothing but images.

The store does the listing (folders in parallel, byte-exact keys, an order that depends only on the keys); this module
chooses the names. A prefix that lies under another is refused: each object must be listed exactly once, and to remember
100 million URIs, only to notice a repeated one, would take more memory than the whole rest of a run.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from batchtag.config.source import PrefixSource
from batchtag.errors import Code, StorageError
from batchtag.sources.globs import name_filter
from batchtag.sources.listing import as_folder, check_disjoint, find_object, list_objects, paginate
from batchtag.storage import open_store
from batchtag.storage.base import ObjectInfo
from batchtag.storage.secrets import check_no_credentials


class PrefixListing:
    """Lists the prefixes in the order in which the job names them."""

    def __init__(self, spec: PrefixSource) -> None:
        """Raise UsageError if one prefix lies under another, or contains a password."""
        check_no_credentials({f"source.uris[{i}]": uri for i, uri in enumerate(spec.uris)})
        check_disjoint(spec.uris)
        self._spec = spec
        self._is_wanted = name_filter(include=spec.include, exclude=spec.exclude)
        self._is_wanted_by_name = name_filter(include=spec.include, exclude=spec.exclude, by_extension=False)

    def pages(self) -> Iterator[list[ObjectInfo]]:
        """Implement `Source.pages`. All prefixes are started before the first is finished.

        So a prefix with a typing error raises at once, not after the hour that the other prefixes take.
        """
        streams = [self._list_images(uri) for uri in self._spec.uris]
        heads = [list(itertools.islice(stream, 1)) for stream in streams]
        images = (itertools.chain(head, stream) for head, stream in zip(heads, streams, strict=True))
        yield from paginate(itertools.chain.from_iterable(images))

    def _list_images(self, uri: str) -> Iterator[ObjectInfo]:
        """Yield the images of one URI.

        If the URI is that of a file, the file needs no extension of an image, unless a folder has the same name.
        """
        store = open_store(uri, self._spec.storage_options)
        file = find_object(uri, store=store)
        pages = list_objects(uri, store=store)
        try:
            first_page = next(pages, [])
        except StorageError as error:
            if file is None or error.code is not Code.NOT_FOUND:
                raise
            first_page = []
        name = uri.rsplit("/", 1)[-1]
        if file is not None and (self._is_wanted if first_page else self._is_wanted_by_name)(name):
            yield file
        start = len(as_folder(uri))
        for page in itertools.chain([first_page], pages):
            yield from (image for image in page if self._is_wanted(image.uri[start:]))
