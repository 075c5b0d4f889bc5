"""Queries over what jobs have used and may use, by project and by user. They return numbers and decide nothing."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import ColumnElement, extract, func, select
from sqlalchemy.orm import Session

from divbase_gateway.db.jobs import is_open
from divbase_gateway.db.models import AttemptRow, JobRow, ProjectRow, UserRow


class Open(NamedTuple):
    """Query jobs that have not ended, and the core-hours that all open jobs use at most, index jobs among them."""

    jobs: int
    core_hours: float


class Used(NamedTuple):
    """Attempts that ran, and their core-hours."""

    attempts: int
    core_hours: float


def lock_project(session: Session, project_id: int) -> ProjectRow:
    """The project as it is now, held until the transaction ends; rows that refer to it can be written meanwhile."""
    return session.scalars(
        select(ProjectRow)
        .where(ProjectRow.id == project_id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    ).one()


def lock_user(session: Session, user_id: int) -> None:
    """Hold the user until the transaction ends; rows that refer to it can be written meanwhile."""
    session.execute(select(UserRow.id).where(UserRow.id == user_id).with_for_update(key_share=True))


def of_project(project_id: int) -> ColumnElement[bool]:
    """The condition on jobs for `open_now` and `used_between`."""
    return JobRow.project_id == project_id


def of_user(user_id: int) -> ColumnElement[bool]:
    """The same for the jobs of a user, in all projects."""
    return JobRow.user_id == user_id


def open_now(session: Session, whose: ColumnElement[bool]) -> Open:
    """What is open; answered by the small index `ix_jobs_open_use` alone."""
    queries = func.count().filter(JobRow.kind == "query")
    minutes = func.coalesce(func.sum(JobRow.cores * JobRow.minutes), 0)
    jobs, core_minutes = session.execute(select(queries, minutes).where(is_open(), whose)).one()
    return Open(jobs, int(core_minutes) / 60)


def used_between(session: Session, whose: ColumnElement[bool], start: datetime, end: datetime) -> Used:
    """What attempts used that ended at or after `start` and before `end`, whole; `ix_attempts_use` finds them.

    Cores are those that the attempt was given, where that is known. One that accounting said nothing of counts from
    its start to its end.
    """
    lasted = extract("epoch", AttemptRow.ended_at) - extract("epoch", AttemptRow.started_at)
    cores = func.coalesce(AttemptRow.alloc_cpus, AttemptRow.cores)
    seconds = func.sum(func.coalesce(AttemptRow.elapsed_s, lasted, 0) * cores)
    attempts, core_seconds = session.execute(
        select(func.count(AttemptRow.started_at), func.coalesce(seconds, 0))
        .join(AttemptRow.job)
        .where(AttemptRow.outcome.is_not(None), AttemptRow.ended_at >= start, AttemptRow.ended_at < end, whose)
    ).one()
    return Used(attempts, float(core_seconds) / 3600)
