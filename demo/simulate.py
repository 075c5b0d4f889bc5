"""Simulated research data: VCF files of two surveys in two layouts, and the table of their samples.

Everything follows from a seed, so two machines simulate the same bytes. The files are BGZF, written here, because a
laptop that tries DivBase need not have bgzip.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_BLOCK = 0xFF00  # bytes of text in one BGZF block, as bgzip takes them
_EOF_BLOCK = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")

CONTIGS = {"chr21": 40_000_000, "chr22": 50_000_000}


@dataclass(frozen=True)
class Survey:
    """What was simulated: the files in the order in which they were written, and the metadata table."""

    files: tuple[Path, ...]
    metadata: Path


def simulate_survey(folder: Path, sites_per_contig: int = 10_000, seed: int = 21) -> Survey:
    """Two surveys of one species.

    The coastal one has a file for each chromosome, with all 40 of its samples in both; the island one a file for each
    colony, with both chromosomes in all three.

    Args:
        sites_per_contig: variants on each of the two chromosomes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(seed)
    sites = {contig: _sites(chance, contig, length, sites_per_contig) for contig, length in CONTIGS.items()}
    coast = [f"coast_{number:02}" for number in range(1, 41)]
    colonies = {name: [f"{name}_{number:02}" for number in range(1, 13)] for name in ("runde", "hornoya", "skomer")}
    files = [write_vcf(folder / f"coast.{contig}.vcf.gz", coast, [sites[contig]], chance) for contig in CONTIGS]
    files += [write_vcf(folder / f"{name}.vcf.gz", names, sites.values(), chance) for name, names in colonies.items()]
    metadata = folder / "sample_metadata.tsv"
    metadata.write_text(_metadata(chance, coast, colonies), encoding="utf-8")
    return Survey(tuple(files), metadata)


@dataclass(frozen=True)
class Site:
    """A variant: where it is, its alleles, and how common the alternative one is."""

    contig: str
    position: int
    reference: str
    alternative: str
    frequency: float


def _sites(chance: random.Random, contig: str, length: int, count: int) -> list[Site]:
    positions = sorted(chance.sample(range(1, length), count))
    return [_site(chance, contig, position) for position in positions]


def _site(chance: random.Random, contig: str, position: int) -> Site:
    reference, alternative = chance.sample("ACGT", 2)
    if chance.random() < 0.1:  # an insertion
        alternative = reference + "".join(chance.choices("ACGT", k=chance.randint(1, 8)))
    return Site(contig, position, reference, alternative, min(0.99, chance.betavariate(0.4, 1.6) + 0.005))


def write_vcf(path: Path, samples: Sequence[str], contigs: Iterable[Sequence[Site]], chance: random.Random) -> Path:
    """Write the genotypes of `samples` at the sites of each contig as a BGZF-compressed VCF 4.3."""
    with path.open("wb") as file:
        for block in _bgzf(_lines(samples, contigs, chance)):
            file.write(block)
    return path


def _lines(samples: Sequence[str], contigs: Iterable[Sequence[Site]], chance: random.Random) -> Iterator[str]:
    yield "##fileformat=VCFv4.3\n"
    yield '##FILTER=<ID=PASS,Description="All filters passed">\n'
    yield '##FILTER=<ID=LowQual,Description="Low quality">\n'
    for contig, length in CONTIGS.items():
        yield f"##contig=<ID={contig},length={length}>\n"
    yield '##INFO=<ID=DP,Number=1,Type=Integer,Description="Depth over all samples">\n'
    yield '##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">\n'
    yield '##FORMAT=<ID=DP,Number=1,Type=Integer,Description="Depth">\n'
    yield "\t".join(["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT", *samples]) + "\n"
    for sites in contigs:
        for site in sites:
            yield _record(site, len(samples), chance)


def _record(site: Site, samples: int, chance: random.Random) -> str:
    frequency = site.frequency
    weights = [(1 - frequency) ** 2, 2 * frequency * (1 - frequency), frequency**2, 0.02]
    genotypes = chance.choices(("0/0", "0/1", "1/1", "./."), weights, k=samples)
    depths = chance.choices(range(4, 40), k=samples)
    quality = round(chance.uniform(5, 99), 1)
    fixed = [site.contig, str(site.position), ".", site.reference, site.alternative, f"{quality}"]
    fixed += ["PASS" if quality >= 20 else "LowQual", f"DP={sum(depths)}", "GT:DP"]
    cells = [f"{genotype}:{depth}" for genotype, depth in zip(genotypes, depths, strict=True)]
    return "\t".join(fixed + cells) + "\n"


def _bgzf(lines: Iterable[str]) -> Iterator[bytes]:
    """BGZF blocks of the text, as in the SAM specification, section 4.1, with the block that marks the end."""
    waiting = bytearray()
    for line in lines:
        waiting += line.encode()
        while len(waiting) >= _BLOCK:
            yield _block(bytes(waiting[:_BLOCK]))
            del waiting[:_BLOCK]
    if waiting:
        yield _block(bytes(waiting))
    yield _EOF_BLOCK


def _block(text: bytes) -> bytes:
    deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
    body = deflate.compress(text) + deflate.flush()
    head = struct.pack("<4BI2BH2B2H", 31, 139, 8, 4, 0, 0, 255, 6, 66, 67, 2, len(body) + 25)
    return head + body + struct.pack("<II", zlib.crc32(text), len(text))


def _metadata(chance: random.Random, coast: Sequence[str], colonies: dict[str, list[str]]) -> str:
    rows = ["\t".join(["#Sample_ID", "Area", "Country", "Sex", "Year", "Wing_mm", "Tags"])]
    areas = [("North", "Norway"), ("West", "Norway"), ("South", "Denmark"), ("East", "Sweden")]
    places = {sample: areas[number % 4] for number, sample in enumerate(coast)}
    for name, country in (("runde", "Norway"), ("hornoya", "Norway"), ("skomer", "Wales")):
        places |= dict.fromkeys(colonies[name], (name.capitalize(), country))
    for sample, (area, country) in places.items():
        tags = chance.choice(('["ringed"]', '["ringed","resampled"]', "[]"))
        wing = f"{chance.gauss(161, 5):.1f}"
        year = str(chance.randint(1998, 2019))
        rows.append("\t".join([sample, area, country, chance.choice("FM"), year, wing, tags]))
    return "\n".join(rows) + "\n"
