"""What users do with jobs: ask for one, look at it, cancel it, run it again. Nothing here talks to the scheduler;
the reconciler does, from the rows that are committed here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from divbase_gateway.db import files as file_rows
from divbase_gateway.db import jobs as rows
from divbase_gateway.db.jobs import JobLine
from divbase_gateway.db.models import FileVersionRow, JobRow, ProjectRow, UserRow
from divbase_gateway.domain.allocations import Resources
from divbase_gateway.domain.errors import Conflict, Forbidden, NotFound
from divbase_gateway.domain.files import FileState
from divbase_gateway.domain.ids import new_id
from divbase_gateway.domain.jobs import JobState, Reason
from divbase_gateway.domain.planning import plan_to_dict
from divbase_gateway.domain.projects import Role
from divbase_gateway.domain.queries import IndexPlan, Plan
from divbase_gateway.domain.repairs import KIND as REPAIR
from divbase_gateway.domain.repairs import RepairPlan
from divbase_gateway.domain.reruns import Wish, next_resources
from divbase_gateway.services.allocations import check_limits, check_resources
from divbase_gateway.services.plans import (
    index_plan_digest,
    index_plan_for,
    index_plan_to_dict,
    repair_plan_of,
    resources_of,
)
from divbase_gateway.services.policy import JobPolicy

_MAX_JOB_NAME = 100


def accept_query_job(
    session: Session,
    project: ProjectRow,
    user: UserRow,
    query: dict[str, Any],
    plan: Plan,
    policy: JobPolicy,
    now: datetime,
) -> JobRow:
    """Commit to a query: the row holds the question, the plan and nothing that is not yet so.

    Raises:
        BeyondCeiling: it needs more than a job of the project may have.
        LimitReached: project or user have no room for it at the moment.
    """
    given = check_resources(project, policy, resources_of(plan))
    check_limits(session, project, user, policy, given, now)
    stored = plan_to_dict(plan)
    return _accept(session, project, user, "query", plan.output_name, query, stored, plan.digest, given, now)


def accept_index_job(
    session: Session, project: ProjectRow, version: FileVersionRow, key: str, user: UserRow, now: datetime
) -> JobRow:
    """Commit to building the index of one file version, and note the job with the version."""
    plan: IndexPlan = index_plan_for(key, version)
    stored, digest = index_plan_to_dict(plan), index_plan_digest(plan)
    needed = resources_of(plan)
    job = _accept(session, project, user, "index", f"index {key}", None, stored, digest, needed, now)
    version.index_job = job.public_id
    return job


def accept_repair_job(
    session: Session, project: ProjectRow, user: UserRow, plan: RepairPlan, policy: JobPolicy, now: datetime
) -> JobRow:
    """Commit to mending one file version.

    Raises: as `accept_query_job`.
    """
    given = check_resources(project, policy, resources_of(plan))
    check_limits(session, project, user, policy, given, now)
    return _accept(session, project, user, REPAIR, f"repair {plan.key}", None, asdict(plan), plan.digest, given, now)


def _accept(
    session: Session,
    project: ProjectRow,
    user: UserRow,
    kind: str,
    name: str,
    query: dict[str, Any] | None,
    plan: dict[str, Any],
    digest: str,
    resources: Resources,
    now: datetime,
) -> JobRow:
    job = JobRow(
        public_id=new_id(),
        project_id=project.id,
        user_id=user.id,
        kind=kind,
        name=name[:_MAX_JOB_NAME],
        query=query,
        plan=plan,
        plan_digest=digest,
        state=JobState.ACCEPTED,
        cores=resources.cores,
        memory_mb=resources.memory_mb,
        minutes=resources.minutes,
        created_at=now,
        state_since=now,
        results=[],
    )
    job.project, job.user, job.attempts = project, user, []
    session.add(job)
    session.flush()
    return job


def get_job(session: Session, project: ProjectRow, public_id: str, *, lock: bool = False) -> JobRow:
    """The job with project, user and attempts.

    Raises:
        NotFound: the project has no such job.
    """
    job = rows.get_job(session, project.id, public_id, lock=lock)
    if job is None:
        raise NotFound(
            f"Project {project.name} has no job {public_id!r}.",
            hint="`divbase jobs ls` lists its jobs.",
            details={"job": public_id},
        )
    return job


def list_jobs(
    session: Session,
    project: ProjectRow,
    *,
    before: int | None,
    limit: int,
    states: Sequence[str] = (),
    user_id: int | None = None,
    kind: str | None = None,
) -> list[JobLine]:
    """The project's jobs, newest first; `before` is the row id that the last page ended with."""
    return rows.list_jobs(session, project.id, before=before, limit=limit, states=states, user_id=user_id, kind=kind)


def request_cancel(
    session: Session, project: ProjectRow, public_id: str, user: UserRow, role: Role, now: datetime
) -> JobRow:
    """Ask for the job's end. One that was never submitted ends at once, one that is over stays as it is.

    Raises:
        NotFound: no such job.
        Forbidden: it is somebody else's and the role is below MANAGE.
    """
    job = get_job(session, project, public_id, lock=True)
    _check_owner(job, user, role, "cancel")
    state = JobState(job.state)
    if state.is_end or job.cancel_requested_at is not None:
        return job
    job.cancel_requested_at = now
    if state is JobState.ACCEPTED:
        end_job(job, JobState.CANCELLED, now, Reason.CANCELLED, "The job was cancelled before it was submitted.")
    return job


