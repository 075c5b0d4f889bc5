"""Simulates the variant files of a population, quickly and from a seed: many samples, many sites, genotypes that
compress as real ones do. It also says how many bytes hold the records of a region, by reading the file and no index.
"""

from __future__ import annotations

import multiprocessing
import os
import random
from array import array
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import pysam
import pysam.bcftools

CONTIGS = {"chr1": 60_000_000, "chr2": 40_000_000}
_FREQUENCIES = (0.002, 0.01, 0.03, 0.08, 0.15, 0.25, 0.4, 0.6)
_ROWS = 1000
"""Genotype rows to choose from, for each frequency: too many for one to be near its like, where compression sees it."""

_HEADER = """\
##fileformat=VCFv4.3
##FILTER=<ID=PASS,Description="All filters passed">
##FILTER=<ID=LowQual,Description="Low quality">
##INFO=<ID=DP,Number=1,Type=Integer,Description="Depth over all samples">
##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">
##FORMAT=<ID=DP,Number=1,Type=Integer,Description="Depth">
##FORMAT=<ID=GQ,Number=1,Type=Integer,Description="Genotype quality">
"""


@dataclass(frozen=True)
class Region:
    """Records with a base in first to last, 1-based, both with."""

    contig: str
    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.contig}:{self.first}-{self.last}"


@dataclass(frozen=True)
class GenomeFile:
    """A BGZF-compressed VCF with a CSI index beside it."""

    path: Path
    samples: tuple[str, ...]

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    @property
    def index(self) -> Path:
        return self.path.with_name(self.path.name + ".csi")

    @cached_property
    def _records(self) -> tuple[array[int], list[str], array[int], array[int]]:
        """(virtual offsets of the header's end and of every record's end, contigs, first and last positions)"""
        contigs: list[str] = []
        ends, firsts, lasts = array("Q"), array("I"), array("I")
        with pysam.BGZFile(str(self.path), "rb", None) as file:
            at = file.tell()
            for line in file:
                if not line.startswith(b"#"):
                    contig, first, _, reference, _ = line.split(b"\t", 4)
                    if not contigs:
                        ends.append(at)
                    contigs.append(contig.decode())
                    firsts.append(int(first))
                    lasts.append(int(first) + len(reference) - 1)
                    ends.append(file.tell())
                at = file.tell()
        return ends, contigs, firsts, lasts

    @cached_property
    def _blocks(self) -> dict[int, int]:
        """Begin of every block that ends a record -> its bytes."""
        starts = sorted({offset >> 16 for offset in self._records[0]} | {self.size})
        return {start: after - start for start, after in pairwise(starts)}

    @property
    def largest_block(self) -> int:
        return max(self._blocks.values())

    def block_bytes(self, region: Region) -> int:
        """Bytes of the blocks that hold the header, or records from the first to the last that is in the region."""
        ends, contigs, firsts, lasts = self._records
        inside = [
            number
            for number, contig in enumerate(contigs)
            if contig == region.contig and firsts[number] <= region.last and lasts[number] >= region.first
        ]
        spans = [(0, ends[0]), *([(ends[inside[0]], ends[inside[-1] + 1])] if inside else [])]
        return sum(
            size
            for start, size in self._blocks.items()
            if any(begin >> 16 <= start and start << 16 < end for begin, end in spans)
        )


@dataclass(frozen=True)
class Population:
    """`files` files of `samples` samples each, all with the same `sites` sites."""

    title: str
    files: int
    samples: int
    sites: int
    seed: int = 22

    def write(self, folder: Path) -> list[GenomeFile]:
        """All files, one core each at a time."""
        folder.mkdir(parents=True)
        sites = _sites(self)
        names = [tuple(f"F{number:03}S{each:03}" for each in range(self.samples)) for number in range(self.files)]
        files = [GenomeFile(folder / f"part.{number:03}.vcf.gz", own) for number, own in enumerate(names)]
        with multiprocessing.get_context("fork").Pool(os.cpu_count()) as pool:
            pool.starmap(_write, [(file, sites, f"{self.seed}:{file.path.name}") for file in files], chunksize=1)
        return files


def region_of(percent: float) -> Region | None:
    """A region with that share of the genome; None for all of it."""
    if percent >= 100:
        return None
    first = 20_000_001
    return Region("chr1", first, first + int(sum(CONTIGS.values()) * percent / 100) - 1)


def _sites(population: Population) -> list[tuple[str, int]]:
    """(the columns before the genotypes, number of the frequency), as evenly spread as chance is."""
    chance = random.Random(population.seed)
    sites = []
    for contig, length in CONTIGS.items():
        count = population.sites * length // sum(CONTIGS.values())
        for position in sorted(chance.sample(range(1, length - 50), count)):
            ref, alt = chance.sample("ACGT", 2)
            kind = chance.random()
            if kind < 0.05:
                alt = ref + "".join(chance.choices("ACGT", k=chance.randint(1, 12)))
            elif kind < 0.1:
                ref, alt = ref + "".join(chance.choices("ACGT", k=chance.randint(1, 12))), ref
            quality = chance.randint(5, 999)
            state = "PASS" if quality >= 20 else "LowQual"
            depth = chance.randint(200, 2000)
            fixed = f"{contig}\t{position}\t.\t{ref}\t{alt}\t{quality}\t{state}\tDP={depth}\tGT:DP:GQ\t"
            sites.append((fixed, chance.randrange(len(_FREQUENCIES))))
    return sites


def _write(file: GenomeFile, sites: list[tuple[str, int]], seed: str) -> None:
    chance = random.Random(seed)
    rows = [_rows(frequency, len(file.samples), chance) for frequency in _FREQUENCIES]
    columns = ["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT", *file.samples]
    contigs = "".join(f"##contig=<ID={name},length={length}>\n" for name, length in CONTIGS.items())
    with pysam.BGZFile(str(file.path), "wb", None) as out:
        out.write((_HEADER + contigs + "\t".join(columns) + "\n").encode())
        for begin in range(0, len(sites), 1000):
            lines = [fixed + chance.choice(rows[kind]) for fixed, kind in sites[begin : begin + 1000]]
            out.write("".join(lines).encode())
    pysam.bcftools.index("--csi", str(file.path))


def _rows(frequency: float, samples: int, chance: random.Random) -> list[str]:
    """The genotype columns of `_ROWS` lines."""
    calls = ("0/0", "0/1", "1/1", "./.")
    weights = ((1 - frequency) ** 2, 2 * frequency * (1 - frequency), frequency**2, 0.02)
    count = _ROWS * samples
    genotypes = chance.choices(calls, weights, k=count)
    depths = chance.choices(range(8, 45), k=count)
    qualities = chance.choices(("99", "99", "99", "90", "78", "60", "42", "21"), k=count)
    cells = [f"{call}:{depth}:{quality}" for call, depth, quality in zip(genotypes, depths, qualities, strict=True)]
    return ["\t".join(cells[begin : begin + samples]) + "\n" for begin in range(0, count, samples)]
