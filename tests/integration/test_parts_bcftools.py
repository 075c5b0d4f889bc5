"""Parts of files hold what bcftools finds in the whole ones: the bytes that the index gives for random regions, made
into a small file as the protocol says, are read by the real bcftools beside the whole file. Ids hold the seeds."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pysam
import pysam.bcftools
import pytest
from divbase_gateway.domain import spans
from divbase_gateway.domain.bgzf import unpack_prefix, virtual_offset
from divbase_gateway.domain.index_maps import FileMap, map_contigs, pack, unpack
from divbase_gateway.domain.indexes import FileIndex, parse_index
from divbase_gateway.domain.plans import part_from_dict, part_to_dict
from divbase_gateway.domain.regions import Region, format_regions
from divbase_gateway.domain.spans import has_records, part_for
from divbase_gateway.domain.vcf import measure_header, parse_header

from tests.small_file import assemble
from tests.variants import bgzf, vcf_header

pytestmark = pytest.mark.slow  # real programs

WINDOW = 1 << 14
CONTIGS = {"one": 40_000_000, "bare": 5_000, "HLA:1-2": 300_000, "chr-3": 9_000_000, "last": 100_000, "idle": 10}
"""`bare` and `idle` have no records."""
_INFO = """\
##INFO=<ID=END,Number=1,Type=Integer,Description="End">
##INFO=<ID=SVTYPE,Number=1,Type=String,Description="Type">
"""
LONG_CONTIGS = {"short": 1_000_000, "giant": 1_200_000_000}


@dataclass(frozen=True)
class Sample:
    """A file with its index, and what the catalogue would keep of it."""

    path: Path
    data: bytes
    index: FileIndex
    map: FileMap
    contigs: dict[str, int]

    @property
    def is_bcf(self) -> bool:
        return self.path.suffix == ".bcf"


def bcftools(*argv: str) -> str:
    command: Callable[..., object] = getattr(pysam.bcftools, argv[0])
    return str(command(*argv[1:]))


def positions(rng: random.Random, length: int, count: int) -> list[int]:
    """Crowds, lonely ones, and many on both sides of the borders of windows, where an index can go wrong."""
    found: list[int] = []
    while len(found) < count:
        kind = rng.random()
        if kind < 0.3:
            found.append(rng.randrange(1, length))
        elif kind < 0.6:
            border = rng.randrange(1, length // WINDOW + 2) * WINDOW * rng.choice([1, 1, 8, 64])
            found.extend(border + rng.randint(-2, 2) for _ in range(rng.randint(1, 4)))
        else:
            start = rng.randrange(1, length)
            found.extend(start + step * rng.randint(1, 40) for step in range(rng.randint(1, 300)))
    return sorted(each for each in found[:count] if 1 <= each < length)


def record(rng: random.Random, contig: str, length: int, position: int) -> str:
    """SNP, indel, or a structural variant of up to 3 Mb."""
    kind, info = rng.random(), f"DP={rng.randint(1, 999)}"
    ref, alt = "A", "C"
    if kind < 0.1:
        ref = "A" + "".join(rng.choices("ACGT", k=rng.randint(1, 60)))
    elif kind < 0.13:
        alt, end = "<DEL>", min(length, position + rng.choice([10, 3000, 20_000, 400_000, 3_000_000]))
        info += f";END={end};SVTYPE=DEL"
    elif kind < 0.15:
        alt = "A" + "".join(rng.choices("ACGT", k=rng.randint(1, 60)))
    genotypes = (rng.choice(["0/0", "0/1", "1/1", "./."]) for _ in range(2))
    fields = [contig, str(position), f"r{rng.randrange(10**9)}", ref, alt, "50", "PASS", info, "GT", *genotypes]
    return "\t".join(fields) + "\n"


def make_file(folder: Path, seed: int, name: str, index: Sequence[str], contigs: dict[str, int]) -> Sample:
    """A sorted file in blocks of random size, hardly packed, so that a small file has hundreds of them."""
    rng = random.Random(seed)
    lines = [
        record(rng, contig, length, position)
        for contig, length in contigs.items()
        if contig not in ("bare", "idle")
        for position in positions(rng, length, 4000 if length > WINDOW << 8 else rng.choice([40, 900]))
    ]
    header = vcf_header(["x", "y"], contigs).replace("##FILTER", _INFO + "##FILTER", 1)
    text = (header + "".join(lines)).encode()
    path = folder / name
    if path.suffix == ".bcf":
        plain = folder / "plain.vcf"
        plain.write_bytes(text)
        packed = folder / "packed.bcf"
        pysam.bcftools.view("--no-version", "-Ou", "-o", str(packed), str(plain), catch_stdout=False)
        text = unpack_prefix(packed.read_bytes(), 1 << 30).data
    head = measure_header(text, whole=True)
    assert head is not None
    block = rng.choice([300, 900, 4000])
    apart = rng.random() < 0.5  # whether the header has blocks of its own, as bcftools writes it
    split = head if apart else 0
    data = bgzf(text[:split], eof=False, level=rng.choice([0, 6])) + bgzf(text[split:], block=block, level=0)
    path.write_bytes(data)
    pysam.bcftools.index("-f", *index, str(path))
    kind = "tbi" if "-t" in index else "csi"
    return look_at(path, data, Path(f"{path}.{kind}"), contigs)


def look_at(path: Path, data: bytes, index: Path, contigs: dict[str, int]) -> Sample:
    """What the catalogue does, and the way of the maps through the database."""
    prefix = unpack_prefix(data, 1 << 22)
    head = measure_header(prefix.data, whole=True)
    assert head is not None
    parsed = parse_index(index.read_bytes())
    maps = map_contigs(parsed, parse_header(prefix.data[:head]))
    for each in maps.values():
        assert unpack(pack(each)) == each
    file_map = FileMap(virtual_offset(prefix.blocks, head), maps)
    return Sample(path, data, parsed, file_map, contigs)


def some_regions(rng: random.Random, sample: Sample) -> list[Region]:
    found = []
    for _ in range(rng.choice([1, 1, 1, 2, 5, 40])):
        contig = rng.choice(list(sample.contigs))
        length = sample.contigs[contig]
        start = rng.choice([rng.randint(1, length), rng.randint(0, length // WINDOW) * WINDOW + rng.randint(1, 3)])
        width = rng.choice([0, 1, 100, WINDOW, 5 * WINDOW, length // 10, length])
        kind = rng.random()
        if kind < 0.05:
            found.append(Region(contig))
        elif kind < 0.1:
            found.append(Region(contig, start))
        else:
            found.append(Region(contig, start, start + width))
    return found


def read_both(sample: Sample, regions: Sequence[Region], small: Path, options: Sequence[str]) -> tuple[str, str, int]:
    """Records of the part and of the whole, and the bytes read for the part; the whole is never a part."""
    part = part_for(regions, sample.map, len(sample.data))
    assert part is not None
    assert part_from_dict(part_to_dict(part)) == part

    def read(start: int, length: int) -> bytes:
        assert start + length <= len(sample.data)
        return sample.data[start : start + length]

    count = assemble(part_to_dict(part), read, small, is_bcf=sample.is_bcf)
    assert count == part.size
    return bcftools("view", "-H", *options, str(small)), bcftools("view", "-H", *options, str(sample.path)), count


KINDS = [
    ("a.vcf.gz", ("-c",), CONTIGS),
    ("a.vcf.gz", ("-t",), CONTIGS),
    ("a.bcf", ("-c",), CONTIGS),
    ("a.vcf.gz", ("-c", "-m", "9"), CONTIGS),
    ("a.bcf", ("-c", "-m", "18"), CONTIGS),
    ("a.vcf.gz", ("-c",), LONG_CONTIGS),
    ("a.bcf", ("-c",), LONG_CONTIGS),
]


@pytest.fixture
def without_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files as well are read in parts, and small gaps are left out, so that much is cut."""
    monkeypatch.setattr(spans, "WHOLE_FROM", 10.0)
    monkeypatch.setattr(spans, "GAP_BYTES", 500)


