"""The life of results after their job: used, pinned, announced to go, removed. What is removed is first refused to
everybody in the database and then deleted in the store, so that no kill leaves what is promised and gone.

Logs and provenance stay. No transaction is open while the store is asked.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from sqlalchemy.orm import Session

from divbase_gateway.db import retention as rows
from divbase_gateway.db.allocations import lock_project
from divbase_gateway.db.models import JobRow, ProjectRow, UserRow
from divbase_gateway.db.session import Database
from divbase_gateway.domain.errors import Conflict, NotFound, ResultRemoved, Unavailable
from divbase_gateway.domain.jobs import JobState
from divbase_gateway.domain.projects import Role
from divbase_gateway.domain.retention import GRACE, Retention, days_in_force, follow
from divbase_gateway.ports import ObjectStore
from divbase_gateway.services.jobs import check_owner, get_job, is_removable
from divbase_gateway.services.policy import JobPolicy
from divbase_gateway.services.rounds import Round

log = structlog.get_logger()


def retention_of(project: ProjectRow) -> Retention:
    """What holds for the project's results at the moment."""
    return Retention(project.retention_days, project.retention_since)


# --- choosing ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Effect:
    """How long a project keeps results, and what that removes.

    Attributes:
        own: the project's number of days; None: as `site` says, 0: for ever.
        held: what holds, or would.
        expiring: results that it applies to; `soon` those whose time is over within a week from now.
        first_at: when the first of them is removed; None where none is.
        pinned: jobs that it does not apply to.
    """

    own: int | None
    site: int | None
    held: Retention
    expiring: rows.Expiring
    first_at: datetime | None
    pinned: int


def effect_of(session: Session, project: ProjectRow, policy: JobPolicy, now: datetime) -> Effect:
    """What holds, and what it is going to remove."""
    return _effect(session, project, project.result_days, retention_of(project), policy, now)


def preview(session: Session, project: ProjectRow, days: int | None, policy: JobPolicy, now: datetime) -> Effect:
    """What another number of days would remove, if it were set now."""
    wanted = days_in_force(days, policy.result_days)
    held = follow(retention_of(project), project.retention_seen_at, wanted, now)
    return _effect(session, project, days, held, policy, now)


def change(session: Session, project_id: int, days: int | None, policy: JobPolicy, now: datetime) -> Effect:
    """Keep the project's results for so many days (None: as the site says, 0: for ever) from now on.

    Where that is shorter than before, nothing is removed for a week, whatever its age.
    """
    project = lock_project(session, project_id)
    project.result_days = days
    _follow(project, policy, now)
    session.flush()
    return effect_of(session, project, policy, now)


def _follow(project: ProjectRow, policy: JobPolicy, now: datetime) -> None:
    wanted = days_in_force(project.result_days, policy.result_days)
    held = follow(retention_of(project), project.retention_seen_at, wanted, now)
    project.retention_days, project.retention_since, project.retention_seen_at = held.days, held.since, now


def _effect(
    session: Session, project: ProjectRow, own: int | None, held: Retention, policy: JobPolicy, now: datetime
) -> Effect:
    horizon = now + GRACE - timedelta(days=held.days or 0)
    found = rows.expiring(session, project.id, horizon)
    if held.days is None:
        found = found._replace(soon=0, soon_bytes=0)
    first_at = None if found.first_use is None else held.expiry(found.first_use)
    return Effect(own, policy.result_days, held, found, first_at, rows.count_pinned(session, project.id))


# --- using and pinning -------------------------------------------------------------------------------------------


def check_there(job: JobRow) -> None:
    """Make sure that the job's result was not removed; `job.project` has to be loaded.

    Raises:
        ResultRemoved: it was.
    """
    if job.results_removed_at is None:
        return
    days = job.results_removed_days
    raise ResultRemoved(
        f"The result of job {job.public_id} was removed on {job.results_removed_at:%Y-%m-%d %H:%M} UTC by the "
        f"retention of {days} day{'' if days == 1 else 's'} of project {job.project.name}.",
        hint=f"`divbase jobs rerun {job.public_id}` makes it again from the same input versions; `divbase query run` "
        f"asks the question in a new job. `divbase jobs logs {job.public_id}` still has the log.",
        details={"job": job.public_id, "removed_at": job.results_removed_at.isoformat(), "days": days},
    )


def note_use(database: Database, job: JobRow, now: datetime) -> None:
    """Note that the result is downloaded: its time begins anew. Written down once a day, not at each download.

    Raises:
        ResultRemoved: it was removed in the meantime.
    """
    if job.results_used_at is None or not retention_of(job.project).is_use_news(job.results_used_at, now):
        return
    try:
        with database.write() as session:
            current = rows.lock_result(session, job.id)
            if current is not None:
                check_there(current)
                _use(current, now)
    except Unavailable as error:  # a busy database keeps nobody from a download
        log.warning("result.use_not_noted", job=job.public_id, error=error.message)


def claim_answer(session: Session, job: JobRow, now: datetime) -> bool:
    """Hold an earlier job as the answer to a question, until the transaction ends: False where its result has gone.

    Its time begins anew, so that nobody is answered with what is removed in the next minute.
    """
    current = rows.lock_result(session, job.id)
    if current is None or current.state != JobState.SUCCEEDED or current.results_removed_at is not None:
        return False
    _use(current, now)
    return True


