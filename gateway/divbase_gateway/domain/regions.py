"""Genomic regions in the syntax of bcftools: text to values and back, order by a list of contigs.

It knows neither files nor bcftools's other options.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

MAX_POSITION = 2**31 - 1
"""Positions beyond this do not fit into VCF records that are stored as BCF."""

_ITEM = re.compile(r"(?:\{([^{}]+)\}|([^:,{}]+))(?::([0-9]+)(?:(-)([0-9]*))?)?")


@dataclass(frozen=True)
class Region:
    """A contig, or 1-based inclusive positions of it. `end` is None for "to its end", `start` for the whole contig."""

    contig: str
    start: int | None = None
    end: int | None = None

    def __str__(self) -> str:
        """As bcftools reads it; a name with `:` or `,` goes into braces."""
        name = f"{{{self.contig}}}" if re.search("[:,]", self.contig) else self.contig
        if self.start is None:
            return name
        if self.end == self.start:
            return f"{name}:{self.start}"
        return f"{name}:{self.start}-{'' if self.end is None else self.end}"


def parse_regions(text: str) -> tuple[Region, ...]:
    """Read `chr`, `chr:pos`, `chr:from-to`, `chr:from-` and `{odd:name}:from-to`, separated by commas.

    Raises:
        ValueError: with what is wrong, as a sentence without its full stop.
    """
    if not text:
        raise ValueError("a region is empty")
    return tuple(_parse_region(item) for item in _split(text))


def format_regions(regions: Sequence[Region]) -> str:
    """The regions as one value of bcftools's `--regions`."""
    return ",".join(map(str, regions))


def sort_by_contig(regions: Sequence[Region], contigs: Sequence[str]) -> tuple[Region, ...]:
    """The regions on these contigs in the order of the contigs, regions elsewhere left out.

    bcftools writes contigs in the order in which a region list first names them, so an unsorted list would write
    records against the order of the header. Within a contig bcftools sorts and joins by itself.
    """
    rank = {name: index for index, name in enumerate(contigs)}
    return tuple(sorted((r for r in regions if r.contig in rank), key=lambda r: rank[r.contig]))


def _split(text: str) -> list[str]:
    return re.split(r",(?![^{]*\})", text)


def _parse_region(item: str) -> Region:
    match = _ITEM.fullmatch(item)
    if not match or (match[2] and re.search(r"[\s*^]", match[2])):
        raise ValueError(f"{item!r} is no region")
    contig = match[1] or match[2]
    if match[3] is None:
        return Region(contig)
    start = int(match[3])
    end = start if match[4] is None else int(match[5]) if match[5] else None
    if not 1 <= start <= MAX_POSITION or (end is not None and end > MAX_POSITION):
        raise ValueError(f"positions of {item!r} are not between 1 and {MAX_POSITION}")
    if end is not None and end < start:
        raise ValueError(f"{item!r} ends before it begins")
    return Region(contig, start, end)
