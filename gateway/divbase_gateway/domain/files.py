"""Files of a project as the catalogue knows them: names, versions, what a VCF holds. No bytes, no S3 calls."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from divbase_gateway.domain.errors import InvalidName

RESERVED_PREFIXES = (".divbase/", "results/")
"""Keys that DivBase writes itself: indexes it built, and results. Users read results but upload neither."""

METADATA_KEY = "sample_metadata.tsv"

MAX_KEY_BYTES = 900
"""S3 allows 1024 bytes of UTF-8; the rest is room for the suffixes that DivBase adds."""


class FileState(StrEnum):
    """What a query can do with the current version of a file."""

    STORED = "STORED"  # not a variant file: kept, listed, never queried
    INDEXING = "INDEXING"  # a job is building its index
    READY = "READY"  # header read, index known: queries use it
    UNUSABLE = "UNUSABLE"  # kept, with the reason in words; queries that need it say so


class FileFormat(StrEnum):
    VCF_GZ = "vcf.gz"
    VCF = "vcf"
    BCF = "bcf"
    INDEX = "index"
    OTHER = "other"


class IndexKind(StrEnum):
    CSI = "csi"
    TBI = "tbi"


@dataclass(frozen=True)
class Contig:
    """A contig of one file: declared in its header, counted by its index.

    `variants` is the number of records, 0 where the index knows of none, None where no index has counted them.
    """

    name: str
    length: int | None = None
    variants: int | None = None


@dataclass(frozen=True)
class IndexRef:
    """The object that holds a file's index, pinned to one version. `size` in bytes."""

    key: str
    version_id: str
    kind: IndexKind
    size: int
    etag: str


@dataclass(frozen=True)
class Sidecar:
    """The BCF copy of one version of a file: the same header and records, which queries may read in its place.

    Attributes:
        sha256: hex, as the job that wrote it stated it and the store bears out.
        data_begin: virtual offset at which its records begin.
    """

    key: str
    version_id: str
    size: int
    etag: str
    sha256: str
    index: IndexRef
    data_begin: int


@dataclass(frozen=True)
class CataloguedFile:
    """One version of a variant file, as far as planning needs to know it.

    Attributes:
        samples: in header order.
        contigs: in header order, then those that only the index knows.
        size: bytes.
        sha256: hex, as the uploader stated it and S3's part checksums bear out; None for adopted objects.
        data_begin: virtual offset at which the records begin; None where the catalogue keeps no maps of its contigs.
        sidecar: its BCF copy, where queries may read one.
        has_blocks: whether its records may be blocks of a gVCF.
    """

    key: str
    version_id: str
    size: int
    etag: str
    sha256: str | None
    format: FileFormat
    state: FileState
    reason: str | None
    samples: tuple[str, ...]
    contigs: tuple[Contig, ...]
    index: IndexRef | None
    data_begin: int | None = None
    sidecar: Sidecar | None = None
    has_blocks: bool = False


def format_of(key: str) -> FileFormat:
    """The format that a key's suffix promises (case matters, as it does to bcftools)."""
    if key.endswith((".vcf.gz", ".vcf.bgz")):
        return FileFormat.VCF_GZ
    if key.endswith(".vcf"):
        return FileFormat.VCF
    if key.endswith(".bcf"):
        return FileFormat.BCF
    if key.endswith((".csi", ".tbi")):
        return FileFormat.INDEX
    return FileFormat.OTHER


def validate_key(key: str, allowed_suffixes: tuple[str, ...] = ()) -> str:
    """Return `key` if it may name a file of a project.

    Anything that a person would call a file name is allowed, spaces, quotes and `$` included (scripts quote them),
    but not what would climb out of the project, hide, or not survive a terminal.

    Args:
        allowed_suffixes: the file types that the site accepts; empty for all.

    Raises:
        InvalidName: naming the key, what is wrong with it and what would be right.
    """
    problem = _problem_with_key(key, allowed_suffixes)
    if problem is not None:
        raise InvalidName(f"{key!r} cannot name a file: {problem}.", details={"name": key})
    return key


def _problem_with_key(key: str, allowed_suffixes: tuple[str, ...]) -> str | None:
    parts = key.split("/")
    if not key or key != key.strip():
        return "it is empty, or begins or ends with white space"
    if len(key.encode("utf-8", "surrogatepass")) > MAX_KEY_BYTES:
        return f"it is longer than {MAX_KEY_BYTES} bytes"
    if re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", key):
        return "it contains a control character (a newline or a tab, for example)"
    if "\\" in key:
        return "it contains a backslash; folders are separated by '/'"
    if "" in parts:
        return "it begins or ends with '/' or contains '//'"
    if any(part in (".", "..") for part in parts):
        return "it contains '.' or '..' as a folder"
    if any(part.startswith("-") for part in parts):
        return "a part of it begins with '-', which programs take for an option"
    if key.startswith(RESERVED_PREFIXES):
        return "names under " + " and ".join(RESERVED_PREFIXES) + " are DivBase's own"
    if allowed_suffixes and not key.endswith(allowed_suffixes):
        return "the file types accepted here are " + ", ".join(allowed_suffixes)
    return None
