"""Queries about jobs and their attempts. They return rows; what follows from them is decided in `services`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import ColumnElement, TextClause, bindparam, func, select, text, update
from sqlalchemy.orm import Session, contains_eager, defer, joinedload, load_only, selectinload

from divbase_gateway.db.bulk import update_each
from divbase_gateway.db.models import AttemptRow, FileVersionRow, JobRow, ProjectRow, UserRow
from divbase_gateway.domain.files import FileState
from divbase_gateway.domain.jobs import ENDS, JobState

_AT_THE_SCHEDULER = (JobState.QUEUED, JobState.RUNNING, JobState.FINALIZING)

# Long JSON and text, which takes more time to read than all the other columns of a page of jobs together.
_LONG_IN_JOBS = (JobRow.query, JobRow.plan, JobRow.results, JobRow.gathers)
_LONG_IN_ATTEMPTS = (AttemptRow.report, AttemptRow.uploads, AttemptRow.log_tail)
_OF_ATTEMPT = -8
"""So many of the last columns of a `JobLine` are the attempt's."""
_SHOWN_OF_ATTEMPTS = (
    AttemptRow.number,
    AttemptRow.slurm_job_id,
    AttemptRow.slurm_state,
    AttemptRow.slurm_reason,
    AttemptRow.expected_start,
    AttemptRow.queue_place,
    AttemptRow.queue_length,
    AttemptRow.partition,
    AttemptRow.node,
)


def is_open() -> TextClause:
    """The condition that the small index on open jobs serves; with bound values the database would not see it."""
    return text("jobs.state NOT IN ('SUCCEEDED', 'FAILED', 'CANCELLED', 'LOST')")


# Built once, as it is what every look at a job asks. Attempts are joined: there are one or two.
_ONE_JOB = (
    select(JobRow)
    .where(JobRow.public_id == bindparam("public_id"), JobRow.project_id == bindparam("project_id"))
    .options(
        joinedload(JobRow.user),
        joinedload(JobRow.project),
        joinedload(JobRow.attempts).options(*(defer(column) for column in _LONG_IN_ATTEMPTS)),
    )
)
_ONE_JOB_LOCKED = _ONE_JOB.with_for_update(of=JobRow)

# What every change of a job begins with, several times in its life.
_LOCKED_WHOLE = (
    select(JobRow)
    .where(JobRow.id == bindparam("job_id"))
    .options(joinedload(JobRow.project), joinedload(JobRow.user), selectinload(JobRow.attempts))
    .with_for_update(of=JobRow)
)
_LOCKED = _LOCKED_WHOLE.options(defer(JobRow.query), defer(JobRow.plan))


_JOBS_IN_STATE = (
    select(JobRow)
    .where(is_open(), JobRow.state.in_(bindparam("states", expanding=True)))
    .order_by(JobRow.id)
    .options(joinedload(JobRow.project), selectinload(JobRow.attempts))
)


def get_job(session: Session, project_id: int, public_id: str, *, lock: bool = False) -> JobRow | None:
    """The job with its project, user and attempts; `lock` holds the row until the transaction ends.

    Reports, announced outputs and log tails of the attempts are read when they are asked for, in the same session.
    """
    names = {"public_id": public_id, "project_id": project_id}
    return session.scalars(_ONE_JOB_LOCKED if lock else _ONE_JOB, names).unique().one_or_none()


class JobLine(NamedTuple):
    """What a line of a listing shows of a job and of its attempt that counts: columns, because whole rows with their
    users and attempts take several times as long to read."""

    id: int
    public_id: str
    project: str
    kind: str
    name: str
    state: str
    reason: str | None
    message: str | None
    stuck: str | None
    created_by: str
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    observed_at: datetime | None
    attempt: int
    cores: int
    memory_mb: int
    minutes: int
    progress_stage: str | None
    progress_done: int
    progress_total: int
    cancel_requested: bool
    pinned: bool
    results_used_at: datetime | None
    results_removed_at: datetime | None
    retention_days: int | None
    retention_since: datetime | None
    slurm_job_id: str | None
    slurm_state: str | None
    slurm_reason: str | None
    expected_start: datetime | None
    queue_place: int | None
    queue_length: int | None
    partition: str | None
    node: str | None


