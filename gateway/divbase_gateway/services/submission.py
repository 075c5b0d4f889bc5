"""Handing accepted jobs to the scheduler: exactly once, whatever is lost on the way.

The name and the token of an attempt are committed before the scheduler is asked. An answer that did not come is never
asked for again blindly: the scheduler is searched for the name, and only a quiet period of successful, empty searches
lets the job go out once more, as a new attempt whose predecessor can no longer claim anything.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from divbase_jobscripts.render import node_helper_source
from sqlalchemy.orm import Session

from divbase_gateway.db import jobs as rows
from divbase_gateway.db import shards as shard_rows
from divbase_gateway.db.models import AttemptRow, JobRow
from divbase_gateway.domain.errors import DivBaseError, StoreUnavailable, SubmissionRefused
from divbase_gateway.domain.ids import new_id
from divbase_gateway.domain.jobs import JobState, Reason, words_for
from divbase_gateway.ports import ARRAY_MARK, OUR_JOBS, ArraySubmission, ObjectStore, SlurmRef, Submission
from divbase_gateway.services import drain, manifests
from divbase_gateway.services.allocations import labels_in_words
from divbase_gateway.services.jobs import end_job, query_of, reopen_job, set_state
from divbase_gateway.services.policy import JobPolicy
from divbase_gateway.services.scripts import script_for

_CLOCKS_DIFFER_BY = timedelta(days=1)
"""The scheduler writes times by its own clock, which may be hours away where somebody took local time for UTC. Names
are unique, so looking further back is safe, and looking too near would run a job twice."""


@dataclass(frozen=True)
class Ticket:
    """A submission that is about to leave the house, and the row that answers for it.

    Attributes:
        unsigned: the job, where a manifest is still to be signed and put beside the script.
        uploads: that were begun for the manifest.
    """

    job_id: int
    attempt_number: int
    submission: Submission
    unsigned: JobRow | None = None
    uploads: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Search:
    """An attempt whose submission was not answered: look for `name` since `since`.

    `empty_since` is when the first successful look found nothing, if one did.
    """

    job_id: int
    attempt_number: int
    name: str
    since: datetime
    empty_since: datetime | None
    job: JobRow
    attempt: AttemptRow


def together(session: Session, job_ids: Sequence[int]) -> list[list[int]]:
    """The same jobs in groups, each to be handed over as one array: shards of one query that ask for the same. Any
    other job is alone."""
    alike = shard_rows.alike(session, job_ids) if len(job_ids) > 1 else {}
    groups: dict[tuple[int, ...], list[int]] = {}
    for job_id in job_ids:
        groups.setdefault(alike.get(job_id, (-job_id,)), []).append(job_id)
    return list(groups.values())


def open_attempts(session: Session, job_ids: Sequence[int], policy: JobPolicy, now: datetime) -> list[Ticket]:
    """`open_attempt` of several shards of one query, whose attempts are the tasks of an array."""
    token = new_id(8)
    tickets = [open_attempt(session, job_id, policy, now, array=token) for job_id in job_ids]
    return [ticket for ticket in tickets if ticket is not None]


def array_of(tickets: Sequence[Ticket]) -> ArraySubmission:
    """The tickets' jobs as one submission."""
    tasks = {int(each.submission.name.rpartition(".")[2]): each.submission for each in tickets}
    name = tickets[0].submission.name.rpartition(".")[0]
    job, *rest = tickets[0].submission.comment.split(",")[:2]
    return ArraySubmission(name, tasks, ",".join([job.rpartition("-")[0], *rest]))


def open_attempt(
    session: Session, job_id: int, policy: JobPolicy, now: datetime, array: str | None = None
) -> Ticket | None:
    """Commit-ready: a new attempt with a name and a token, and the job SUBMITTING.

    None if the job moved on, or submission is held back.

    Args:
        array: what is random in the name of the array whose task the attempt is; None where it is none.
    """
    job = rows.lock_job(session, job_id, whole=True)  # its script is written from the plan, also after the transaction
    if job is None or job.state != JobState.ACCEPTED or drain.current(session) is not None:
        return None
    token = secrets.token_urlsafe(32)
    number = max((attempt.number for attempt in job.attempts), default=0) + 1
    attempt = AttemptRow(
        job_id=job.id,
        number=number,
        slurm_name=_name_for(job, array),
        token_sha256=hashlib.sha256(token.encode()).hexdigest(),
        created_at=now,
        cores=job.cores,
        memory_mb=job.memory_mb,
        minutes=job.minutes,
        model_s=job.plan.get("model_s") or None,
        access=policy.node_access,
        uploads=[],
    )
    session.add(attempt)
    job.attempt = number
    set_state(job, JobState.SUBMITTING, now)
    session.flush()
    unsigned = job if policy.node_access == "manifest" else None
    return Ticket(job.id, number, _submission(job, attempt, token, policy), unsigned)


