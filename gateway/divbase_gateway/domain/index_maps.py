"""Where the records of one contig are in a file: its part of an index, packed small enough to be kept in a database row
and looked at while a query is planned.

The rules by which bins, linear index and offsets narrow a region down are those of the CSI and tabix specifications: a
record that overlaps a region is in a bin that overlaps it, at or after the smallest offset that the index knows for the
region's first window, and before the first record of any bin to its right. htslib looks at one such bin to the left and
to the right; here those of all levels are asked, because what is planned is read to its end.
"""

from __future__ import annotations

import struct
import sys
import zlib
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain, pairwise
from typing import NamedTuple

from divbase_gateway.domain.indexes import ContigIndex, FileIndex
from divbase_gateway.domain.vcf import VcfHeader

_HEAD = struct.Struct("<BBxxIIIII")
_FORM = b"\x01"

MAX_NAME = 255
"""Characters of a contig's name; the map of one with a longer name is not kept, and files are read whole for it."""


class Level(NamedTuple):
    """The bins of one size: the number of the first that there could be, 2**shift bp each, their places in the arrays.

    They are bins[left:right], with chunks[begin:end].
    """

    first: int
    shift: int
    left: int
    right: int
    begin: int
    end: int


@dataclass(frozen=True)
class ContigMap:
    """One contig of an index.

    Attributes:
        number: of the contig in the index; in the CSI of a BCF that is its number in the file's header.
        min_shift, depth: of the binning scheme.
        bins: numbers of the bins that hold records, ascending.
        loffsets: for each bin the smallest virtual offset of a record that overlaps it; empty for a TBI.
        ends: for each bin where its chunks end in `chunks`, counted in chunks.
        chunks: begin and end of every chunk, virtual offsets, flat.
        linear: of a TBI, for each window of 2**min_shift bp the smallest offset of a record that overlaps it.
    """

    number: int
    min_shift: int
    depth: int
    bins: array[int]
    loffsets: array[int]
    ends: array[int]
    chunks: array[int]
    linear: array[int]

    @property
    def nbytes(self) -> int:
        """Of memory."""
        return sum(
            len(each) * each.itemsize for each in (self.bins, self.loffsets, self.ends, self.chunks, self.linear)
        )

    @property
    def limit(self) -> int:
        """The first position (0-based) that the binning scheme cannot hold."""
        return 1 << (self.min_shift + 3 * self.depth)

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """Those that have bins, the largest bins first."""
        found = []
        right = 0
        for depth in range(self.depth + 1):
            first, left = _first_bin(depth), right
            right = bisect_left(self.bins, _first_bin(depth + 1), lo=left)
            if left < right:
                shift = self.min_shift + 3 * (self.depth - depth)
                chunks = 2 * self.chunks_before(left), 2 * self.chunks_before(right)
                found.append(Level(first, shift, left, right, *chunks))
        return tuple(found)

    def chunks_before(self, index: int) -> int:
        """How many chunks the bins before the one at `index` have."""
        return self.ends[index - 1] if index else 0


@dataclass(frozen=True)
class FileMap:
    """What planning needs of a file's index: the virtual offset at which its records begin, and some contigs' maps."""

    data_begin: int
    contigs: Mapping[str, ContigMap]

    @cached_property
    def in_file_order(self) -> tuple[tuple[ContigMap, ...], tuple[int, ...]]:
        """The contigs' maps as they follow each other in the file, and the bytes at which they begin. Kept, because a
        plan for many jobs asks for it in each."""
        ordered = sorted(self.contigs.values(), key=first_offset)
        return tuple(ordered), tuple(first_offset(contig) >> 16 for contig in ordered)


def map_contigs(index: FileIndex, header: VcfHeader) -> dict[str, ContigMap]:
    """By name, the maps of the contigs that have records; one whose bins are not in the order of the file has none."""
    names = dict(enumerate(index.names)) if index.names else {each.number: each.name for each in header.contigs}
    maps = {
        names[number]: _map_contig(number, contig, index)
        for number, contig in enumerate(index.contigs)
        if contig.bins and number in names
    }
    return {name: contig for name, contig in maps.items() if _is_ordered(contig)}


def _map_contig(number: int, contig: ContigIndex, index: FileIndex) -> ContigMap:
    bins = sorted(number for number, each in contig.bins.items() if each.chunks)
    found = [contig.bins[each] for each in bins]
    with_loffsets = not contig.linear
    return ContigMap(
        number=number,
        min_shift=index.min_shift,
        depth=index.depth,
        bins=array("I", bins),
        loffsets=array("Q", (each.loffset for each in found) if with_loffsets else ()),
        ends=array("I", accumulate(len(each.chunks) for each in found)),
        chunks=array("Q", chain.from_iterable(chain.from_iterable(sorted(each.chunks) for each in found))),
        linear=array("Q", contig.linear),
    )


def _is_ordered(contig: ContigMap) -> bool:
    """Whether the bins of each level follow each other in the file, as those of sorted records do."""
    slices = (contig.chunks[level.begin : level.end] for level in contig.levels)
    return all(a <= b for offsets in slices for a, b in pairwise(offsets))


def pack(contig: ContigMap) -> bytes:
    """The map as bytes for a database row; `unpack` gives an equal one back."""
    arrays = (contig.bins, contig.loffsets, contig.ends, contig.chunks, contig.linear)
    counts = (len(contig.bins), len(contig.loffsets), len(contig.chunks), len(contig.linear))
    head = _HEAD.pack(contig.min_shift, contig.depth, contig.number, *counts)
    return _FORM + zlib.compress(head + b"".join(_little(each) for each in arrays), 1)


