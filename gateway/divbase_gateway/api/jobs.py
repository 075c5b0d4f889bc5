"""Routes of jobs. The database answers all of them; only the reconciler talks to the scheduler."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from divbase_client import models
from fastapi import Query, Response

from divbase_gateway.api.auth import Querier, Reader
from divbase_gateway.api.deps import ReadSession, ReadSessionBesideS3, TheGateway, WriteSession
from divbase_gateway.api.idempotency import Once, earlier_answer, idempotently
from divbase_gateway.api.pagination import Paging
from divbase_gateway.api.presigned import presigned_of
from divbase_gateway.api.queries import plan_for, plan_of
from divbase_gateway.api.routes import new_router
from divbase_gateway.db.jobs import JobLine, line_of
from divbase_gateway.db.models import AttemptRow, JobRow
from divbase_gateway.db.session import after_commit
from divbase_gateway.domain.drain import Drain
from divbase_gateway.domain.jobs import JobState
from divbase_gateway.domain.queries import Plan
from divbase_gateway.domain.reruns import Wish
from divbase_gateway.domain.retention import Retention
from divbase_gateway.domain.waiting import shards_words, waiting_words
from divbase_gateway.services import drain, jobs, queries, results, retention
from divbase_gateway.services.plans import query_plan_of

router = new_router("jobs")


JobKind = Literal["query", "shard", "index", "repair", "sidecar"]

_REUSED: dict[int | str, dict[str, Any]] = {
    200: {"model": models.JobDetail, "description": "An earlier job has the answer"}
}


@router.post("/projects/{project}/jobs", status_code=201, response_model=models.JobDetail, responses=_REUSED)
def run_query(body: models.NewJob, caller: Querier, gateway: TheGateway, once: Once) -> Response:
    """Plan a query and accept it as a job. It is submitted at once, but not before this answer is certain.

    Where a job of the project has the same plan, succeeded, and its files are all still there, the answer is that job
    (status 200, `reused`) and nothing is submitted. `fresh` runs the query again.
    """
    with gateway.sessions.read() as session:
        earlier = earlier_answer(once, session, caller, body)
    if earlier is not None:
        return earlier
    plan = plan_for(body, caller, gateway)
    answered = None
    if not body.fresh:
        answered = results.find_answer(gateway.sessions, gateway.store, caller.project, plan.digest)
    with gateway.sessions.write() as session:
        project, user = session.merge(caller.project, load=False), session.merge(caller.user, load=False)

        def create() -> models.JobDetail:
            if answered is not None and retention.claim_answer(session, answered, once.now):
                answered.results_used_at = once.now
                return _detail(answered, None, plan, reused=True)
            query = body.model_dump(mode="json", exclude={"fresh"})
            fitted = queries.fit_plan(plan, project, gateway.policy)
            job = jobs.accept_query_job(session, project, user, query, fitted, gateway.policy, once.now)
            return _detail(job, drain.holding(session, [job]), fitted, jobs.shards_of(session, job))

        told = idempotently(once, session, caller, body, create, lambda detail: 200 if detail.reused else 201)
    if told.status_code == 201:
        gateway.wake()
    return told


@router.get("/projects/{project}/jobs")
def list_jobs(
    caller: Reader,
    session: ReadSession,
    paging: Paging,
    state: Annotated[list[models.JobState] | None, Query(description="Only jobs in these states")] = None,
    mine: Annotated[bool, Query(description="Only the caller's own")] = False,
    kind: Annotated[JobKind | None, Query(description="Only jobs of this kind; shards are not listed without")] = None,
) -> models.Page[models.Job]:
    """The project's jobs, newest first."""
    found = jobs.list_jobs(
        session,
        caller.project,
        before=paging.after_id,
        limit=paging.fetch,
        states=state or (),
        user_id=caller.user.id if mine else None,
        kind=kind,
    )
    held_back = drain.holding(session, found)
    return paging.page(found, lambda line: models.Job(**_fields(line, held_back)), lambda line: line.id)


@router.get("/projects/{project}/jobs/{job}")
def show_job(job: str, caller: Reader, session: ReadSession) -> models.JobDetail:
    """One job with its plan, attempts and results."""
    found = jobs.get_job(session, caller.project, job)
    shards = jobs.shards_of(session, found)
    return detail_of(found, drain.holding(session, [found, *shards]), shards)


