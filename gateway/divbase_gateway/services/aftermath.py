"""What follows the end of a job: the index that it built goes to its file, its log to the store, its directory away.
Each step can be repeated; a step that a fault interrupted is found again by the rows that still wait for it."""

from __future__ import annotations

import hashlib
from datetime import datetime

import structlog

from divbase_gateway.db import jobs as rows
from divbase_gateway.db.models import AttemptRow, FileVersionRow, JobRow
from divbase_gateway.db.session import Database
from divbase_gateway.domain.errors import DivBaseError, NotFound, SchedulerUnavailable, StoreUnavailable
from divbase_gateway.domain.files import FileState, IndexKind, IndexRef
from divbase_gateway.domain.jobs import JobState, Phase, phase_of
from divbase_gateway.domain.repairs import KIND as REPAIR
from divbase_gateway.ports import ObjectStore, Scheduler
from divbase_gateway.services import manifests, replacement
from divbase_gateway.services.attempts import log_key
from divbase_gateway.services.catalogue import attach_index
from divbase_gateway.services.files import catalogued, store_indexed
from divbase_gateway.services.jobs import set_results
from divbase_gateway.services.rounds import Round
from divbase_gateway.services.settlement import ref_of

log = structlog.get_logger()

_LOG_BYTES = 1024 * 1024
_OVER = (Phase.COMPLETED, Phase.FAILED, Phase.CANCELLED)
_FAILURES_A_TICK = 3
"""So many directories that cannot be removed, and the scheduler is taken for away."""


def settle_indexes(database: Database, store: ObjectStore, limit: int) -> None:
    """Give every file that waits for an ended index job its index, or the reason why there is none.

    Raises:
        StoreUnavailable: some bucket refused, and what it has waits for the next tick.
    """
    with database.read() as session:
        finished = rows.finished_index_jobs(session, limit)
    turn = Round()
    for job, version in finished:
        if not turn.skips(job.project.bucket):
            with turn.at(job.project.bucket):
                _settle_index(database, store, job, version)
    turn.end()


def _settle_index(database: Database, store: ObjectStore, job: JobRow, version: FileVersionRow) -> None:
    indexed = None
    reason = job.message or f"its index could not be built (job {job.public_id})"
    built = next((each for each in job.results if each["role"] == "index"), None)
    if job.state == JobState.SUCCEEDED and built is not None:
        try:
            info = store.head(job.project.bucket, built["key"], built["version_id"])
            ref = IndexRef(info.key, info.version_id, IndexKind.CSI, info.size, info.etag)
            indexed = attach_index(store, job.project.bucket, catalogued(version), ref)
        except StoreUnavailable:
            raise
        except DivBaseError as error:
            reason = f"the index that was built for it cannot be used: {error.message}"
    with database.write() as session:
        current = session.get_one(FileVersionRow, version.id)
        if current.state != FileState.INDEXING:
            return
        if indexed is not None:
            store_indexed(session, current, indexed)
        else:
            current.state, current.reason = FileState.UNUSABLE, reason
    log.info("file.indexed", job=job.public_id, key=version.file.key, usable=indexed is not None)


def discard_directories(
    database: Database, scheduler: Scheduler, store: ObjectStore, limit: int, now: datetime
) -> None:
    """Remove the directories of ended attempts, after their log is where users find it.

    A directory that the scheduler does not let go (its job was given up, but still runs) does not keep the others, nor
    does a bucket that takes no log.

    Raises:
        Unavailable: the rest waits for the next tick.
    """
    turn, kept = Round(), set[int]()
    for without in turn.passes():
        with database.read() as session:
            loose = rows.attempts_to_discard(session, limit, without)
        for attempt in loose:
            bucket = attempt.job.project.bucket
            if turn.skips(bucket) or attempt.id in kept:
                continue
            try:
                with turn.at(bucket):
                    _discard(database, scheduler, store, attempt, now)
            except SchedulerUnavailable as error:
                log.warning("job.not_discarded", name=attempt.slurm_name, error=str(error))
                kept.add(attempt.id)
                if len(kept) == _FAILURES_A_TICK:
                    raise
    turn.end()


def _discard(database: Database, scheduler: Scheduler, store: ObjectStore, attempt: AttemptRow, now: datetime) -> None:
    stored = _store_log(scheduler, store, attempt)
    manifests.abort_uploads(store, attempt.job, attempt.uploads)
    if attempt.job.kind == REPAIR and JobState(attempt.job.state).is_end:
        replacement.clear(database, store, attempt.job)
    if attempt.slurm_state is None or phase_of(attempt.slurm_state) not in _OVER:
        scheduler.cancel(ref_of(attempt))  # given up while it waited or ran: it would find no directory any more
    scheduler.discard(ref_of(attempt))
    if attempt.access == "manifest":  # its directory is gone, so no late copy finds the claim free
        manifests.remove_control_objects(store, attempt.job.project.bucket, attempt.job.public_id, attempt.number)
    with database.write() as session:
        session.get_one(AttemptRow, attempt.id).discarded_at = now
        job = session.get_one(JobRow, attempt.job_id, with_for_update=True)
        if stored is not None and JobState(job.state).is_end and not _has_log(job):
            set_results(job, [*job.results, stored])


def _has_log(job: JobRow) -> bool:
    return any(each["role"] == "log" for each in job.results)


def _store_log(scheduler: Scheduler, store: ObjectStore, attempt: AttemptRow) -> dict[str, object] | None:
    """Write the log of an attempt that did not push its own; the entry for the job's results, None without a log."""
    pushed = (attempt.report or {}).get("outputs") or []
    if any(output["role"] == "log" for output in pushed):
        return None
    text = scheduler.read_log(ref_of(attempt), _LOG_BYTES)
    if not text:
        return None
    key = log_key(attempt.job, attempt.number)
    try:
        info = store.write(attempt.job.project.bucket, key, text)
    except NotFound as error:  # the bucket: there is no place for it, and never will be
        log.warning("log.not_stored", name=attempt.slurm_name, error=str(error))
        return None
    sha256 = hashlib.sha256(text).hexdigest()
    return {"role": "log", "key": key, "version_id": info.version_id, "size": info.size, "sha256": sha256}
