"""Cuts the positions of a result into shards of even bytes: runs of regions, one after the other in its order, so that
every record belongs to exactly one of them.

It knows regions and what indexes say of places; not samples, steps, or how shards are put to work.

A border lies between two positions. Left of it is what begins left of it, however far it reaches; so records of one
position stay together, in whatever files they are, and a deletion across the border is on its left only. Where a query
takes what overlaps its regions, bcftools gives a record with the first of them that it overlaps. So a shard leaves out
what begins left of the border, and what begins in an earlier region or left of it: all that is `taken` before it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from divbase_gateway.domain.index_maps import ContigMap, FileMap, chunks_of, first_offset, last_offset, next_offset
from divbase_gateway.domain.regions import MAX_POSITION, Region, sort_by_contig

KIND = "shard"
"""Of a job that does the work of one shard, where a query is spread over several."""
WEIGHED = 8
"""Files that are looked at on each contig, the largest there: more do not move a border by much."""
Border = tuple[int, int]
"""Number of a region, and the position (1-based) in it that is the first right of the border."""


@dataclass(frozen=True)
class Shard:
    """Regions that do not overlap, in the order of the result.

    `taken`: on the contig of the first region, what begins at this position (1-based) or left of it belongs to shards
    before. 0: nothing does.
    """

    regions: tuple[Region, ...]
    taken: int = 0


def in_order(regions: Sequence[Region], contigs: Sequence[str]) -> tuple[Region, ...]:
    """The regions on these contigs as bcftools goes through them: in the order of the contigs, sorted, and overlapping
    ones joined; regions elsewhere left out."""
    rank = {name: number for number, name in enumerate(contigs)}
    found: list[Region] = []
    for region in sorted(sort_by_contig(regions, contigs), key=lambda each: (rank[each.contig], _begin(each))):
        last = found[-1] if found else None
        if last is None or last.contig != region.contig or _begin(region) >= _end(last):
            found.append(region)
        elif _end(region) > _end(last):
            found[-1] = Region(last.contig, last.start, region.end)
    return tuple(found)


def split(regions: Sequence[Region], borders: Sequence[Border]) -> tuple[Shard, ...]:
    """The shards between these borders, which are ascending and none of which is at an end.

    Args:
        regions: as from `in_order`.
    """
    edges = [(0, 0), *borders, (len(regions), 0)]
    return tuple(_between(regions, lower, upper) for lower, upper in pairwise(edges))


def cut(regions: Sequence[Region], files: Sequence[FileMap], count: int) -> tuple[Shard, ...]:
    """At most `count` shards, each with about as many bytes of these files; fewer where borders would be the same.

    No shard is without bytes, as long as there are some: one that is heavier than its share is so because its index
    knows of no place in between.

    Args:
        regions: as from `in_order`, at least one.
    """
    weights = _Weights(files)
    upto = [0, *accumulate(weights.of(region) for region in regions)]
    total = upto[-1]
    found: dict[Border, int] = {}
    for number in range(1, count):
        target = total * number // count
        at = bisect_right(upto, target) - 1
        if at < len(regions):
            place, left = weights.place(regions[at], target - upto[at])
            border = (at + 1, 0) if place is None else (at, place)
            found[border] = min(upto[at] + left, upto[at + 1])
    return split(regions, _apart(regions, found, total))


def _apart(regions: Sequence[Region], found: dict[Border, int], total: int) -> list[Border]:
    """Those of the borders, given with the weight left of each, between which there is something."""
    kept: list[Border] = []
    before = 0
    for border, left in sorted(found.items()):
        if before < left < total and border[0] < len(regions):
            kept.append(border)
            before = left
    return kept


def _between(regions: Sequence[Region], lower: Border, upper: Border) -> Shard:
    """What lies right of one border and left of another."""
    found = []
    first, place = lower
    inside = place > _begin(regions[first]) + 1
    for number in range(first, min(upper[0] + 1, len(regions))):
        region = regions[number]
        start = place if number == first and inside else region.start
        end = upper[1] - 1 if number == upper[0] else region.end
        if end is None or end > _begin(region):
            found.append(Region(region.contig, 1 if start is None and end is not None else start, end))
    before = regions[first - 1] if first and regions[first - 1].contig == regions[first].contig else None
    return Shard(tuple(found), place - 1 if inside else _end(before) if before else 0)


class _Weights:
    """How many bytes of files lie where, in virtual offsets, as far as their indexes tell."""

    def __init__(self, files: Sequence[FileMap]):
        self._files = files
        self._contigs: dict[str, tuple[tuple[ContigMap, ...], int, int]] = {}

    def of(self, region: Region) -> int:
        maps = self._largest(region.contig)[0]
        if not any(True for each in maps for _ in chunks_of(each, _begin(region), _end(region))):
            return 0
        return max(1, self._left_of(region, _end(region)))  # an index does not tell a few records from none

    def place(self, region: Region, target: int) -> tuple[int | None, int]:
        """The position (1-based) of the region that has closest to `target` of its bytes on its left, and how many.

        None where all are.
        """
        maps = self._largest(region.contig)[0]
        shift = min((each.min_shift for each in maps), default=0)
        last = max((each.limit for each in maps), default=1)
        low, high = _begin(region) >> shift, (min(_end(region), last) >> shift) + 1  # windows; the place is in between
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._left_of(region, middle << shift) < target else (low, middle)
        places = [min(max(window << shift, _begin(region)), _end(region)) for window in (low, high)]
        weights = [self._left_of(region, place) for place in places]
        nearest = 0 if target - weights[0] <= weights[1] - target else 1
        everything = nearest == 1 and weights[1] == self._left_of(region, _end(region))
        return None if everything else places[nearest] + 1, weights[nearest]

    def _left_of(self, region: Region, position: int) -> int:
        """Of the region, left of a position (0-based)."""
        maps, looked_at, there = self._largest(region.contig)
        found = sum(next_offset(each, position) - next_offset(each, _begin(region)) for each in maps)
        return max(0, found) * there // max(looked_at, 1)

    def _largest(self, contig: str) -> tuple[tuple[ContigMap, ...], int, int]:
        """The maps that are looked at on a contig, with their bytes and those of all."""
        if contig not in self._contigs:
            maps = [file.contigs[contig] for file in self._files if contig in file.contigs]
            maps.sort(key=_size, reverse=True)
            looked_at = tuple(maps[:WEIGHED])
            self._contigs[contig] = looked_at, sum(map(_size, looked_at)), sum(map(_size, maps))
        return self._contigs[contig]


def follows(file: FileMap, contigs: Sequence[str]) -> bool:
    """Whether the file's records are in the order of these contigs, its header's."""
    begins = [first_offset(file.contigs[name]) for name in contigs if name in file.contigs]
    return all(a < b for a, b in pairwise(begins))


def _size(contig: ContigMap) -> int:
    return last_offset(contig) - first_offset(contig)


def _begin(region: Region) -> int:
    """0-based."""
    return 0 if region.start is None else region.start - 1


def _end(region: Region) -> int:
    """0-based and exclusive."""
    return MAX_POSITION + 1 if region.end is None else region.end