@router.post("/projects/{project}/jobs/{job}/cancel")
def cancel_job(job: str, caller: Querier, session: WriteSession, gateway: TheGateway) -> models.Job:
    """Ask for a job's end. A job that is over stays as it is."""
    cancelled = jobs.request_cancel(session, caller.project, job, caller.user, caller.role, gateway.clock.now())
    after_commit(session, gateway.wake)
    return job_of(cancelled)


@router.post("/projects/{project}/jobs/{job}/rerun", status_code=201, response_model=models.JobDetail)
def rerun_job(job: str, body: models.Rerun, caller: Querier, gateway: TheGateway, once: Once) -> Response:
    """Run a job that did not succeed again, as a new attempt on the same inputs, with more if that is asked for.

    So can be one that succeeded and whose result the project's retention has removed, while its inputs are still there.
    """
    with gateway.sessions.read() as session:
        earlier = earlier_answer(once, session, caller, body)
    if earlier is not None:
        return earlier
    results.check_inputs(gateway.sessions, gateway.store, caller.project, job)
    with gateway.sessions.write() as session:

        def create() -> models.JobDetail:
            wish = Wish(body.memory_mb, body.minutes, body.more)
            again = jobs.rerun(session, caller.project, job, caller.user, caller.role, gateway.policy, once.now, wish)
            shards = jobs.shards_of(session, again)
            return detail_of(again, drain.holding(session, [again, *shards]), shards)

        told = idempotently(once, session, caller, body, create)
    gateway.wake()
    return told


@router.put("/projects/{project}/jobs/{job}/pin")
def pin_job(job: str, caller: Querier, session: WriteSession, gateway: TheGateway) -> models.Job:
    """Keep a job's result, whatever the project's retention says. Safe to repeat."""
    pinned = retention.pin(session, caller.project, job, caller.user, caller.role, gateway.clock.now())
    return job_of(pinned)


@router.delete("/projects/{project}/jobs/{job}/pin")
def unpin_job(job: str, caller: Querier, session: WriteSession, gateway: TheGateway) -> models.Job:
    """Let a job's result go when its time is over, which begins now. Safe to repeat."""
    unpinned = retention.unpin(session, caller.project, job, caller.user, caller.role, gateway.clock.now())
    return job_of(unpinned)


@router.get("/projects/{project}/jobs/{job}/log")
def job_log(job: str, caller: Reader, session: ReadSessionBesideS3, gateway: TheGateway) -> models.JobLog:
    """The end of the job's output: the stored log of an ended job, or what a running one last told."""
    log = results.log_of(jobs.get_job(session, caller.project, job), gateway.store)
    return models.JobLog(text=log.text, complete=log.complete)


@router.get("/projects/{project}/jobs/{job}/result")
def job_result(job: str, caller: Reader, gateway: TheGateway) -> models.ResultDownloads:
    """Where to download the results of a job that succeeded. That is a use of them: their time begins anew."""
    with gateway.sessions.read() as session:
        found = jobs.get_job(session, caller.project, job)
    downloads = results.downloads_of(found, gateway.store, gateway.policy)
    retention.note_use(gateway.sessions, found, gateway.clock.now())
    return models.ResultDownloads(
        files=[
            models.ResultDownload(
                role=each.role,
                download=models.Download(
                    key=each.key,
                    version_id=each.version_id,
                    size=each.size,
                    sha256=each.sha256,
                    etag=each.etag,
                    request=presigned_of(each.request),
                ),
            )
            for each in downloads
        ]
    )


def job_of(job: JobRow, held_back: Drain | None = None) -> models.Job:
    """The wire form of a job; project, user and attempts have to be loaded. `held_back` is what an accepted one
    waits for."""
    return models.Job(**_fields(line_of(job), held_back))


def detail_of(job: JobRow, held_back: Drain | None = None, shards: Sequence[JobRow] = ()) -> models.JobDetail:
    """The wire form with plan, attempts, shards that are jobs of their own, and results."""
    return _detail(job, held_back, query_plan_of(job) if job.kind == "query" else None, shards)


def _detail(
    job: JobRow, held_back: Drain | None, plan: Plan | None, shards: Sequence[JobRow] = (), *, reused: bool = False
) -> models.JobDetail:
    return models.JobDetail(
        **{**_fields(line_of(job), held_back), **_of_shards(job, shards, held_back)},
        shards=[_shard(each, held_back) for each in shards],
        reused=reused,
        query=None if job.query is None else models.Query.model_validate(job.query),
        plan=None if plan is None else plan_of(plan),
        attempts=[models.Attempt.model_validate(attempt) for attempt in job.attempts],
        results=[models.ResultFile.model_validate(each) for each in job.results],
    )


