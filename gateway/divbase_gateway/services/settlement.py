"""From what the scheduler, the job and the store say to what the job row says. The three are asked by the reconciler;
here their words are compared, and nothing is ever concluded from a look that failed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from divbase_gateway.db import jobs as rows
from divbase_gateway.db.models import AttemptRow, JobRow
from divbase_gateway.db.session import Database
from divbase_gateway.domain.errors import NotFound
from divbase_gateway.domain.jobs import (
    EXIT_NOT_OURS,
    Decision,
    Evidence,
    JobState,
    Phase,
    Reason,
    Report,
    decide,
    is_worth_retrying,
    phase_of,
    words_for,
)
from divbase_gateway.domain.repairs import KIND as REPAIR
from divbase_gateway.domain.reruns import more_would_help
from divbase_gateway.domain.shards import KIND as SHARD
from divbase_gateway.domain.waiting import stuck_words
from divbase_gateway.ports import ObjectStore, Sighting, SlurmRef
from divbase_gateway.services import copies, replacement
from divbase_gateway.services.attempts import output_key
from divbase_gateway.services.jobs import end_job, query_of, reopen_job, set_results, set_state
from divbase_gateway.services.policy import JobPolicy
from divbase_gateway.services.replacement import Delivery, Replacement

_OVER = (Phase.COMPLETED, Phase.FAILED, Phase.CANCELLED)

_START_GRACE = timedelta(minutes=30)
"""How long after its time limit a running job that nobody hears of is given up."""


@dataclass(frozen=True, slots=True)
class Tracked:
    """An attempt that the scheduler has, as it was when we asked.

    `reported` holds the outputs that its report names, or None while there is no report; `row` is what the database
    says of it and its job. `kind` of its job is known only with a report; a repair has a `delivery` then.
    """

    job_id: int
    number: int
    ref: SlurmRef
    project_bucket: str
    cancel_wanted: bool
    cancel_sent: bool
    reported: list[dict[str, Any]] | None
    row: rows.AtScheduler
    kind: str | None = None
    delivery: Delivery | None = None


@dataclass(frozen=True)
class Verdict:
    """The store's word on what a job reported.

    Attributes:
        verified: all of it is there.
        refusal: why a repaired file could not take the place of the one that was read.
        replacement: the repaired file in that place.
    """

    verified: bool
    refusal: Report | None = None
    replacement: Replacement | None = None


def tracked_attempts(session: Session) -> list[Tracked]:
    """Every attempt that the scheduler has and that is not settled: two queries, whatever their number."""
    found = rows.attempts_at_scheduler(session)
    reported = {each.id: each for each in rows.reported_attempts(session)}
    tracked = [_tracked(row) for row in found]
    if not reported:
        return tracked
    told = [reported.get(each.row.attempt_id) for each in tracked]
    return [
        each if attempt is None else with_report(each, attempt, attempt.job)
        for each, attempt in zip(tracked, told, strict=True)
    ]


def _tracked(row: rows.AtScheduler) -> Tracked:
    return Tracked(
        job_id=row.job_id,
        number=row.number,
        ref=SlurmRef(row.cluster, row.slurm_job_id, row.slurm_name, row.submitted_at),
        project_bucket=row.bucket,
        cancel_wanted=row.cancel_wanted,
        cancel_sent=row.cancel_sent,
        reported=None,
        row=row,
    )


def with_report(tracked: Tracked, attempt: AttemptRow, job: JobRow) -> Tracked:
    """The same with what its report, which is there by now, says of outputs."""
    delivery = replacement.delivery_of(attempt, job, tracked.project_bucket)
    return replace(tracked, reported=reported_outputs(attempt, job), kind=job.kind, delivery=delivery)


def is_news(
    tracked: Tracked, sighting: Sighting | None, policy: JobPolicy, now: datetime, answering_since: datetime
) -> bool:
    """Whether a look says anything of this attempt that the row does not: most looks at most jobs do not.

    Args: as of `record_sighting`.
    """
    row = tracked.row
    if sighting is None:
        return row.missing_since is None or now - max(row.missing_since, answering_since) >= policy.lost_after
    known = (row.slurm_state, row.slurm_reason, row.restarts)
    changed = (sighting.state, sighting.reason or None, sighting.restarts) != known
    return changed or row.missing_since is not None or phase_of(sighting.state) in _OVER


def is_over(sighting: Sighting | None) -> bool:
    """Whether the scheduler calls the run ended, well or badly."""
    return sighting is not None and phase_of(sighting.state) in _OVER


def ref_of(attempt: AttemptRow) -> SlurmRef:
    """The attempt's identity at the scheduler; it must have been submitted."""
    if attempt.cluster is None or attempt.slurm_job_id is None or attempt.submitted_at is None:
        raise ValueError(f"attempt {attempt.id} was not submitted")
    return SlurmRef(attempt.cluster, attempt.slurm_job_id, attempt.slurm_name, attempt.submitted_at)


