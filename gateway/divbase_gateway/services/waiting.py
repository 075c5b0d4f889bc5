"""How waiting jobs stand at the scheduler: why they wait, when they may start, the place in the queue. Written for all
of them at once and only where something changed, because a look may see ten thousand. Ends are settled elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from divbase_gateway.db import jobs as rows
from divbase_gateway.domain.jobs import JobState, Phase, phase_of
from divbase_gateway.domain.waiting import Queued, queue_places, stuck_words
from divbase_gateway.ports import Observation, Sighting
from divbase_gateway.services.settlement import Tracked

_SAME_START = timedelta(minutes=1)
"""The scheduler guesses anew all the time; less than this is no other guess."""


def record_waiting(session: Session, tracked: Sequence[Tracked], observation: Observation, now: datetime) -> set[int]:
    """Write down what a look says of the jobs that wait: as many statements for ten thousand as for one.

    Returns:
        the jobs (row ids) of which nothing else is to be written.
    """
    waiting = [
        (each, sighting)
        for each in tracked
        if (sighting := observation.seen.get(each.ref)) is not None and phase_of(sighting.state) is Phase.WAITING
    ]
    places = queue_places(
        Queued(each.row.attempt_id, sighting.partition, sighting.priority, each.ref.submitted_at)
        for each, sighting in waiting
    )
    attempts: list[dict[str, Any]] = []
    stuck: list[dict[str, Any]] = []
    written = set()
    for each, sighting in waiting:
        if not _waits_as_before(each, sighting):
            continue
        written.add(each.job_id)
        standing = _standing(each, sighting, *places[each.row.attempt_id])
        if any(getattr(each.row, name) != value for name, value in standing.items()):
            source = {"slurm_source": sighting.source, "last_seen_at": now}
            attempts.append({"attempt": each.row.attempt_id, **standing, **source})
        words = stuck_words(sighting.reason)
        if words != each.row.stuck:
            stuck.append({"job": each.job_id, "words": words})
    rows.write_waiting(session, attempts, stuck)
    return written


def _waits_as_before(tracked: Tracked, sighting: Sighting) -> bool:
    """Whether it waited at the last look too, in the same run: its state and its end are not in question."""
    row = tracked.row
    same_run = sighting.restarts == row.restarts and not row.is_claimed
    return row.state == JobState.QUEUED and same_run and row.missing_since is None


def _standing(tracked: Tracked, sighting: Sighting, place: int, length: int) -> dict[str, Any]:
    """The columns of the attempt that say how it waits."""
    start, known = sighting.expected_start, tracked.row.expected_start
    if start is not None and known is not None and abs(start - known) < _SAME_START:
        start = known
    return {
        "slurm_state": sighting.state,
        "slurm_reason": sighting.reason or None,
        "partition": sighting.partition or tracked.row.partition,
        "expected_start": start,
        "queue_place": place,
        "queue_length": length,
    }
