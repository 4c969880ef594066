"""Where the members of a tar begin and end, from its headers alone.

`tarfile` parses each header for us, but the walk from one to the next is our own: tarfile's takes a damaged header, or
a file that just stops, for the end of the archive and says nothing, so that members are lost unseen; it goes round for
ever on a negative size (CVE-2025-8194); and it remembers every member it saw.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from batchtag.errors import Code

_BLOCK = tarfile.BLOCKSIZE
_LONGEST_EXTENSION_BYTES = 2**20
_LONG_NAMES = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_PAX_HEADERS = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE)
_WITHOUT_CONTENT = tuple(set(tarfile.SUPPORTED_TYPES) - set(tarfile.REGULAR_TYPES))
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class TarDamage(Exception):
    """The walk ends here, and not at the end of the archive. Its text says where, to follow the shard's URI."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text


@dataclass(frozen=True, kw_only=True, slots=True)
class TarMember:
    """A regular file in a tar. Bytes of its name that are not UTF-8 are surrogate escapes, as in `os.fsdecode`.

    `present_bytes` is less than `size_bytes` when the tar ends within it.
    """

    name: str
    offset_bytes: int
    size_bytes: int
    present_bytes: int


def tar_members(file: BinaryIO, *, size_bytes: int) -> Iterator[TarMember]:
    """The regular files of a tar, in order; folders and links are passed over. GNU and PAX names are understood.

    Raises TarDamage after the last member that can be found, unless it was the last one of a whole archive or the
    one that is cut.
    """
    offset, last = 0, ""
    shared: dict[str, str] = {}
    own: dict[str, str] = {}
    while (header := _header_at(file, offset, last=last)) is not None:
        body = offset + _BLOCK
        if header.type in _LONG_NAMES or header.type in _PAX_HEADERS:
            size = _checked(header.size, limit=_LONGEST_EXTENSION_BYTES, offset=offset)
            content = _read_at(file, body, size)
            (shared if header.type == tarfile.XGLTYPE else own).update(_extension(header.type, content, offset=offset))
            offset = body + _rounded(size)
            continue
        extension = {**shared, **own}
        own.clear()
        last = extension.get("path", header.name)
        if header.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse.") for key in extension):
            raise TarDamage(Code.UNSUPPORTED, f"member {last!r} is sparse; make the shard again without --sparse")
        offset = body
        if header.type not in _WITHOUT_CONTENT:
            size = _checked(extension.get("size", header.size), limit=None, offset=offset)
            present = max(0, min(size, size_bytes - body))
            yield TarMember(name=last, offset_bytes=body, size_bytes=size, present_bytes=present)
            if present < size:
                return
            offset += _rounded(size)


def _header_at(file: BinaryIO, offset: int, *, last: str) -> tarfile.TarInfo | None:
    """The header at `offset`; None for the block of zeros that ends an archive."""
    block = _read_at(file, offset, _BLOCK)
    if block == bytes(_BLOCK):
        return None
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError) as error:
        raise _damage(block, offset=offset, last=last) from error


def _damage(block: bytes, *, offset: int, last: str) -> TarDamage:
    if offset == 0:
        for magic, name in _COMPRESSED.items():
            if block.startswith(magic):
                return TarDamage(Code.UNSUPPORTED, f"compressed with {name}; unpack it, or pack a plain .tar")
        if not block:
            return TarDamage(Code.EMPTY, "holds 0 bytes; a tar has at least 1,024")
        return TarDamage(Code.CORRUPT, "is not a tar")
    after = f"after member {last!r}" if last else "before its first member"
    if len(block) < _BLOCK:
        text = f"ends {after}, without the end mark of a tar: members may be missing. Re-upload it"
        return TarDamage(Code.TRUNCATED, text)
    return TarDamage(Code.CORRUPT, f"has no header at byte {offset:,}, {after}: the rest cannot be found. Re-upload it")


def _extension(kind: bytes, content: bytes, *, offset: int) -> dict[str, str]:
    """What an extension header says of the member behind it: GNU tar's long name, or PAX's "<length> <key>=<value>"."""
    if kind in _LONG_NAMES:
        name = content.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
        return {"path": name} if kind == tarfile.GNUTYPE_LONGNAME else {}
    said: dict[str, str] = {}
    while content.strip(b"\0"):
        digits, _, _ = content.partition(b" ")
        length = int(digits) if digits.isdigit() and len(digits) < 8 else 0
        key, equals, value = content[len(digits) + 1 : length - 1].partition(b"=")
        if not equals or content[length - 1 : length] != b"\n":
            raise TarDamage(Code.CORRUPT, f"has a damaged PAX header at byte {offset:,}. Re-upload it")
        said[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        content = content[length:]
    return said


def _checked(size: int | str, *, limit: int | None, offset: int) -> int:
    number = int(size) if isinstance(size, int) or size.isdecimal() else -1
    if number < 0 or (limit is not None and number > limit):
        raise TarDamage(Code.CORRUPT, f"has a header that says {size} bytes, at byte {offset:,}. Re-upload it")
    return number


def _rounded(size_bytes: int) -> int:
    return -(-size_bytes // _BLOCK) * _BLOCK


def _read_at(file: BinaryIO, offset: int, size_bytes: int) -> bytes:
    file.seek(offset)
    return file.read(size_bytes)