def reported_outputs(attempt: AttemptRow, job: JobRow) -> list[dict[str, Any]]:
    """The outputs that the attempt's report names, each with its key."""
    outputs = (attempt.report or {}).get("outputs") or []
    return [{**output, "key": output_key(job, output["role"])} for output in outputs]


def verify(database: Database, store: ObjectStore, tracked: Tracked, sighting: Sighting) -> Verdict:
    """Ask the third witness about a run that the scheduler calls completed. A repaired file takes its place with this.

    Raises:
        StoreUnavailable: the store does not answer; nothing follows from that.
    """
    outputs = tracked.reported or []
    if tracked.kind in ("query", SHARD) and not any(output["role"] == "result" for output in outputs):
        return Verdict(verified=False)
    if tracked.kind != REPAIR:
        return Verdict(verify_results(store, tracked.project_bucket, outputs))
    others = [output for output in outputs if output["role"] != "result"]
    if tracked.delivery is None or sighting.exit_code not in (0, None) or sighting.signal:
        return Verdict(verified=False)
    if not verify_results(store, tracked.project_bucket, others):
        return Verdict(verified=False)
    found = replacement.put_in_place(database, store, tracked.delivery)
    if isinstance(found, Report):
        return Verdict(verified=False, refusal=found)
    return Verdict(verified=True, replacement=found)


def verify_results(store: ObjectStore, bucket: str, outputs: list[dict[str, Any]]) -> bool:
    """The third witness: every output that the job reported is in the store, in that version, with that checksum.

    Raises:
        StoreUnavailable: the store does not answer; nothing follows from that.
    """
    if not any(output["role"] in ("result", "index") for output in outputs):
        return False
    return all(_is_there(store, bucket, output) for output in outputs)


def _is_there(store: ObjectStore, bucket: str, output: dict[str, Any]) -> bool:
    try:
        info = store.head(bucket, output["key"], output["version_id"])
    except NotFound:
        return False
    if (info.size, info.etag) != (output["size"], output["etag"]):
        return False
    # A node that reaches S3 only could not have its sha256 signed for beforehand. There the ETag is the witness: the
    # gateway made it from the MD5s that the node took in the same reading as the sha256.
    return "md5s" in output or info.metadata.get("sha256") == output["sha256"]


def record_sighting(
    session: Session,
    tracked: Tracked,
    sighting: Sighting | None,
    verdict: Verdict | None,
    policy: JobPolicy,
    now: datetime,
    answering_since: datetime,
    *,
    looked_at: datetime,
    unread: bool = False,
) -> JobRow | None:
    """Write down one attempt's part of a successful look, and settle the job if that decides it.

    Args:
        unread: the run has ended, and what it left in the store could not be read yet: nothing is decided.
        sighting: None when the look succeeded and the job was not in it.
        verdict: the store's word on the reported outputs; None when nobody looked.
        answering_since: when the last unbroken row of successful looks began; no absence counts from before.
        looked_at: when this look began.

    Returns:
        the job, if this ended it.
    """
    job = rows.lock_job(session, tracked.job_id)
    if job is None or job.attempt != tracked.number or JobState(job.state).is_end:
        return None
    attempt = next(each for each in job.attempts if each.number == tracked.number)
    if attempt.slurm_job_id != tracked.ref.job_id:
        return None  # meanwhile another copy has claimed the attempt; what was seen is not of the run that counts
    if sighting is None:
        return _record_absence(job, attempt, policy, now, answering_since)
    if _is_older_than_the_claim(attempt, sighting, looked_at):
        return None
    if _was_requeued(job, attempt, sighting):
        _copy_sighting(job, attempt, sighting, now)
        requeued = Decision(JobState.FAILED, Reason.REQUEUED, words_for(Reason.REQUEUED))
        return _carry_out(session, job, attempt, requeued, policy, now)
    _copy_sighting(job, attempt, sighting, now)
    decision = Decision(JobState.FINALIZING) if unread else decide(_evidence(job, attempt, verdict))
    if decision.state is JobState.SUCCEEDED:
        return _succeed(session, job, attempt, verdict, now)
    return _carry_out(session, job, attempt, decision, policy, now)