def rerun(
    session: Session,
    project: ProjectRow,
    public_id: str,
    user: UserRow,
    role: Role,
    policy: JobPolicy,
    now: datetime,
    wish: Wish | None = None,
) -> JobRow:
    """Run a job that ended without success again, on the inputs that it was planned on, as a new attempt.

    A file whose index it could not build waits for it once more.

    Args:
        wish: what to ask of the scheduler; None asks for the same as before.

    Raises:
        NotFound: no such job.
        Forbidden: it is somebody else's and the role is below MANAGE.
        Conflict: it has not ended, or it succeeded, or more would not help it, or the file that it was to repair is
            another one by now.
        InvalidRequest: the wish is for less than its plan needs.
        BeyondCeiling: it asks for more than a job of the project may have by now.
        LimitReached: project or user have no room for it at the moment.
    """
    job = get_job(session, project, public_id, lock=True)
    _check_owner(job, user, role, "rerun")
    state = JobState(job.state)
    if not state.is_end:
        raise Conflict(
            f"Job {public_id} has not ended: it is {state}.",
            hint=f"`divbase jobs cancel {public_id}` ends it; then it can run again.",
            details={"state": state},
        )
    if state is JobState.SUCCEEDED:
        raise Conflict(
            f"Job {public_id} succeeded; its result is there.",
            hint=f"`divbase jobs result {public_id}` fetches it. `divbase query run --fresh` runs the question anew.",
            details={"state": state},
        )
    if job.kind == REPAIR:
        _check_target(session, job)
    _ask_for(session, job, policy, wish or Wish(), now)
    reopen_job(job, now)
    for version in rows.versions_without_index(session, job.public_id):
        version.state, version.reason = FileState.INDEXING, None
    return job


def _check_target(session: Session, job: JobRow) -> None:
    plan = repair_plan_of(job)
    file = file_rows.claim_file(session, job.project_id, plan.key)
    version = session.get(FileVersionRow, file.current_id) if file.current_id else None
    there = rows.find_open(session, job.project_id, job.plan_digest)
    if there is not None:
        raise Conflict(
            f"Job {there.public_id} is at work on {plan.key!r} already.",
            hint=f"`divbase jobs watch {there.public_id}` follows it.",
            details={"key": plan.key, "job": there.public_id},
        )
    if version is None or file.deleted_at is not None or version.version_id != plan.version_id:
        raise Conflict(
            f"{plan.key!r} is not the file any more that job {job.public_id} was to repair.",
            hint=f"`divbase files info '{plan.key}'` shows what it is now.",
            details={"key": plan.key, "version": plan.version_id},
        )


def _ask_for(session: Session, job: JobRow, policy: JobPolicy, wish: Wish, now: datetime) -> None:
    """Set what the job's next attempt asks of the scheduler, if it may."""
    planned = Resources(job.plan["cores"], job.plan["memory_mb"], job.plan["minutes"])
    last = Resources(job.cores, job.memory_mb, job.minutes)
    given = next_resources(job.public_id, planned, last, job.reason, wish)
    if job.kind != "index" or not wish.is_none:  # what an upload brings about is not refused, what somebody asks is
        given = check_resources(job.project, policy, given)
    if job.kind != "index":
        check_limits(session, job.project, job.user, policy, given, now)
    job.cores, job.memory_mb, job.minutes = given.cores, given.memory_mb, given.minutes


def _check_owner(job: JobRow, user: UserRow, role: Role, verb: str) -> None:
    if job.user_id != user.id and not role.includes(Role.MANAGE):
        raise Forbidden(
            f"Job {job.public_id} belongs to {job.user.email}; to {verb} another's job takes the role MANAGE.",
            details={"needed": Role.MANAGE, "role": role},
        )


def set_state(job: JobRow, state: JobState, now: datetime) -> None:
    """Move an open job to another open state; an end is never left here."""
    if JobState(job.state).is_end:
        raise Conflict(f"Job {job.public_id} has ended as {job.state}; it cannot become {state}.")
    if job.state != state:
        job.state, job.state_since = state, now


def end_job(
    job: JobRow, state: JobState, now: datetime, reason: Reason | None = None, message: str | None = None
) -> None:
    """Settle the job for good."""
    set_state(job, state, now)
    job.ended_at, job.reason, job.message, job.stuck = now, reason, message, None


def reopen_job(job: JobRow, now: datetime) -> None:
    """Make the job ready for another attempt. The earlier attempts stay on record."""
    job.state, job.state_since = JobState.ACCEPTED, now
    job.reason = job.message = job.stuck = None
    job.started_at = job.ended_at = job.cancel_requested_at = None
    job.progress_stage, job.progress_done, job.progress_total = None, 0, 0
    job.results = []
