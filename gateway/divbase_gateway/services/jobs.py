"""What users do with jobs: ask for one, look at it, cancel it, run it again. Nothing here talks to the scheduler;
the reconciler does, from the rows that are committed here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from divbase_gateway.db import files as file_rows
from divbase_gateway.db import jobs as rows
from divbase_gateway.db import shards as shard_rows
from divbase_gateway.db import sidecars as sidecar_rows
from divbase_gateway.db.jobs import JobLine
from divbase_gateway.db.models import FileVersionRow, JobRow, ProjectRow, UserRow
from divbase_gateway.domain.allocations import Resources
from divbase_gateway.domain.errors import Conflict, Forbidden, NotFound
from divbase_gateway.domain.files import FileState
from divbase_gateway.domain.ids import new_id
from divbase_gateway.domain.jobs import UNASKED, JobState, Reason
from divbase_gateway.domain.planning import plan_to_dict
from divbase_gateway.domain.projects import Role
from divbase_gateway.domain.queries import IndexPlan, Plan
from divbase_gateway.domain.repairs import KIND as REPAIR
from divbase_gateway.domain.repairs import RepairPlan
from divbase_gateway.domain.reruns import Wish, more_is_known_to_help, next_resources
from divbase_gateway.domain.shards import KIND as SHARD
from divbase_gateway.domain.sidecars import KIND as SIDECAR
from divbase_gateway.domain.sidecars import SidecarPlan, SidecarState
from divbase_gateway.services.allocations import check_limits, check_resources
from divbase_gateway.services.copies import require_copies
from divbase_gateway.services.plans import (
    index_plan_digest,
    index_plan_for,
    index_plan_to_dict,
    repair_plan_of,
    resources_of,
)
from divbase_gateway.services.policy import JobPolicy
from divbase_gateway.services.storage import check_not_full

RECORDS = ("log", "provenance")
"""What stays of a job when its result is removed: what was done, in a few kilobytes."""

_MAX_JOB_NAME = 100
SHARDS_KEPT = timedelta(days=7)
"""How long what shards have made waits for a rerun of a query that did not succeed."""


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
    shards = [check_resources(project, policy, resources_of(task)) for task in plan.task_plans]
    check_not_full(session, project, policy)
    check_limits(session, project, user, policy, [given, *shards], now)
    stored = plan_to_dict(plan)
    job = _accept(session, project, user, "query", plan.output_name, query, stored, plan.digest, given, now)
    for number, (task, resources) in enumerate(zip(plan.task_plans, shards, strict=True), start=1):
        _accept_shard(session, job, number, task, len(shards), resources)
    if shards:
        set_state(job, JobState.SPREAD, now)
    session.flush()
    return job


def _accept_shard(session: Session, parent: JobRow, number: int, plan: Plan, shards: int, resources: Resources) -> None:
    """A job for one shard of a query that was just accepted; its id says whose it is."""
    name, stored, now = f"shard {number} of {shards}: {', '.join(plan.regions)}", plan_to_dict(plan), parent.created_at
    shard = _new(parent.project, parent.user, SHARD, name, None, stored, plan.digest, resources, now)
    shard.public_id, shard.parent_id, shard.task = f"{parent.public_id}-{number}", parent.id, number
    session.add(shard)


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
    check_not_full(session, project, policy)
    check_limits(session, project, user, policy, [given], now)
    return _accept(session, project, user, REPAIR, f"repair {plan.key}", None, asdict(plan), plan.digest, given, now)


def accept_sidecar_job(
    session: Session, project: ProjectRow, user: UserRow, plan: SidecarPlan, now: datetime
) -> JobRow:
    """Commit to writing the BCF copy of one file version. Nobody asked for it, so it is never refused."""
    needed = resources_of(plan)
    return _accept(session, project, user, SIDECAR, f"bcf {plan.key}", None, asdict(plan), plan.digest, needed, now)


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
    job = _new(project, user, kind, name, query, plan, digest, resources, now)
    session.add(job)
    session.flush()
    return job


def _new(
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


def shards_of(session: Session, job: JobRow) -> list[JobRow]:
    """The shards of a query that are jobs of their own, with their attempts; nothing long of either."""
    return shard_rows.shown_shards(session, [job.id]) if is_spread(job) else []


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
    """The project's jobs, newest first; `before` is the row id that the last page ended with.

    Those of shards are theirs who ask for that kind.
    """
    return rows.list_jobs(session, project.id, before=before, limit=limit, states=states, user_id=user_id, kind=kind)


def request_cancel(
    session: Session, project: ProjectRow, public_id: str, user: UserRow, role: Role, now: datetime
) -> JobRow:
    """Ask for the job's end. One that was never submitted ends at once, one that is over stays as it is.

    Raises:
        NotFound: no such job.
        Forbidden: it is somebody else's and the role is below MANAGE.
        Conflict: it is a shard of a query.
    """
    job = get_job(session, project, public_id, lock=True)
    check_owner(job, user, role, "cancel")
    _check_is_whole(job, "cancel")
    state = JobState(job.state)
    if state.is_end or job.cancel_requested_at is not None:
        return job
    job.cancel_requested_at = now
    if state is JobState.ACCEPTED:
        end_job(job, JobState.CANCELLED, now, Reason.CANCELLED, _BEFORE_SUBMISSION)
    if state is JobState.SPREAD and cancel_shards(shard_rows.shards_of(session, job.id, lock=True), now):
        end_job(job, JobState.CANCELLED, now, Reason.CANCELLED, _BEFORE_SUBMISSION)
    return job


_BEFORE_SUBMISSION = "The job was cancelled before it was submitted."


def cancel_shards(shards: Sequence[JobRow], now: datetime) -> bool:
    """Ask for the end of those that have not ended, whose rows have to be held. True if all have ended now."""
    for shard in shards:
        if JobState(shard.state).is_end or shard.cancel_requested_at is not None:
            continue
        shard.cancel_requested_at = now
        if shard.state == JobState.ACCEPTED:
            end_job(shard, JobState.CANCELLED, now, Reason.CANCELLED, _BEFORE_SUBMISSION)
    return all(JobState(shard.state).is_end for shard in shards)


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
    """Run a job that ended without success again, on the inputs that it was planned on, as a new attempt; or one whose
    result was removed since.

    A file whose index it could not build waits for it once more. Of a query that is spread, the shards that have
    succeeded stay, as long as what they made is there.

    Args:
        wish: what to ask of the scheduler; None asks for the same as before.

    Raises:
        NotFound: no such job.
        Forbidden: it is somebody else's and the role is below MANAGE.
        Conflict: it has not ended, or its result is there, or more would not help it, or the file that it was to
            repair is another one by now, or the copy that it was to write is not wanted any more, or it is a shard of a
            query.
        InvalidRequest: the wish is for less than its plan needs.
        BeyondCeiling: it asks for more than a job of the project may have by now.
        LimitReached: project or user have no room for it at the moment.
    """
    job = get_job(session, project, public_id, lock=True)
    check_owner(job, user, role, "rerun")
    _check_is_whole(job, "rerun")
    state = JobState(job.state)
    if not state.is_end:
        raise Conflict(
            f"Job {public_id} has not ended: it is {state}.",
            hint=f"`divbase jobs cancel {public_id}` ends it; then it can run again.",
            details={"state": state},
        )
    if state is JobState.SUCCEEDED:
        _check_removed(job)
    if job.kind == REPAIR:
        _check_target(session, job)
    if job.kind == SIDECAR:
        _wait_for_copy(session, job, now)
    unfinished = _unfinished_shards(session, job)
    if unfinished or (job.kind == "query" and not is_spread(job)):
        for each in (job, *unfinished):
            require_copies(session, each, policy)
    if unfinished or (is_spread(job) and job.gathers is None):  # or it ended before it was told what they made
        _reopen_shards(session, job, unfinished, policy, wish or Wish(), now)
        return job
    _ask_for(session, job, policy, wish or Wish(), now)
    reopen_job(job, now)
    for version in rows.versions_without_index(session, job.public_id):
        version.state, version.reason = FileState.INDEXING, None
    return job


def _check_removed(job: JobRow) -> None:
    """A job that succeeded runs again only where its result was removed, and is gone: its name is free then."""
    if job.results_removed_at is None:
        raise Conflict(
            f"Job {job.public_id} succeeded; its result is there.",
            hint=f"`divbase jobs result {job.public_id}` fetches it. `divbase query run --fresh` runs the question "
            "anew.",
            details={"state": job.state},
        )
    if job.results_cleared_at is None:
        raise Conflict(
            f"The result of job {job.public_id} is being removed from the bucket at this moment.",
            hint="Try again in a few minutes. `divbase query run` asks the question in a new job at once.",
            details={"state": job.state},
        )


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


def _wait_for_copy(session: Session, job: JobRow, now: datetime) -> None:
    row = sidecar_rows.get_of_job(session, job.public_id)
    if row is None or row.state != SidecarState.NONE:
        raise Conflict(
            f"The BCF copy that job {job.public_id} was to write is not wanted any more.",
            hint="`divbase files info` shows what there is; `divbase projects edit --sidecars` asks for copies.",
            details={"key": job.plan["key"]},
        )
    row.state, row.state_since, row.reason = SidecarState.WRITING, now, None


def _check_is_whole(job: JobRow, verb: str) -> None:
    if job.kind == SHARD:
        query = query_of(job)
        raise Conflict(
            f"Job {job.public_id} is a shard of job {query}, and can only be {_DONE[verb]} with it.",
            hint=f"`divbase jobs {verb} {query}` does that"
            + (", and runs only those shards again that did not succeed." if verb == "rerun" else "."),
            details={"job": query},
        )


_DONE = {"cancel": "cancelled", "rerun": "run again"}


def query_of(job: JobRow) -> str:
    """Public id of the job that a user acts on: of a shard, the query's."""
    return job.public_id.rpartition("-")[0] if job.kind == SHARD else job.public_id