def unpack(data: bytes) -> ContigMap:
    """The map that `pack` was given.

    Raises:
        ValueError: these bytes are not one, or of another release's form.
    """
    try:
        if not data.startswith(_FORM):
            raise ValueError(f"the packed map has form {data[:1].hex()}, not {_FORM.hex()}")
        body = memoryview(zlib.decompress(data[1:]))  # which has a checksum
        min_shift, depth, number, *counts = _HEAD.unpack_from(body)
    except (struct.error, zlib.error) as exc:
        raise ValueError("this is no packed map of a contig") from exc
    bins, loffsets, chunks, linear = counts
    parts = []
    at = _HEAD.size
    for code, count in (("I", bins), ("Q", loffsets), ("I", bins), ("Q", chunks), ("Q", linear)):
        part = array(code)
        size = count * part.itemsize
        part.frombytes(body[at : at + size])
        if sys.byteorder == "big":
            part.byteswap()
        parts.append(part)
        at += size
    found = ContigMap(number, min_shift, depth, *parts)
    if at != len(body) or not _is_whole(found):
        raise ValueError("the packed map of a contig is damaged")
    return found


def _is_whole(contig: ContigMap) -> bool:
    """Whether the arrays belong together, so that no look at them can leave them."""
    return (
        len(contig.chunks) == 2 * (contig.ends[-1] if contig.ends else 0)
        and len(contig.loffsets) in (0, len(contig.bins))
        and len(contig.ends) == len(contig.bins)
    )


def _little(values: array[int]) -> bytes:
    if sys.byteorder == "big":
        values = array(values.typecode, values)
        values.byteswap()
    return values.tobytes()


def chunks_of(contig: ContigMap, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Where the records that overlap [begin, end), 0-based, may be: (bin, virtual offset, end of it), in no order.

    Records that do not overlap may be there as well; none that overlaps is anywhere else. All bins of a level that
    begin in the region are given as one, because in a sorted file nothing else of this contig's lies between them.
    """
    end = min(end, contig.limit)
    if begin >= end:
        return
    low, high = _lowest(contig, begin), _highest(contig, end)
    for first, shift, lo, hi, _, _ in contig.levels:
        left = bisect_left(contig.bins, first + (begin >> shift), lo, hi)
        right = bisect_right(contig.bins, first + (end - 1 >> shift), left, hi)
        if left < right and contig.bins[left] - first << shift < begin:
            for start, stop in _chunks_between(contig, left, low, high):
                yield contig.bins[left], start, stop
            left += 1
        if left < right:
            start = max(contig.chunks[2 * contig.chunks_before(left)], low)
            stop = min(contig.chunks[2 * contig.chunks_before(right) - 1], high)
            if start < stop:
                yield _common_bin(contig.bins[left], contig.bins[right - 1]), start, stop


def first_offset(contig: ContigMap) -> int:
    """The virtual offset of the contig's first record."""
    return min((contig.chunks[level.begin] for level in contig.levels), default=0)


def last_offset(contig: ContigMap) -> int:
    """The virtual offset of the end of the contig's last record."""
    return max((contig.chunks[level.end - 1] for level in contig.levels), default=0)


def next_offset(contig: ContigMap, position: int) -> int:
    """A virtual offset from which on all records begin at `position` (0-based) or right of it, the smallest known."""
    return min(_highest(contig, position), last_offset(contig))


def next_block(contig: ContigMap, byte: int) -> int | None:
    """The first byte of the file after `byte` at which a block begins for certain; None where the map knows of none."""
    offset = (byte + 1) << 16
    found = []
    for level in contig.levels:
        at = bisect_left(contig.chunks, offset, level.begin, level.end)
        if at < level.end:
            found.append(contig.chunks[at] >> 16)
    at = bisect_left(contig.linear, offset)
    if at < len(contig.linear):
        found.append(contig.linear[at] >> 16)
    return min((each for each in found if each > byte), default=None)


def _first_bin(level: int) -> int:
    return ((1 << 3 * level) - 1) // 7


def _common_bin(one: int, other: int) -> int:
    """The smallest bin that holds both of these, which are of one level."""
    while one != other:
        one, other = (one - 1) >> 3, (other - 1) >> 3
    return one


def _chunks_between(contig: ContigMap, index: int, low: int, high: int) -> Iterator[tuple[int, int]]:
    """What of the chunks of the bin at `index` lies between two offsets."""
    begin, end = 2 * contig.chunks_before(index), 2 * contig.ends[index]
    at = bisect_right(contig.chunks, low, begin, end)
    at -= (at - begin) % 2
    while at < end and contig.chunks[at] < high:
        start, stop = max(contig.chunks[at], low), min(contig.chunks[at + 1], high)
        if start < stop:
            yield start, stop
        at += 2


def _lowest(contig: ContigMap, begin: int) -> int:
    """The smallest offset of a record that reaches `begin` or lies right of it, as far as the index knows."""
    if contig.linear:
        return contig.linear[min(begin >> contig.min_shift, len(contig.linear) - 1)]
    lowest = 0
    for first, shift, lo, hi, _, _ in contig.levels if contig.loffsets else ():
        index = bisect_right(contig.bins, first + (begin >> shift), lo, hi) - 1
        if index >= lo:
            lowest = max(lowest, contig.loffsets[index])
    return lowest


def _highest(contig: ContigMap, end: int) -> int:
    """An offset from which on all records lie right of `end`: where the first bin begins that does, on any level."""
    highest = 1 << 64
    for first, shift, lo, hi, _, _ in contig.levels:
        index = bisect_right(contig.bins, first + (end - 1 >> shift), lo, hi)
        if index < hi:
            highest = min(highest, contig.chunks[2 * contig.chunks_before(index)])
    return highest
