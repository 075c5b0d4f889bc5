"""Projects at the cluster: whom a job is charged to, what one job may ask for, and what all may use together.

Index jobs are never refused here: an upload must not fail because somebody else's queries used up a limit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from divbase_gateway.db import allocations as rows
from divbase_gateway.db import usage
from divbase_gateway.db.models import ProjectRow, UserRow
from divbase_gateway.domain.allocations import Ceilings, CoreHours, Labels, Limits, Month, Resources
from divbase_gateway.domain.errors import BeyondCeiling, LimitReached
from divbase_gateway.services.policy import JobPolicy

_OPTIONS = {"memory_mb": "--max-memory", "minutes": "--max-time"}


def labels_of(project: ProjectRow, policy: JobPolicy) -> Labels:
    """What SLURM is told of a job of this project: its own words, and the site's where it has none."""
    own = Labels(project.slurm_account, project.slurm_partition, project.slurm_qos, project.slurm_wckey)
    return own.over(policy.labels)


def labels_in_words(project: ProjectRow, policy: JobPolicy) -> str:
    """A sentence on what SLURM was told of a job of this project, and who said so; empty where it was told nothing."""
    own = Labels(project.slurm_account, project.slurm_partition, project.slurm_qos, project.slurm_wckey)
    words = [
        f"{name} {value!r} (set for {f'project {project.name}' if getattr(own, name) else 'the whole site'})"
        for name, value in asdict(labels_of(project, policy)).items()
        if value is not None
    ]
    return f"The job was submitted with {', '.join(words)}." if words else ""


def ceilings_of(project: ProjectRow, policy: JobPolicy) -> Ceilings:
    """What one job of this project may ask for: its own numbers, and the site's where it has none."""
    return Ceilings(project.max_cores, project.max_memory_mb, project.max_minutes).over(policy.ceilings)


def check_resources(project: ProjectRow, policy: JobPolicy, resources: Resources) -> Resources:
    """What a job of this project is given of what it asks for: the same, with fewer cores where it may not have all.

    Raises:
        BeyondCeiling: it asks for more memory or time than such a job may have.
    """
    ceilings = ceilings_of(project, policy)
    excesses = list(ceilings.excesses(resources))
    if not excesses:
        return ceilings.cap(resources)
    raise BeyondCeiling(
        f"The job asks for more than a job of project {project.name} may have: {'; '.join(map(str, excesses))}.",
        hint=f"Ask for less (fewer files, samples or regions), or ask a site admin to allow more: `divbase projects "
        f"allocation set {project.name} {' '.join(f'{_OPTIONS[each.name]} …' for each in excesses)}`.",
        details={
            "project": project.name,
            "exceeded": {each.name: {"asked": each.asked, "ceiling": each.ceiling} for each in excesses},
        },
    )


def limits_of(project: ProjectRow, policy: JobPolicy) -> Limits:
    """What the jobs of this project may use together: its own numbers, and the site's where it has none."""
    return Limits(project.max_open_jobs, project.core_hours_a_month).over(policy.project_limits)


def change_allocation(session: Session, project_id: int, changes: Mapping[str, object]) -> ProjectRow:
    """Set these columns of the project, None included, and leave the others."""
    project = session.get_one(ProjectRow, project_id)
    for column, value in changes.items():
        setattr(project, column, value)
    session.flush()
    return project


@dataclass(frozen=True)
class Usage:
    """What a project used in a month; open jobs belong to the present one."""

    month: Month
    core_hours: CoreHours
    attempts: int
    open_jobs: int
    max_open_jobs: int | None


def usage_of(session: Session, project: ProjectRow, policy: JobPolicy, month: Month, now: datetime) -> Usage:
    """The core-hours of one month, and what is left of the limit."""
    limits = limits_of(project, policy)
    used = usage.core_seconds(session, month.start, month.end, project_id=project.id) / 3600
    attempts = rows.attempts_between(session, project.id, month.start, month.end)
    is_open = rows.open_now(session, project_id=project.id) if month == Month.of(now) else rows.Open(0, 0.0)
    hours = CoreHours(used, is_open.core_hours, limits.core_hours)
    return Usage(month, hours, attempts, is_open.jobs, limits.open_jobs)


@dataclass(frozen=True)
class _Party:
    """Somebody with limits: a project or a user; `whose` chooses their jobs in the queries."""

    of: str
    name: str
    limits: Limits
    whose: Mapping[str, int]
    raise_open_jobs: str
    raise_core_hours: str

    @property
    def title(self) -> str:
        return f"{self.of.capitalize()} {self.name}"


