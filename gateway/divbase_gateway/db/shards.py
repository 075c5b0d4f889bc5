"""Queries about the shards of queries that are spread over several jobs. They return rows and counts; what follows from
them is decided in `services`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session, aliased, defer, joinedload, selectinload

from divbase_gateway.db.jobs import is_open
from divbase_gateway.db.models import AttemptRow, JobRow
from divbase_gateway.domain.jobs import JobState


class Standing(NamedTuple):
    """How many shards of a query stand alike."""

    parent_id: int
    state: str
    reason: str | None
    cancel_requested: bool
    number: int


def _standings() -> Select[int | None, str, str | None, bool, int]:
    shard = aliased(JobRow)
    alike = (shard.parent_id, shard.state, shard.reason, shard.cancel_requested_at.is_not(None))
    return (
        select(*alike, func.count())
        .select_from(JobRow)
        .join(shard, shard.parent_id == JobRow.id)
        .where(is_open(), JobRow.state == JobState.SPREAD)
        .group_by(*alike)
    )


# Built once, as those of every tick are.
_STANDINGS = _standings()


def standings(session: Session) -> list[Standing]:
    """Of every query whose shards are at work: one statement, whatever their number, and none of their plans."""
    return [Standing._make(row) for row in session.execute(_STANDINGS)]


def shards_of(session: Session, parent_id: int, *, lock: bool = False) -> list[JobRow]:
    """The shards of a query in the order of the result, with project, user and attempts.

    Args:
        lock: hold their rows; for those who hold the query's already.
    """
    query = (
        select(JobRow)
        .where(JobRow.parent_id == parent_id)
        .options(joinedload(JobRow.project), joinedload(JobRow.user), selectinload(JobRow.attempts))
        .order_by(JobRow.task)
        .execution_options(populate_existing=lock)
    )
    return list(session.scalars(query.with_for_update(of=JobRow) if lock else query))


def shown_shards(session: Session, parent_ids: Sequence[int]) -> list[JobRow]:
    """The shards of these queries in the order of the results, with attempts, and without what is long in either."""
    long = (AttemptRow.report, AttemptRow.uploads, AttemptRow.log_tail)
    attempts = selectinload(JobRow.attempts).options(*(defer(column, raiseload=True) for column in long))
    query = (
        select(JobRow)
        .where(JobRow.parent_id.in_(parent_ids))
        .options(attempts, defer(JobRow.plan, raiseload=True))
        .order_by(JobRow.parent_id, JobRow.task)
    )
    return list(session.scalars(query)) if parent_ids else []


def alike(session: Session, ids: Sequence[int]) -> dict[int, tuple[int, ...]]:
    """Of these jobs the shards, each with what they have to have in common to be handed over as one: whose they are and
    what they ask for."""
    asked = (JobRow.parent_id, JobRow.cores, JobRow.memory_mb, JobRow.minutes)
    query = select(JobRow.id, *asked).where(JobRow.id.in_(ids), JobRow.parent_id.is_not(None))
    return {row[0]: tuple(int(value or 0) for value in row[1:]) for row in session.execute(query)}


def to_clear(session: Session, now: datetime, limit: int) -> list[int]:
    """Ids of queries that are over, of whose shards nothing is needed any more, oldest first."""
    query = select(JobRow.id).where(JobRow.shards_until <= now).order_by(JobRow.shards_until).limit(limit)
    return list(session.scalars(query))
