"""Indexes: parsed as htslib wrote them, counted as bcftools counts, and refused beside a file they are not of."""

from __future__ import annotations

import random
import struct
from contextlib import suppress
from pathlib import Path

import pysam.bcftools
import pytest
from divbase_gateway.domain.bgzf import Compression, Prefix, unpack_blocks, unpack_prefix, virtual_offset
from divbase_gateway.domain.files import Contig, FileFormat, IndexKind
from divbase_gateway.domain.indexes import (
    Bin,
    ContigIndex,
    FileIndex,
    UnusableIndex,
    check_begin,
    check_end,
    check_format,
    check_places,
    count_contigs,
    parse_index,
)
from divbase_gateway.domain.vcf import HeaderContig, VcfHeader, measure_header, parse_header
from hypothesis import given
from hypothesis import strategies as st

from tests.variants import VariantFile, bgzf, index_variants, simulate, vcf_header, write_variants

CASES = [("a.vcf.gz", "csi"), ("a.vcf.gz", "tbi"), ("a.bcf", "csi")]


def header_of(path: Path) -> VcfHeader:
    data = unpack_prefix(path.read_bytes(), 1 << 20).data
    return parse_header(data[: measure_header(data, whole=True)])


def check(path: Path, index: FileIndex) -> None:
    """All checks, the way the catalogue does them."""
    data = path.read_bytes()
    prefix = unpack_prefix(data, 1 << 20)
    length = measure_header(prefix.data, whole=True)
    assert length is not None
    kind = FileFormat.BCF if path.suffix == ".bcf" else FileFormat.VCF_GZ
    check_format(index, kind, parse_header(prefix.data[:length]))
    check_begin(index, prefix, length)
    check_places(index, prefix, kind)
    last = virtual_offset(prefix.blocks, length) if index.end is None else index.end
    check_end(last, data[last >> 16 :], len(data))


def bcftools_counts(file: VariantFile) -> dict[str, int]:
    """What `bcftools index --stats` says: contigs that have records."""
    lines = str(pysam.bcftools.index("-s", str(file.path))).splitlines()
    return {line.split("\t")[0]: int(line.split("\t")[2]) for line in lines}


@pytest.mark.parametrize(("name", "kind"), CASES)
@pytest.mark.parametrize("seed", range(6))
def test_counts_are_those_of_bcftools(tmp_path: Path, name: str, kind: str, seed: int) -> None:
    """Random files: some contigs empty, some dense, names with `:` and `-`."""
    rng = random.Random(seed)
    lengths = {contig: rng.randint(5_000, 3_000_000) for contig in ("chr2", "HLA-A*01:01", "chr-1", "chr10")}
    sites = {contig: rng.choice([0, 1, 7, 900]) for contig in lengths}
    file = simulate(tmp_path / name, samples=rng.randint(0, 9), contigs=lengths, sites=sites, seed=seed, index=kind)
    assert file.index is not None
    index = parse_index(file.index.read_bytes())
    counted = count_contigs(header_of(file.path), index)
    assert [(c.name, c.length, c.variants) for c in counted] == [(n, lengths[n], sites[n]) for n in lengths]
    assert {c.name: c.variants for c in counted if c.variants} == bcftools_counts(file)
    check(file.path, index)


def test_the_kind_is_told_by_contents(tmp_path: Path) -> None:
    """A name can lie, the first four bytes do not."""
    file = simulate(tmp_path / "a.vcf.gz", index="tbi")
    tbi = parse_index(index_variants(file.path, "tbi").read_bytes())
    csi = parse_index(index_variants(file.path, "csi").read_bytes())
    assert (tbi.kind, tbi.min_shift, tbi.depth) == (IndexKind.TBI, 14, 5)
    assert (csi.kind, csi.min_shift) == (IndexKind.CSI, 14)
    assert tbi.names == csi.names == ("chr1", "chr2")
    assert (tbi.begin, tbi.end) == (csi.begin, csi.end)