_LINES = (
    select(
        JobRow.id,
        JobRow.public_id,
        ProjectRow.name,
        JobRow.kind,
        JobRow.name,
        JobRow.state,
        JobRow.reason,
        JobRow.message,
        JobRow.stuck,
        UserRow.email,
        JobRow.created_at,
        JobRow.started_at,
        JobRow.ended_at,
        JobRow.observed_at,
        JobRow.attempt,
        JobRow.cores,
        JobRow.memory_mb,
        JobRow.minutes,
        JobRow.progress_stage,
        JobRow.progress_done,
        JobRow.progress_total,
        JobRow.cancel_requested_at.is_not(None),
        JobRow.pinned_at.is_not(None),
        JobRow.results_used_at,
        JobRow.results_removed_at,
        ProjectRow.retention_days,
        ProjectRow.retention_since,
        AttemptRow.slurm_job_id,
        AttemptRow.slurm_state,
        AttemptRow.slurm_reason,
        AttemptRow.expected_start,
        AttemptRow.queue_place,
        AttemptRow.queue_length,
        AttemptRow.partition,
        AttemptRow.node,
    )
    .join(JobRow.project)
    .join(JobRow.user)
    .outerjoin(AttemptRow, (AttemptRow.job_id == JobRow.id) & (AttemptRow.number == JobRow.attempt))
    .order_by(JobRow.id.desc())
)


def list_jobs(
    session: Session,
    project_id: int,
    *,
    before: int | None,
    limit: int,
    states: Sequence[str] = (),
    user_id: int | None = None,
    kind: str | None = None,
) -> list[JobLine]:
    """Newest first, those with an id below `before`: one query, whatever the number of jobs; shards are among them only
    where their kind is asked for."""
    chosen = select(JobRow.id).where(JobRow.project_id == project_id).order_by(JobRow.id.desc()).limit(limit)
    if before is not None:
        chosen = chosen.where(JobRow.id < before)
    if states:
        chosen = chosen.where(JobRow.state.in_(states))
    if user_id is not None:
        chosen = chosen.where(JobRow.user_id == user_id)
    chosen = chosen.where(JobRow.parent_id.is_(None) if kind is None else JobRow.kind == kind)
    query = _LINES.where(JobRow.id.in_(chosen))
    return [JobLine._make(row) for row in session.connection().execute(query)]


def line_of(job: JobRow) -> JobLine:
    """What a listing shows of a job that was read whole, with project, user and attempts."""
    attempt = next((each for each in job.attempts if each.number == job.attempt), None)
    return JobLine(
        job.id,
        job.public_id,
        job.project.name,
        job.kind,
        job.name,
        job.state,
        job.reason,
        job.message,
        job.stuck,
        job.user.email,
        job.created_at,
        job.started_at,
        job.ended_at,
        job.observed_at,
        job.attempt,
        job.cores,
        job.memory_mb,
        job.minutes,
        job.progress_stage,
        job.progress_done,
        job.progress_total,
        job.cancel_requested_at is not None,
        job.pinned_at is not None,
        job.results_used_at,
        job.results_removed_at,
        job.project.retention_days,
        job.project.retention_since,
        *(getattr(attempt, name, None) for name in JobLine._fields[_OF_ATTEMPT:]),
    )


def find_succeeded(session: Session, project_id: int, plan_digest: str) -> JobRow | None:
    """The newest query job of this digest that succeeded and whose result was not removed, with project, user and
    attempts; its plan stays unread."""
    attempts = selectinload(JobRow.attempts).options(*(defer(column) for column in _LONG_IN_ATTEMPTS))
    query = (
        select(JobRow)
        .where(JobRow.project_id == project_id, JobRow.plan_digest == plan_digest)
        .where(JobRow.kind == "query", JobRow.state == JobState.SUCCEEDED, JobRow.results_removed_at.is_(None))
        .options(joinedload(JobRow.user), joinedload(JobRow.project), attempts, defer(JobRow.plan, raiseload=True))
        .order_by(JobRow.id.desc())
        .limit(1)
    )
    return session.scalar(query)


def find_open(session: Session, project_id: int, plan_digest: str) -> JobRow | None:
    """The newest job of this digest that has not ended, alone."""
    query = select(JobRow).where(is_open(), JobRow.project_id == project_id, JobRow.plan_digest == plan_digest)
    return session.scalar(query.order_by(JobRow.id.desc()).limit(1))


def next_to_submit(session: Session, limit: int) -> list[int]:
    """Ids of accepted jobs, oldest first."""
    return list(
        session.scalars(
            select(JobRow.id).where(is_open(), JobRow.state == JobState.ACCEPTED).order_by(JobRow.id).limit(limit)
        )
    )


def lock_job(session: Session, job_id: int, *, whole: bool = False) -> JobRow | None:
    """The job with project, user and attempts, held until the transaction ends.

    Question and plan are read when they are asked for, in the same session; `whole` reads them at once.
    """
    return session.scalar(_LOCKED_WHOLE if whole else _LOCKED, {"job_id": job_id})


def jobs_in_state(session: Session, *states: JobState) -> list[JobRow]:
    """Open jobs in these states, oldest first, with project and attempts."""
    return list(session.scalars(_JOBS_IN_STATE, {"states": states}))


