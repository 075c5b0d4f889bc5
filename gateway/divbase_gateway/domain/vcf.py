"""Headers of VCF and BCF: samples, contigs, and what is wrong with them in the words of the person who sent the file.
Bytes in, values out; it knows neither where the bytes come from nor how they were packed.

The formats are those of the VCF specification, 4.1 to 4.5, read as htslib reads them: lines may end in CRLF, a BCF's
contigs are numbered by `IDX` where the header has it.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from divbase_gateway.domain.errors import UnusableFile

VCF_MAGIC = b"##fileformat=VCF"
BCF_MAGIC = b"BCF\x02"
MAX_HEADER_BYTES = 64 * 1024 * 1024
"""Of unpacked header. A header of 100,000 samples and 3,000 contigs has about 2 MB."""

_FIXED_COLUMNS = ["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO"]
_MAX_LENGTH = 2**63 - 1
_TOKEN = re.compile(r'((?:"(?:\\.|[^"\\])*"|[^",])*)(?:,|$)')

_OTHER_LINE = re.compile(rb"\n(?!##|#CHROM|\r?\n)(?=[^\n])")
"""The newline before a line that has no place in a header; htslib skips empty lines, so they have one."""

_LOOKS = (
    (b"BAM\x01", "a BAM file (alignments, not variants)"),
    (b"CRAM", "a CRAM file (alignments, not variants)"),
    (b"BCF\x04", "a BCF1 file of samtools before 0.1.20; `bcftools view` of that time converts it"),
    (b"CSI\x01", "an index (.csi)"),
    (b"TBI\x01", "an index (.tbi)"),
    (b"BAI\x01", "an index (.bai)"),
    (b"PK\x03\x04", "a ZIP archive (unpack it first)"),
    (b"BZh", "a bzip2 file (unpack it first)"),
    (b"\xfd7zXZ", "an xz file (unpack it first)"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file (unpack it first)"),
    (b"%PDF", "a PDF"),
    (b"\x89PNG", "an image"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x6c\x1b", "a PLINK .bed file"),
    (b"##gff-version", "a GFF file"),
    (b"@HD\t", "a SAM file (alignments, not variants)"),
    (b"@SQ\t", "a SAM file (alignments, not variants)"),
    (b"<?xml", "an XML file"),
    (b">", "a FASTA file"),
)


class UnusableHeader(UnusableFile):
    """A header that bcftools could not work with; the message is the reason, whole sentences."""


class NotVariants(UnusableHeader):
    """The file is something else altogether."""


@dataclass(frozen=True)
class HeaderContig:
    """A `##contig` line. `length` in bp, None where the line has none; `number` is what BCF records call the contig."""

    name: str
    length: int | None
    number: int


@dataclass(frozen=True)
class VcfHeader:
    """What the catalogue keeps of a header: sample names in column order, contigs in the order of their lines."""

    samples: tuple[str, ...]
    contigs: tuple[HeaderContig, ...]


def measure_header(data: bytes, *, whole: bool) -> int | None:
    """The length in bytes of the VCF or BCF header that `data` begins with; None when it is longer than `data`.

    Args:
        data: unpacked bytes, from the beginning of the file.
        whole: `data` is the whole file, so no more can come.

    Raises:
        NotVariants: it looks like something else.
        UnusableHeader: it has no #CHROM line, or it is longer than `MAX_HEADER_BYTES`.
    """
    _check_magic(data, whole)
    end = _measure_bcf(data) if data.startswith(BCF_MAGIC) else _measure_vcf(data, whole)
    if (end or len(data)) > MAX_HEADER_BYTES:
        raise UnusableHeader(f"Its header is longer than {MAX_HEADER_BYTES // 2**20} MiB.")
    if end is None and whole:
        raise UnusableHeader("It ends in the middle of its header.")
    return end


def _check_magic(data: bytes, whole: bool) -> None:
    if whole and not data:
        raise UnusableHeader("It holds no data, so no header either.")
    enough = whole or len(data) >= len(VCF_MAGIC)
    if enough and not data.startswith((VCF_MAGIC, BCF_MAGIC)):
        raise NotVariants(f"It is not a VCF: it looks like {describe(data)}.")


def _measure_bcf(data: bytes) -> int | None:
    if len(data) < 9:
        return None
    (length,) = struct.unpack_from("<I", data, 5)
    if length > MAX_HEADER_BYTES:
        raise UnusableHeader(f"Its header is longer than {MAX_HEADER_BYTES // 2**20} MiB.")
    return 9 + length if len(data) >= 9 + length else None


def _measure_vcf(data: bytes, whole: bool) -> int | None:
    columns = data.find(b"\n#CHROM")
    complete = columns + 1 if columns >= 0 else len(data) if whole else data.rfind(b"\n") + 1
    other = _OTHER_LINE.search(data, 0, complete)
    if other is not None:
        raise UnusableHeader(_no_columns(data, other.end()))
    if columns < 0:
        if whole:
            raise UnusableHeader("It has no #CHROM line, which names the columns and samples: it ends before one.")
        return None
    end = data.find(b"\n", columns + 1)
    if end < 0:
        return len(data) if whole else None
    return end + 1


def _no_columns(data: bytes, at: int) -> str:
    line = data.count(b"\n", 0, at) + 1
    text = data[at : at + 40].split(b"\n")[0].decode("utf-8", "replace").rstrip("\r")
    return (
        f"It has no #CHROM line, which names the columns and samples: line {line} begins with {text!r},"
        " where a line that begins with '##' or '#CHROM' must be."
    )


def parse_vcf_header(data: bytes) -> VcfHeader:
    """Read a whole VCF header, its #CHROM line last (the text inside a BCF is one as well).

    Raises:
        UnusableHeader: with every fault that is found.
    """
    lines = data.rstrip(b"\r\n").replace(b"\r\n", b"\n").split(b"\n")
    if not lines[0].startswith(VCF_MAGIC):
        raise NotVariants(f"It is not a VCF: it looks like {describe(data)}.")
    if not lines[-1].startswith(b"#CHROM"):
        raise UnusableHeader("It has no #CHROM line, which names the columns and samples.")
    version = lines[0][len(VCF_MAGIC) :].decode("utf-8", "replace").strip()
    if not version.startswith("v4."):
        raise UnusableHeader(f"It is VCF{version}; DivBase and bcftools read VCFv4.1 and later. Convert it first.")
    if b"\0" in data:
        raise UnusableHeader("Its header contains a zero byte, so it is damaged or not text.")
    return VcfHeader(_parse_columns(lines[-1]), _parse_contigs(lines[:-1]))


def parse_bcf_header(data: bytes) -> VcfHeader:
    """Read a whole BCF header: magic, length, text.

    Raises:
        UnusableHeader: as `parse_vcf_header`.
    """
    if not data.startswith(BCF_MAGIC) or len(data) < 9:
        raise NotVariants(f"It is not a BCF: it looks like {describe(data)}.")
    (length,) = struct.unpack_from("<I", data, 5)
    return parse_vcf_header(data[9 : 9 + length].rstrip(b"\0"))


def parse_header(data: bytes) -> VcfHeader:
    """Read a whole header of either kind, told by its magic."""
    return parse_bcf_header(data) if data.startswith(BCF_MAGIC) else parse_vcf_header(data)


def may_have_blocks(data: bytes, header_bytes: int) -> bool:
    """Whether records may be blocks of a gVCF, as `bcftools merge` knows them: an END, and no allele or one that stands
    for all others. Nearly every record of a gVCF is one, so the first few tell; many headers only name the alleles. The
    records of a BCF are not looked at: it may have blocks where END has a meaning.

    Args:
        data: unpacked, from the beginning of the file; its header has `header_bytes` of them.
    """
    header = data[:header_bytes]
    if _END_IN_INFO.search(header) is None:  # then it has no meaning, and records end where REF does
        return False
    if data.startswith(BCF_MAGIC):
        return True
    records = data[header_bytes:].split(b"\n")[:-1]
    if any(map(_is_block, records)):
        return True
    return len(records) < _TELLING and _BLOCK_ALLELE.search(header) is not None


_END_IN_INFO = re.compile(rb"^##INFO=<(?:[^>\n]*,)?ID=END[,>]", re.MULTILINE)
_BLOCK_ALLELE = re.compile(rb"^##ALT=<(?:[^>\n]*,)?ID=(?:NON_REF|\*|X)[,>]", re.MULTILINE)
_BLOCK_ALLELES = frozenset({b".", b"<NON_REF>", b"<*>", b"<X>"})
_TELLING = 50
"""Records, none of which is a block, after which a file is taken for one without."""


def _is_block(record: bytes) -> bool:
    columns = record.rstrip(b"\r").split(b"\t", 8)
    if len(columns) < 8 or _BLOCK_ALLELES.isdisjoint(columns[4].split(b",")):
        return False
    return any(field.startswith(b"END=") for field in columns[7].split(b";"))


def _parse_columns(line: bytes) -> tuple[str, ...]:
    try:
        columns = line.decode("utf-8").split("\t")
    except UnicodeDecodeError as exc:
        raise UnusableHeader(
            "Its sample names are not UTF-8 text. Rename them, for example with `bcftools reheader -s`."
        ) from exc
    if columns[:8] != _FIXED_COLUMNS:
        raise UnusableHeader(_wrong_columns(columns))
    if len(columns) > 8 and columns[8] != "FORMAT":
        raise UnusableHeader(f"The ninth column of its #CHROM line is {columns[8]!r}; it must be FORMAT.")
    samples = tuple(columns[9:])
    faults = list(_sample_faults(samples))
    if faults:
        raise UnusableHeader(" ".join(faults))
    return samples


def _wrong_columns(columns: list[str]) -> str:
    if len(columns) == 1 and " " in columns[0]:
        return "The columns of its #CHROM line are separated by spaces; they must be separated by tabs."
    found = ", ".join(columns[:8])[:120]
    return f"The columns of its #CHROM line are {found}; the first eight must be {', '.join(_FIXED_COLUMNS)}."


def _sample_faults(samples: tuple[str, ...]) -> Iterator[str]:
    repeated = [name for name, count in Counter(samples).items() if count > 1 and name]
    if repeated:
        shown = ", ".join(repeated[:5]) + (f" and {len(repeated) - 5} more" if len(repeated) > 5 else "")
        yield f"It has duplicate samples, more than one column named: {shown}. Rename them with `bcftools reheader -s`."
    empty = [number for number, name in enumerate(samples, 10) if not name]
    if empty:
        yield f"Column {empty[0]} of its #CHROM line has no name (a tab too many?)."


def _parse_contigs(lines: list[bytes]) -> tuple[HeaderContig, ...]:
    contigs: dict[str, HeaderContig] = {}
    for line in lines:
        if not line.startswith(b"##contig=<"):
            continue
        try:
            fields = dict(_fields(line.decode("utf-8")))
        except UnicodeDecodeError as exc:
            raise UnusableHeader("The name of one of its contigs is not UTF-8 text.") from exc
        name = fields.get("ID", "")
        if name and name not in contigs:
            number = _whole_number(fields.get("IDX"))
            place = len(contigs) if number is None else number
            contigs[name] = HeaderContig(name, _whole_number(fields.get("length")), place)
    return tuple(contigs.values())


def _fields(line: str) -> Iterator[tuple[str, str]]:
    """The `key=value` pairs of a structured header line, quotes taken off; commas inside quotes do not separate."""
    inside = line[line.index("<") + 1 :].rstrip()
    inside = inside.removesuffix(">")
    for match in _TOKEN.finditer(inside):
        key, equals, value = match[1].partition("=")
        if equals:
            yield key.strip(), value.strip().strip('"')


def _whole_number(text: str | None) -> int | None:
    if text is None or not re.fullmatch(r"[0-9]{1,19}", text):
        return None
    number = int(text)
    return number if number <= _MAX_LENGTH else None


def describe(data: bytes) -> str:
    """What bytes that are no VCF look like, for a sentence that begins with "it looks like"."""
    if not data:
        return "an empty file"
    for magic, name in _LOOKS:
        if data.startswith(magic):
            return name
    if data.startswith(b"\xef\xbb\xbf" + VCF_MAGIC):
        return "a VCF with a byte-order mark (three bytes, EF BB BF) before its first line; remove the mark"
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head")):
        return "an HTML page (a download that got an error or login page, perhaps)"
    if start.startswith((b"{", b"[")):
        return "a JSON file"
    if start.startswith((b"#chrom\t", b"##")):
        return "a VCF without its first line, which must be '##fileformat=VCFv4.x'"
    return _describe_text(data[:512])


def _describe_text(head: bytes) -> str:
    if any(byte < 9 or 13 < byte < 32 for byte in head):
        return "binary data of an unknown kind"
    first = head.lstrip().split(b"\n")[0][:40].decode("utf-8", "replace").strip()
    return f"text that begins with {first!r}; a VCF begins with '##fileformat=VCFv4.x'"