def test_a_bin_says_where_its_records_are(tmp_path: Path) -> None:
    """Chunks of one contig cover its records and nothing of the other contig's."""
    file = simulate(tmp_path / "a.vcf.gz", sites=400, index="csi")
    index = parse_index((tmp_path / "a.vcf.gz.csi").read_bytes())
    blocks, data = unpack_blocks(file.path.read_bytes(), 1 << 24)
    places = {block.start: block.data_start for block in blocks}
    for name, contig in zip(index.names, index.contigs, strict=True):
        chunks = [chunk for found in contig.bins.values() for chunk in found.chunks]
        spans = [tuple(places[offset >> 16] + (offset & 0xFFFF) for offset in chunk) for chunk in chunks]
        lines = b"".join(data[start:end] for start, end in sorted(spans)).splitlines()
        assert len(lines) == 400
        assert {line.split(b"\t")[0].decode() for line in lines} == {name}


@pytest.mark.parametrize(("name", "kind"), CASES)
@pytest.mark.parametrize("block", [300, 65280])
def test_an_index_without_records_is_valid_for_a_file_without_records(
    tmp_path: Path, name: str, kind: str, block: int
) -> None:
    """A region or a chromosome may have no variant; the file is as good as any."""
    path = tmp_path / name
    write_variants(path, vcf_header(["A"], {"chr1": 1000}))
    if name.endswith(".gz"):
        path.write_bytes(bgzf(vcf_header(["A"], {"chr1": 1000}).encode(), block=block))
    index = parse_index(index_variants(path, kind).read_bytes())
    assert index.begin is None
    check(path, index)
    assert count_contigs(header_of(path), index) == (Contig("chr1", 1000, 0),)


@pytest.mark.parametrize("kind", ["csi", "tbi"])
@pytest.mark.parametrize("block", [50, 333, 4096, 65280])
@pytest.mark.parametrize("ending", ["", "\n"])
def test_every_way_to_cut_a_file_into_blocks_is_understood(tmp_path: Path, kind: str, block: int, ending: str) -> None:
    """bgzip, bcftools and Java cut blocks at different places; the last line may lack its newline."""
    plain = simulate(tmp_path / "a.vcf", samples=2, sites=70).path.read_bytes()
    path = tmp_path / "a.vcf.gz"
    path.write_bytes(bgzf(plain.rstrip(b"\n") + ending.encode(), block=block))
    index = parse_index(index_variants(path, kind).read_bytes())
    assert [contig.records for contig in index.contigs] == [70, 70]
    check(path, index)


@pytest.mark.parametrize(("name", "kind"), CASES)
@pytest.mark.parametrize("threads", [0, 2])
def test_an_index_written_along_with_its_file_is_valid(tmp_path: Path, name: str, kind: str, threads: int) -> None:
    """`bcftools view --write-index` writes the index before the file is whole."""
    source = simulate(tmp_path / "source.vcf", samples=30, sites=900).path
    path = tmp_path / name
    flag = "-Ob" if name.endswith(".bcf") else "-Oz"
    write = f"--write-index={kind}"
    pysam.bcftools.view(flag, write, "--threads", str(threads), "-o", str(path), str(source), catch_stdout=False)
    check(path, parse_index((tmp_path / f"{name}.{kind}").read_bytes()))


def test_empty_blocks_before_the_end_are_no_records(tmp_path: Path) -> None:
    """`cat a.vcf.gz b.vcf.gz` and flushing writers leave empty blocks in the middle and before the end."""
    plain = simulate(tmp_path / "a.vcf", sites=40).path.read_bytes()
    cut = plain.index(b"#CHROM")
    cut = plain.index(b"\n", cut) + 1
    path = tmp_path / "a.vcf.gz"
    path.write_bytes(bgzf(plain[:cut]) + bgzf(plain[cut:]) + bgzf(b""))
    check(path, parse_index(index_variants(path, "csi").read_bytes()))


