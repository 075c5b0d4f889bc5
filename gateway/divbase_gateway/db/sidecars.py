"""Queries over BCF copies: their rows, the versions that want one, and the jobs that read them. What follows is decided
in `services`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, and_, delete, exists, func, insert, or_, select, update
from sqlalchemy.orm import Session, joinedload

from divbase_gateway.db.jobs import is_open
from divbase_gateway.db.models import (
    FileRow,
    FileVersionRow,
    JobRow,
    MembershipRow,
    ProjectRow,
    SidecarMapRow,
    SidecarRow,
    SnapshotFileRow,
    UserRow,
)
from divbase_gateway.domain.files import FileFormat, FileState, IndexKind, IndexRef, Sidecar
from divbase_gateway.domain.jobs import ENDS
from divbase_gateway.domain.projects import Role
from divbase_gateway.domain.shards import KIND as SHARD
from divbase_gateway.domain.sidecars import KIND, SidecarState

_MOST_NAMED = 1000
"""Copies that are named in one query: databases take so many values only."""


class Wanted(NamedTuple):
    """A version that has no copy and is to have one."""

    project: ProjectRow
    file: FileRow
    version: FileVersionRow


def is_there_any(session: Session) -> bool:
    """Whether a project wants copies, or there are rows of some: nearly nothing to ask where nobody does."""
    wants, rows = exists().where(ProjectRow.sidecars), exists().where(SidecarRow.id.is_not(None))
    return bool(session.scalar(select(or_(wants, rows))))


def find_wanted(session: Session, limit: int) -> list[Wanted]:
    """Current versions of projects that want copies, which can have one and have no row; oldest first."""
    query = (
        select(ProjectRow, FileRow, FileVersionRow)
        .join(FileRow, FileRow.project_id == ProjectRow.id)
        .join(FileVersionRow, FileVersionRow.id == FileRow.current_id)
        .outerjoin(SidecarRow, SidecarRow.version_row_id == FileVersionRow.id)
        .where(ProjectRow.sidecars, FileRow.deleted_at.is_(None), SidecarRow.id.is_(None))
        .where(FileVersionRow.state == FileState.READY, FileVersionRow.format == FileFormat.VCF_GZ)
        .order_by(FileVersionRow.id)
        .limit(limit)
    )
    return [Wanted(*row) for row in session.execute(query)]


def count_open(session: Session) -> int:
    """Jobs that write copies, of all projects, that have not ended."""
    return session.scalar(select(func.count()).select_from(JobRow).where(is_open(), JobRow.kind == KIND)) or 0


def find_owner(session: Session, project_id: int) -> UserRow | None:
    """Whose job it is where nobody has uploaded the file: the project's first manager, else the first site admin."""
    manages = (
        select(UserRow)
        .join(MembershipRow, MembershipRow.user_id == UserRow.id)
        .where(MembershipRow.project_id == project_id, MembershipRow.role == Role.MANAGE)
    )
    admins = select(UserRow).where(UserRow.is_admin)
    found = (session.scalar(query.order_by(UserRow.id).limit(1)) for query in (manages, admins))
    return next((user for user in found if user is not None), None)


def get_of_version(session: Session, version_row_id: int) -> SidecarRow | None:
    return session.scalar(select(SidecarRow).where(SidecarRow.version_row_id == version_row_id))


def get_of_job(session: Session, job: str) -> SidecarRow | None:
    """The row that this job, by its public id, was made for; None where it is gone, or another job's by now."""
    return session.scalar(select(SidecarRow).where(SidecarRow.job == job))


def lock_sidecar(session: Session, sidecar_id: int) -> SidecarRow | None:
    query = select(SidecarRow).where(SidecarRow.id == sidecar_id).with_for_update()
    return session.scalar(query.execution_options(populate_existing=True))


class Ended(NamedTuple):
    """A copy that waits for its job, which has ended. `version` is None where the version is gone."""

    sidecar: SidecarRow
    job: JobRow
    version: FileVersionRow | None


def find_ended(session: Session, limit: int, without: Collection[str] = ()) -> list[Ended]:
    """Oldest first, with project and file; none in the buckets `without`."""
    left_out = SidecarRow.project.has(ProjectRow.bucket.in_(without))
    query = (
        select(SidecarRow, JobRow, FileVersionRow)
        .join(JobRow, JobRow.public_id == SidecarRow.job)
        .outerjoin(FileVersionRow, FileVersionRow.id == SidecarRow.version_row_id)
        .where(SidecarRow.state == SidecarState.WRITING, JobRow.state.in_(sorted(ENDS)))
        .where(*([~left_out] if without else []))
        .options(joinedload(JobRow.project), joinedload(FileVersionRow.file))
        .order_by(SidecarRow.id)
        .limit(limit)
    )
    return [Ended(*row) for row in session.execute(query)]


def _is_wanted() -> ColumnElement[bool]:
    """Whether the project wants copies, and the version is current or a snapshot names it."""
    current = exists().where(FileRow.current_id == SidecarRow.version_row_id, FileRow.deleted_at.is_(None))
    named = exists().where(SnapshotFileRow.version_id == SidecarRow.version_row_id)
    wants = exists().where(ProjectRow.id == SidecarRow.project_id, ProjectRow.sidecars)
    return and_(wants, SidecarRow.version_row_id.is_not(None), or_(current, named))