def _is_older_than_the_claim(attempt: AttemptRow, sighting: Sighting, looked_at: datetime) -> bool:
    """Whether a look that calls the job pending began before the job claimed its attempt.

    Where it shows a restart that no other look did, that was the end of a run before the one that claimed.
    """
    if attempt.claimed_at is None or phase_of(sighting.state) is not Phase.WAITING:
        return False
    return sighting.restarts <= attempt.restarts or attempt.claimed_at >= looked_at


def _was_requeued(job: JobRow, attempt: AttemptRow, sighting: Sighting) -> bool:
    """Whether the run that claimed the attempt was taken back into the queue: no later run can claim it again."""
    if job.cancel_requested_at is not None:
        return False
    if attempt.access == "manifest":  # who claimed, and that it was another run, is known only when the later one ended
        return sighting.restarts > 0 and sighting.exit_code == EXIT_NOT_OURS and attempt.claimant is not None
    if attempt.claimed_at is None or sighting.restarts <= attempt.restarts:
        return False
    began_later = sighting.started_at is not None and sighting.started_at > attempt.claimed_at
    return phase_of(sighting.state) is Phase.WAITING or began_later


def _copy_sighting(job: JobRow, attempt: AttemptRow, sighting: Sighting, now: datetime) -> None:
    attempt.slurm_state, attempt.slurm_reason = sighting.state, sighting.reason or None
    attempt.slurm_source = sighting.source
    if attempt.claimed_at is None or phase_of(sighting.state) is not Phase.ENDING:
        # SLURM counts a restart before the run has ended that it takes back, and that one has the claim.
        attempt.restarts = sighting.restarts
    attempt.exit_code, attempt.signal = sighting.exit_code, sighting.signal
    attempt.node = sighting.node or attempt.node
    attempt.started_at = sighting.started_at or attempt.started_at
    attempt.ended_at = sighting.ended_at or attempt.ended_at
    attempt.elapsed_s = sighting.elapsed_s
    attempt.cpu_s = sighting.cpu_s
    attempt.max_rss_bytes, attempt.alloc_cpus = sighting.max_rss_bytes, sighting.alloc_cpus
    attempt.last_seen_at, attempt.missing_since = now, None
    attempt.partition = sighting.partition or attempt.partition
    attempt.expected_start = sighting.expected_start
    if phase_of(sighting.state) is not Phase.WAITING:
        attempt.queue_place = attempt.queue_length = None
    job.started_at = job.started_at or attempt.started_at
    job.stuck = stuck_words(sighting.reason) if phase_of(sighting.state) is Phase.WAITING else None
    job.observed_at = now


def _evidence(job: JobRow, attempt: AttemptRow, verdict: Verdict | None) -> Evidence:
    return Evidence(
        slurm_state=attempt.slurm_state,
        exit_code=attempt.exit_code,
        signal=attempt.signal,
        report=(verdict.refusal if verdict else None) or _report_of(attempt),
        results_verified=verdict.verified if verdict else None,
        cancel_requested=job.cancel_requested_at is not None,
        over_memory=(attempt.max_rss_bytes or 0) > attempt.memory_mb << 20,
    )


def _report_of(attempt: AttemptRow) -> Report | None:
    report = attempt.report
    if report is None:
        return None
    if report.get("status") == "succeeded":
        return Report(None, None)
    named = report.get("reason")
    reason = Reason(named) if named in set(Reason) else Reason.INTERNAL_ERROR
    return Report(reason, report.get("message") or words_for(reason))


def _record_absence(
    job: JobRow, attempt: AttemptRow, policy: JobPolicy, now: datetime, answering_since: datetime
) -> JobRow | None:
    """Not in a successful look: not an end, until it has been so for longer than the site allows."""
    attempt.missing_since = attempt.missing_since or now
    if now - max(attempt.missing_since, answering_since) < policy.lost_after:
        return None
    if _was_cancelled_unseen(attempt):
        attempt.outcome = Reason.CANCELLED
        end_job(job, JobState.CANCELLED, now, Reason.CANCELLED, _CANCELLED_UNSEEN)
        return job
    attempt.outcome = Reason.NOT_SEEN
    end_job(job, JobState.LOST, now, Reason.NOT_SEEN, words_for(Reason.NOT_SEEN))
    return job