@pytest.mark.parametrize(("name", "kind"), CASES)
@pytest.mark.parametrize(
    "change",
    [
        {"sites": 51},
        {"sites": 49},
        {"sites": 2000},
        {"samples": 4},
        {"seed": 4},
        {"sites": 0},
        {"contigs": {"chr1": 1_000_001, "chr2": 500_000, "c": 1000}},
    ],
    ids=["one more", "one less", "many more", "other samples", "other records", "none", "other header"],
)
def test_the_index_of_another_file_is_refused(tmp_path: Path, name: str, kind: str, change: dict[str, object]) -> None:
    """The index of an earlier version would make bcftools return wrong records without a word."""
    file = simulate(tmp_path / name, index=kind)
    assert file.index is not None
    index = parse_index(file.index.read_bytes())
    simulate(file.path, **change)  # type: ignore[arg-type]
    with pytest.raises(UnusableIndex) as caught:
        check(file.path, index)
    assert caught.value.message.startswith("It belongs to another file, or to another version of this one: ")


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_an_index_that_puts_records_elsewhere_is_refused(tmp_path: Path, name: str, kind: str) -> None:
    """Versions of one size are told apart by their first records: here the contigs have changed places."""
    file = simulate(tmp_path / name, contigs={"chr1": 9000, "chr2": 9000}, sites={"chr1": 20, "chr2": 30}, index=kind)
    assert file.index is not None
    index = parse_index(file.index.read_bytes())
    simulate(file.path, contigs={"chr1": 9000, "chr2": 9000}, sites={"chr1": 30, "chr2": 20})
    prefix = unpack_prefix(file.path.read_bytes(), 1 << 20)
    with pytest.raises(UnusableIndex, match="the records are not where it says"):
        check_places(index, prefix, FileFormat.BCF if name.endswith(".bcf") else FileFormat.VCF_GZ)


@pytest.mark.parametrize(("bin_number", "fits"), [(0, True), (1, True), (2, False), (585, True), (586, False)])
def test_a_record_lies_in_its_bin(bin_number: int, fits: bool) -> None:
    """Bins as the tabix specification numbers them: 0 is all, 1 the first 64 Mbp, 585 the first 131,072 bp."""
    line = b"##\nchr1\t131072\t.\tA\tC\n"
    packed = bgzf(line, block=3)
    blocks, data = unpack_blocks(packed, 1000)
    chunk = (blocks[1].start << 16, len(packed) << 16)
    contig = ContigIndex(1, {bin_number: Bin((chunk,))})
    index = FileIndex(IndexKind.TBI, 14, 5, ("chr1",), (contig,), *chunk)
    try:
        check_places(index, Prefix(Compression.BGZF, data, blocks), FileFormat.VCF_GZ)
        assert fits
    except UnusableIndex:
        assert not fits


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_an_index_without_records_is_refused_beside_a_file_with_some(tmp_path: Path, name: str, kind: str) -> None:
    """It would make every query come back empty."""
    empty = simulate(tmp_path / name, sites=0, index=kind)
    assert empty.index is not None
    index = parse_index(empty.index.read_bytes())
    simulate(empty.path, sites=1)
    with pytest.raises(UnusableIndex, match="It belongs to another file"):
        check(empty.path, index)


def test_kinds_of_index_and_file_must_agree(tmp_path: Path) -> None:
    """A BCF's index has no names, a VCF's has them."""
    vcf = simulate(tmp_path / "a.vcf.gz", index="csi")
    bcf = simulate(tmp_path / "a.bcf", index="csi")
    assert vcf.index is not None
    assert bcf.index is not None
    header = header_of(vcf.path)
    with pytest.raises(UnusableIndex, match="It is the index of a VCF, and the file is a BCF"):
        check_format(parse_index(vcf.index.read_bytes()), FileFormat.BCF, header)
    with pytest.raises(UnusableIndex, match="It is the index of a BCF, and the file is a VCF"):
        check_format(parse_index(bcf.index.read_bytes()), FileFormat.VCF_GZ, header)
    with pytest.raises(UnusableIndex, match="more contigs than the file's header"):
        check_format(parse_index(bcf.index.read_bytes()), FileFormat.BCF, VcfHeader((), header.contigs[:1]))