def mark_unwanted(session: Session, now: datetime) -> None:
    """Let no new plan read what is not wanted any more. What a job still writes stays as it is until that ends."""
    settled = SidecarRow.state.in_([SidecarState.READY, SidecarState.NONE])
    marked = update(SidecarRow).where(settled, ~_is_wanted()).values(state=SidecarState.GOING, state_since=now)
    session.execute(marked.execution_options(synchronize_session=False))


def mark_wanted_again(session: Session, now: datetime) -> None:
    """Let plans read again what was not removed yet."""
    complete = (SidecarRow.state == SidecarState.GOING, SidecarRow.data_begin.is_not(None))
    marked = update(SidecarRow).where(*complete, _is_wanted()).values(state=SidecarState.READY, state_since=now)
    session.execute(marked.execution_options(synchronize_session=False))


def find_going(session: Session, before: datetime, limit: int) -> list[SidecarRow]:
    """Those that no new plan has read since then, with their projects, oldest first."""
    query = (
        select(SidecarRow)
        .where(SidecarRow.state == SidecarState.GOING, SidecarRow.state_since <= before)
        .options(joinedload(SidecarRow.project))
        .order_by(SidecarRow.id)
        .limit(limit)
    )
    return list(session.scalars(query))


def plans_of_open_queries(session: Session, project_id: int) -> list[dict[str, Any]]:
    """The stored plans of query jobs that have not ended, and of their shards."""
    asks = JobRow.kind.in_(("query", SHARD))
    query = select(JobRow.plan).where(is_open(), JobRow.project_id == project_id, asks)
    return list(session.scalars(query))


def find_ready(session: Session, project_id: int, versions: Sequence[tuple[str, str]]) -> list[SidecarRow]:
    """Those of these copies, by key and version id, that plans may read, held until the transaction ends."""
    found: list[SidecarRow] = []
    for begin in range(0, len(versions), _MOST_NAMED):
        named = dict(versions[begin : begin + _MOST_NAMED])
        query = (
            select(SidecarRow)
            .where(SidecarRow.project_id == project_id, SidecarRow.state == SidecarState.READY)
            .where(SidecarRow.key.in_(list(named)))
            .with_for_update()
        )
        found += [row for row in session.scalars(query) if named[row.key] == row.version_id]
    return found


def sidecars_of(session: Session, project_id: int) -> dict[tuple[str, str], Sidecar]:
    """(key of a file, its version id) -> the copy that plans may read, of all versions of a project. One query."""
    row = SidecarRow
    query = (
        select(
            FileRow.key, FileVersionRow.version_id, row.key, row.version_id, row.size, row.etag, row.sha256,
            row.index_version_id, row.index_size, row.index_etag, row.data_begin,
        )
        .join(FileVersionRow, FileVersionRow.id == row.version_row_id)
        .join(FileRow, FileRow.id == FileVersionRow.file_id)
        .where(row.project_id == project_id, row.state == SidecarState.READY)
    )  # fmt: skip
    return {(key, version_id): _sidecar(*values) for key, version_id, *values in session.execute(query)}


def _sidecar(
    key: str, version_id: str, size: int, etag: str, sha256: str, index_version_id: str, index_size: int,
    index_etag: str, data_begin: int,
) -> Sidecar:  # fmt: skip
    index = IndexRef(f"{key}.csi", index_version_id, IndexKind.CSI, index_size, index_etag)
    return Sidecar(key, version_id, size, etag, sha256, index, data_begin)


def replace_maps(session: Session, sidecar_id: int, maps: Mapping[str, bytes]) -> None:
    """Let a copy have these maps, by contig, and no others."""
    session.execute(delete(SidecarMapRow).where(SidecarMapRow.sidecar_id == sidecar_id))
    if maps:
        values = [{"sidecar_id": sidecar_id, "contig": name, "packed": data} for name, data in maps.items()]
        session.connection().execute(insert(SidecarMapRow), values)


def find_maps(
    session: Session, project_id: int, copies: Sequence[tuple[str, str]], contigs: Sequence[str]
) -> dict[tuple[str, str, str], bytes]:
    """(key, version id, contig) -> packed map, of these (key, version id) of copies. One query per 1000 of them."""
    found: dict[tuple[str, str, str], bytes] = {}
    for begin in range(0, len(copies), _MOST_NAMED):
        named = dict(copies[begin : begin + _MOST_NAMED])
        query = (
            select(SidecarRow.key, SidecarRow.version_id, SidecarMapRow.contig, SidecarMapRow.packed)
            .join(SidecarMapRow, SidecarMapRow.sidecar_id == SidecarRow.id)
            .where(
                SidecarRow.project_id == project_id, SidecarRow.key.in_(list(named)), SidecarMapRow.contig.in_(contigs)
            )
        )
        for key, version_id, contig, packed in session.execute(query):
            found[key, str(version_id), contig] = packed
    return found
