"""Headers of VCF and BCF: what is read of them, and the reasons for those that cannot be used."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from divbase_gateway.domain.vcf import (
    HeaderContig,
    NotVariants,
    UnusableHeader,
    may_have_blocks,
    measure_header,
    parse_bcf_header,
    parse_header,
    parse_vcf_header,
)
from hypothesis import given
from hypothesis import strategies as st

COLUMNS = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"


def header(*lines: str, columns: str = COLUMNS + "\tFORMAT\tA\tB", version: str = "VCFv4.2") -> bytes:
    return "\n".join([f"##fileformat={version}", *lines, columns, ""]).encode()


def bcf(text: bytes) -> bytes:
    return b"BCF\x02\x02" + struct.pack("<I", len(text) + 1) + text + b"\0"


def test_samples_and_contigs_come_in_the_order_of_the_header() -> None:
    """Order is what concat and merge go by."""
    parsed = parse_vcf_header(header("##contig=<ID=chr2,length=500>", "##contig=<ID=chr1,length=900>"))
    assert parsed.samples == ("A", "B")
    assert parsed.contigs == (HeaderContig("chr2", 500, 0), HeaderContig("chr1", 900, 1))


@pytest.mark.parametrize("version", ["VCFv4.1", "VCFv4.2", "VCFv4.3", "VCFv4.4", "VCFv4.5"])
def test_every_version_that_bcftools_reads_is_read(version: str) -> None:
    """VCF 4.1 to 4.5 differ in nothing that the catalogue keeps."""
    assert parse_vcf_header(header(version=version)).samples == ("A", "B")


def test_a_version_before_four_is_refused() -> None:
    """bcftools would misread VCF 3."""
    with pytest.raises(UnusableHeader, match=r"VCFv3\.3"):
        parse_vcf_header(header(version="VCFv3.3"))


@pytest.mark.parametrize("columns", [COLUMNS, COLUMNS + "\tFORMAT"])
def test_a_file_without_samples_is_a_file(columns: str) -> None:
    """Sites-only files are usual: dbSNP, gnomAD."""
    assert parse_vcf_header(header(columns=columns)).samples == ()


def test_lines_may_end_in_crlf() -> None:
    """Windows editors add a carriage return, which must not become part of the last sample's name."""
    data = header("##contig=<ID=c,length=7>").replace(b"\n", b"\r\n")
    parsed = parse_vcf_header(data)
    assert parsed.samples == ("A", "B")
    assert parsed.contigs == (HeaderContig("c", 7, 0),)


@pytest.mark.parametrize(
    ("line", "name", "length"),
    [
        ("##contig=<ID=HLA-A*01:01:01:01,length=3503>", "HLA-A*01:01:01:01", 3503),
        ("##contig=<ID=chr1-alt>", "chr1-alt", None),
        ('##contig=<ID=x,assembly="a,length=5,b",length=9>', "x", 9),
        ("##contig=<length=12,ID=y>", "y", 12),
        ("##contig=<ID=z,length=many>", "z", None),
        ("##contig=<ID=z,length=99999999999999999999>", "z", None),
        ('##contig=<ID=z,species="a \\" quote, ID=no",md5=q>', "z", None),
    ],
)
def test_contig_lines_are_read_as_the_specification_has_them(line: str, name: str, length: int | None) -> None:
    """Names hold `:` and `-`, values hold quoted commas, lengths are missing or nonsense."""
    assert parse_vcf_header(header(line)).contigs == (HeaderContig(name, length, 0),)


def test_a_contig_that_is_declared_twice_counts_once() -> None:
    """htslib keeps the first line of a name."""
    parsed = parse_vcf_header(header("##contig=<ID=a,length=1>", "##contig=<ID=a,length=2>", "##contig=<ID=b>"))
    assert parsed.contigs == (HeaderContig("a", 1, 0), HeaderContig("b", None, 1))


