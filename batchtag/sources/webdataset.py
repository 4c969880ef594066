"""Images in tar files (webdataset): each member is an image, and a worker reads only its bytes from the shard.

The listing needs only the headers, but they lie between the images. A shard is read in windows of 1 MiB, one for each
header that is not in the window before. At 25 ms per GET and 60 MB/s per connection, a request then costs about as much
as the transfer of a window: small members cost one pass over the shard, and large members are skipped.
Damage of a shard becomes a row of the listing. A store that does not respond stops the listing, because no index exists
yet.
"""

from __future__ import annotations

import itertools
import re
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from batchtag.config.source import ShardsSource
from batchtag.errors import Code, ConditionFailed, StorageError
from batchtag.sources.globs import name_filter
from batchtag.sources.listing import check_disjoint, find_object, list_objects, paginate
from batchtag.sources.tar_index import TarDamage, TarMember, tar_members
from batchtag.storage import Store, open_store
from batchtag.storage.base import ObjectInfo
from batchtag.storage.ranged_file import open_with_retries
from batchtag.storage.retry import with_retries
from batchtag.storage.secrets import check_no_credentials
from batchtag.types import ImageRef

WINDOW_BYTES = 2**20
"""Number of bytes that one request reads from a shard."""
SHARDS_IN_FLIGHT = 16
"""Number of shards that are read at once, or have been read and wait for their turn: about 4 MB per 10,000 members."""
_MAX_READS_OF_SHARD = 3
"""Number of times that a shard is read if it keeps being replaced."""
_SHARD_NAME = re.compile(r"\.(?:tar(?:\.(?:gz|bz2|xz|zst|lz4|z))?|tgz|tbz2?|txz|tzst)\Z", re.IGNORECASE)
"""Names of shards, also of compressed ones: they cannot be read, and a row states that instead of silence."""


class ShardListing:
    """Lists the members of all shards, URI by URI in the order of the job and, within a folder, in the store's order.

    Members with the same name are different images: the second is `<name>#2`, the third `<name>#3`.
    """

    def __init__(self, spec: ShardsSource) -> None:
        """Raise UsageError if a shard would be listed twice, or if a URI contains a password."""
        check_no_credentials({f"source.uris[{i}]": uri for i, uri in enumerate(spec.uris)})
        check_disjoint(spec.uris)
        self._spec = spec
        self._is_wanted = name_filter(include=spec.include, exclude=spec.exclude)

    def pages(self) -> Iterator[list[ObjectInfo]]:
        """Implement `Source.pages`. A damaged shard gives the members before the damage and a row with the problem."""
        streams = [self._list_shards(uri) for uri in self._spec.uris]
        heads = [list(itertools.islice(stream, 1)) for stream in streams]  # so that a wrong URI raises at once
        shards = (itertools.chain(head, stream) for head, stream in zip(heads, streams, strict=True))
        yield from paginate(itertools.chain.from_iterable(self._read_ahead(itertools.chain.from_iterable(shards))))

    def _list_shards(self, uri: str) -> Iterator[tuple[ObjectInfo, Store]]:
        store = open_store(uri, self._spec.storage_options)
        shard = find_object(uri, store=store)
        if shard is not None:
            yield shard, store
            return
        for page in list_objects(uri, store=store):
            yield from ((info, store) for info in page if _SHARD_NAME.search(info.uri))

    def _read_ahead(self, shards: Iterator[tuple[ObjectInfo, Store]]) -> Iterator[list[ImageRef]]:
        """Read SHARDS_IN_FLIGHT shards at a time; yield the images of each shard, in the order of the shards."""
        with ThreadPoolExecutor(SHARDS_IN_FLIGHT, thread_name_prefix="shards") as pool:
            waiting: deque[Future[list[ImageRef]]] = deque()
            try:
                for shard, store in shards:
                    waiting.append(pool.submit(self._list_images, shard, store))
                    if len(waiting) >= SHARDS_IN_FLIGHT:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def _list_images(self, shard: ObjectInfo, store: Store) -> list[ImageRef]:
        """List all images of one shard, anew if the shard is replaced meanwhile. Runs in a thread of the pool."""
        for _ in range(_MAX_READS_OF_SHARD):
            try:
                return list(self._list_images_of_version(shard, store))
            except ConditionFailed:
                shard = with_retries(partial(store.stat, shard.uri))[0]
        raise StorageError(f"{shard.uri}: changes while it is read; list it after it is written", code=Code.CHANGED)

    def _list_images_of_version(self, shard: ObjectInfo, store: Store) -> Iterator[ImageRef]:
        names: set[str] = set()
        with open_with_retries(shard, store=store, buffer_bytes=WINDOW_BYTES) as file:
            try:
                for member in tar_members(file, size_bytes=shard.size_bytes):
                    if member.present_bytes < member.size_bytes or self._is_wanted(member.name):
                        yield _member_ref(shard, member, names)
            except TarDamage as damage:
                yield _damage_ref(shard, damage)


def _damage_ref(shard: ObjectInfo, damage: TarDamage) -> ImageRef:
    """Build the row that states the damage of a shard; it stands for the members that could not be found."""
    return ImageRef(
        uri=shard.uri,
        etag=shard.etag,
        size_bytes=shard.size_bytes,
        last_modified=shard.last_modified,
        problem=f"{damage.code}: {shard.uri}: {damage.text}",
    )


def _member_ref(shard: ObjectInfo, member: TarMember, names: set[str]) -> ImageRef:
    """Build the image of a member. Its name is added to `names`, the names used so far in the shard."""
    shown = member.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    problem = ""
    if member.present_bytes < member.size_bytes:
        problem = (
            f"{Code.TRUNCATED}: {shard.uri}: member {shown!r} ends after {member.present_bytes:,} of "
            f"{member.size_bytes:,} bytes; the shard is truncated. Upload it again"
        )
    return ImageRef(
        uri=f"{shard.uri}#{_unique_name(shown, names)}",
        etag=shard.etag,
        size_bytes=member.size_bytes,
        last_modified=shard.last_modified,
        shard=shard.uri,
        offset_bytes=member.offset_bytes,
        problem=problem,
    )


def _unique_name(name: str, names: set[str]) -> str:
    unique = name
    for number in itertools.count(2):
        if unique not in names:
            break
        unique = f"{name}#{number}"
    names.add(unique)
    return unique
