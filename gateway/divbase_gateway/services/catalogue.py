"""The catalogue: what the gateway learns of a variant file from a few range reads, whatever the file's size.
It reads through the ObjectStore port and returns values; rows, jobs and requests are for its callers.
"""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from divbase_gateway.domain.bgzf import EOF_BLOCK, Compression, Prefix, compression_of, unpack_prefix, virtual_offset
from divbase_gateway.domain.errors import StoreUnavailable, UnusableFile
from divbase_gateway.domain.files import CataloguedFile, FileFormat, FileState, IndexRef, format_of
from divbase_gateway.domain.index_maps import MAX_NAME, map_contigs, pack
from divbase_gateway.domain.indexes import (
    MAX_INDEX_BYTES,
    MAX_TAIL_BYTES,
    FileIndex,
    UnusableIndex,
    check_begin,
    check_end,
    check_format,
    check_places,
    count_contigs,
    parse_index,
)
from divbase_gateway.domain.repairs import Condition, repair_command
from divbase_gateway.domain.sidecars import UnequalCopy, check_equal
from divbase_gateway.domain.vcf import (
    BCF_MAGIC,
    MAX_HEADER_BYTES,
    NotVariants,
    VcfHeader,
    may_have_blocks,
    measure_header,
    parse_header,
)
from divbase_gateway.ports import ObjectInfo, ObjectStore

FIRST_READ_BYTES = 64 * 1024
MAX_REQUEST_BYTES = 8 * 1024 * 1024

_VARIANTS = (FileFormat.VCF_GZ, FileFormat.VCF, FileFormat.BCF)


@dataclass(frozen=True)
class Inspection:
    """What one look at a file gave.

    Attributes:
        file: its entry in the catalogue.
        index_warning: why an index that lies beside the file is not used; None where none was refused.
        requests, bytes_read: what the look cost.
        maps: of its index, packed, by contig; none where it is not READY.
    """

    file: CataloguedFile
    index_warning: str | None
    requests: int
    bytes_read: int
    maps: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Indexed:
    """A READY file, and by contig what its index says of places (`domain.index_maps`), packed."""

    file: CataloguedFile
    maps: Mapping[str, bytes]


class _Ranges:
    """One version of an object, read in ranges and no range twice; counts what it costs."""

    def __init__(self, store: ObjectStore, bucket: str, key: str, version_id: str, size: int):
        self.store, self.bucket, self.key, self.version_id, self.size = store, bucket, key, version_id, size
        self.requests = 0
        self.bytes_read = 0
        self._start = b""
        self._others: dict[tuple[int, int], bytes] = {}

    def first(self, length: int) -> bytes:
        """At least the first `length` bytes, fewer where the object is smaller."""
        if length > len(self._start):
            self._start += self._request(len(self._start), min(length, self.size))
        return self._start

    def between(self, start: int, end: int) -> bytes:
        if end <= len(self._start):
            return self._start[start:end]
        if (start, end) not in self._others:
            self._others[start, end] = self._request(start, end)
        return self._others[start, end]

    def _request(self, start: int, end: int) -> bytes:
        pieces = []
        for at in range(start, end, MAX_REQUEST_BYTES):
            length = min(MAX_REQUEST_BYTES, end - at)
            piece = self.store.read(self.bucket, self.key, self.version_id, at, length)
            if len(piece) != length:
                raise StoreUnavailable(f"The store sent {len(piece)} of {length} bytes of {self.key!r} at byte {at}.")
            self.requests += 1
            self.bytes_read += length
            pieces.append(piece)
        return b"".join(pieces)


@dataclass(frozen=True)
class _Head:
    """The beginning of a usable file: its unpacked bytes and what its header, `header_bytes` of them, says."""

    prefix: Prefix
    header_bytes: int
    header: VcfHeader
    format: FileFormat


def inspect(
    store: ObjectStore,
    bucket: str,
    info: ObjectInfo,
    sha256: str | None,
    index_candidates: Sequence[ObjectInfo] = (),
) -> Inspection:
    """Look at one version of a file and say what queries can do with it.

    Args:
        info: the version to look at.
        sha256: hex, as the catalogue will keep it; it is not checked here.
        index_candidates: the objects `<key>.csi` and `<key>.tbi` where they exist, the better one first.

    Returns:
        READY with a valid index; INDEXING when the file is usable and no candidate is, so that the caller submits an
        index job; UNUSABLE with the reason, in the user's words; STORED for what is not a variant file by its name.

    Raises:
        StoreUnavailable, NotFound: from the store. What the file holds raises nothing.
    """
    blank = CataloguedFile(
        key=info.key,
        version_id=info.version_id,
        size=info.size,
        etag=info.etag,
        sha256=sha256,
        format=format_of(info.key),
        state=FileState.STORED,
        reason=None,
        samples=(),
        contigs=(),
        index=None,
    )
    if blank.format not in _VARIANTS:
        return Inspection(blank, None, 0, 0)
    ranges = _Ranges(store, bucket, info.key, info.version_id, info.size)
    file, head = _inspect_file(ranges, blank)
    if head is None:
        return Inspection(file, None, ranges.requests, ranges.bytes_read)
    return _try_indexes(ranges, file, head, index_candidates)