def _name_for(job: JobRow, array: str | None) -> str:
    if array is None:
        return f"{OUR_JOBS}{job.project.name}-{job.public_id}-{new_id(8)}"
    return f"{OUR_JOBS}{job.project.name}-{query_of(job)}-{array}{ARRAY_MARK}.{job.task}"


def _submission(job: JobRow, attempt: AttemptRow, token: str, policy: JobPolicy) -> Submission:
    files = {"divbase_node.py": node_helper_source()}
    if attempt.access == "gateway":
        access = {"gateway": policy.node_url, "attempt": f"{job.public_id}.{attempt.number}", "token": token}
        files["job.json"] = json.dumps(access).encode()
    return Submission(
        name=attempt.slurm_name,
        script=script_for(job, attempt.slurm_name, policy),
        files=files,
        comment=f"{job.public_id},{job.project.name},{job.user.email}",
        cores=attempt.cores,
        memory_mb=attempt.memory_mb,
        minutes=attempt.minutes,
    )


def sign(ticket: Ticket, store: ObjectStore, policy: JobPolicy) -> Ticket:
    """The ticket with its manifest, where its node reaches S3 only.

    Raises:
        StoreUnavailable: nothing was started.
        SubmissionRefused: the manifest cannot be signed, now or later.
    """
    if ticket.unsigned is None:
        return ticket
    try:
        signed = manifests.sign(ticket.unsigned, ticket.attempt_number, store, policy)
    except StoreUnavailable:
        raise
    except DivBaseError as error:
        raise SubmissionRefused(f"The job's access to the object store cannot be signed: {error.message}") from error
    files = {**ticket.submission.files, manifests.FILE: signed.content}
    return replace(ticket, submission=replace(ticket.submission, files=files), uploads=tuple(signed.uploads))


def record_uploads(session: Session, ticket: Ticket) -> None:
    """Keep what was begun for the manifest, so that it is ended with the attempt."""
    attempt = _locked(session, ticket.job_id, ticket.attempt_number)[1]
    if attempt is not None:
        attempt.uploads = list(ticket.uploads)


def record_submitted(session: Session, job_id: int, number: int, ref: SlurmRef, now: datetime) -> None:
    """The scheduler has the job, under this reference; a run that claimed the attempt already knows its id better."""
    job, attempt = _locked(session, job_id, number)
    if job is None or attempt is None:
        return
    attempt.cluster, attempt.submitted_at = ref.cluster, ref.submitted_at
    if attempt.claimed_at is None or attempt.slurm_job_id is None:
        attempt.slurm_job_id = ref.job_id
    attempt.looked_for_since = None
    if job.state in (JobState.SUBMITTING, JobState.SUBMIT_UNKNOWN) and job.attempt == number:
        set_state(job, JobState.QUEUED, now)


def record_refused(
    session: Session, job_id: int, number: int, error: SubmissionRefused, policy: JobPolicy, now: datetime
) -> None:
    """The scheduler said no: the job has failed, in the scheduler's own words, with what it was told of the project."""
    job, attempt = _locked(session, job_id, number)
    if job is None or attempt is None or job.state != JobState.SUBMITTING:
        return
    if attempt.claimed_at is not None:  # it runs all the same: its reference is found by its name
        set_state(job, JobState.SUBMIT_UNKNOWN, now)
        return
    attempt.outcome = Reason.SUBMISSION_REFUSED
    words = (error.message, labels_in_words(job.project, policy), error.hint)
    end_job(job, JobState.FAILED, now, Reason.SUBMISSION_REFUSED, " ".join(each for each in words if each))


def record_unknown(session: Session, job_id: int, number: int, now: datetime) -> None:
    """The answer was lost: there may be such a job."""
    job, attempt = _locked(session, job_id, number)
    if job is None or attempt is None or job.state != JobState.SUBMITTING:
        return
    attempt.looked_for_since = None
    set_state(job, JobState.SUBMIT_UNKNOWN, now)