class AtScheduler(NamedTuple):
    """What a look at the scheduler needs of an attempt and its job: the columns, because whole rows of ten thousand
    jobs, with plans and all, take seconds to read."""

    attempt_id: int
    job_id: int
    number: int
    cluster: str
    slurm_job_id: str
    slurm_name: str
    submitted_at: datetime
    access: str
    state: str
    bucket: str
    cancel_wanted: bool
    cancel_sent: bool
    is_claimed: bool
    slurm_state: str | None
    slurm_reason: str | None
    restarts: int
    missing_since: datetime | None
    stuck: str | None
    partition: str | None
    expected_start: datetime | None
    queue_place: int | None
    queue_length: int | None


_AT_SCHEDULER = (
    AttemptRow.id,
    JobRow.id,
    AttemptRow.number,
    AttemptRow.cluster,
    AttemptRow.slurm_job_id,
    AttemptRow.slurm_name,
    AttemptRow.submitted_at,
    AttemptRow.access,
    JobRow.state,
    ProjectRow.bucket,
    JobRow.cancel_requested_at.is_not(None),
    AttemptRow.cancel_sent_at.is_not(None),
    AttemptRow.claimed_at.is_not(None),
    AttemptRow.slurm_state,
    AttemptRow.slurm_reason,
    AttemptRow.restarts,
    AttemptRow.missing_since,
    JobRow.stuck,
    AttemptRow.partition,
    AttemptRow.expected_start,
    AttemptRow.queue_place,
    AttemptRow.queue_length,
)


def _is_at_scheduler() -> tuple[ColumnElement[bool] | TextClause, ...]:
    return (
        is_open(),
        JobRow.state.in_(_AT_THE_SCHEDULER),
        AttemptRow.number == JobRow.attempt,
        AttemptRow.slurm_job_id.is_not(None),
    )


# What every tick asks. To write these and that of shards anew took a third of a tick that had nothing to do.
_ATTEMPTS_AT_SCHEDULER = (
    select(*_AT_SCHEDULER)
    .join(AttemptRow.job)
    .join(JobRow.project)
    .where(*_is_at_scheduler(), AttemptRow.submitted_at.is_not(None), AttemptRow.cluster.is_not(None))
    .order_by(AttemptRow.id)
)
_REPORTED_ATTEMPTS = (
    select(AttemptRow)
    .join(AttemptRow.job)
    .where(*_is_at_scheduler(), AttemptRow.reported_at.is_not(None))
    .options(contains_eager(AttemptRow.job))
)
_ATTEMPTS_TO_DISCARD = (
    select(AttemptRow)
    .where(
        AttemptRow.outcome.is_not(None),
        AttemptRow.discarded_at.is_(None),
        AttemptRow.slurm_job_id.is_not(None),
        AttemptRow.submitted_at.is_not(None),  # else only the claim has told of an id
    )
    .options(joinedload(AttemptRow.job).joinedload(JobRow.project))
    .order_by(AttemptRow.id)
    .limit(bindparam("limit"))
)
_FINISHED_INDEX_JOBS = (
    select(JobRow, FileVersionRow)
    .join(FileVersionRow, FileVersionRow.index_job == JobRow.public_id)
    .where(FileVersionRow.state == FileState.INDEXING, JobRow.state.in_(sorted(ENDS)))
    .options(joinedload(JobRow.project), joinedload(FileVersionRow.file))
    .limit(bindparam("limit"))
)


def attempts_at_scheduler(session: Session) -> list[AtScheduler]:
    """The current attempt of every job that the scheduler has."""
    # Not by the session, which looks at each row for objects of its own.
    found = session.connection().execute(_ATTEMPTS_AT_SCHEDULER)
    return [AtScheduler._make(row) for row in found]


def reported_attempts(session: Session) -> list[AttemptRow]:
    """Those of `attempts_at_scheduler` that have reported their end, with their jobs: they are few at any time."""
    return list(session.scalars(_REPORTED_ATTEMPTS))


def attempts_by_id(session: Session, ids: Sequence[int]) -> list[AttemptRow]:
    """These attempts, oldest first, with job and project."""
    found: list[AttemptRow] = []
    for start in range(0, len(ids), 10_000):
        query = select(AttemptRow).where(AttemptRow.id.in_(ids[start : start + 10_000])).order_by(AttemptRow.id)
        found += session.scalars(query.options(joinedload(AttemptRow.job).joinedload(JobRow.project)))
    return found


def jobs_unheard_of(session: Session, since: datetime) -> list[int]:
    """Ids of jobs that the scheduler has, that have started and that nobody has heard of since."""
    return list(
        session.scalars(
            select(JobRow.id)
            .join(JobRow.attempts)
            .where(*_is_at_scheduler(), JobRow.started_at.is_not(None), JobRow.observed_at < since)
            .order_by(JobRow.id)
        )
    )


