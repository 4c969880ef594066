"""Images packed into tar files (webdataset): a member is an image, and a worker reads just its bytes from the shard.

Only headers are wanted, but they lie between the images. A shard is read in windows of 1 MiB, one for each header that
is not in the window before: at 25 ms a GET and 60 MB/s a connection that is where asking and streaming cost about the
same, so small members cost one pass over the shard and large ones are jumped over.
A shard's damage is a row of the listing; a store that does not answer stops it, because nothing is frozen yet.
"""

from __future__ import annotations

import itertools
import re
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial

from batchtag.config.source import ShardsSource
from batchtag.errors import Code, ConditionFailed, StorageError
from batchtag.sources.credentials import check_without_credentials
from batchtag.sources.globs import name_filter
from batchtag.sources.listing import check_apart, named_object, objects_under, paged
from batchtag.sources.retried_file import open_patiently
from batchtag.sources.tar_index import TarDamage, TarMember, tar_members
from batchtag.storage import Store, open_store
from batchtag.storage.base import ObjectInfo
from batchtag.storage.retry import with_retries

WINDOW_BYTES = 2**20
SHARDS_IN_FLIGHT = 16
"""Shards that are read at once, or read and waiting for their turn: about 4 MB for each 10,000 members."""
_READINGS = 3
_IS_SHARD = re.compile(r"\.(?:tar(?:\.(?:gz|bz2|xz|zst|lz4|z))?|tgz|tbz2?|txz|tzst)\Z", re.IGNORECASE)
"""Compressed ones too: they cannot be read, and are given as a row that says so rather than passed over."""


class ShardListing:
    """Lists the members of all shards, shard by shard in the order named and, within a folder, in the store's order.

    Two members of one name are two images: the second is `<name>#2`, the third `<name>#3`.
    """

    def __init__(self, spec: ShardsSource) -> None:
        """Raises UsageError if a shard would be listed twice."""
        check_without_credentials({f"source.uris[{i}]": uri for i, uri in enumerate(spec.uris)})
        check_apart(spec.uris)
        self._spec = spec
        self._is_wanted = name_filter(include=spec.include, exclude=spec.exclude)

    def pages(self) -> Iterator[list[ObjectInfo]]:
        """See `Source`. A shard that is damaged gives the members before the damage, then one row with the problem."""
        streams = [self._shards_of(uri) for uri in self._spec.uris]
        heads = [list(itertools.islice(stream, 1)) for stream in streams]  # so a URI that is wrong is noticed at once
        shards = (itertools.chain(head, stream) for head, stream in zip(heads, streams, strict=True))
        yield from paged(itertools.chain.from_iterable(self._read_ahead(itertools.chain.from_iterable(shards))))

    def _shards_of(self, uri: str) -> Iterator[tuple[ObjectInfo, Store]]:
        store = open_store(uri, self._spec.storage_options)
        alone = named_object(uri, store=store)
        if alone is not None:
            yield alone, store
            return
        for page in objects_under(uri, store=store):
            yield from ((found, store) for found in page if _IS_SHARD.search(found.uri))

    def _read_ahead(self, shards: Iterator[tuple[ObjectInfo, Store]]) -> Iterator[list[ObjectInfo]]:
        with ThreadPoolExecutor(SHARDS_IN_FLIGHT, thread_name_prefix="shards") as pool:
            waiting: deque[Future[list[ObjectInfo]]] = deque()
            try:
                for shard, store in shards:
                    waiting.append(pool.submit(self._images_of, shard, store))
                    if len(waiting) >= SHARDS_IN_FLIGHT:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def _images_of(self, shard: ObjectInfo, store: Store) -> list[ObjectInfo]:
        """All images of one shard. Runs in a thread of the pool; reads again when the shard is replaced meanwhile."""
        for _ in range(_READINGS):
            try:
                return list(self._images_of_version(shard, store))
            except ConditionFailed:
                shard = with_retries(partial(store.stat, shard.uri))[0]
        raise StorageError(f"{shard.uri}: changes while it is read; list it when it is written", code=Code.CHANGED)

    def _images_of_version(self, shard: ObjectInfo, store: Store) -> Iterator[ObjectInfo]:
        names: set[str] = set()
        with open_patiently(shard, store=store, buffer_bytes=WINDOW_BYTES) as file:
            try:
                for member in tar_members(file, size_bytes=shard.size_bytes):
                    if member.present_bytes < member.size_bytes or self._is_wanted(member.name):
                        yield _image(shard, member, names)
            except TarDamage as damage:
                yield replace(shard, problem=f"{damage.code}: {shard.uri}: {damage.text}")


def _image(shard: ObjectInfo, member: TarMember, names: set[str]) -> ObjectInfo:
    shown = member.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    problem = ""
    if member.present_bytes < member.size_bytes:
        problem = (
            f"{Code.TRUNCATED}: {shard.uri}: member {shown!r} ends after {member.present_bytes:,} of "
            f"{member.size_bytes:,} bytes; the shard is truncated. Re-upload it"
        )
    return ObjectInfo(
        uri=f"{shard.uri}#{_unique(shown, names)}",
        etag=shard.etag,
        size_bytes=member.size_bytes,
        last_modified=shard.last_modified,
        shard=shard.uri,
        offset_bytes=member.offset_bytes,
        problem=problem,
    )


def _unique(name: str, names: set[str]) -> str:
    unique = name
    for number in itertools.count(2):
        if unique not in names:
            break
        unique = f"{name}#{number}"
    names.add(unique)
    return unique