def test_a_bcf_numbers_its_contigs_by_idx() -> None:
    """Records of a BCF whose header lost a contig keep the old numbers, and so does its index."""
    text = header("##contig=<ID=a,length=1,IDX=0>", "##contig=<ID=c,length=3,IDX=2>")
    parsed = parse_bcf_header(bcf(text))
    assert parsed.contigs == (HeaderContig("a", 1, 0), HeaderContig("c", 3, 2))
    assert parsed.samples == ("A", "B")


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        (
            COLUMNS + "\tFORMAT\tNA1\tNA2\tNA1",
            "It has duplicate samples, more than one column named: NA1. Rename them with `bcftools reheader -s`.",
        ),
        (COLUMNS + "\tFORMAT\tA\t", "Column 11 of its #CHROM line has no name (a tab too many?)."),
        (COLUMNS + "\tA", "The ninth column of its #CHROM line is 'A'; it must be FORMAT."),
        (
            COLUMNS.replace("\t", " "),
            "The columns of its #CHROM line are separated by spaces; they must be separated by tabs.",
        ),
        (
            "#CHROM\tPOS",
            "The columns of its #CHROM line are #CHROM, POS; the first eight must be"
            " #CHROM, POS, ID, REF, ALT, QUAL, FILTER, INFO.",
        ),
    ],
)
def test_a_broken_column_line_is_explained(columns: str, reason: str) -> None:
    """The reason is in the words of the person who sent the file, and names the sample or column."""
    with pytest.raises(UnusableHeader) as caught:
        parse_vcf_header(header(columns=columns))
    assert caught.value.message == reason


def test_many_duplicates_are_named_in_part() -> None:
    """A reason stays readable for a file of a thousand duplicates."""
    names = "\t".join(f"S{number}\tS{number}" for number in range(9))
    with pytest.raises(UnusableHeader, match="named: S0, S1, S2, S3, S4 and 4 more"):
        parse_vcf_header(header(columns=f"{COLUMNS}\tFORMAT\t{names}"))


@pytest.mark.parametrize(
    ("data", "looks"),
    [
        (b"<!DOCTYPE html><html>", "an HTML page"),
        (b"BAM\x01rest of a header", "a BAM file"),
        (b"PK\x03\x04rest of the archive", "a ZIP archive"),
        (b"chr1\t5\t10\nchr1\t20\t30\n", "text that begins with 'chr1\\t5\\t10'"),
        (b"\xef\xbb\xbf##fileformat=VCFv4.2\n", "a VCF with a byte-order mark"),
        (b"##source=me\n##fileformat=VCFv4.2\n", "a VCF without its first line"),
        (b">chr1\nACGTACGTACGTACGT\n", "a FASTA file"),
        (bytes(range(40)), "binary data"),
    ],
)
def test_what_is_no_vcf_is_called_what_it_is(data: bytes, looks: str) -> None:
    """People upload error pages and BAMs under a VCF's name."""
    with pytest.raises(NotVariants) as caught:
        measure_header(data, whole=False)
    assert caught.value.message.startswith(f"It is not a VCF: it looks like {looks}")


@pytest.mark.parametrize("make", [lambda text: text, bcf], ids=["vcf", "bcf"])
def test_a_header_is_complete_only_with_its_last_byte(make) -> None:  # type: ignore[no-untyped-def]
    """Every shorter beginning asks for more, so that no sample is lost at the end of a range."""
    data = make(header("##contig=<ID=c,length=7>", "", '##INFO=<ID=X,Description="#CHROM">'))
    for length in range(len(data)):
        assert measure_header(data[:length], whole=False) is None
    assert measure_header(data + b"c\t1\t.\tA\tC\t.\t.\t.\n", whole=False) == len(data)


def test_a_file_that_is_only_a_header_may_lack_its_last_newline() -> None:
    """Nothing more can come, so the line is complete."""
    data = header().rstrip(b"\n")
    assert measure_header(data, whole=True) == len(data)