_UNTRUSTED = (Reason.INPUT_MISSING, Reason.INPUT_CORRUPT)


def _unfinished_shards(session: Session, job: JobRow) -> list[JobRow]:
    """The shards that have to run before the job can join them: all, where what they made was not what it found."""
    if not is_spread(job):
        return []
    shards = shard_rows.shards_of(session, job.id, lock=True)
    if job.gathers is not None and job.reason in _UNTRUSTED:
        return shards
    return [shard for shard in shards if shard.state != JobState.SUCCEEDED or not shard.results]


def _reopen_shards(
    session: Session, job: JobRow, shards: Sequence[JobRow], policy: JobPolicy, wish: Wish, now: datetime
) -> None:
    """Make these shards ready for another attempt, and the job wait for them. A wish for more is for those that ran
    out of something."""
    ran_out = [shard for shard in shards if more_is_known_to_help(shard.reason)]
    wished = ran_out if wish.more and ran_out else shards
    asked = [_next_resources(shard, policy, wish if shard in wished else Wish()) for shard in shards]
    own = Resources(job.cores, job.memory_mb, job.minutes)
    check_not_full(session, job.project, policy)
    check_limits(session, job.project, job.user, policy, [own, *asked], now)
    for shard, given in zip(shards, asked, strict=True):
        shard.cores, shard.memory_mb, shard.minutes = given.cores, given.memory_mb, given.minutes
        reopen_job(shard, now)
    reopen_job(job, now)
    job.gathers = None
    set_state(job, JobState.SPREAD, now)