_CANCELLED_UNSEEN = "The job was cancelled at the user's request while it waited; SLURM keeps no record of it."


def _was_cancelled_unseen(attempt: AttemptRow) -> bool:
    """Whether the scheduler took the wish for the end of a job that waited, and forgot it: a task of an array."""
    waited = attempt.slurm_state is None or phase_of(attempt.slurm_state) is Phase.WAITING
    return attempt.cancel_sent_at is not None and attempt.claimed_at is None and waited


def _succeed(session: Session, job: JobRow, attempt: AttemptRow, verdict: Verdict | None, now: datetime) -> JobRow:
    repaired = verdict.replacement if verdict else None
    attempt.outcome = "succeeded"
    outputs = replacement.in_results(reported_outputs(attempt, job), repaired)
    set_results(job, [_result(output) for output in outputs])
    job.results_used_at = now if job.kind == "query" else None
    if repaired is not None:
        replacement.record(session, job, repaired, now)
    end_job(job, JobState.SUCCEEDED, now)
    return job


def _carry_out(
    session: Session, job: JobRow, attempt: AttemptRow, decision: Decision, policy: JobPolicy, now: datetime
) -> JobRow | None:
    if decision.state is None:
        return None
    if decision.state is JobState.FAILED:
        return _fail(session, job, attempt, decision, policy, now)
    if decision.state is JobState.CANCELLED:
        attempt.outcome = Reason.CANCELLED
        end_job(job, JobState.CANCELLED, now, decision.reason, decision.message)
        return job
    set_state(job, decision.state, now)
    return None


def _fail(
    session: Session, job: JobRow, attempt: AttemptRow, decision: Decision, policy: JobPolicy, now: datetime
) -> JobRow | None:
    reason = decision.reason or Reason.INTERNAL_ERROR
    attempt.outcome = reason
    cancelled = job.cancel_requested_at is not None
    if not cancelled and copies.give_up(session, job, reason, decision.message or "", policy, now):
        reopen_job(job, now)
        job.message = f"Attempt {attempt.number} failed: {decision.message} Another follows, which reads no BCF copies."
        return None
    failed = sum(1 for each in job.attempts if each.outcome not in (None, "succeeded", Reason.NOT_SUBMITTED))
    if is_worth_retrying(reason, failed, policy.max_attempts, cancelled):
        reopen_job(job, now)
        job.message = f"Attempt {attempt.number} failed: {decision.message} Another attempt follows."
        return None
    words = [decision.message or words_for(reason), more_would_help(query_of(job), reason)]
    end_job(job, JobState.FAILED, now, reason, " ".join(filter(None, words)))
    set_results(job, [_result(output) for output in reported_outputs(attempt, job) if output["role"] == "log"])
    return job


def _result(output: dict[str, Any]) -> dict[str, Any]:
    return {name: output[name] for name in ("role", "key", "version_id", "size", "sha256", "etag")}


def record_overdue(session: Session, policy: JobPolicy, now: datetime) -> int:
    """End running jobs that neither scheduler nor job has been heard of since long after their time limit."""
    count = 0
    for job_id in rows.jobs_unheard_of(session, now - policy.lost_after - _START_GRACE):
        job = rows.lock_job(session, job_id)
        if job is None or JobState(job.state).is_end or not _is_overdue(job, policy, now):
            continue
        attempt = next(each for each in job.attempts if each.number == job.attempt)
        attempt.outcome = Reason.NOT_SEEN
        end_job(job, JobState.LOST, now, Reason.NOT_SEEN, words_for(Reason.NOT_SEEN))
        count += 1
    return count


def _is_overdue(job: JobRow, policy: JobPolicy, now: datetime) -> bool:
    if job.started_at is None or job.observed_at is None:
        return False
    limit = timedelta(minutes=job.minutes) + _START_GRACE
    return now - job.started_at > limit and now - job.observed_at > policy.lost_after + _START_GRACE


def record_cancel_sent(session: Session, tracked: Tracked, now: datetime) -> None:
    """The scheduler took the wish; whether it came true is seen in a later look."""
    job = rows.lock_job(session, tracked.job_id)
    if job is not None:
        for attempt in job.attempts:
            if attempt.number == tracked.number and attempt.slurm_job_id == tracked.ref.job_id:
                attempt.cancel_sent_at = now
