"""Fetches the words of attempts whose nodes reach S3 only, once the scheduler calls them ended: one read an attempt,
and no transaction open meanwhile. What the words are worth is judged in settlement."""

from __future__ import annotations

from datetime import datetime

import structlog
from sqlalchemy.orm import Session

from divbase_gateway.db import jobs as rows
from divbase_gateway.db.models import AttemptRow
from divbase_gateway.db.session import Database
from divbase_gateway.domain.errors import StoreUnavailable
from divbase_gateway.domain.jobs import JobState
from divbase_gateway.ports import ObjectStore, Observation
from divbase_gateway.services import attempts, reports
from divbase_gateway.services.settlement import Tracked, is_over, with_report

log = structlog.get_logger()

_FAILURES_A_LOOK = 3
"""So many reads that the store does not answer, and the others wait for the next look: each may take a minute."""


class Collector:
    """Remembers whose words could not be read, and asks for them after the others next time."""

    def __init__(self, database: Database, store: ObjectStore):
        self._database = database
        self._store = store
        self._unread: frozenset[int] = frozenset()

    def collect(
        self, tracked: list[Tracked], observation: Observation, now: datetime
    ) -> tuple[list[Tracked], frozenset[int]]:
        """The same attempts, those that have ended with what they reported; and the ids of the jobs whose words could
        not be read, of which nothing is to be concluded."""
        silent = {each.row.attempt_id: each for each in tracked if _is_to_be_asked(each, observation)}
        if not silent:
            self._unread = frozenset()
            return tracked, self._unread
        with self._database.read() as session:
            found = rows.attempts_by_id(session, list(silent))
        fresh: dict[int, Tracked] = {}
        unread: set[int] = set()
        failures = 0
        for attempt in sorted(found, key=lambda each: each.job_id in self._unread):
            each = silent[attempt.id]
            unread.add(each.job_id)
            if failures == _FAILURES_A_LOOK:
                continue
            try:
                words = reports.collect(self._store, _post_of(attempt))
            except StoreUnavailable as error:
                log.warning("report.unavailable", name=each.ref.name, error=str(error))
                failures += 1
                continue
            except Exception:  # a fault that one job's words bring about is left with that job
                log.exception("report.failed", name=each.ref.name)
                continue
            with self._database.write() as session:
                fresh[each.job_id] = _record_words(session, each, words, now)
            unread.discard(each.job_id)
        self._unread = frozenset(unread)
        return [fresh.get(each.job_id, each) for each in tracked], self._unread


def _is_to_be_asked(tracked: Tracked, observation: Observation) -> bool:
    return tracked.row.access == "manifest" and tracked.reported is None and is_over(observation.seen.get(tracked.ref))


def _post_of(attempt: AttemptRow) -> reports.Post:
    job = attempt.job
    uploads = {each["role"]: each["upload"] for each in attempt.uploads}
    keys = attempts.output_keys(job)
    later = frozenset(role for role in keys if attempts.is_joined_later(job, role))
    return reports.Post(job.project.bucket, job.public_id, attempt.number, keys, uploads, later)


def _record_words(session: Session, tracked: Tracked, words: reports.Words, now: datetime) -> Tracked:
    """Keep the words, unless the job has moved on. The run that claimed the attempt is followed from here on."""
    job = rows.lock_job(session, tracked.job_id)
    if job is None or job.attempt != tracked.number or JobState(job.state).is_end:
        return tracked
    attempt = next(each for each in job.attempts if each.number == tracked.number)
    if words.claim is not None:
        attempts.note_claim(attempt, words.claim.claimant, words.claim.host, words.claim.slurm_job_id)
    if words.report is None:
        return tracked
    attempts.record_report(attempt, words.report, now)
    return with_report(tracked, attempt, job)