def test_contigs_that_only_the_index_knows_come_last(tmp_path: Path) -> None:
    """A header without contig lines is usual; bcftools adds the contigs as it meets them."""
    file = simulate(tmp_path / "a.vcf.gz", sites={"chr1": 3, "chr2": 4}, declare_contigs=False, index="csi")
    assert file.index is not None
    index = parse_index(file.index.read_bytes())
    header = VcfHeader((), (HeaderContig("chr2", 9, 0), HeaderContig("chrM", None, 1)))
    assert count_contigs(header, index) == (Contig("chr2", 9, 4), Contig("chrM", None, 0), Contig("chr1", None, 3))
    assert count_contigs(header, None) == (Contig("chr2", 9, None), Contig("chrM", None, None))


def tabix(preset: int = 2, counts: bool = True) -> bytes:
    """A TBI of one contig with one chunk, built by hand."""
    pseudo = struct.pack("<Ii4Q", 37450, 2, 65536, 131072, 8, 0) if counts else b""
    bins = struct.pack("<i", 1 + counts) + struct.pack("<IiQQ", 4681, 1, 65536, 131072) + pseudo
    head = b"TBI\x01" + struct.pack("<8i", 1, preset, 1, 2, 0, 35, 0, 5) + b"chr1\0"
    return head + bins + struct.pack("<iQ", 1, 65536)


def test_an_index_without_counts_is_valid_and_says_so() -> None:
    """htsjdk writes no counts; None is not 0."""
    assert parse_index(bgzf(tabix())).contigs[0].records == 8
    index = parse_index(bgzf(tabix(counts=False)))
    assert index.contigs[0].records is None
    assert index.contigs[0].linear == (65536,)
    assert index.contigs[0].bins[4681].chunks == ((65536, 131072),)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "It is truncated: its contents end too early."),
        (b"<html>not found</html>", "It is neither a CSI nor a TBI index."),
        (bgzf(b"BAI\x01" + bytes(20)), "It is neither a CSI nor a TBI index."),
        (bgzf(tabix(preset=0x10000)), "It indexes another kind of file, not a VCF."),
        (bgzf(tabix()[:-1]), "It is truncated: its contents end too early."),
        (bgzf(tabix())[:-40], "It is truncated: its last block is cut off."),
        (bgzf(b"TBI\x01" + b"\xff\xff\xff\x7f" + bytes(40)), "It is truncated: its contents end too early."),
        (bgzf(b"CSI\x01" + b"\xff" * 40), "It is damaged: its binning scheme makes no sense."),
    ],
)
def test_a_damaged_index_is_explained(data: bytes, reason: str) -> None:
    """A bad index costs a warning and a job that builds a new one, so the reason must be a sentence."""
    with pytest.raises(UnusableIndex) as caught:
        parse_index(data)
    assert caught.value.message == reason


@given(st.binary(max_size=200), st.integers(0, 120), st.sampled_from([tabix(), b"CSI\x01" + bytes(60), b""]))
def test_no_bytes_raise_anything_but_a_reason(noise: bytes, at: int, good: bytes) -> None:
    """What users send never ends in a traceback."""
    for data in (bgzf(good[:at] + noise + good[at + len(noise) :]), bgzf(good)[:at] + noise):
        with suppress(UnusableIndex):
            index = parse_index(data)
            check_end(index.end or 0, noise, len(noise))


@pytest.mark.parametrize("block", [40, 65280])
def test_the_first_record_lies_where_the_header_ends(tmp_path: Path, block: int) -> None:
    """A header that grew by a line moves every record, whatever the file's size became."""
    file = simulate(tmp_path / "a.vcf.gz", contigs={"chr1": 9000})
    text = unpack_prefix(file.path.read_bytes(), 1 << 20).data
    file.path.write_bytes(bgzf(text, block=block))
    index = parse_index(index_variants(file.path, "csi").read_bytes())
    length = text.index(b"\n", text.index(b"#CHROM")) + 1
    check_begin(index, unpack_prefix(bgzf(text, block=block), 1 << 20), length)
    longer = text.replace(b"#CHROM", b"##more=1\n#CHROM", 1)
    with pytest.raises(UnusableIndex, match="its first record is not where the file's header ends"):
        check_begin(index, unpack_prefix(bgzf(longer, block=block), 1 << 20), length + len("##more=1\n"))
