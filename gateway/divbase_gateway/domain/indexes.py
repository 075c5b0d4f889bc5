"""Indexes of variant files, CSI and TBI: parsed, counted, and held against the file they claim to index.
Bytes in, values out; it does not know where index or file are kept.

The formats are those of the CSI and tabix specifications (samtools/hts-specs). An index stands or falls by what it says
of its file's bytes, never by dates: people upload a file and its index in either order.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from divbase_gateway.domain.bgzf import DamagedBlock, Prefix, data_position, unpack_all, unpack_blocks
from divbase_gateway.domain.errors import UnusableFile
from divbase_gateway.domain.files import Contig, FileFormat, IndexKind
from divbase_gateway.domain.vcf import VcfHeader

MAX_INDEX_BYTES = 256 * 1024 * 1024
"""As stored. The index of a human genome has 2 MB; only a damaged or hostile one comes near."""
MAX_UNPACKED_BYTES = 512 * 1024 * 1024

_OTHER_FILE = "It belongs to another file, or to another version of this one"

MAX_TAIL_BYTES = 128 * 1024
"""What may follow the last record that an index knows: one whole block and a few empty ones."""

_TABIX_VCF = 2
_TBI_MIN_SHIFT, _TBI_DEPTH = 14, 5


class UnusableIndex(UnusableFile):
    """An index that cannot be read or belongs to another file; the message is the reason, a whole sentence."""


@dataclass(frozen=True)
class Bin:
    """Where the records of one bin are: chunks of virtual offsets, half open. `loffset` is 0 in a TBI."""

    chunks: tuple[tuple[int, int], ...]
    loffset: int = 0


@dataclass(frozen=True)
class ContigIndex:
    """One contig of an index.

    Attributes:
        records: how many there are; None where the index does not say (htsjdk writes such).
        bins: by bin number, without the pseudo-bin that holds the counts.
        linear: TBI only: for each 16,384 bp window the smallest virtual offset of a record that overlaps it.
    """

    records: int | None
    bins: Mapping[int, Bin] = field(default_factory=dict)
    linear: tuple[int, ...] = ()


@dataclass(frozen=True)
class FileIndex:
    """A parsed index.

    Attributes:
        names: of `contigs`; empty in the CSI of a BCF, whose contigs are numbered by the file's header.
        min_shift, depth: of the binning scheme: the smallest bin has 2**min_shift bp.
        begin, end: virtual offsets of the first record and of the end of the last; None where there are no records.
    """

    kind: IndexKind
    min_shift: int
    depth: int
    names: tuple[str, ...]
    contigs: tuple[ContigIndex, ...]
    begin: int | None
    end: int | None


def parse_index(data: bytes) -> FileIndex:
    """Read a `.csi` or `.tbi`, packed as it is stored; which of the two, its first bytes say.

    Raises:
        UnusableIndex: it is neither, is damaged or truncated, or indexes something else than variants.
    """
    try:
        unpacked = unpack_all(data, MAX_UNPACKED_BYTES)
    except DamagedBlock as exc:
        raise UnusableIndex(exc.message) from exc
    try:
        return _parse(unpacked)
    except struct.error as exc:
        raise UnusableIndex("It is truncated: its contents end too early.") from exc


class _Cursor:
    """Reads little-endian values one after the other; struct.error at the end of the data."""

    def __init__(self, data: bytes):
        self.data = data
        self.at = 0

    def numbers(self, layout: str) -> tuple[int, ...]:
        values = struct.unpack_from("<" + layout, self.data, self.at)
        self.at += struct.calcsize("<" + layout)
        return values

    def count(self, smallest: int) -> int:
        """A count of things of at least `smallest` bytes; struct.error where so many cannot follow."""
        (value,) = self.numbers("i")
        if value < 0 or value * smallest > len(self.data) - self.at:
            raise struct.error
        return value

    def bytes(self, length: int) -> bytes:
        if length < 0 or self.at + length > len(self.data):
            raise struct.error
        self.at += length
        return self.data[self.at - length : self.at]


def _parse(data: bytes) -> FileIndex:
    cursor = _Cursor(data)
    magic = cursor.bytes(4)
    if magic == b"TBI\x01":
        count = cursor.count(8)
        names = _parse_names(cursor)
        return _parse_contigs(cursor, IndexKind.TBI, _TBI_MIN_SHIFT, _TBI_DEPTH, names, count)
    if magic != b"CSI\x01":
        raise UnusableIndex("It is neither a CSI nor a TBI index.")
    min_shift, depth = cursor.numbers("ii")
    if not (0 < min_shift < 32 and 0 <= depth < 12):
        raise UnusableIndex("It is damaged: its binning scheme makes no sense.")
    aux = cursor.bytes(cursor.numbers("i")[0])
    names = _parse_names(_Cursor(aux)) if aux else ()
    return _parse_contigs(cursor, IndexKind.CSI, min_shift, depth, names, cursor.count(4))


def _parse_names(cursor: _Cursor) -> tuple[str, ...]:
    preset, *_, length = cursor.numbers("7i")
    if preset & 0xFFFF != _TABIX_VCF:
        raise UnusableIndex("It indexes another kind of file, not a VCF.")
    names = cursor.bytes(length)
    try:
        return tuple(names.decode("utf-8").split("\0")[:-1]) if names else ()
    except UnicodeDecodeError as exc:
        raise UnusableIndex("It is damaged: the names of its contigs are not text.") from exc


def _parse_contigs(
    cursor: _Cursor, kind: IndexKind, min_shift: int, depth: int, names: tuple[str, ...], count: int
) -> FileIndex:
    contigs = tuple(_parse_contig(cursor, kind, depth) for _ in range(count))
    if (names and len(names) < count) or len(set(names)) < len(names):
        raise UnusableIndex("It is damaged: the names of its contigs do not match their number.")
    chunks = [chunk for contig in contigs for entry in contig.bins.values() for chunk in entry.chunks]
    begin = min((chunk[0] for chunk in chunks), default=None)
    end = max((chunk[1] for chunk in chunks), default=None)
    return FileIndex(kind, min_shift, depth, names[:count], contigs, begin, end)


def _parse_contig(cursor: _Cursor, kind: IndexKind, depth: int) -> ContigIndex:
    pseudo_bin = ((1 << (3 * depth + 3)) - 1) // 7 + 1
    bins: dict[int, Bin] = {}
    counts: int | None = None
    for _ in range(cursor.count(8)):
        (number,) = cursor.numbers("I")
        loffset = cursor.numbers("Q")[0] if kind is IndexKind.CSI else 0
        length = cursor.count(16)
        offsets = cursor.numbers(f"{2 * length}Q")
        if number == pseudo_bin:
            counts = offsets[2] if length == 2 else None
        else:
            bins[number] = Bin(tuple(zip(offsets[::2], offsets[1::2], strict=True)), loffset)
    linear = cursor.numbers(f"{cursor.count(8)}Q") if kind is IndexKind.TBI else ()
    records = 0 if counts is None and not bins else counts
    return ContigIndex(records, bins, linear)


def check_format(index: FileIndex, file_format: FileFormat, header: VcfHeader) -> None:
    """Refuse an index of the wrong kind for the file.

    Raises:
        UnusableIndex: the index of a VCF beside a BCF or the other way round, or more contigs than the BCF has.
    """
    if file_format is FileFormat.BCF:
        if index.kind is IndexKind.TBI or index.names:
            raise UnusableIndex("It is the index of a VCF, and the file is a BCF.")
        if len(index.contigs) > max((contig.number for contig in header.contigs), default=-1) + 1:
            raise UnusableIndex("It belongs to another file: it has more contigs than the file's header.")
    elif not index.names and index.contigs:
        raise UnusableIndex("It is the index of a BCF, and the file is a VCF.")


def check_begin(index: FileIndex, prefix: Prefix, header_bytes: int) -> None:
    """Refuse an index whose first record is not where the file's header ends.

    Args:
        prefix: the file's leading blocks, its header at least.
        header_bytes: length of the unpacked header.

    Raises:
        UnusableIndex: the index belongs to another file, or to an earlier version of this one.
    """
    if index.begin is None:
        return
    found = data_position(prefix.blocks, index.begin)
    if found is None and index.begin >> 16 > prefix.blocks[-1].end:
        raise UnusableIndex(f"{_OTHER_FILE}: its first record is at byte {index.begin >> 16}, the file's is before.")
    if found != header_bytes:
        raise UnusableIndex(f"{_OTHER_FILE}: its first record is not where the file's header ends.")


def check_places(index: FileIndex, prefix: Prefix, file_format: FileFormat) -> None:
    """Refuse an index that puts a record of the file's first blocks on another contig or in a wrong bin.

    Two small versions of a file can have the same size by chance; then this tells them apart, and where it does not,
    the index serves both alike. It costs no read.

    Raises:
        UnusableIndex: the index belongs to another file, or to an earlier version of this one.
    """
    record_at = _bcf_record_at if file_format is FileFormat.BCF else _vcf_record_at
    for number, contig in enumerate(index.contigs):
        name: object = index.names[number] if index.names else number
        for bin_number, found in contig.bins.items():
            positions = (data_position(prefix.blocks, start) for start, _ in found.chunks)
            records = (record_at(prefix.data, position) for position in positions if position is not None)
            if not all(record is None or _fits(record, name, index, bin_number) for record in records):
                raise UnusableIndex(f"{_OTHER_FILE}: the records are not where it says.")


def _fits(record: tuple[object, int], name: object, index: FileIndex, bin_number: int) -> bool:
    """Whether a record (contig, 1-based position) lies where a bin may hold it.

    Position 0 (a telomere) is let pass: htslib gives it a bin that is none of its own.
    """
    level = next((n for n in range(index.depth + 1) if bin_number < ((1 << 3 * n + 3) - 1) // 7), None)
    if level is None:
        return False
    size = 1 << (index.min_shift + 3 * (index.depth - level))
    first = (bin_number - ((1 << 3 * level) - 1) // 7) * size
    return record[0] == name and (record[1] < 1 or first < record[1] <= first + size)


def _vcf_record_at(data: bytes, at: int) -> tuple[object, int] | None:
    """Contig and position of the line at `at`; None where it is cut off. ("", 0) where no line begins."""
    fields = data[at : at + 4096].split(b"\t", 2)
    if len(fields) < 3:
        return None
    if data[at - 1 : at] != b"\n" or not fields[1].isdigit():
        return "", 0
    return fields[0].decode("utf-8", "replace"), int(fields[1][:18])


def _bcf_record_at(data: bytes, at: int) -> tuple[object, int] | None:
    """Contig number and position of the record at `at`; None where it is cut off."""
    if len(data) < at + 16:
        return None
    contig, position = struct.unpack_from("<2i", data, at + 8)
    return contig, position + 1


def check_end(last: int, tail: bytes, size: int) -> None:
    """Refuse an index whose last record is not the file's last.

    htslib lets the last chunk end at the file's end-of-file block; other writers at the end of the last block with
    data. Both mean the same: no data follows.

    Args:
        last: virtual offset of the end of the last record that the index knows.
        tail: the file's bytes from `last >> 16` to its end; may be left empty where they are more than
            `MAX_TAIL_BYTES` or fewer than none.
        size: of the file, bytes.

    Raises:
        UnusableIndex: the index belongs to another file, or to an earlier version of this one.
    """
    start, within = last >> 16, last & 0xFFFF
    if start >= size:
        raise UnusableIndex(f"{_OTHER_FILE}: its last record is at byte {start}, and the file has {size} bytes.")
    if size - start > MAX_TAIL_BYTES:
        raise UnusableIndex(f"{_OTHER_FILE}: it ends at byte {start}, and the file goes on to byte {size}.")
    try:
        blocks, data = unpack_blocks(tail, MAX_TAIL_BYTES * 1024, start)
    except DamagedBlock as exc:
        raise UnusableIndex(f"{_OTHER_FILE}: at byte {start}, where it ends, the file has no block.") from exc
    if not blocks or blocks[-1].end != size or len(data) != within:
        raise UnusableIndex(f"{_OTHER_FILE}: it ends at byte {start}, and the file has more or fewer records there.")


def count_contigs(header: VcfHeader, index: FileIndex | None) -> tuple[Contig, ...]:
    """The contigs of a file: those of its header in order, then those that only the index knows, with their records.

    A contig that the index does not know has no records; without an index the counts are None.
    """
    if index is None:
        return tuple(Contig(contig.name, contig.length, None) for contig in header.contigs)
    if index.names:
        counts = {name: contig.records for name, contig in zip(index.names, index.contigs, strict=True)}
    else:
        numbered = dict(enumerate(index.contigs))
        counts = {c.name: numbered[c.number].records for c in header.contigs if c.number in numbered}
    known = [Contig(contig.name, contig.length, counts.pop(contig.name, 0)) for contig in header.contigs]
    return (*known, *(Contig(name, None, records) for name, records in counts.items()))