def attach_index(store: ObjectStore, bucket: str, file: CataloguedFile, index: IndexRef) -> Indexed:
    """The file with an index that was built for it: READY, with its variant counts.

    Raises:
        UnusableIndex: the index cannot be read or is not of this version of the file.
        UnusableFile: the file itself is not usable.
        StoreUnavailable, NotFound: from the store.
    """
    ranges = _Ranges(store, bucket, file.key, file.version_id, file.size)
    inspected, head = _inspect_file(ranges, file)
    if head is None:
        raise UnusableFile(inspected.reason or "", details={"key": file.key, "reason": inspected.reason})
    source = _Ranges(store, bucket, index.key, index.version_id, index.size)
    parsed = _read_index(source, ranges, head)
    return _ready(inspected, head, parsed, index)


def attach_copy(store: ObjectStore, bucket: str, file: CataloguedFile, copy: ObjectInfo, index: IndexRef) -> Indexed:
    """A BCF copy that was written of the file, with its index: an entry like that of a file.

    Raises:
        UnequalCopy: header or index say that it is of something else.
        UnusableIndex, UnusableFile: one of the two cannot be used.
        StoreUnavailable, NotFound: from the store.
    """
    blank = replace(
        file, key=copy.key, version_id=copy.version_id, size=copy.size, etag=copy.etag, sha256=None, sidecar=None
    )
    indexed = attach_index(store, bucket, blank, index)
    if indexed.file.format is not FileFormat.BCF:
        raise UnequalCopy(f"It is no BCF but {indexed.file.format}.")
    check_equal(file, indexed.file.samples, indexed.file.contigs)
    return indexed


def examine(store: ObjectStore, bucket: str, info: ObjectInfo) -> Condition:
    """How a variant file is packed, and what is wrong with it that writing it anew does not mend.

    Raises:
        StoreUnavailable, NotFound: from the store.
    """
    ranges = _Ranges(store, bucket, info.key, info.version_id, info.size)
    faults = []
    try:
        _read_head(ranges)
    except UnusableFile as exc:
        faults.append(exc.message)
    compression = compression_of(ranges.first(FIRST_READ_BYTES))
    return Condition(compression, tuple(faults + _missing_end(ranges, compression)))


def _ready(file: CataloguedFile, head: _Head, parsed: FileIndex, index: IndexRef) -> Indexed:
    ready = replace(
        file,
        state=FileState.READY,
        reason=None,
        contigs=count_contigs(head.header, parsed),
        index=replace(index, kind=parsed.kind),
        data_begin=virtual_offset(head.prefix.blocks, head.header_bytes),
    )
    maps = map_contigs(parsed, head.header)
    return Indexed(ready, {name: pack(each) for name, each in maps.items() if len(name) <= MAX_NAME})


# --- the file ----------------------------------------------------------------------------------------------------


def _inspect_file(ranges: _Ranges, blank: CataloguedFile) -> tuple[CataloguedFile, _Head | None]:
    """The entry without an index, INDEXING or UNUSABLE, and the head if the file is usable."""
    head: _Head | None = None
    try:
        head = _read_head(ranges)
        faults = _packing_faults(ranges, blank.key, mendable=True)
    except NotVariants as exc:
        faults = [exc.message]
    except UnusableFile as exc:
        faults = [*_packing_faults(ranges, blank.key, mendable=False), exc.message]
    file = replace(blank, state=FileState.INDEXING, reason=None, index=None)
    if head is not None:
        contigs = count_contigs(head.header, None)
        blocks = may_have_blocks(head.prefix.data, head.header_bytes)
        file = replace(file, format=head.format, samples=head.header.samples, contigs=contigs, has_blocks=blocks)
    if faults:
        return replace(file, state=FileState.UNUSABLE, reason=" ".join(faults)), None
    return file, head


def _read_head(ranges: _Ranges) -> _Head:
    """Read ranges, each as large as all before, until the header is complete.

    Raises:
        UnusableFile: with the reason.
    """
    if ranges.size == 0:
        raise UnusableFile("It is empty: the file has no bytes.")
    wanted = FIRST_READ_BYTES
    while True:
        start = ranges.first(wanted)
        whole = len(start) >= ranges.size
        prefix = unpack_prefix(start, MAX_HEADER_BYTES + 1)
        header_bytes = measure_header(prefix.data, whole=whole)
        if header_bytes is not None:
            break
        if wanted >= MAX_HEADER_BYTES:
            raise UnusableFile(f"Its header does not end within the first {MAX_HEADER_BYTES // 2**20} MiB.")
        wanted *= 2
    return _Head(prefix, header_bytes, parse_header(prefix.data[:header_bytes]), _format(prefix))