def record_not_sent(session: Session, job_id: int, number: int, now: datetime) -> None:
    """The scheduler could not be reached, so nothing was started: the job waits for the next try.

    The attempt leaves no trace: nobody has seen its token, and hours without a scheduler would leave thousands.
    """
    job, attempt = _locked(session, job_id, number)
    if job is None or attempt is None or job.state != JobState.SUBMITTING:
        return
    if attempt.claimed_at is not None:  # it runs all the same: its reference is found by its name
        set_state(job, JobState.SUBMIT_UNKNOWN, now)
        return
    _give_up_attempt(job, attempt, now)
    job.attempts.remove(attempt)
    session.delete(attempt)
    job.attempt = max((each.number for each in job.attempts), default=0)


def record_impossible(session: Session, job_id: int, now: datetime) -> None:
    """There is no script for the stored plan; trying again would change nothing, and must not hold up other jobs."""
    job = rows.lock_job(session, job_id)
    if job is not None and job.state == JobState.ACCEPTED:
        end_job(job, JobState.FAILED, now, Reason.INTERNAL_ERROR, words_for(Reason.INTERNAL_ERROR))


def mark_interrupted(session: Session, now: datetime) -> int:
    """After a restart: a job that is still SUBMITTING lost its answer with the process that waited for it."""
    interrupted = rows.jobs_in_state(session, JobState.SUBMITTING)
    for job in interrupted:
        set_state(job, JobState.SUBMIT_UNKNOWN, now)
    return len(interrupted)


def searches(session: Session) -> list[Search]:
    """What to look for at the scheduler."""
    unknown = rows.jobs_in_state(session, JobState.SUBMIT_UNKNOWN)
    current = [(job, attempt) for job in unknown for attempt in job.attempts if attempt.number == job.attempt]
    return [
        Search(
            job.id,
            attempt.number,
            attempt.slurm_name,
            attempt.created_at - _CLOCKS_DIFFER_BY,
            attempt.looked_for_since,
            job,
            attempt,
        )
        for job, attempt in current
    ]


def close(search: Search, store: ObjectStore, policy: JobPolicy, now: datetime, answering_since: datetime) -> bool:
    """Before an attempt whose node reaches S3 only is given up: take its claim, as its token would die elsewhere.

    Returns:
        False: a run has claimed it, so it was submitted, and must go on being looked for.

    Raises:
        StoreUnavailable: it cannot be given up now.
    """
    quiet = now - max(search.empty_since or now, answering_since) >= policy.quiet_period
    if search.attempt.access != "manifest" or not quiet:
        return True
    bucket, job = search.job.project.bucket, search.job
    if not manifests.close_claim(store, bucket, job.public_id, search.attempt_number):
        return False
    manifests.abort_uploads(store, job, search.attempt.uploads)
    return True


def record_search(
    session: Session,
    search: Search,
    found: list[SlurmRef],
    policy: JobPolicy,
    now: datetime,
    answering_since: datetime,
) -> None:
    """Adopt what was found, or, when the quiet period is over, let the job go out again.

    Only successful searches are recorded here; one that failed says nothing and must not be passed on.

    Args:
        answering_since: when the last unbroken row of successful searches began; the quiet period is not older.
    """
    job, attempt = _locked(session, search.job_id, search.attempt_number)
    if job is None or attempt is None:
        return
    if found:
        claimed = (ref for ref in found if ref.job_id == attempt.slurm_job_id)
        record_submitted(session, search.job_id, search.attempt_number, next(claimed, found[0]), now)
        return
    if job.state != JobState.SUBMIT_UNKNOWN:
        return
    if attempt.looked_for_since is None:
        attempt.looked_for_since = now
    quiet = now - max(attempt.looked_for_since, answering_since)
    if attempt.claimed_at is None and quiet >= policy.quiet_period:
        _give_up_attempt(job, attempt, now)
    elif attempt.claimed_at is not None and quiet >= policy.lost_after:  # it ran, so it must not go out again
        attempt.outcome = Reason.NOT_SEEN
        end_job(job, JobState.LOST, now, Reason.NOT_SEEN, words_for(Reason.NOT_SEEN))


def _give_up_attempt(job: JobRow, attempt: AttemptRow, now: datetime) -> None:
    """The attempt never ran. Its token dies with its outcome."""
    attempt.outcome = Reason.NOT_SUBMITTED
    cancelled = job.cancel_requested_at is not None
    if cancelled:
        end_job(job, JobState.CANCELLED, now, Reason.CANCELLED, "The job was cancelled before it was submitted.")
    else:
        reopen_job(job, now)


def _locked(session: Session, job_id: int, number: int) -> tuple[JobRow | None, AttemptRow | None]:
    job = rows.lock_job(session, job_id)
    if job is None:
        return None, None
    return job, next((attempt for attempt in job.attempts if attempt.number == number), None)
