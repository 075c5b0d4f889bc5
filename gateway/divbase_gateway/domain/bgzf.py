"""BGZF, the blocked gzip of VCF, BCF and their indexes: bytes in, blocks and text out. It reads no files and no S3.

The format is section 4.1 of the SAM specification: gzip members of at most 64 KiB, each with its own size in a `BC`
extra field, and an empty member at the end. A virtual offset is `block start << 16 | offset in the block's data`.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from enum import StrEnum

from divbase_gateway.domain.errors import UnusableFile

EOF_BLOCK = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
"""The empty block that ends every whole BGZF file."""

MAX_BLOCK_BYTES = 65536
_GZIP_MAGIC = b"\x1f\x8b"
_HAS_EXTRA = 4
_TRAILER_BYTES = 8


class Compression(StrEnum):
    """How the first bytes of a file are packed."""

    BGZF = "BGZF"
    GZIP = "gzip"
    NONE = "none"


class DamagedBlock(UnusableFile):
    """Bytes that should be compressed data and are not."""


@dataclass(frozen=True)
class Block:
    """One BGZF block: `start` and `size` in the file, `data_start` and `data_size` in what it unpacks to, in bytes."""

    start: int
    size: int
    data_start: int
    data_size: int

    @property
    def end(self) -> int:
        return self.start + self.size


@dataclass(frozen=True)
class Prefix:
    """The beginning of a file, unpacked as far as the bytes at hand allow.

    Attributes:
        compression: of the file.
        data: unpacked bytes.
        blocks: the whole blocks that `data` came from; empty unless the file is BGZF.
    """

    compression: Compression
    data: bytes
    blocks: tuple[Block, ...] = ()


def compression_of(head: bytes) -> Compression:
    """How a file that begins with `head` (18 bytes or more) is packed."""
    if not head.startswith(_GZIP_MAGIC):
        return Compression.NONE
    return Compression.GZIP if block_size(head) is None else Compression.BGZF


def block_size(head: bytes, at: int = 0) -> int | None:
    """The size in bytes of the BGZF block that begins at `head[at]`; None where no block header is."""
    if len(head) < at + 18 or head[at : at + 3] != _GZIP_MAGIC + b"\x08" or not head[at + 3] & _HAS_EXTRA:
        return None
    (extra,) = struct.unpack_from("<H", head, at + 10)
    field, end = at + 12, min(at + 12 + extra, len(head))
    while field + 6 <= end:
        name, length = head[field : field + 2], struct.unpack_from("<H", head, field + 2)[0]
        if name == b"BC" and length == 2:
            size = int(struct.unpack_from("<H", head, field + 4)[0]) + 1
            return size if size >= 12 + extra + _TRAILER_BYTES else None
        field += 4 + length
    return None


def unpack_blocks(data: bytes, limit: int, start: int = 0) -> tuple[tuple[Block, ...], bytes]:
    """The whole blocks at the beginning of `data`, and what they unpack to. A last block that is cut off is left out.

    Args:
        limit: bytes; no block is begun after that many are unpacked (a small file can hold terabytes of zeros).
        start: where in the file `data` begins, which is where a block begins.

    Raises:
        DamagedBlock: a block is missing where one must be, or does not unpack to what its checksum says.
    """
    blocks: list[Block] = []
    unpacked: list[bytes] = []
    at = total = 0
    while len(data) - at >= 18 and total < limit:
        size = block_size(data, at)
        if size is None:
            raise DamagedBlock(f"It is damaged: at byte {start + at} no BGZF block begins, though one must.")
        if at + size > len(data):
            break
        body = _unpack_block(data[at : at + size], start + at)
        blocks.append(Block(start + at, size, total, len(body)))
        unpacked.append(body)
        at, total = at + size, total + len(body)
    return tuple(blocks), b"".join(unpacked)


def _unpack_block(block: bytes, start: int) -> bytes:
    header = 12 + int(struct.unpack_from("<H", block, 10)[0])
    checksum, length = struct.unpack_from("<II", block, len(block) - _TRAILER_BYTES)
    inflate = zlib.decompressobj(-15)
    try:
        body = inflate.decompress(block[header:-_TRAILER_BYTES], MAX_BLOCK_BYTES + 1)
    except zlib.error:
        body = None
    if body is None or len(body) != length or zlib.crc32(body) != checksum:
        raise DamagedBlock(f"It is damaged: the BGZF block at byte {start} does not unpack.")
    return body


def unpack_prefix(data: bytes, limit: int) -> Prefix:
    """Unpack the beginning of a file, however it is packed.

    Args:
        data: the file's first bytes.
        limit: bytes to unpack at most (of BGZF, to the end of the block that reaches it).

    Raises:
        DamagedBlock: as `unpack_blocks`, and for gzip data that does not unpack.
    """
    compression = compression_of(data)
    if compression is Compression.BGZF:
        blocks, unpacked = unpack_blocks(data, limit)
        return Prefix(compression, unpacked, blocks)
    if compression is Compression.GZIP:
        return Prefix(compression, _gunzip(data, limit))
    return Prefix(compression, data)


def unpack_all(data: bytes, limit: int) -> bytes:
    """Unpack a whole BGZF file, an index for example; a file that is not packed at all comes back as it is.

    Raises:
        DamagedBlock: it is plain gzip, does not unpack, is cut off, or unpacks to more than `limit` bytes.
    """
    compression = compression_of(data)
    if compression is Compression.NONE:
        return data
    if compression is Compression.GZIP:
        raise DamagedBlock("It is plain gzip, not BGZF.")
    blocks, unpacked = unpack_blocks(data, limit + 1)
    if len(unpacked) > limit:
        raise DamagedBlock(f"It unpacks to more than {limit} bytes.")
    if not blocks or blocks[-1].end != len(data):
        raise DamagedBlock("It is truncated: its last block is cut off.")
    return unpacked


def _gunzip(data: bytes, limit: int) -> bytes:
    """Up to `limit` bytes out of the gzip members that `data` begins with; the last one may be cut off."""
    unpacked = bytearray()
    at = 0
    inflate = zlib.decompressobj(31)
    while at < len(data) and len(unpacked) < limit:
        piece = data[at : at + MAX_BLOCK_BYTES]
        try:
            unpacked += inflate.decompress(piece, limit - len(unpacked))
        except zlib.error as exc:
            raise DamagedBlock("It is damaged: its gzip data does not unpack.") from exc
        at += len(piece) - len(inflate.unused_data)
        if inflate.eof:
            inflate = zlib.decompressobj(31)
    return bytes(unpacked)


def data_position(blocks: tuple[Block, ...], virtual_offset: int) -> int | None:
    """Where in the unpacked data a virtual offset points, by the file's leading blocks; None where it points to none.

    The byte after the last known block counts: a reader that has read a block to its end stands there.
    """
    start, within = virtual_offset >> 16, virtual_offset & 0xFFFF
    for block in blocks:
        if block.start == start:
            return block.data_start + within if within <= block.data_size else None
    if blocks and blocks[-1].end == start and within == 0:
        return blocks[-1].data_start + blocks[-1].data_size
    return None


def virtual_offset(blocks: tuple[Block, ...], position: int) -> int:
    """The virtual offset of byte `position` of the unpacked data; `position` lies in, or just after, the blocks.

    Where an empty block, the end-of-file block for one, begins at that position, the offset is that block's.
    """
    for block in blocks:
        if position == block.data_start or position < block.data_start + block.data_size:
            return block.start << 16 | (position - block.data_start)
    return (blocks[-1].end if blocks else 0) << 16
