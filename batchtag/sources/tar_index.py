"""Find the offset and size of each member of a tar from the headers alone.

`tarfile` parses the headers, but the walk from one header to the next is our own. tarfile takes a damaged header, or a
file that ends too early, for the end of the archive, so members are lost without any message. It loops forever on a
negative size (CVE-2025-8194), and it keeps every member in memory.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from batchtag.errors import Code

_BLOCK = tarfile.BLOCKSIZE
_MAX_EXTENSION_BYTES = 2**20
_LONG_NAMES = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_PAX_HEADERS = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE)
_WITHOUT_CONTENT = tuple(set(tarfile.SUPPORTED_TYPES) - set(tarfile.REGULAR_TYPES))
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class TarDamage(Exception):
    """A place in a tar after which no member can be found.

    `text` describes it; messages put the URI of the shard before it.
    """

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text


@dataclass(frozen=True, kw_only=True, slots=True)
class TarMember:
    """A regular file in a tar. Bytes of its name that are not UTF-8 are surrogate escapes, as in `os.fsdecode`.

    `offset_bytes` is where its content starts in the tar. `present_bytes` is less than `size_bytes` if the tar ends
    within the content.
    """

    name: str
    offset_bytes: int
    size_bytes: int
    present_bytes: int


def tar_members(file: BinaryIO, *, size_bytes: int) -> Iterator[TarMember]:
    """Yield the regular files of a tar, in order. Folders and links are left out; GNU and PAX long names are read.

    `size_bytes` is the size of the whole tar. Raises TarDamage after the last member that can be found, unless the
    archive ends there as it should, or that member is itself cut off.
    """
    offset, last_name = 0, ""
    global_fields: dict[str, str] = {}  # of PAX global headers: valid for all members that follow
    own_fields: dict[str, str] = {}  # of the extension headers of the next member
    while (header := _read_header(file, offset, last_name=last_name)) is not None:
        body = offset + _BLOCK
        if header.type in _LONG_NAMES or header.type in _PAX_HEADERS:
            size = _check_size(header.size, limit=_MAX_EXTENSION_BYTES, offset=offset)
            content = _read_at(file, body, size)
            fields = global_fields if header.type == tarfile.XGLTYPE else own_fields
            fields.update(_parse_extension(header.type, content, offset=offset))
            offset = body + _round_up(size)
            continue
        extension = {**global_fields, **own_fields}
        own_fields.clear()
        last_name = extension.get("path", header.name)
        if header.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse.") for key in extension):
            raise TarDamage(Code.UNSUPPORTED, f"member {last_name!r} is sparse; make the shard again without --sparse")
        offset = body
        if header.type not in _WITHOUT_CONTENT:
            size = _check_size(extension.get("size", header.size), limit=None, offset=offset)
            present = max(0, min(size, size_bytes - body))
            yield TarMember(name=last_name, offset_bytes=body, size_bytes=size, present_bytes=present)
            if present < size:
                return
            offset += _round_up(size)


def _read_header(file: BinaryIO, offset: int, *, last_name: str) -> tarfile.TarInfo | None:
    """Read the header at `offset`; None for the block of zeros that ends an archive."""
    block = _read_at(file, offset, _BLOCK)
    if block == bytes(_BLOCK):
        return None
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError) as error:
        raise _explain_damage(block, offset=offset, last_name=last_name) from error


def _explain_damage(block: bytes, *, offset: int, last_name: str) -> TarDamage:
    if offset == 0:
        for magic, name in _COMPRESSED.items():
            if block.startswith(magic):
                return TarDamage(Code.UNSUPPORTED, f"compressed with {name}; unpack it, or pack a plain .tar")
        if not block:
            return TarDamage(Code.EMPTY, "has 0 bytes; a tar has at least 1,024")
        return TarDamage(Code.CORRUPT, "is not a tar file")
    after = f"after member {last_name!r}" if last_name else "before its first member"
    if len(block) < _BLOCK:
        text = f"ends {after}, without the end mark of a tar; members may be missing. Upload it again"
        return TarDamage(Code.TRUNCATED, text)
    text = f"has no header at byte {offset:,}, {after}; the members after it cannot be found. Upload it again"
    return TarDamage(Code.CORRUPT, text)


def _parse_extension(kind: bytes, content: bytes, *, offset: int) -> dict[str, str]:
    """Return the fields of an extension header: GNU tar's long name as "path", or PAX's "<length> <key>=<value>"."""
    if kind in _LONG_NAMES:
        name = content.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
        return {"path": name} if kind == tarfile.GNUTYPE_LONGNAME else {}
    fields: dict[str, str] = {}
    while content.strip(b"\0"):
        digits, _, _ = content.partition(b" ")
        length = int(digits) if digits.isdigit() and len(digits) < 8 else 0
        key, equals, value = content[len(digits) + 1 : length - 1].partition(b"=")
        if not equals or content[length - 1 : length] != b"\n":
            raise TarDamage(Code.CORRUPT, f"has a damaged PAX header at byte {offset:,}. Upload it again")
        fields[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        content = content[length:]
    return fields


def _check_size(size: int | str, *, limit: int | None, offset: int) -> int:
    """Return the size that a header states. Raises TarDamage if it is not a number, negative or above `limit`."""
    number = int(size) if isinstance(size, int) or size.isdecimal() else -1
    if number < 0 or (limit is not None and number > limit):
        raise TarDamage(Code.CORRUPT, f"has a header that says {size} bytes, at byte {offset:,}. Upload it again")
    return number


def _round_up(size_bytes: int) -> int:
    return -(-size_bytes // _BLOCK) * _BLOCK


def _read_at(file: BinaryIO, offset: int, size_bytes: int) -> bytes:
    file.seek(offset)
    return file.read(size_bytes)
