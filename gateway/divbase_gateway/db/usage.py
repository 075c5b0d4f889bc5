"""Queries over what attempts used, as the scheduler's accounting told it. They return numbers and rows and decide
nothing; a month, or who may use how much, is not known here.

An attempt counts whole in the time in which it ended. Its cores are those that it was given, or asked for where that is
not known; one that accounting has said nothing of yet counts from its start to its end.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, extract, func, select, text
from sqlalchemy.orm import InstrumentedAttribute, Session, joinedload

from divbase_gateway.db.models import AttemptRow, JobRow, ProjectRow, UserRow


@dataclass(frozen=True)
class Used:
    """What the jobs of a project or a user used.

    Attributes:
        name: the project's, or the user's email address.
        jobs, attempts: those that ran, whatever came of them; a query counts once, however many jobs do its shards.
        core_s: cores times time.
        cpu_s: processor time, of the attempts of which it is known; `known_core_s` are the core-seconds of these.
    """

    name: str
    jobs: int
    attempts: int
    core_s: float
    cpu_s: float
    known_core_s: float


def core_seconds(
    session: Session, since: datetime, until: datetime, project_id: int | None = None, user_id: int | None = None
) -> float:
    """Core-seconds of attempts that ended at or after `since` and before `until`; `ix_attempts_use` finds them."""
    query = select(func.coalesce(func.sum(_core_s()), 0)).join(AttemptRow.job).where(*_ended_between(since, until))
    query = query.where(*of_jobs(session, project_id, user_id))
    return float(session.scalar(query) or 0)


def of_jobs(session: Session, project_id: int | None = None, user_id: int | None = None) -> list[ColumnElement[bool]]:
    """The conditions that choose jobs of a project or a user, for queries that have a narrower one beside them.

    SQLite, which counts no rows beforehand, would rather begin with all that the project or the user ever ran; what it
    has to calculate it cannot look up.
    """
    wanted: list[tuple[InstrumentedAttribute[int], int | None]] = [
        (JobRow.project_id, project_id),
        (JobRow.user_id, user_id),
    ]
    calculated = session.get_bind().dialect.name == "sqlite"
    return [(column + 0 if calculated else column) == value for column, value in wanted if value is not None]


def used_by_project(session: Session, since: datetime, until: datetime) -> list[Used]:
    """The same for every project that used anything, by name."""
    return _used_by(session, since, until, ProjectRow.name, ProjectRow, JobRow.project_id == ProjectRow.id)


def used_by_user(session: Session, since: datetime, until: datetime) -> list[Used]:
    """The same for every user, in all projects, by email address."""
    return _used_by(session, since, until, UserRow.email, UserRow, JobRow.user_id == UserRow.id)


def _used_by(
    session: Session,
    since: datetime,
    until: datetime,
    name: InstrumentedAttribute[str],
    table: type[ProjectRow] | type[UserRow],
    on: ColumnElement[bool],
) -> list[Used]:
    accounted = AttemptRow.cpu_s.is_not(None)
    of_query = func.coalesce(JobRow.parent_id, JobRow.id)
    query = (
        select(
            name,
            func.count(func.distinct(of_query)).filter(AttemptRow.started_at.is_not(None)),
            func.count(AttemptRow.started_at),
            func.sum(_core_s()),
            func.coalesce(func.sum(AttemptRow.cpu_s), 0),
            func.coalesce(func.sum(_core_s()).filter(accounted), 0),
        )
        .select_from(AttemptRow)
        .join(AttemptRow.job)
        .join(table, on)
        .where(*_ended_between(since, until))
        .group_by(name)
        .order_by(name)
    )
    return [
        Used(each, jobs, attempts, float(core_s), float(cpu_s or 0), float(known))
        for each, jobs, attempts, core_s, cpu_s, known in session.execute(query)
    ]


def latest_timed(session: Session, limit: int) -> list[tuple[int, float, int, int | None]]:
    """(model_s, elapsed_s, memory_mb, max_rss_bytes) of the latest attempts that succeeded and that the cost model gave
    10 seconds or more, newest first; `ix_attempts_pace` has them."""
    timed = (AttemptRow.model_s, AttemptRow.elapsed_s, AttemptRow.memory_mb, AttemptRow.max_rss_bytes)
    told = text("outcome = 'succeeded' AND model_s >= 10 AND elapsed_s IS NOT NULL")  # as the index says it
    query = select(*timed).where(told).order_by(AttemptRow.id.desc()).limit(limit)
    found = session.execute(query)
    return [(int(model_s or 0), float(took or 0), memory, used) for model_s, took, memory, used in found]


def without_accounting(session: Session, since: datetime) -> list[AttemptRow]:
    """Settled attempts since then that the scheduler had and accounting has told nothing of, with their jobs."""
    return list(
        session.scalars(
            select(AttemptRow)
            .where(
                AttemptRow.outcome.is_not(None),
                AttemptRow.slurm_job_id.is_not(None),
                AttemptRow.elapsed_s.is_(None),
                AttemptRow.created_at >= since,
            )
            .options(joinedload(AttemptRow.job))
            .order_by(AttemptRow.id)
        )
    )


def _core_s() -> ColumnElement[float]:
    lasted = extract("epoch", AttemptRow.ended_at) - extract("epoch", AttemptRow.started_at)
    cores = func.coalesce(AttemptRow.alloc_cpus, AttemptRow.cores)
    return func.coalesce(AttemptRow.elapsed_s, lasted, 0) * cores


def _ended_between(since: datetime, until: datetime) -> tuple[ColumnElement[bool], ...]:
    return AttemptRow.outcome.is_not(None), AttemptRow.ended_at >= since, AttemptRow.ended_at < until