def check_limits(
    session: Session,
    project: ProjectRow,
    user: UserRow,
    policy: JobPolicy,
    resources: Sequence[Resources],
    now: datetime,
) -> None:
    """Make sure that project and user have room for one more query of these resources, at its worst: those of its own
    job, and of the jobs of its shards. It counts as one job.

    What is counted stays so until the caller's transaction ends: other submissions of the project or the user wait.

    Raises:
        LimitReached: they have not; nothing was submitted.
    """
    if limits_of(project, policy).is_none and policy.user_limits.is_none:
        return
    # Always in this order, so that two submissions never wait for each other.
    rows.lock_user(session, user.id)
    project = rows.lock_project(session, project.id)
    for party in (_project_party(project, policy), _user_party(user, policy)):
        _check_party(session, party, resources, now)


def _project_party(project: ProjectRow, policy: JobPolicy) -> _Party:
    command = f"a site admin to raise it: `divbase projects allocation set {project.name}"
    return _Party(
        of="project",
        name=project.name,
        limits=limits_of(project, policy),
        whose={"project_id": project.id},
        raise_open_jobs=f"{command} --max-open-jobs …`",
        raise_core_hours=f"{command} --core-hours …`",
    )


def _user_party(user: UserRow, policy: JobPolicy) -> _Party:
    setting = "the site's operator to raise it: `limits."
    return _Party(
        of="user",
        name=user.email,
        limits=policy.user_limits,
        whose={"user_id": user.id},
        raise_open_jobs=f"{setting}open_jobs_per_user` in the gateway's settings",
        raise_core_hours=f"{setting}core_hours_per_user_month` in the gateway's settings",
    )


def _check_party(session: Session, party: _Party, resources: Sequence[Resources], now: datetime) -> None:
    if party.limits.is_none:
        return
    is_open = rows.open_now(session, **party.whose)
    if party.limits.open_jobs is not None and is_open.jobs >= party.limits.open_jobs:
        raise _too_many_jobs(party, is_open.jobs, party.limits.open_jobs)
    if party.limits.core_hours is not None:
        _check_core_hours(session, party, is_open, party.limits.core_hours, resources, Month.of(now))


def _check_core_hours(
    session: Session, party: _Party, is_open: rows.Open, limit: float, resources: Sequence[Resources], month: Month
) -> None:
    used = usage.core_seconds(session, month.start, month.end, **party.whose) / 3600
    hours = CoreHours(used, is_open.core_hours, limit)
    if not hours.allow(sum(each.core_hours for each in resources)):
        raise _too_many_core_hours(party, hours, limit, resources, month)


def _too_many_jobs(party: _Party, open_jobs: int, limit: int) -> LimitReached:
    counted = f"{open_jobs} open job{'' if open_jobs == 1 else 's'}"
    return LimitReached(
        f"{party.title} has {counted}, and {limit} is the limit: 0 are left.",
        hint=f"Wait until a job has ended, cancel one (`divbase jobs cancel`), or ask {party.raise_open_jobs}.",
        details=_limit_details(party, "open_jobs", used=open_jobs, committed=0, this_job=1, limit=limit, left=0),
    )


def _too_many_core_hours(
    party: _Party, hours: CoreHours, limit: float, resources: Sequence[Resources], month: Month
) -> LimitReached:
    numbers = {
        "used": round(hours.used, 2),
        "committed": round(hours.committed, 2),
        "this_job": round(sum(each.core_hours for each in resources), 2),
        "limit": limit,
        "left": round(hours.left or 0.0, 2),
    }
    words = {name: f"{number:.2f}".rstrip("0").rstrip(".") for name, number in numbers.items()}
    return LimitReached(
        f"{party.title} has {words['left']} of {words['limit']} core-hours of {month} left, and this job may use "
        f"{words['this_job']} ({_in_words(resources)}): {words['used']} are used, and "
        f"open jobs may use {words['committed']}.",
        hint=f"Wait until open jobs have ended, ask for less, or ask {party.raise_core_hours}.",
        details=_limit_details(party, "core_hours", month=str(month), **numbers),
    )


def _in_words(resources: Sequence[Resources]) -> str:
    own, *shards = resources
    words = f"{own.cores} cores for {own.minutes} minutes"
    return f"{words}, and {len(shards)} shards of {shards[0].cores} for {shards[0].minutes}" if shards else words


def _limit_details(party: _Party, what: str, **numbers: object) -> dict[str, object]:
    return {"of": party.of, "name": party.name, "what": what, **numbers}
