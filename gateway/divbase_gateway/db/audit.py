"""Queries for the audit: all jobs of a time with their attempts, and which names are known at all."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload, load_only, selectinload

from divbase_gateway.db.models import AttemptRow, JobRow, ProjectRow

_AT_ONCE = 500

_OF_JOBS = (
    JobRow.public_id,
    JobRow.state,
    JobRow.state_since,
    JobRow.minutes,
    JobRow.attempt,
    JobRow.started_at,
    JobRow.observed_at,
    JobRow.ended_at,
)
_OF_ATTEMPTS = (
    AttemptRow.number,
    AttemptRow.slurm_name,
    AttemptRow.slurm_job_id,
    AttemptRow.outcome,
    AttemptRow.started_at,
)


def jobs_accepted_since(session: Session, since: datetime) -> list[JobRow]:
    """Oldest first, with project and attempts, of which only what is compared is read."""
    return list(
        session.scalars(
            select(JobRow)
            .where(JobRow.created_at >= since)
            .options(
                load_only(*_OF_JOBS, raiseload=True),
                joinedload(JobRow.project).load_only(ProjectRow.name, raiseload=True),
                selectinload(JobRow.attempts).load_only(*_OF_ATTEMPTS, raiseload=True),
            )
            .order_by(JobRow.id)
        )
    )


def known_names(session: Session, names: Collection[str]) -> set[str]:
    """Those of the names that are attempts of ours, of whatever time."""
    wanted, known = sorted(names), set[str]()
    for start in range(0, len(wanted), _AT_ONCE):
        some = wanted[start : start + _AT_ONCE]
        known.update(session.scalars(select(AttemptRow.slurm_name).where(AttemptRow.slurm_name.in_(some))))
    return known
