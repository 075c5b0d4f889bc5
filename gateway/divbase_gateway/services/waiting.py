"""How waiting jobs stand at the scheduler: why they wait, when they may start, the place in the queue. Written for all
of them at once and only where something changed, because a look may see ten thousand. Ends are settled elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy.orm import Session

from divbase_gateway.db import jobs as rows
from divbase_gateway.domain.jobs import JobState, Phase, phase_of
from divbase_gateway.domain.waiting import Queued, queue_places, stuck_words
from divbase_gateway.ports import Observation, Sighting
from divbase_gateway.services.settlement import Tracked

_SAME_START = timedelta(minutes=1)
"""The scheduler guesses anew all the time; less than this is no other guess."""

_MOVES_A_LOOK = 4000
"""When one job starts, all behind it move up. Where there are more than this, those that are furthest off are written
first and the others at the next look: they are off by little, and nobody counts thousands."""


class _Standing(NamedTuple):
    """The columns of an attempt that say how it waits; the last three move all the time."""

    slurm_state: str | None
    slurm_reason: str | None
    partition: str | None
    expected_start: datetime | None
    queue_place: int | None
    queue_length: int | None


_TOLD = 3
_MOVES = _Standing._fields[_TOLD:]


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
    told: list[dict[str, Any]] = []
    moved: list[tuple[float, dict[str, Any]]] = []
    stuck: list[dict[str, Any]] = []
    written = set()
    for each, sighting in waiting:
        if not _waits_as_before(each, sighting):
            continue
        written.add(each.job_id)
        known, standing = _known_standing(each.row), _standing(each.row, sighting, *places[each.row.attempt_id])
        if standing[:_TOLD] != known[:_TOLD]:
            source = {"slurm_source": sighting.source, "last_seen_at": now}
            told.append({"attempt": each.row.attempt_id, **standing._asdict(), **source})
        elif standing != known:
            moves = {"attempt": each.row.attempt_id, **dict(zip(_MOVES, standing[_TOLD:], strict=True))}
            moved.append((_error(known.queue_place, standing.queue_place), moves))
        words = stuck_words(sighting.reason)
        if words != each.row.stuck:
            stuck.append({"job": each.job_id, "words": words})
    moved.sort(key=lambda each: -each[0])
    rows.write_waiting(session, told, [moves for _, moves in moved[:most_moves]], stuck)
    return written


def _error(known: int | None, place: int | None) -> float:
    """How wrong the row is about a place in the queue."""
    return math.inf if known is None or place is None else abs(known - place)


def _waits_as_before(tracked: Tracked, sighting: Sighting) -> bool:
    """Whether it waited at the last look too, in the same run: its state and its end are not in question."""
    row = tracked.row
    same_run = sighting.restarts == row.restarts and not row.is_claimed
    return row.state == JobState.QUEUED and same_run and row.missing_since is None


def _known_standing(row: rows.AtScheduler) -> _Standing:
    return _Standing(
        row.slurm_state, row.slurm_reason, row.partition, row.expected_start, row.queue_place, row.queue_length
    )


def _standing(row: rows.AtScheduler, sighting: Sighting, place: int, length: int) -> _Standing:
    start = sighting.expected_start
    if start is not None and row.expected_start is not None and abs(start - row.expected_start) < _SAME_START:
        start = row.expected_start
    return _Standing(sighting.state, sighting.reason or None, sighting.partition or row.partition, start, place, length)