@pytest.mark.parametrize(
    ("data", "whole", "reason"),
    [
        (b"##fileformat=VCFv4.2\nchr1\t5\t.\tA\tC\n", False, "line 2 begins with 'chr1\\t5\\t.\\tA\\tC'"),
        (b"##fileformat=VCFv4.2\n##a=b\n", True, "It has no #CHROM line"),
        (bcf(header())[:50], True, "It ends in the middle of its header."),
        (b"BCF\x02\x02\xff\xff\xff\xff", False, "Its header is longer than 64 MiB."),
        (b"", True, "It holds no data"),
    ],
)
def test_a_header_that_never_ends_is_refused(data: bytes, whole: bool, reason: str) -> None:
    """The search for the #CHROM line ends at the first line that has no place in a header."""
    with pytest.raises(UnusableHeader) as caught:
        measure_header(data, whole=whole)
    assert reason in caught.value.message


def test_a_header_that_is_no_text_is_refused() -> None:
    """Zero bytes would end the text for htslib; names that are not UTF-8 could be neither shown nor asked for."""
    with pytest.raises(UnusableHeader, match="zero byte"):
        parse_vcf_header(header("##a=\0"))
    with pytest.raises(UnusableHeader, match="not UTF-8"):
        parse_vcf_header(header().replace(b"\tA\t", b"\t\xe9\t"))


def test_a_comment_in_latin_1_is_no_fault() -> None:
    """Old tools wrote author names so; bcftools does not mind."""
    assert parse_vcf_header(header("##author=x").replace(b"=x", b"=\xe9")).samples == ("A", "B")


@given(st.binary(max_size=200), st.integers(0, 200))
def test_no_bytes_raise_anything_but_a_reason(noise: bytes, at: int) -> None:
    """What users send never ends in a traceback, even when it begins like a header."""
    good = header("##contig=<ID=c,length=7>")
    for data in (noise, good[:at] + noise + good[at:], bcf(good)[:at] + noise):
        with suppress(UnusableHeader):
            if measure_header(data, whole=True) is not None:
                parse_header(data)


END = '##INFO=<ID=END,Number=1,Type=Integer,Description="End">'
NON_REF = '##ALT=<ID=NON_REF,Description="Any other">'
BLOCK = "1\t10\t.\tA\t<NON_REF>\t.\t.\tEND=20\tGT\t0/0\t0/0\n"
SNP = "1\t10\t.\tA\tC\t.\t.\tDP=3\tGT\t0/1\t0/0\n"


@pytest.mark.parametrize(
    ("lines", "records", "blocks"),
    [
        ([END, NON_REF], BLOCK, True),
        ([END], BLOCK, True),
        ([END], "1\t10\t.\tA\t.\t.\t.\tDP=3;END=20\n", True),
        ([END], "1\t10\t.\tA\t<*>\t.\t.\tEND=20\r\n", True),
        ([NON_REF], BLOCK, False),  # without its line END is no end
        ([END], "1\t10\t.\tA\t<DEL>\t.\t.\tEND=20\n", False),
        ([END], "1\t10\t.\tA\t.\t.\t.\tTREND=20\n", False),
        ([END, NON_REF], SNP * 50, False),  # called together: the header is what is left of the blocks
        ([END, NON_REF], SNP * 49, True),  # too few to tell
        ([END], SNP * 3, False),
        ([END, NON_REF], SNP * 49 + BLOCK.rstrip("\n"), True),  # the last record is cut off
    ],
)
def test_files_with_blocks_are_told_by_their_first_records(lines: list[str], records: str, blocks: bool) -> None:
    """Guards: a gVCF is known, whoever called it, and a file called from gVCFs is not taken for one."""
    text = header(*lines)
    assert may_have_blocks(text + records.encode(), len(text)) is blocks


@pytest.mark.parametrize(("lines", "blocks"), [([END, NON_REF], True), ([END], True), ([NON_REF], False), ([], False)])
def test_a_bcf_with_blocks_is_told_by_its_header(lines: list[str], blocks: bool) -> None:
    """Guards: its records are not read as text, and a block may have no allele that the header names, but never an END
    that it does not."""
    data = bcf(header(*lines))
    assert may_have_blocks(data + b"\x10\0\0\0\n\n", len(data)) is blocks