def _fields(job: JobLine, held_back: Drain | None) -> dict[str, Any]:
    queued = job.state == JobState.QUEUED  # else the row keeps its place until the next look
    waiting = waiting_words(JobState(job.state), job.slurm_reason)
    if held_back is not None and job.state == JobState.ACCEPTED:
        waiting = held_back.words
    progress = None
    if job.progress_stage is not None:
        progress = models.Progress(stage=job.progress_stage, done=job.progress_done, total=job.progress_total)
    return {
        "id": job.public_id,
        "project": job.project,
        "kind": job.kind,
        "name": job.name,
        "state": job.state,
        "reason": job.reason,
        "message": job.message,
        "stuck": job.stuck,
        "created_by": job.created_by,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "ended_at": job.ended_at,
        "observed_at": job.observed_at,
        "attempt": job.attempt,
        "slurm_job_id": job.slurm_job_id,
        "slurm_state": job.slurm_state,
        "slurm_reason": job.slurm_reason,
        "waiting": waiting,
        "expected_start": job.expected_start if queued else None,
        "queue_place": job.queue_place if queued else None,
        "queue_length": job.queue_length if queued else None,
        "partition": job.partition,
        "node": job.node,
        "cores": job.cores,
        "memory_mb": job.memory_mb,
        "minutes": job.minutes,
        "progress": progress,
        "cancel_requested": job.cancel_requested,
        "pinned": job.pinned,
        "results_removed_at": job.results_removed_at,
        **_end_of_results(job),
    }


def _end_of_results(job: JobLine) -> dict[str, datetime | None]:
    if job.results_used_at is None or job.pinned or job.results_removed_at is not None:
        return {}
    kept = Retention(job.retention_days, job.retention_since)
    return {"expires_at": kept.expiry(job.results_used_at), "warn_from": kept.warn_from(job.results_used_at)}


def _of_shards(job: JobRow, shards: Sequence[JobRow], held_back: Drain | None) -> dict[str, object]:
    """What is known of a query while its shards are at work, from them."""
    if job.state != JobState.SPREAD or not shards:
        return {}
    words = shards_words([JobState(each.state) for each in shards])
    if held_back is not None and any(each.state == JobState.ACCEPTED for each in shards):
        words = f"{words} {held_back.words}"
    starts = [each.started_at for each in shards if each.started_at is not None]
    heard = [each.observed_at for each in shards if each.observed_at is not None]
    done = sum(map(_share_done, shards))
    return {
        "waiting": words,
        "started_at": min(starts, default=None),
        "observed_at": max(heard, default=None),
        "progress": models.Progress(stage="shards", done=int(1000 * done / len(shards)), total=1000),
    }


def _share_done(shard: JobRow) -> float:
    """Of a shard's work, which is nearly all in its running."""
    if shard.state in (JobState.SUCCEEDED, JobState.FINALIZING) or shard.progress_stage == "pushing":
        return 1.0
    known = shard.progress_stage == "running" and shard.progress_total > 0
    return min(1.0, shard.progress_done / shard.progress_total) if known else 0.0


def _shard(job: JobRow, held_back: Drain | None) -> models.Shard:
    attempt = _current(job)
    waiting = waiting_words(JobState(job.state), attempt.slurm_reason if attempt else None)
    return models.Shard(
        number=job.task or 0,
        job=job.public_id,
        name=job.name,
        state=models.JobState(job.state),
        reason=job.reason,
        message=job.message,
        stuck=job.stuck,
        waiting=held_back.words if held_back is not None and job.state == JobState.ACCEPTED else waiting,
        attempt=job.attempt,
        slurm_job_id=attempt.slurm_job_id if attempt else None,
        slurm_state=attempt.slurm_state if attempt else None,
        node=attempt.node if attempt else None,
        started_at=job.started_at,
        ended_at=job.ended_at,
        elapsed_s=attempt.elapsed_s if attempt else None,
    )


def _current(job: JobRow) -> AttemptRow | None:
    return next((attempt for attempt in job.attempts if attempt.number == job.attempt), None)
