"""Gathers both sides of the audit: what the scheduler's accounting says ran, and what the database says of it."""

from __future__ import annotations

from datetime import datetime, timedelta

from divbase_gateway.db import audit as rows
from divbase_gateway.db.models import AttemptRow, JobRow
from divbase_gateway.db.session import Database
from divbase_gateway.domain.audit import Attempt, Audit, Job, Run, compare
from divbase_gateway.domain.jobs import JobState
from divbase_gateway.ports import Clock, PastRun, Scheduler
from divbase_gateway.services import drain


def audit(
    database: Database,
    scheduler: Scheduler,
    clock: Clock,
    since: datetime,
    lost_after: timedelta,
    *,
    shared_account: bool = False,
) -> Audit:
    """Compare every job accepted since then with what ran; `compare` says what is what.

    Accounting is asked first: a run that it knows has its name in the database, because that is written before.

    Raises:
        SchedulerUnavailable: accounting does not answer, and nothing follows from that.
    """
    runs = [_run_of(past) for past in scheduler.history(since)]
    with database.read() as session:
        now = clock.now()
        jobs = [_job_of(row) for row in rows.jobs_accepted_since(session, since)]
        known = rows.known_names(session, {run.name for run in runs})
        held_back = drain.current(session) is not None
    return compare(jobs, runs, known, now, lost_after, held_back=held_back, shared_account=shared_account)


def _run_of(past: PastRun) -> Run:
    seen = past.sighting
    return Run(
        slurm_job_id=past.ref.job_id,
        name=past.ref.name,
        state=seen.state,
        exit_code=seen.exit_code,
        submitted_at=past.ref.submitted_at,
        started_at=seen.started_at,
        ended_at=seen.ended_at,
        node=seen.node,
    )


def _attempt_of(row: AttemptRow) -> Attempt:
    return Attempt(row.number, row.slurm_name, row.slurm_job_id, row.outcome, started=row.started_at is not None)


def _job_of(row: JobRow) -> Job:
    return Job(
        id=row.public_id,
        project=row.project.name,
        state=JobState(row.state),
        state_since=row.state_since,
        minutes=row.minutes,
        attempt=row.attempt,
        attempts=tuple(map(_attempt_of, row.attempts)),
        started_at=row.started_at,
        observed_at=row.observed_at,
        ended_at=row.ended_at,
    )