def _format(prefix: Prefix) -> FileFormat:
    """By contents, as bcftools tells them, whatever the file is called."""
    if prefix.data.startswith(BCF_MAGIC):
        return FileFormat.BCF
    return FileFormat.VCF if prefix.compression is Compression.NONE else FileFormat.VCF_GZ


def _packing_faults(ranges: _Ranges, key: str, *, mendable: bool) -> list[str]:
    """What is wrong with the way a VCF or BCF is packed, and the commands that mend it.

    Args:
        mendable: whether all that is in the file can be used.
    """
    if ranges.size == 0:
        return []
    compression = compression_of(ranges.first(FIRST_READ_BYTES))
    cut_off = _missing_end(ranges, compression)
    if compression is Compression.BGZF:
        return cut_off
    packed = "plain gzip" if compression is Compression.GZIP else "not compressed"
    by_job = f"Run `{repair_command(key)}`, or" if mendable and not cut_off else "Run"
    return [_mend(packed, by_job, posixpath.basename(key)), *cut_off]


def _missing_end(ranges: _Ranges, compression: Compression) -> list[str]:
    """What says that bytes are missing at the end. Of plain gzip, and of a BCF that is not packed, it is not seen."""
    if ranges.size == 0:
        return []
    if compression is Compression.BGZF:
        tail = ranges.between(max(0, ranges.size - len(EOF_BLOCK)), ranges.size)
        return [] if tail == EOF_BLOCK else [_TRUNCATED.format(size=ranges.size)]
    is_text = compression is Compression.NONE and not ranges.first(len(BCF_MAGIC)).startswith(BCF_MAGIC)
    if is_text and ranges.between(ranges.size - 1, ranges.size) != b"\n":
        return [_CUT_OFF]
    return []


_TRUNCATED = (
    "It is truncated: the empty block that ends every whole BGZF file is missing after {size} bytes. Look at it with"
    " `bcftools view` where it came from; if it is whole there, upload it again, else write it anew."
)
_CUT_OFF = (
    "Its last line has no end, as in a file that was cut off. Look at that line where the file came from; if all of it"
    " is there, add the newline and upload the file again."
)


def _mend(packed: str, run: str, name: str) -> str:
    old = shlex.quote(name if not name.startswith("-") else f"./{name}")
    flag, suffix = ("-Ob", ".bcf") if name.endswith(".bcf") else ("-Oz", ".vcf.gz")
    stem = name.removesuffix(".gz").removesuffix(".bgz").removesuffix(".vcf").removesuffix(".bcf")
    new = shlex.quote(f"bgzf_{stem}{suffix}")
    return (
        f"It is {packed} and must be BGZF: bcftools can neither index it nor read parts of it."
        f" {run} `bcftools view {flag} -o {new} {old}` and upload the new file."
    )


# --- the index ---------------------------------------------------------------------------------------------------


def _try_indexes(ranges: _Ranges, file: CataloguedFile, head: _Head, candidates: Sequence[ObjectInfo]) -> Inspection:
    indexed = Indexed(file, {})
    warnings: list[str] = []
    read: list[_Ranges] = [ranges]
    for candidate in candidates:
        source = _Ranges(ranges.store, ranges.bucket, candidate.key, candidate.version_id, candidate.size)
        read.append(source)
        try:
            parsed = _read_index(source, ranges, head)
        except UnusableIndex as exc:
            warnings.append(f"The index {candidate.key} is not used. {exc.message} DivBase builds a new one.")
            continue
        index = IndexRef(candidate.key, candidate.version_id, parsed.kind, candidate.size, candidate.etag)
        indexed = _ready(file, head, parsed, index)
        warnings = []
        break
    cost = sum(source.requests for source in read), sum(source.bytes_read for source in read)
    return Inspection(indexed.file, " ".join(warnings) or None, *cost, indexed.maps)


def _read_index(source: _Ranges, ranges: _Ranges, head: _Head) -> FileIndex:
    """Read an index whole and hold it against its file.

    Raises:
        UnusableIndex: with the reason.
    """
    if source.size > MAX_INDEX_BYTES:
        raise UnusableIndex(f"It has {source.size} bytes; an index of more than {MAX_INDEX_BYTES} is not read.")
    index = parse_index(source.first(source.size))
    check_format(index, head.format, head.header)
    check_begin(index, head.prefix, head.header_bytes)
    check_places(index, head.prefix, head.format)
    last = virtual_offset(head.prefix.blocks, head.header_bytes) if index.end is None else index.end
    start = last >> 16
    near = start < ranges.size <= start + MAX_TAIL_BYTES
    check_end(last, ranges.between(start, ranges.size) if near else b"", ranges.size)
    return index
