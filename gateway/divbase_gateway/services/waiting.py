"""How waiting jobs stand at the scheduler: why they wait, when they may start, the place in the queue. Written for all
of them at once and only where something changed, because a look may see ten thousand. Ends are settled elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from divbase_gateway.db import jobs as rows
from divbase_gateway.db.jobs import Mark, Move, Standing
from divbase_gateway.domain.jobs import JobState, Phase, phase_of
from divbase_gateway.domain.waiting import Queued, queue_places, stuck_words
from divbase_gateway.ports import Observation, Sighting
from divbase_gateway.services.settlement import Tracked

_SAME_START = timedelta(minutes=1)
"""The scheduler guesses anew all the time; less than this is no other guess."""

_MOVES_A_LOOK = 4000
"""When one job starts, all behind it move up. Where there are more than this, those that are furthest off are written
first and the others at the next look: they are off by little, and nobody counts thousands."""


def record_waiting(
    session: Session,
    tracked: Sequence[Tracked],
    observation: Observation,
    now: datetime,
    most_moves: int = _MOVES_A_LOOK,
) -> set[int]:
    """Write down what a look says of the jobs that wait: as many statements for ten thousand as for one.

    Args:
        most_moves: how many jobs may be written of which nothing but the place and the expected start changed.

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
    told: list[Standing] = []
    moved: list[tuple[float, Move]] = []
    marked: list[Mark] = []
    written = set()
    for each, sighting in waiting:
        row = each.row
        if not _waits_as_before(row, sighting):
            continue
        written.add(row.job_id)
        place, length = places[row.attempt_id]
        start, reason, partition = _start(row, sighting), sighting.reason or None, sighting.partition or row.partition
        if (sighting.state, reason, partition) != (row.slurm_state, row.slurm_reason, row.partition):
            source = sighting.source
            told.append(Standing(row.attempt_id, sighting.state, reason, source, partition, start, place, length))
        elif (place, length, start) != (row.queue_place, row.queue_length, row.expected_start):
            moved.append((_error(row.queue_place, place), Move(row.attempt_id, start, place, length)))
        words = stuck_words(sighting.reason)
        if words != row.stuck:
            marked.append(Mark(row.job_id, words))
    moved.sort(key=lambda each: -each[0])
    rows.write_waiting(session, told, [move for _, move in moved[:most_moves]], marked, now)
    return written


def _error(known: int | None, place: int) -> float:
    """How wrong the row is about a place in the queue."""
    return math.inf if known is None else abs(known - place)


def _waits_as_before(row: rows.AtScheduler, sighting: Sighting) -> bool:
    """Whether it waited at the last look too, in the same run: its state and its end are not in question."""
    same_run = sighting.restarts == row.restarts and not row.is_claimed
    return same_run and row.state == JobState.QUEUED and row.missing_since is None


def _start(row: rows.AtScheduler, sighting: Sighting) -> datetime | None:
    """When it may start: what was said before, unless it is another guess now."""
    start, known = sighting.expected_start, row.expected_start
    return known if start is not None and known is not None and abs(start - known) < _SAME_START else start
