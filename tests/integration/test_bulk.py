"""Many rows changed by one statement, on both databases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from divbase_gateway.db.bulk import update_each
from divbase_gateway.db.models import AttemptRow
from divbase_gateway.db.session import Database
from divbase_gateway.domain.jobs import JobState
from sqlalchemy import select, update

from tests.crowd import write_crowd
from tests.fakes.clock import FakeClock
from tests.statements import statements_of

_NAMES = ("id", "slurm_reason", "expected_start", "queue_place")
_HARD = 'Ünïcode\'s "quotes", a\ttab, a\nline, \\ and :colon %(percent)s ?'


def attempts(database: Database) -> list[AttemptRow]:
    with database.read() as session:
        return list(session.scalars(select(AttemptRow).order_by(AttemptRow.id)))


@pytest.mark.parametrize("count", [1, 300])
def test_each_row_gets_its_own_values_by_one_statement(database: Database, clock: FakeClock, count: int) -> None:
    """Guards: whatever is in a text, None and times arrive as they are; others keep what they had."""
    write_crowd(database, count + 1, JobState.QUEUED, clock.now())
    ids = [attempt.id for attempt in attempts(database)]
    start = datetime(2026, 11, 29, 17, 4, 5, 678901, tzinfo=UTC)
    values = [(_HARD, start + timedelta(days=number), number) for number in range(count)]
    values[0] = (None, None, None)
    rows = [(row_id, *own) for row_id, own in zip(ids, values, strict=False)]
    with statements_of(database) as said, database.write() as session:
        update_each(session, AttemptRow, _NAMES, rows, constants={"last_seen_at": start})
    assert len([each for each in said if each.startswith("UPDATE")]) == 1
    *changed, other = attempts(database)
    assert [(row.slurm_reason, row.expected_start, row.queue_place) for row in changed] == values
    assert {row.last_seen_at for row in changed} == {start}
    assert (other.slurm_reason, other.queue_place, other.last_seen_at) == ("Priority", None, None)


def test_a_row_that_does_not_meet_the_conditions_stays_as_it_is(database: Database, clock: FakeClock) -> None:
    """Guards: the conditions hold at the moment of writing, and what they compare with is no value of a row."""
    write_crowd(database, 3, JobState.QUEUED, clock.now())
    first, second, third = [attempt.id for attempt in attempts(database)]
    with database.write() as session:
        session.execute(update(AttemptRow).where(AttemptRow.id == second).values(claimed_at=clock.now()))
    rows = [(row_id, "Resources", None, row_id) for row_id in (first, second)]
    with database.write() as session:
        conditions = (AttemptRow.claimed_at.is_(None), AttemptRow.slurm_reason == "Priority")
        update_each(session, AttemptRow, _NAMES, rows, *conditions)
    assert [row.slurm_reason for row in attempts(database)] == ["Resources", "Priority", "Priority"]
    assert third not in {row.queue_place for row in attempts(database)}


def test_no_rows_are_no_statement(database: Database) -> None:
    """Guards: a look that brings no news writes nothing."""
    with statements_of(database) as said, database.write() as session:
        update_each(session, AttemptRow, _NAMES, [])
    assert not [each for each in said if each.startswith("UPDATE")]