def compare(folder: Path, seed: int, kind: int, times: int) -> Iterator[tuple[int, int]]:
    """(bytes read, bytes of the file) of each comparison; a difference is an assertion."""
    name, index, contigs = KINDS[kind]
    sample = make_file(folder, seed, name, index, contigs)
    rng = random.Random(seed + 1)
    for number in range(times):
        regions = some_regions(rng, sample)
        asked = format_regions(regions)
        by = rng.choice([("-r",), ("-r",), ("--regions-overlap", "0", "-r"), ("--regions-overlap", "2", "-r"), ("-t",)])
        ours, plain, count = read_both(sample, regions, folder / f"small{number}{sample.path.suffix}", [*by, asked])
        assert ours == plain, (seed, name, index, asked)
        assert plain == "" or has_records(regions, sample.map)
        yield count, len(sample.data)


@pytest.mark.usefixtures("without_fallback")
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_a_part_has_the_records_of_the_whole(tmp_path: Path, kind: int, seed: int) -> None:
    """Whatever index, format and regions, and much less is read."""
    figures = list(compare(tmp_path, seed, kind, 12))
    assert any(read < size / 2 for read, size in figures)


@pytest.mark.usefixtures("without_fallback")
@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_few_bins_and_spans_lose_nothing(tmp_path: Path, kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is given to larger bins, and read between spans, to keep manifests small."""
    monkeypatch.setattr(spans, "MAX_BINS", 3)
    monkeypatch.setattr(spans, "MAX_SPANS", 4)
    assert len(list(compare(tmp_path, 50 + kind, kind, 8))) == 8


@pytest.mark.usefixtures("without_fallback")
@pytest.mark.parametrize("seed", range(100, 104))
@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_many_parts_have_the_records_of_the_whole(tmp_path: Path, kind: int, seed: int) -> None:
    """The same, seven hundred times more."""
    assert len(list(compare(tmp_path, seed, kind, 25))) == 25
