"""Variant files of several blocks, and parts of them as the gateway plans them and tells a node.

What is written here follows docs/node-protocol.md; it must not know the node helper.
"""

from __future__ import annotations

import gzip
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from divbase_gateway.domain.bgzf import Block, unpack_blocks, virtual_offset
from divbase_gateway.domain.index_maps import FileMap, map_contigs
from divbase_gateway.domain.indexes import parse_index
from divbase_gateway.domain.regions import Region
from divbase_gateway.domain.spans import Part, part_for
from divbase_gateway.domain.vcf import measure_header, parse_header

from tests.variants import bgzf, index_variants, vcf_header, write_variants

CONTIGS = {"chr1": 4_000_000, "chr2": 1_000_000, "chr:3": 600_000, "empty": 10_000}
SITES = {"chr1": 1500, "chr2": 500, "chr:3": 300}
SAMPLES = ("A", "B", "C")
_LINES = """\
##ALT=<ID=DEL,Description="Deletion">
##INFO=<ID=END,Number=1,Type=Integer,Description="End">
##INFO=<ID=SVTYPE,Number=1,Type=String,Description="Type">
"""


@dataclass(frozen=True)
class BlockFile:
    """A file with its index; `blocks` and `data` are what is in it, the first `header` bytes of `data` its header."""

    path: Path
    index: Path
    blocks: tuple[Block, ...]
    data: bytes
    header: int

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    def map(self) -> FileMap:
        """As the gateway keeps it."""
        contigs = map_contigs(parse_index(self.index.read_bytes()), parse_header(self.data[: self.header]))
        return FileMap(virtual_offset(self.blocks, self.header), contigs)

    def part(self, *regions: Region) -> Part:
        """What the gateway plans to read of it for these regions."""
        part = part_for(regions, self.map(), self.size)
        assert part is not None
        return part


def block_file(
    path: Path, text: str | None = None, *, index: str = "csi", block: int = 2000, header_apart: bool = True
) -> BlockFile:
    """Write a VCF, `variant_text()` if no other, with blocks of `block` bytes, unpacked.

    Blocks end anywhere, in the middle of records too, as they do in what bgzip writes. `header_apart`: the header
    ends with a block.
    """
    write_variants(path, variant_text() if text is None else text)
    data = gzip.decompress(path.read_bytes())
    header = measure_header(data, whole=True)
    assert header is not None
    head = bgzf(data[:header], block=block, eof=False) if header_apart else b""
    path.write_bytes(head + bgzf(data[header:] if header_apart else data, block=block))
    blocks, _ = unpack_blocks(path.read_bytes(), 1 << 40)
    return BlockFile(path, index_variants(path, index), blocks, data, header)


def variant_text(times: int = 1) -> str:
    """A VCF of SNPs, indels and deletions of up to a tenth of their contig, with `times` as many records as `SITES`."""
    head = vcf_header(SAMPLES, CONTIGS).replace("##FORMAT", _LINES + "##FORMAT", 1)
    return head + "".join(line for name in SITES for line in _records(name, CONTIGS[name], SITES[name] * times))


def _records(contig: str, length: int, count: int) -> list[str]:
    rng = random.Random(contig)
    lines = []
    for position in sorted(rng.choices(range(1, length - length // 10), k=count)):
        calls = "\t".join(rng.choice(("0/0", "0/1", "1/1", "./.")) + f":{rng.randint(1, 99)}" for _ in SAMPLES)
        ref, alt, info = "A", "C", f"DP={rng.randint(1, 10**6)}"
        kind = rng.random()
        if kind < 0.03:
            alt, info = "<DEL>", f"END={position + rng.randint(1, length // 10)};SVTYPE=DEL"
        elif kind < 0.2:
            ref += "".join(rng.choices("ACGT", k=rng.randint(1, 60)))
            alt = "A"
        lines.append(f"{contig}\t{position}\t.\t{ref}\t{alt}\t{rng.randint(1, 99)}\tPASS\t{info}\tGT:DP\t{calls}\n")
    return lines


def some_regions(seed: int) -> tuple[Region, ...]:
    """One to four regions in the order of the contigs, short and long."""
    rng = random.Random(seed)
    regions = []
    for _ in range(rng.randint(1, 4)):
        name = rng.choice(list(SITES))
        start = rng.randrange(1, CONTIGS[name])
        regions.append(Region(name, start, min(start + rng.choice((0, 1000, 20_000, 300_000)), CONTIGS[name])))
    return tuple(sorted(regions, key=lambda region: (list(SITES).index(region.contig), region.start)))


def in_manifest(part: Part) -> dict[str, Any]:
    """What a manifest says of it."""
    return {
        "spans": [[span.start, span.length, span.first, span.end] for span in part.spans],
        "min_shift": part.min_shift,
        "depth": part.depth,
        "contigs": [
            [contig.name, contig.number, [[number, list(offsets)] for number, offsets in contig.bins]]
            for contig in part.contigs
        ],
    }
