"""Holding submission back and letting it go on. While it is held back jobs are accepted and none is handed to the
scheduler; those that the scheduler has go on, and are followed and settled."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy.orm import Session

from divbase_gateway.db.jobs import JobLine
from divbase_gateway.db.models import DrainRow, JobRow
from divbase_gateway.domain.drain import Drain
from divbase_gateway.domain.errors import InvalidRequest
from divbase_gateway.domain.jobs import JobState

_THE_ONE = 1
_MOST_CHARS = 500


def current(session: Session) -> Drain | None:
    """The drain that is on, None while submission goes on."""
    row = session.get(DrainRow, _THE_ONE)
    return None if row is None else Drain(row.reason, row.since)


def begin(session: Session, reason: str, now: datetime) -> Drain:
    """Hold submission back. Where it is held back already, the reason changes and nothing else.

    Raises:
        InvalidRequest: the reason is empty, or too long for a line that users read.
    """
    reason = " ".join(reason.split())
    if not reason or len(reason) > _MOST_CHARS:
        raise InvalidRequest(
            f"The reason of a drain has 1 to {_MOST_CHARS} characters; this one has {len(reason)}.",
            hint="Users read it: say what happens and until when.",
        )
    row = session.get(DrainRow, _THE_ONE, with_for_update=True)
    if row is None:
        row = DrainRow(id=_THE_ONE, reason=reason, since=now)
        session.add(row)
    row.reason = reason
    session.flush()
    return Drain(row.reason, row.since)


def end(session: Session) -> Drain | None:
    """Let submission go on: the drain that was on, None where there was none."""
    row = session.get(DrainRow, _THE_ONE, with_for_update=True)
    if row is None:
        return None
    ended = Drain(row.reason, row.since)
    session.delete(row)
    session.flush()
    return ended


def holding(session: Session, jobs: Sequence[JobRow] | Sequence[JobLine]) -> Drain | None:
    """The drain that any of these jobs waits for; the database is asked only where one could."""
    return current(session) if any(job.state == JobState.ACCEPTED for job in jobs) else None