def attempts_to_discard(session: Session, limit: int, without: Collection[str] = ()) -> list[AttemptRow]:
    """Attempts that are over and whose directory at the scheduler is still there, with job and project; none of those
    in the buckets `without`."""
    query = _ATTEMPTS_TO_DISCARD
    if without:
        query = query.where(~AttemptRow.job.has(JobRow.project.has(ProjectRow.bucket.in_(without))))
    return list(session.scalars(query, {"limit": limit}))


def finished_index_jobs(session: Session, limit: int) -> list[tuple[JobRow, FileVersionRow]]:
    """Index jobs that have ended, with the version that still waits for them."""
    found = session.execute(_FINISHED_INDEX_JOBS, {"limit": limit})
    return [(job, version) for job, version in found]


def versions_without_index(session: Session, public_id: str) -> list[FileVersionRow]:
    """File versions that cannot be used because this job did not build their index."""
    return list(
        session.scalars(
            select(FileVersionRow).where(
                FileVersionRow.index_job == public_id, FileVersionRow.state == FileState.UNUSABLE
            )
        )
    )


def mark_seen(session: Session, seen: Sequence[int], unseen: Sequence[int], at: datetime) -> None:
    """Note that jobs were seen in a look at the scheduler; `seen` and `unseen` together are all that it has.

    Whichever are fewer are named: naming ten thousand costs more than all the rest of the statement.
    """
    statement = update(JobRow).values(observed_at=at).execution_options(synchronize_session=False)
    if len(unseen) < len(seen):
        at_scheduler = (is_open(), JobRow.state.in_(_AT_THE_SCHEDULER), JobRow.id <= max(seen))
        session.execute(statement.where(*at_scheduler, JobRow.id.not_in(unseen)))
    else:
        for start in range(0, len(seen), 10_000):
            session.execute(statement.where(JobRow.id.in_(seen[start : start + 10_000])))


class Standing(NamedTuple):
    """How an attempt waits, by its row id. The last three move all the time."""

    id: int
    slurm_state: str | None
    slurm_reason: str | None
    slurm_source: str | None
    partition: str | None
    expected_start: datetime | None
    queue_place: int | None
    queue_length: int | None


class Move(NamedTuple):
    """Where an attempt waits by now, the rest as before."""

    id: int
    expected_start: datetime | None
    queue_place: int | None
    queue_length: int | None


class Mark(NamedTuple):
    """Why a job, by its row id, will not start by itself; None: no more."""

    id: int
    stuck: str | None


def write_waiting(
    session: Session, told: Sequence[Standing], moved: Sequence[Move], marked: Sequence[Mark], at: datetime
) -> None:
    """Write what was seen of attempts that wait, and the marks of their jobs: a statement each, however many.

    An attempt that was claimed or is over in the meantime stays as it is.

    Args:
        at: when they were seen, noted with those of which something is told.
    """
    waits = (AttemptRow.claimed_at.is_(None), AttemptRow.outcome.is_(None))
    update_each(session, AttemptRow, Standing._fields, told, *waits, constants={"last_seen_at": at})
    update_each(session, AttemptRow, Move._fields, moved, *waits)
    update_each(session, JobRow, Mark._fields, marked, JobRow.state == JobState.QUEUED)


def find_attempt(session: Session, job: str, number: int) -> AttemptRow | None:
    """An attempt by its job's public id and its number, with job, project and user."""
    return session.scalar(
        select(AttemptRow)
        .join(AttemptRow.job)
        .where(JobRow.public_id == job, AttemptRow.number == number)
        .options(
            contains_eager(AttemptRow.job).joinedload(JobRow.project),
            contains_eager(AttemptRow.job).joinedload(JobRow.user),
        )
    )


def count_open_jobs(session: Session) -> int:
    return session.scalar(select(func.count()).select_from(JobRow).where(is_open())) or 0


def list_everywhere(
    session: Session,
    *,
    open_only: bool,
    project: str | None,
    states: Sequence[str],
    user: str | None,
    limit: int,
) -> list[JobRow]:
    """Jobs of all projects, newest first, for the operator: without question, plan and results."""
    shown = (*_SHOWN_OF_ATTEMPTS, AttemptRow.elapsed_s)
    query = (
        select(JobRow)
        .join(JobRow.project)
        .join(JobRow.user)
        .options(
            contains_eager(JobRow.project),
            contains_eager(JobRow.user),
            selectinload(JobRow.attempts).options(load_only(*shown, raiseload=True)),
            *(defer(column, raiseload=True) for column in _LONG_IN_JOBS),
        )
        .order_by(JobRow.id.desc())
        .limit(limit)
    )
    if open_only:
        query = query.where(is_open())
    if project is not None:
        query = query.where(ProjectRow.name == project)
    if states:
        query = query.where(JobRow.state.in_(states))
    if user is not None:
        query = query.where(UserRow.email == user.lower())
    return list(session.scalars(query))
