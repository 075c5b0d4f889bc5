"""Queries over what open jobs may use, by project and by user, and the locks under which that is counted. What was used
is counted in `usage.py`."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from divbase_gateway.db.jobs import is_open
from divbase_gateway.db.models import AttemptRow, JobRow, ProjectRow, UserRow
from divbase_gateway.db.usage import of_jobs
from divbase_gateway.domain.jobs import UNASKED
from divbase_gateway.domain.shards import KIND as SHARD


class Open(NamedTuple):
    """Query jobs that have not ended, and the core-hours that all open jobs use at most, those of indexes, copies and
    shards among them."""

    jobs: int
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


def open_now(session: Session, project_id: int | None = None, user_id: int | None = None) -> Open:
    """What is open, of a project or of a user; answered by the small index `ix_jobs_open_use` alone."""
    # What uploads bring about counts against nobody, and shards are part of a query.
    asked_for = func.count().filter(JobRow.kind.not_in(sorted(UNASKED | {SHARD})))
    minutes = func.coalesce(func.sum(JobRow.cores * JobRow.minutes), 0)
    statement = select(asked_for, minutes).where(is_open(), *of_jobs(session, project_id, user_id))
    jobs, core_minutes = session.execute(statement).one()
    return Open(jobs, int(core_minutes) / 60)


def attempts_between(session: Session, project_id: int, since: datetime, until: datetime) -> int:
    """How many attempts of a project ran and ended at or after `since` and before `until`."""
    statement = (
        select(func.count(AttemptRow.started_at))
        .join(AttemptRow.job)
        .where(AttemptRow.outcome.is_not(None), AttemptRow.ended_at >= since, AttemptRow.ended_at < until)
        .where(*of_jobs(session, project_id))
    )
    return session.scalar(statement) or 0
