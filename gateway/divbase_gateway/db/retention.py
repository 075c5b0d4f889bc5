"""Queries over results that may be removed, are being removed, or are used again. They return rows and numbers; what is
due is decided in `services`.

A result that may be removed has `results_used_at`, no `pinned_at` and no `results_removed_at`: `ix_jobs_expiring`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session, defer, joinedload

from divbase_gateway.db.models import JobRow, ProjectRow


class Expiring(NamedTuple):
    """Results of a project that may be removed one day, their bytes, and how many of them were last used by a given
    time; `first_use` is the oldest last use of all."""

    results: int
    bytes: int
    soon: int
    soon_bytes: int
    first_use: datetime | None


def expiring(session: Session, project_id: int, used_by: datetime) -> Expiring:
    """Those that are not pinned; `soon` are those that were last used at or before `used_by`."""
    soon = JobRow.results_used_at <= used_by
    query = select(
        func.count(),
        func.coalesce(func.sum(JobRow.result_bytes), 0),
        func.count().filter(soon),
        func.coalesce(func.sum(JobRow.result_bytes).filter(soon), 0),
        func.min(JobRow.results_used_at),
    ).where(JobRow.project_id == project_id, *_may_be_removed())
    results, size, soon_results, soon_size, first = session.execute(query).one()
    return Expiring(results, int(size), soon_results, int(soon_size), first)


def count_pinned(session: Session, project_id: int) -> int:
    """Jobs whose results are kept whatever their age."""
    query = select(func.count()).where(
        JobRow.project_id == project_id,
        JobRow.pinned_at.is_not(None),
        JobRow.results_used_at.is_not(None),
        JobRow.results_removed_at.is_(None),
    )
    return session.scalar(query) or 0


def due(session: Session, project_id: int, used_by: datetime, limit: int) -> list[int]:
    """Ids of jobs whose results were last used at or before then, the longest unused first."""
    query = (
        select(JobRow.id)
        .where(JobRow.project_id == project_id, JobRow.results_used_at <= used_by, *_may_be_removed())
        .order_by(JobRow.results_used_at)
        .limit(limit)
    )
    return list(session.scalars(query))


def being_removed(session: Session, limit: int) -> list[JobRow]:
    """Jobs whose results nobody is given any more and which may still be in the bucket, with their projects."""
    query = (
        select(JobRow)
        .where(JobRow.results_removed_at.is_not(None), JobRow.results_cleared_at.is_(None))
        .options(joinedload(JobRow.project), defer(JobRow.query, raiseload=True), defer(JobRow.plan, raiseload=True))
        .order_by(JobRow.id)
        .limit(limit)
    )
    return list(session.scalars(query))


def lock_result(session: Session, job_id: int) -> JobRow | None:
    """The job as it is now with its project, held until the transaction ends; without question and plan."""
    query = (
        select(JobRow)
        .where(JobRow.id == job_id)
        .options(joinedload(JobRow.project), defer(JobRow.query, raiseload=True), defer(JobRow.plan, raiseload=True))
        .with_for_update(of=JobRow)
        .execution_options(populate_existing=True)
    )
    return session.scalar(query)


def lock_projects(session: Session) -> Sequence[ProjectRow]:
    """All projects, held until the transaction ends; rows that refer to them can be written meanwhile."""
    return session.scalars(select(ProjectRow).order_by(ProjectRow.id).with_for_update(key_share=True)).all()


def keeping_for_a_time(session: Session) -> Sequence[ProjectRow]:
    """The projects that do not keep results for ever."""
    return session.scalars(
        select(ProjectRow).where(ProjectRow.retention_days.is_not(None)).order_by(ProjectRow.id)
    ).all()


def _may_be_removed() -> tuple[ColumnElement[bool], ...]:
    return (
        JobRow.results_used_at.is_not(None),
        JobRow.pinned_at.is_(None),
        JobRow.results_removed_at.is_(None),
    )