def _use(job: JobRow, now: datetime) -> None:
    if job.results_used_at is not None:
        job.results_used_at = max(job.results_used_at, now)


def pin(session: Session, project: ProjectRow, public_id: str, user: UserRow, role: Role, now: datetime) -> JobRow:
    """Keep the job's result whatever its age; also of one that has not ended yet.

    Raises:
        NotFound: no such job.
        ResultRemoved: it is too late.
        Forbidden: it is somebody else's and the role is below MANAGE.
        Conflict: it has no result that could be removed.
    """
    job = get_job(session, project, public_id, lock=True)
    check_owner(job, user, role, "pin")
    check_there(job)
    state = JobState(job.state)
    if job.kind != "query" or (state.is_end and state is not JobState.SUCCEEDED):
        what = f"is no query but of kind {job.kind}" if job.kind != "query" else f"ended as {state}"
        raise Conflict(
            f"Job {public_id} {what}; it has no result that could be removed.",
            hint="There is nothing to do: what it left is kept.",
            details={"kind": job.kind, "state": state},
        )
    job.pinned_at = job.pinned_at or now
    return job


def unpin(session: Session, project: ProjectRow, public_id: str, user: UserRow, role: Role, now: datetime) -> JobRow:
    """Let the job's result go when its time is over, which begins now. One that is not pinned stays as it is.

    Raises:
        NotFound: no such job.
        Forbidden: it is somebody else's and the role is below MANAGE.
    """
    job = get_job(session, project, public_id, lock=True)
    check_owner(job, user, role, "unpin")
    if job.pinned_at is not None:
        job.pinned_at = None
        _use(job, now)
    return job


# --- removing ----------------------------------------------------------------------------------------------------


def follow_site(database: Database, policy: JobPolicy, now: datetime) -> None:
    """Let every project's retention follow what it and the site say, each change with its grace."""
    with database.write() as session:
        for project in rows.lock_projects(session):
            _follow(project, policy, now)


def remove_expired(database: Database, store: ObjectStore, now: datetime, limit: int) -> int:
    """Remove results whose time is over, at most so many; how many it were, those of a round that was cut off first.

    Call `follow_site` before it.

    Raises:
        StoreUnavailable: some bucket refused, and what it has waits; nobody is given what has been begun with.
    """
    turn, removed = Round(), 0
    with database.read() as session:
        begun = rows.being_removed(session, limit)
        projects = rows.keeping_for_a_time(session)
    for job in begun:
        if not turn.skips(job.project.bucket):
            with turn.at(job.project.bucket):
                _clear(database, store, job, now)
                removed += 1
    for project in projects:
        removed += _remove_of(database, store, project, turn, now, limit - removed)
    turn.end()
    return removed


def _remove_of(
    database: Database, store: ObjectStore, project: ProjectRow, turn: Round, now: datetime, limit: int
) -> int:
    used_by = retention_of(project).last_use_due(now)
    if used_by is None or limit < 1:
        return 0
    with database.read() as session:
        found = rows.due(session, project.id, used_by, limit)
    removed = 0
    for job_id in found:
        if turn.skips(project.bucket):  # nothing is begun that could not be finished
            break
        with database.write() as session:
            job = _begin(session, job_id, now)
        with turn.at(project.bucket):
            if job is not None:
                _clear(database, store, job, now)
            removed += 1
    return removed


def _begin(session: Session, job_id: int, now: datetime) -> JobRow | None:
    """Give the job's result to nobody any more; None where it was used, pinned or kept for longer in the meantime."""
    job = rows.lock_result(session, job_id)
    if job is None or job.state != JobState.SUCCEEDED or job.pinned_at or job.results_removed_at:
        return None
    retention = retention_of(job.project)
    used_by = retention.last_use_due(now)
    if used_by is None or job.results_used_at is None or job.results_used_at > used_by:
        return None
    job.results_removed_at, job.results_removed_days = now, retention.days
    return job


def _clear(database: Database, store: ObjectStore, job: JobRow, now: datetime) -> None:
    """Delete every version of the job's result and its index; that nothing else is there under these names any more is
    what lets the job run again.

    Another gateway may have done it while the store kept this one waiting, and a new result be there: what is deleted
    was listed before the row still said that nobody has.
    """
    folder = f"results/{job.public_id}/"
    for each in job.results:
        if is_removable(job, each) and each["key"].startswith(folder):
            found = _versions_of(store, job.project.bucket, each["key"])
            with database.write() as session:
                if found and _being_removed(session, job) is None:
                    log.warning("result.removed_by_another", job=job.public_id)
                    return
            for version_id in found:
                with suppress(NotFound):
                    store.delete_version(job.project.bucket, each["key"], version_id)
    with database.write() as session:
        current = _being_removed(session, job)
        if current is not None:
            current.results_cleared_at, current.result_bytes = now, 0
    log.info("result.removed", job=job.public_id, days=job.results_removed_days)


def _versions_of(store: ObjectStore, bucket: str, key: str) -> list[str]:
    try:
        return [entry.version_id for entry in store.list_versions(bucket, key) if entry.key == key]
    except NotFound:  # the bucket, and with it all of them
        return []


def _being_removed(session: Session, job: JobRow) -> JobRow | None:
    """The job as it is now, held; None where this removal of its result is over."""
    current = rows.lock_result(session, job.id)
    if current is None or current.results_cleared_at is not None:
        return None
    return current if current.results_removed_at == job.results_removed_at else None
