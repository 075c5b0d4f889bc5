"""Sample metadata of a project: the table in the bucket, what it says, and which files hold its samples.

It reads one version of one object and never changes it; the table's format and the filter language are the domain's.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy.orm import Session

from divbase_gateway.db import files as rows
from divbase_gateway.db.models import ProjectRow
from divbase_gateway.domain import samples
from divbase_gateway.domain.errors import InvalidMetadata, NotFound
from divbase_gateway.domain.files import METADATA_KEY, CataloguedFile, FileState
from divbase_gateway.domain.samples import SampleTable
from divbase_gateway.ports import ObjectStore

MAX_TABLE_BYTES = 32 * 1024 * 1024
"""A row for each of 100,000 samples takes about a third of this."""

_TABLES_KEPT = 16
_VALUES_SHOWN = 20


@dataclass(frozen=True)
class LoadedTable:
    """The current, valid table of a project and the version that it was read from."""

    key: str
    version_id: str
    table: SampleTable


@dataclass(frozen=True)
class ColumnSummary:
    """`values` are the first distinct ones in order of appearance, `distinct` how many there are."""

    name: str
    kind: str
    is_list: bool
    values: tuple[str, ...]
    distinct: int


@dataclass(frozen=True)
class MetadataSummary:
    key: str
    version_id: str
    rows: int
    columns: tuple[ColumnSummary, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class SampleFiles:
    """A sample and the keys of the variant files that hold it, in key order."""

    sample: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class MetadataMatch:
    """What a filter leaves: samples in the table's order, and the files that hold any of them."""

    version_id: str
    samples: tuple[SampleFiles, ...]
    files: tuple[str, ...]
    warnings: tuple[str, ...]


class TableCache:
    """Parsed tables, the last used ones. A version never changes, so nothing in here grows old; safe in threads."""

    def __init__(self, size: int = _TABLES_KEPT):
        self._size = size
        self._lock = threading.Lock()
        self._tables: OrderedDict[tuple[str, str, str], SampleTable] = OrderedDict()

    def get(self, bucket: str, version_id: str, etag: str) -> SampleTable | None:
        """The table of this version. The ETag is asked for because version ids say nothing of unversioned objects."""
        with self._lock:
            table = self._tables.get((bucket, version_id, etag))
            if table is not None:
                self._tables.move_to_end((bucket, version_id, etag))
            return table

    def put(self, bucket: str, version_id: str, etag: str, table: SampleTable) -> None:
        with self._lock:
            self._tables[(bucket, version_id, etag)] = table
            while len(self._tables) > self._size:
                self._tables.popitem(last=False)


_cache = TableCache()


def read_version(
    store: ObjectStore, bucket: str, key: str, version_id: str, etag: str, size: int, cache: TableCache = _cache
) -> SampleTable:
    """The table in one version of an object.

    Raises:
        InvalidMetadata: with every fault.
        NotFound: the bucket no longer has the version.
        StoreUnavailable: the store does not answer.
    """
    table = cache.get(bucket, version_id, etag)
    if table is None:
        if size > MAX_TABLE_BYTES:
            raise _too_large(key, size)
        table = samples.read_table(store.read(bucket, key, version_id, 0, size) if size else b"")
        cache.put(bucket, version_id, etag, table)
    return table


def load_table(store: ObjectStore, session: Session, project: ProjectRow) -> SampleTable | None:
    """The project's sample table as it is now, or None where there is none.

    Raises:
        InvalidMetadata: there is one, with these faults.
        StoreUnavailable: the store does not answer.
    """
    loaded = _load(store, session, project)
    return None if loaded is None else loaded.table


def _load(store: ObjectStore, session: Session, project: ProjectRow) -> LoadedTable | None:
    file = rows.find_file(session, project.id, METADATA_KEY)
    if file is None or file.deleted_at is not None or file.current is None:
        return None
    current = file.current
    table = read_version(store, project.bucket, METADATA_KEY, current.version_id, current.etag, current.size)
    return LoadedTable(METADATA_KEY, current.version_id, table)


