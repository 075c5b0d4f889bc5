"""Queries over what a project has in its bucket, in bytes, as far as rows know it. They return numbers, no decisions.

Each part is answered by an index alone (`ix_file_versions_stored`, `ix_sidecars_stored`, `ix_jobs_stored`,
`ix_uploads_open`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from sqlalchemy import ColumnElement, Select, and_, func, literal, select, union_all
from sqlalchemy.orm import InstrumentedAttribute, Session

from divbase_gateway.db.models import FileRow, FileVersionRow, JobRow, ProjectRow, SidecarRow, UploadRow


class Stored(NamedTuple):
    """Bytes.

    Attributes:
        files: the current versions of files that are not deleted.
        older_versions: all other versions of files.
        indexes: those that DivBase has built.
        copies: in BCF, of files, with their indexes.
        results: of queries, with their indexes, and what shards have made; each counts until it is gone.
        records: logs and provenance of jobs.
        open_uploads: announced and not completed.
    """

    files: int
    older_versions: int
    indexes: int
    copies: int
    results: int
    records: int
    open_uploads: int

    @property
    def total(self) -> int:
        return sum(self)


def stored(session: Session, project_id: int) -> Stored:
    """What one project has: one statement."""
    is_current = and_(FileVersionRow.id == FileRow.current_id, FileRow.deleted_at.is_(None))
    current = func.sum(FileVersionRow.size).filter(is_current)
    files = _row("files", current, func.sum(FileVersionRow.size), func.sum(FileVersionRow.index_bytes))
    files = files.select_from(FileRow).join(FileVersionRow, FileVersionRow.file_id == FileRow.id)
    copies = _row("copies", func.sum(SidecarRow.size + SidecarRow.index_size), literal(0), literal(0))
    jobs = _row("jobs", func.sum(JobRow.result_bytes), func.sum(JobRow.record_bytes), literal(0))
    uploads = _row("uploads", func.sum(UploadRow.size), literal(0), literal(0))
    found = session.execute(
        union_all(
            files.where(FileRow.project_id == project_id),
            copies.where(SidecarRow.project_id == project_id),
            jobs.where(JobRow.project_id == project_id),
            uploads.where(UploadRow.project_id == project_id, UploadRow.completed_at.is_(None)),
        )
    )
    sums = {part: (int(first), int(second), int(third)) for part, first, second, third in found}
    newest, versions, indexes = sums["files"]
    results, records, _ = sums["jobs"]
    return Stored(newest, versions - newest, indexes, sums["copies"][0], results, records, sums["uploads"][0])


def stored_by_project(session: Session) -> dict[str, int]:
    """What all of them have together, by the project's name."""
    versions = func.sum(FileVersionRow.size + FileVersionRow.index_bytes)
    parts: Iterable[Select[str, int]] = (
        _by_project(versions, FileRow.project_id).join(FileVersionRow, FileVersionRow.file_id == FileRow.id),
        _by_project(func.sum(SidecarRow.size + SidecarRow.index_size), SidecarRow.project_id),
        _by_project(func.sum(JobRow.result_bytes + JobRow.record_bytes), JobRow.project_id),
        _by_project(func.sum(UploadRow.size), UploadRow.project_id).where(UploadRow.completed_at.is_(None)),
    )
    totals: dict[str, int] = {}
    for part in parts:
        for name, size in session.execute(part):
            totals[name] = totals.get(name, 0) + int(size)
    return totals


def _row(part: str, *sums: ColumnElement[int]) -> Select[str, int, int, int]:
    first, second, third = (func.coalesce(each, 0) for each in sums)
    return select(literal(part), first, second, third)


def _by_project(size: ColumnElement[int], project_id: InstrumentedAttribute[int]) -> Select[str, int]:
    return (
        select(ProjectRow.name, func.coalesce(size, 0))
        .select_from(project_id.class_)
        .join(ProjectRow, ProjectRow.id == project_id)
        .group_by(ProjectRow.name)
    )
