"""What jobs used, month by month, as the scheduler's accounting told it; and what it could not tell at the time,
because it was away when an attempt ended, asked for again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from divbase_gateway.db import usage as rows
from divbase_gateway.db.models import AttemptRow
from divbase_gateway.db.session import Database
from divbase_gateway.db.storage import stored_by_project
from divbase_gateway.domain.allocations import Month
from divbase_gateway.ports import PastRun, Scheduler, Sighting


@dataclass(frozen=True)
class Line:
    """What one project or user used in one month.

    Attributes:
        efficiency: processor time by core-time, None where not known.
        stored_bytes: what a project keeps at the moment, None in all lines but those of the present month.
    """

    month: str
    name: str
    jobs: int
    attempts: int
    core_hours: float
    cpu_hours: float
    efficiency: float | None
    stored_bytes: int | None = None


def by_month(database: Database, months: Sequence[Month], by: Literal["project", "user"]) -> list[Line]:
    """A line for everybody who used anything, for each of the months."""
    counted = rows.used_by_project if by == "project" else rows.used_by_user
    with database.read() as session:
        return [_line(month, used) for month in months for used in counted(session, month.start, month.end)]


def with_storage(database: Database, lines: Sequence[Line], present: Month) -> list[Line]:
    """The lines with what each project keeps, in the present month's; the projects that keep something and used nothing
    have lines too."""
    with database.read() as session:
        stored = stored_by_project(session)
    asked = [line for line in lines if line.month == str(present)]
    told = [replace(line, stored_bytes=stored.get(line.name, 0)) for line in asked]
    used_nothing = sorted({name for name, size in stored.items() if size} - {line.name for line in asked})
    told += [Line(str(present), name, 0, 0, 0.0, 0.0, None, stored[name]) for name in used_nothing]
    return [line for line in lines if line.month != str(present)] + sorted(told, key=lambda line: line.name)


def _line(month: Month, used: rows.Used) -> Line:
    return Line(
        month=str(month),
        name=used.name,
        jobs=used.jobs,
        attempts=used.attempts,
        core_hours=used.core_s / 3600,
        cpu_hours=used.cpu_s / 3600,
        efficiency=used.cpu_s / used.known_core_s if used.known_core_s else None,
    )


def fill_in(database: Database, scheduler: Scheduler, since: datetime) -> int:
    """Ask accounting for what it has not told of attempts made since then; how many it still says nothing of.

    Raises:
        SchedulerUnavailable: it does not answer; nothing was changed.
    """
    with database.read() as session:
        missing = rows.without_accounting(session, since)
    if not missing:
        return 0
    ends = _ends(scheduler.history(min(attempt.created_at for attempt in missing)))
    with database.write() as session:
        for attempt in rows.without_accounting(session, since):
            end = ends.get((attempt.slurm_job_id, attempt.slurm_name))
            if end is not None:
                _copy(attempt, end)
        session.flush()
        return len(rows.without_accounting(session, since))


def count_missing(database: Database, since: datetime) -> int:
    """How many settled attempts accounting has said nothing of."""
    with database.read() as session:
        return len(rows.without_accounting(session, since))


def _ends(runs: Iterable[PastRun]) -> dict[tuple[str | None, str], Sighting]:
    """The last ended run of each id and name."""
    ended = [run for run in runs if run.sighting.elapsed_s is not None and run.sighting.ended_at is not None]
    ended.sort(key=lambda run: run.ref.submitted_at)
    return {(run.ref.job_id, run.ref.name): run.sighting for run in ended}


def _copy(attempt: AttemptRow, end: Sighting) -> None:
    attempt.elapsed_s, attempt.cpu_s = end.elapsed_s, end.cpu_s
    attempt.max_rss_bytes, attempt.alloc_cpus = end.max_rss_bytes, end.alloc_cpus
    attempt.started_at = attempt.started_at or end.started_at
    attempt.ended_at = attempt.ended_at or end.ended_at