def need_table(store: ObjectStore, session: Session, project: ProjectRow) -> LoadedTable:
    """The project's sample table.

    Raises:
        NotFound: there is none; the hint says how to make one.
        InvalidMetadata, StoreUnavailable: as `load_table`.
    """
    loaded = _load(store, session, project)
    if loaded is None:
        raise NotFound(
            f"Project {project.name} has no sample metadata ({METADATA_KEY}).",
            hint="`divbase metadata template` writes a table with its samples to fill in, "
            "`divbase metadata push` uploads it.",
            details={"project": project.name, "key": METADATA_KEY},
        )
    return loaded


def summarize(store: ObjectStore, session: Session, project: ProjectRow) -> MetadataSummary:
    """What columns the table has, and which samples only it or only the files have.

    Raises:
        NotFound, InvalidMetadata, StoreUnavailable: as `need_table`.
    """
    loaded = need_table(store, session, project)
    table = loaded.table
    in_files = files_of_samples(rows.catalogue_of(session, project.id))
    return MetadataSummary(
        key=loaded.key,
        version_id=loaded.version_id,
        rows=len(table.rows),
        columns=tuple(_summary(table, index) for index in range(len(table.columns))),
        warnings=samples.compare_with_files(table, in_files),
    )


def query(store: ObjectStore, session: Session, project: ProjectRow, where: str) -> MetadataMatch:
    """The samples that the filter leaves, possibly none, and the files that they are in.

    Raises:
        InvalidFilter: naming the key and the columns there are.
        NotFound, InvalidMetadata, StoreUnavailable: as `need_table`.
    """
    loaded = need_table(store, session, project)
    chosen = samples.parse_filter(where, loaded.table)
    names = samples.select(loaded.table, chosen)
    in_files = files_of_samples(rows.catalogue_of(session, project.id))
    matched = tuple(SampleFiles(name, in_files.get(name, ())) for name in names)
    return MetadataMatch(
        version_id=loaded.version_id,
        samples=matched,
        files=tuple(sorted({key for sample in matched for key in sample.files})),
        warnings=(*samples.filter_warnings(loaded.table, chosen), *_match_warnings(matched)),
    )


def list_samples(session: Session, project: ProjectRow) -> list[SampleFiles]:
    """Every sample of the usable variant files, in file and header order."""
    in_files = files_of_samples(rows.catalogue_of(session, project.id))
    return [SampleFiles(name, keys) for name, keys in in_files.items()]


def files_of_samples(catalogue: Iterable[CataloguedFile]) -> dict[str, tuple[str, ...]]:
    """For each sample the files that hold it, in the order of the catalogue and of the headers.

    A file whose index is being built counts: it will be usable in a moment. One that is UNUSABLE does not.
    """
    found: dict[str, list[str]] = {}
    for file in catalogue:
        if file.state in (FileState.READY, FileState.INDEXING):
            for name in file.samples:
                found.setdefault(name, []).append(file.key)
    return {name: tuple(keys) for name, keys in found.items()}


def reason_of(error: InvalidMetadata, limit: int) -> str:
    """The faults of a table as lines of text, the first `limit` of them."""
    faults = error.details.get("faults")
    if not isinstance(faults, list) or not faults:
        return error.message
    lines = [f"{_place(fault)}: {fault['message']}" for fault in faults[:limit]]
    more = len(faults) - limit
    return "\n".join([*lines, f"… and {more} more" if more > 0 else ""]).rstrip()


def _place(fault: dict[str, object]) -> str:
    column = f", column {fault['column']}" if fault.get("column") else ""
    return f"line {fault['row']}{column}"


def _too_large(key: str, size: int) -> InvalidMetadata:
    message = f"The table is {size:,} bytes long; the most that is read is {MAX_TABLE_BYTES:,}."
    return InvalidMetadata(
        f"{key} is too large to be a sample table.",
        hint="A sample table has one line for each sample.",
        details={"faults": [{"row": 1, "column": None, "message": message}]},
    )


def _summary(table: SampleTable, index: int) -> ColumnSummary:
    column = table.columns[index]
    distinct = table.distinct(index)
    return ColumnSummary(column.name, column.kind.value, column.is_list, distinct[:_VALUES_SHOWN], len(distinct))


def _match_warnings(matched: tuple[SampleFiles, ...]) -> tuple[str, ...]:
    homeless = [sample.sample for sample in matched if not sample.files]
    if not homeless:
        return ()
    return (f"{len(homeless)} matching sample(s) are in no file yet: {samples.list_some(homeless)}.",)
