"""Simulates variant files for the tests of the whole project: seeded, small, and real to bcftools.

Two files of one seed and contig have the same sites, and a sample has the same genotypes in whatever file it is, so
that merging and concatenating them means something. It must not know the gateway.
"""

from __future__ import annotations

import gzip
import random
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pysam
import pysam.bcftools

EOF_BLOCK = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
CONTIGS: Mapping[str, int] = {"chr1": 1_000_000, "chr2": 500_000}

_HEADER = """\
##FILTER=<ID=q10,Description="Quality below 10">
##INFO=<ID=DP,Number=1,Type=Integer,Description="Depth over all samples">
##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">
##FORMAT=<ID=DP,Number=1,Type=Integer,Description="Depth">
"""


@dataclass(frozen=True)
class VariantFile:
    """A simulated file: where it is and what is true of it. `counts` has every contig, those without records too."""

    path: Path
    samples: tuple[str, ...]
    contigs: Mapping[str, int]
    counts: Mapping[str, int]
    index: Path | None

    @property
    def records(self) -> int:
        return sum(self.counts.values())


def simulate(
    path: Path,
    *,
    samples: int | Sequence[str] = 3,
    contigs: Mapping[str, int] = CONTIGS,
    sites: int | Mapping[str, int] = 50,
    seed: int = 1,
    index: str | None = None,
    version: str = "VCFv4.2",
    declare_contigs: bool = True,
) -> VariantFile:
    """Write a sorted variant file; the suffix of `path` (.vcf, .vcf.gz, .bcf) says which kind.

    Args:
        samples: names, or how many (then `S001`, `S002`, ...).
        contigs: name -> length in bp.
        sites: records per contig, the same for all or by name (0 where a name is missing).
        index: `csi`, `tbi` or None; it is written beside the file.
        declare_contigs: whether the header has `##contig` lines (a BCF always gets them).
    """
    names = tuple(f"S{i + 1:03}" for i in range(samples)) if isinstance(samples, int) else tuple(samples)
    counts = {name: sites if isinstance(sites, int) else sites.get(name, 0) for name in contigs}
    declared = contigs if declare_contigs or path.name.endswith(".bcf") else {}
    text = vcf_header(names, declared, version) + "".join(
        vcf_records(contig, length, names, counts[contig], seed) for contig, length in contigs.items()
    )
    write_variants(path, text)
    beside = None if index is None else index_variants(path, index)
    return VariantFile(path, names, dict(contigs), counts, beside)


def vcf_header(samples: Sequence[str], contigs: Mapping[str, int], version: str = "VCFv4.2") -> str:
    """The header as text, its #CHROM line last."""
    lines = "".join(f"##contig=<ID={name},length={length}>\n" for name, length in contigs.items())
    fixed = ["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO"]
    columns = [*fixed, "FORMAT", *samples] if samples else fixed
    return f"##fileformat={version}\n{_HEADER}{lines}" + "\t".join(columns) + "\n"


def vcf_records(contig: str, length: int, samples: Sequence[str], sites: int, seed: int) -> str:
    """`sites` sorted records at distinct positions of one contig: four in five SNPs, one in five deletions."""
    rng = random.Random(f"{seed}:{contig}")
    positions = sorted(rng.sample(range(1, length - 4), sites))
    fixed = [_site(rng) for _ in positions]
    columns = [_genotypes(random.Random(f"{seed}:{contig}:{sample}"), sites) for sample in samples]
    lines = []
    for row, (position, site) in enumerate(zip(positions, fixed, strict=True)):
        genotypes = ["GT:DP", *(column[row] for column in columns)] if samples else []
        lines.append("\t".join([contig, str(position), *site, *genotypes]) + "\n")
    return "".join(lines)


def _site(rng: random.Random) -> tuple[str, str, str, str, str, str]:
    ref = rng.choice("ACGT")
    alt = rng.choice([base for base in "ACGT" if base != ref])
    if rng.random() < 0.2:
        ref, alt = ref + "".join(rng.choices("ACGT", k=3)), ref
    quality = rng.randint(1, 99)
    return ".", ref, alt, str(quality), "PASS" if quality >= 10 else "q10", f"DP={rng.randint(5, 500)}"


def _genotypes(rng: random.Random, sites: int) -> list[str]:
    calls = rng.choices(("0/0", "0/1", "1/1", "./."), weights=(60, 25, 12, 3), k=sites)
    return [f"{call}:{rng.randint(1, 60)}" for call in calls]


def write_variants(path: Path, text: str) -> None:
    """Write VCF text as the kind that the suffix says: plain (.vcf), BGZF (.vcf.gz) or BCF (.bcf, through bcftools)."""
    if path.name.endswith(".vcf"):
        path.write_text(text, encoding="utf-8", newline="")
    elif path.name.endswith(".gz"):
        path.write_bytes(bgzf(text.encode()))
    else:
        plain = path.with_name(path.name + ".source.vcf")
        plain.write_text(text, encoding="utf-8", newline="")
        pysam.bcftools.view("--no-version", "-Ob", "-o", str(path), str(plain), catch_stdout=False)
        plain.unlink()


def index_variants(path: Path, kind: str) -> Path:
    """Index with bcftools; `kind` is `csi` or `tbi`. Returns the index's path."""
    pysam.bcftools.index("-f", {"csi": "-c", "tbi": "-t"}[kind], str(path))
    return path.with_name(f"{path.name}.{kind}")


def bgzf(data: bytes, *, block: int = 65280, eof: bool = True, level: int = 6) -> bytes:
    """`data` as BGZF with blocks of at most `block` bytes (the format is in section 4.1 of the SAM specification)."""
    blocks = [_bgzf_block(data[start : start + block], level) for start in range(0, len(data), block)]
    return b"".join(blocks) + (EOF_BLOCK if eof else b"")


def _bgzf_block(data: bytes, level: int) -> bytes:
    deflate = zlib.compressobj(level, zlib.DEFLATED, -15)
    body = deflate.compress(data) + deflate.flush()
    head = struct.pack("<4BI2BH2BHH", 31, 139, 8, 4, 0, 0, 255, 6, 66, 67, 2, len(body) + 25)
    return head + body + struct.pack("<II", zlib.crc32(data), len(data))


def plain_gzip(data: bytes) -> bytes:
    """`data` as gzip makes it, which is not BGZF: what users really send."""
    return gzip.compress(data, mtime=0)
