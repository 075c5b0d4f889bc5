"""Which bytes of a file a job has to read for some regions, and the index of the small file that they make.

The node fetches the spans, cuts the first and the last block of each to whole records, writes them one after the other
as a valid BGZF file, and turns the virtual offsets of the index given here into those of that file. So bcftools, which
jumps by the index, finds in it every record of the regions that it would find in the whole file.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from divbase_gateway.domain.bgzf import MAX_BLOCK_BYTES
from divbase_gateway.domain.index_maps import FileMap, chunks_of, next_block
from divbase_gateway.domain.regions import MAX_POSITION, Region

WHOLE_FROM = 0.7
"""Of a file's bytes: from this share on it is read whole, which costs no cutting and can be checked as a whole."""
GAP_BYTES = 32 * 1024
"""Fewer bytes between two spans cost less than another request."""
MAX_SPANS = 1000
MAX_BINS = 256
"""Of the small file's index: more say nothing that the choice of the spans has not said already."""

Interval = tuple[int, int]


@dataclass(frozen=True)
class Span:
    """Bytes [start, start + length) of a file, and the records in them.

    Attributes:
        start: where a block begins.
        length: to the end of the last block that is needed, or up to a block's greatest length beyond: the index does
            not say how long that block is.
        first: virtual offset of the first record, in the block at `start`.
        end: virtual offset of the end of the last record. Where it is the begin of a block, that block is not needed.
    """

    start: int
    length: int
    first: int
    end: int


@dataclass(frozen=True)
class IndexedContig:
    """A contig in the small file's index: `bins` are (number, begin and end of each chunk, flat), in virtual offsets of
    the whole file."""

    name: str
    number: int
    bins: tuple[tuple[int, tuple[int, ...]], ...]


@dataclass(frozen=True)
class Part:
    """What to read of a file: its header first, then the records of the regions."""

    spans: tuple[Span, ...]
    contigs: tuple[IndexedContig, ...]
    min_shift: int
    depth: int

    @property
    def size(self) -> int:
        """Bytes to read."""
        return sum(span.length for span in self.spans)


def has_records(regions: Sequence[Region], file: FileMap) -> bool:
    """Whether the index knows of records that may overlap the regions."""
    return any(True for region in regions for _ in _chunks(region, file))


def part_for(regions: Sequence[Region], file: FileMap, size: int, most_bins: int | None = None) -> Part | None:
    """What to read of a file of `size` bytes for the records that overlap `regions`; None where the whole is better.

    `file` has the maps of all contigs of the regions that have records. `most_bins`: in the small file's index.
    """
    most = MAX_BINS if most_bins is None else most_bins
    bins: dict[str, dict[int, list[Interval]]] = {}
    for region in regions:
        for number, start, stop in _chunks(region, file):
            bins.setdefault(region.contig, {}).setdefault(number, []).append((start, stop))
    wanted = [
        (0, file.data_begin),
        *(chunk for found in bins.values() for chunks in found.values() for chunk in chunks),
    ]
    schemes = {(file.contigs[name].min_shift, file.contigs[name].depth) for name in bins} or {(14, 5)}
    if len(schemes) > 1:  # one index has one scheme
        return None
    spans = _spans(wanted, _Blocks(file), size)
    if sum(span.length for span in spans) > WHOLE_FROM * size:
        return None
    contigs = tuple(
        IndexedContig(name, file.contigs[name].number, _few_bins(found, most // len(bins)))
        for name, found in sorted(bins.items(), key=lambda item: file.contigs[item[0]].number)
    )
    return Part(spans, contigs, *schemes.pop())


def name_all(part: Part, names: Sequence[str]) -> Part:
    """The part of a VCF with an entry for each of these contigs, in this order, empty where nothing is read of it.

    htslib gives a header the contigs that only the index names; so the answer's header does not depend on what was
    asked, or on whether a part was read.
    """
    known = {contig.name: contig for contig in part.contigs}
    added = [known.pop(name, IndexedContig(name, at, ())) for at, name in enumerate(names)]
    return replace(part, contigs=(*known.values(), *added))


def _chunks(region: Region, file: FileMap) -> Iterable[tuple[int, int, int]]:
    if region.contig not in file.contigs:
        return ()
    begin = 0 if region.start is None else region.start - 1
    end = MAX_POSITION + 1 if region.end is None else region.end
    return chunks_of(file.contigs[region.contig], begin, end)


class _Blocks:
    """Where blocks begin, as far as maps know. Contigs follow each other in a file, so two of them are looked at."""

    def __init__(self, file: FileMap):
        self._contigs, self._begins = file.in_file_order

    def after(self, byte: int) -> list[int]:
        """Some bytes after this one at which a block begins; the next is not always among them."""
        at = bisect_right(self._begins, byte)
        found = list(self._begins[at : at + 1])
        block = next_block(self._contigs[at - 1], byte) if at else None
        return found if block is None else [*found, block]


def _spans(wanted: Sequence[Interval], blocks: _Blocks, size: int) -> tuple[Span, ...]:
    gap = GAP_BYTES
    while len(joined := _join(wanted, gap)) > MAX_SPANS:
        gap *= 2
    following = [*(begin >> 16 for begin, _ in joined[1:]), size]
    return tuple(_span(begin, end, blocks, after) for (begin, end), after in zip(joined, following, strict=True))


def _span(begin: int, end: int, blocks: _Blocks, after: int) -> Span:
    """The bytes of an interval; a block begins, or the file ends, at `after` behind it."""
    start, stop = begin >> 16, end >> 16
    if end & 0xFFFF:
        stop = min(stop + MAX_BLOCK_BYTES, after, *blocks.after(stop))
    return Span(start, stop - start, begin, end)


def _join(intervals: Iterable[Interval], gap: int) -> list[Interval]:
    """The intervals in order, those with at most `gap` bytes of the file between them as one."""
    joined: list[Interval] = []
    for begin, end in sorted(intervals):
        if joined and (begin >> 16) - (joined[-1][1] >> 16) <= gap:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((begin, end))
    return joined


def _few_bins(found: dict[int, list[Interval]], most: int) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """At most `most` bins, small ones given to their parents until there are so few; chunks joined where they touch."""
    while len(found) > max(most, 1):
        deepest = max(found)
        floor = _level_begin(deepest)
        coarser: dict[int, list[Interval]] = {}
        for number, chunks in found.items():
            coarser.setdefault((number - 1) >> 3 if number >= floor else number, []).extend(chunks)
        found = coarser
    return tuple(
        (number, tuple(offset for chunk in _join(chunks, 0) for offset in chunk))
        for number, chunks in sorted(found.items())
    )


def _level_begin(number: int) -> int:
    """The first bin of the level that this bin is in."""
    begin = 0
    while (begin << 3) + 1 <= number:
        begin = (begin << 3) + 1
    return begin