def is_spread(job: JobRow) -> bool:
    """Whether the shards of this query are jobs of their own."""
    return job.kind == "query" and bool(job.plan.get("spread"))


def _ask_for(session: Session, job: JobRow, policy: JobPolicy, wish: Wish, now: datetime) -> None:
    """Set what the job's next attempt asks of the scheduler, if it may."""
    given = _next_resources(job, policy, wish)
    if job.kind not in UNASKED:
        check_not_full(session, job.project, policy)
        check_limits(session, job.project, job.user, policy, [given], now)
    job.cores, job.memory_mb, job.minutes = given.cores, given.memory_mb, given.minutes


def _next_resources(job: JobRow, policy: JobPolicy, wish: Wish) -> Resources:
    planned = Resources(job.plan["cores"], job.plan["memory_mb"], job.plan["minutes"])
    last = Resources(job.cores, job.memory_mb, job.minutes)
    given = next_resources(query_of(job), planned, last, job.reason, wish)
    if job.kind not in UNASKED or not wish.is_none:  # what an upload brings about is not refused, what somebody asks is
        given = check_resources(job.project, policy, given)
    return given


def check_owner(job: JobRow, user: UserRow, role: Role, verb: str) -> None:
    """Make sure that the job is the user's own, or the user manages the project.

    Raises:
        Forbidden: neither.
    """
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
    if is_spread(job):
        job.shards_until = now if state is JobState.SUCCEEDED else now + SHARDS_KEPT


def reopen_job(job: JobRow, now: datetime) -> None:
    """Make the job ready for another attempt. The earlier attempts stay on record."""
    job.state, job.state_since = JobState.ACCEPTED, now
    job.reason = job.message = job.stuck = None
    job.started_at = job.ended_at = job.cancel_requested_at = job.shards_until = None
    job.progress_stage, job.progress_done, job.progress_total = None, 0, 0
    set_results(job, [])
    job.results_used_at = None
    job.results_removed_at = job.results_removed_days = job.results_cleared_at = None


def set_results(job: JobRow, results: list[dict[str, Any]]) -> None:
    """Write down what the job has in the bucket, and what that takes beside what the catalogue counts: the indexes and
    repaired files that other jobs make are files of the project."""
    job.results = results
    counted = [each for each in results if job.kind == SHARD or is_removable(job, each) or each["role"] in RECORDS]
    job.record_bytes = sum(each["size"] for each in counted if each["role"] in RECORDS)
    job.result_bytes = sum(each["size"] for each in counted if each["role"] not in RECORDS)


def is_removable(job: JobRow, result: dict[str, Any]) -> bool:
    """Whether this is part of what a query was asked for, and not the record of what it did."""
    return job.kind == "query" and result["role"] not in RECORDS
