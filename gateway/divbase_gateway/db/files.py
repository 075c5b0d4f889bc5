"""Queries over files and their versions. What a row may hold is decided in `services`; no S3 and no wire here.

Keys are ordered and compared by code point on every database, so that a listing, a cursor and a plan agree.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import ColumnElement, Select, Text, and_, cast, func, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session, defer, joinedload

from divbase_gateway.db.models import FileRow, FileVersionRow, JobRow, SnapshotFileRow
from divbase_gateway.db.parsed import Parsed
from divbase_gateway.domain.files import (
    RESERVED_PREFIXES,
    CataloguedFile,
    Contig,
    FileFormat,
    FileState,
    IndexKind,
    IndexRef,
)

VARIANT_FORMATS = (FileFormat.VCF_GZ, FileFormat.VCF, FileFormat.BCF)

_WITH_CURRENT = joinedload(FileRow.current).joinedload(FileVersionRow.uploaded_by)


def find_file(session: Session, project_id: int, key: str) -> FileRow | None:
    """The file with its current version and who uploaded that, deleted or not."""
    query = select(FileRow).where(FileRow.project_id == project_id, FileRow.key == key).options(_WITH_CURRENT)
    return session.scalar(query)


def find_files(session: Session, project_id: int, keys: Sequence[str]) -> list[FileRow]:
    """Those of `keys` that are files and not deleted, each with its current version."""
    query = (
        select(FileRow)
        .where(FileRow.project_id == project_id, FileRow.key.in_(keys), FileRow.deleted_at.is_(None))
        .options(_WITH_CURRENT)
    )
    return list(session.scalars(query))


def find_version(session: Session, file_id: int, version_id: str) -> FileVersionRow | None:
    query = (
        select(FileVersionRow)
        .where(FileVersionRow.file_id == file_id, FileVersionRow.version_id == version_id)
        .options(joinedload(FileVersionRow.uploaded_by))
    )
    return session.scalar(query)


def claim_file(session: Session, project_id: int, key: str) -> FileRow:
    """The file's row, made if there is none and locked until the end of the transaction.

    Two transactions that record versions of one key run one after the other from here on.
    """
    values = {"project_id": project_id, "key": key}
    if session.get_bind().dialect.name == "postgresql":
        session.execute(postgresql.insert(FileRow).values(values).on_conflict_do_nothing())
    else:
        session.execute(sqlite.insert(FileRow).values(values).on_conflict_do_nothing())
    query = select(FileRow).where(FileRow.project_id == project_id, FileRow.key == key).with_for_update()
    return session.scalars(query.execution_options(populate_existing=True)).one()


def page_of_files(
    session: Session, project_id: int, *, prefix: str, deleted: bool, after: str | None, limit: int
) -> list[tuple[FileRow, FileVersionRow]]:
    """Files with their current versions, by key; `after` is the last key of the page before."""
    key = _ordered_key(session)
    query = _listing(project_id, prefix, deleted, FileVersionRow.id == FileRow.current_id)
    if after is not None:
        query = query.where(key > after)
    return [(row[0], row[1]) for row in session.execute(query.order_by(key).limit(limit))]


def page_of_versions(
    session: Session, project_id: int, *, prefix: str, deleted: bool, after: tuple[str, int] | None, limit: int
) -> list[tuple[FileRow, FileVersionRow]]:
    """Every recorded version, by key and newest first; `after` is key and row id of the last one before."""
    key = _ordered_key(session)
    query = _listing(project_id, prefix, deleted, FileVersionRow.file_id == FileRow.id)
    if after is not None:
        query = query.where(or_(key > after[0], and_(FileRow.key == after[0], FileVersionRow.id < after[1])))
    query = query.order_by(key, FileVersionRow.id.desc()).limit(limit)
    return [(row[0], row[1]) for row in session.execute(query)]


def keys_of(session: Session, project_id: int) -> list[str]:
    """Keys of all files that are not deleted."""
    query = select(FileRow.key).where(FileRow.project_id == project_id, FileRow.deleted_at.is_(None))
    return sorted(session.scalars(query))


def known_versions(session: Session, project_id: int) -> dict[str, tuple[str | None, bool]]:
    """For every key the S3 version that is current for DivBase, and whether the file is deleted."""
    query = (
        select(FileRow.key, FileVersionRow.version_id, FileRow.deleted_at)
        .outerjoin(FileVersionRow, FileVersionRow.id == FileRow.current_id)
        .where(FileRow.project_id == project_id)
    )
    return {key: (version_id, deleted_at is not None) for key, version_id, deleted_at in session.execute(query)}


def catalogue_of(session: Session, project_id: int) -> list[CataloguedFile]:
    """What is known of the current version of every variant file that is not deleted, in key order. One query."""
    version = FileVersionRow
    query = (
        select(
            FileRow.key, version.version_id, version.size, version.etag, version.sha256, version.format, version.state,
            version.reason, cast(version.samples, Text), cast(version.contigs, Text), version.index_key,
            version.index_version_id, version.index_kind, version.index_size, version.index_etag, version.data_begin,
            version.has_blocks,
        )
        .join(version, version.id == FileRow.current_id)
        .where(FileRow.project_id == project_id, FileRow.deleted_at.is_(None), version.format.in_(VARIANT_FORMATS))
    )  # fmt: skip
    found = session.connection().execute(query)  # columns only: the session has nothing to do with them
    return sorted(map(_from_columns, found), key=lambda file: file.key)


def _from_columns(row: Iterable[Any]) -> CataloguedFile:
    values = list(row)
    values[_SAMPLES], values[_CONTIGS] = _samples.of(values[_SAMPLES]), _contigs.of(values[_CONTIGS])
    return _catalogued(*values)


def catalogued(key: str, row: FileVersionRow) -> CataloguedFile:
    """A version's row as the domain sees it."""
    return _catalogued(
        key, row.version_id, row.size, row.etag, row.sha256, row.format, row.state, row.reason, tuple(row.samples),
        tuple(_contig(*each) for each in row.contigs), row.index_key, row.index_version_id, row.index_kind,
        row.index_size, row.index_etag, row.data_begin, row.has_blocks,
    )  # fmt: skip


def set_catalogued(row: FileVersionRow, file: CataloguedFile) -> None:
    """Write what the catalogue learnt of a version into its row; `index_job` stays as it is."""
    index = file.index
    row.version_id, row.size, row.etag, row.sha256 = file.version_id, file.size, file.etag, file.sha256
    row.format, row.state, row.reason = file.format, file.state, file.reason
    row.samples = list(file.samples)
    row.contigs = [[contig.name, contig.length, contig.variants] for contig in file.contigs]
    row.index_key = index.key if index else None
    row.index_version_id = index.version_id if index else None
    row.index_kind = index.kind if index else None
    row.index_size = index.size if index else None
    row.index_bytes = index.size if index and index.key.startswith(RESERVED_PREFIXES) else 0
    row.index_etag = index.etag if index else None
    row.data_begin, row.has_blocks = file.data_begin, file.has_blocks


def page_at(
    session: Session, snapshot_id: int, *, after: str | None, limit: int
) -> list[tuple[FileRow, FileVersionRow]]:
    """The versions that a snapshot names with their files, by key; `after` is the last key of the page before."""
    key = _ordered_key(session)
    query = _named(snapshot_id).options(joinedload(FileVersionRow.uploaded_by))
    if after is not None:
        query = query.where(key > after)
    return [(row[0], row[1]) for row in session.execute(query.order_by(key).limit(limit))]


def catalogue_at(session: Session, snapshot_id: int) -> list[CataloguedFile]:
    """What is known of every variant file of a snapshot in the version that it names, in key order. One query."""
    query = _named(snapshot_id).where(FileVersionRow.format.in_(VARIANT_FORMATS))
    found = (catalogued(file.key, version) for file, version in session.execute(query))
    return sorted(found, key=lambda file: file.key)


def find_version_at(session: Session, snapshot_id: int, key: str) -> FileVersionRow | None:
    """The version of this file that a snapshot names."""
    row = session.execute(_named(snapshot_id).where(FileRow.key == key)).one_or_none()
    return None if row is None else row[1]


def _named(snapshot_id: int) -> Select[FileRow, FileVersionRow]:
    return (
        select(FileRow, FileVersionRow)
        .join(FileVersionRow, FileVersionRow.file_id == FileRow.id)
        .join(SnapshotFileRow, SnapshotFileRow.version_id == FileVersionRow.id)
        .where(SnapshotFileRow.snapshot_id == snapshot_id)
    )


def job_with_results(session: Session, project_id: int, job_public_id: str) -> JobRow | None:
    """A job of this project with its project, without question and plan."""
    query = (
        select(JobRow)
        .where(JobRow.project_id == project_id, JobRow.public_id == job_public_id)
        .options(joinedload(JobRow.project), defer(JobRow.query, raiseload=True), defer(JobRow.plan, raiseload=True))
    )
    return session.scalar(query)


def _listing(
    project_id: int, prefix: str, deleted: bool, which: ColumnElement[bool]
) -> Select[FileRow, FileVersionRow]:
    query = (
        select(FileRow, FileVersionRow)
        .join(FileVersionRow, which)
        .where(FileRow.project_id == project_id)
        .options(joinedload(FileVersionRow.uploaded_by))
    )
    if prefix:
        query = query.where(func.substr(FileRow.key, 1, len(prefix)) == prefix)  # LIKE ignores case on SQLite
    return query if deleted else query.where(FileRow.deleted_at.is_(None))


def _ordered_key(session: Session) -> ColumnElement[str]:
    """The key, compared by code point: SQLite's own way; PostgreSQL would take the database's language."""
    return FileRow.key.collate("C") if session.get_bind().dialect.name == "postgresql" else FileRow.key.expression


# Files of a project have their contigs in common, but for the number of records.
_contig = lru_cache(maxsize=1 << 16)(Contig)

_MOST_CHARS = 8_000_000
"""Of JSON text; what it stands for takes up to eight times as many bytes."""
_SAMPLES, _CONTIGS = 8, 9
_samples = Parsed(lambda text: tuple(map(str, json.loads(text))), _MOST_CHARS)
_contigs = Parsed(lambda text: tuple(_contig(*each) for each in json.loads(text)), _MOST_CHARS)


def _catalogued(
    key: str, version_id: str, size: int, etag: str, sha256: str | None, file_format: str, state: str,
    reason: str | None, samples: tuple[str, ...], contigs: tuple[Contig, ...], index_key: str | None,
    index_version_id: str | None, index_kind: str | None, index_size: int | None, index_etag: str | None,
    data_begin: int | None, has_blocks: bool | None,
) -> CataloguedFile:  # fmt: skip
    index = None
    if index_key is not None:
        index = IndexRef(
            key=index_key,
            version_id=index_version_id or "",
            kind=IndexKind(index_kind or IndexKind.CSI),
            size=index_size or 0,
            etag=index_etag or "",
        )
    return CataloguedFile(
        key=key,
        version_id=version_id,
        size=size,
        etag=etag,
        sha256=sha256,
        format=FileFormat(file_format),
        state=FileState(state),
        reason=reason,
        samples=samples,
        contigs=contigs,
        index=index,
        data_begin=data_begin,
        has_blocks=has_blocks is not False,  # of what an earlier release looked at, it is not known
    )
