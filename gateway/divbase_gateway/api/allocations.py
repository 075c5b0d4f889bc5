"""Routes about what projects may charge, use at the cluster and keep, and what they used. It knows no rules."""

from __future__ import annotations

from typing import Annotated

from divbase_client import models
from fastapi import Query

from divbase_gateway.api.auth import ProjectAdmin, Reader
from divbase_gateway.api.deps import ReadSession, TheGateway, WriteSession
from divbase_gateway.api.routes import new_router
from divbase_gateway.db.models import ProjectRow
from divbase_gateway.domain.allocations import Month
from divbase_gateway.services import allocations
from divbase_gateway.services.policy import JobPolicy

router = new_router("allocations")

_COLUMNS = {name: f"slurm_{name}" for name in ("account", "partition", "qos", "wckey")}
"""Wire name of a value -> its column, where they differ."""


@router.get("/projects/{project}/allocation")
def get_allocation(caller: Reader, session: ReadSession, gateway: TheGateway) -> models.Allocation:
    """What the project may charge and use at the cluster."""
    return _wire(caller.project, gateway.policy)


@router.patch("/projects/{project}/allocation")
def change_allocation(
    change: models.AllocationChange, caller: ProjectAdmin, session: WriteSession, gateway: TheGateway
) -> models.Allocation:
    """Change what is sent; null takes the project's own value away."""
    changes = {_COLUMNS.get(name, name): getattr(change, name) for name in change.model_fields_set}
    return _wire(allocations.change_allocation(session, caller.project.id, changes), gateway.policy)


@router.get("/projects/{project}/usage")
def get_usage(
    caller: Reader,
    session: ReadSession,
    gateway: TheGateway,
    month: Annotated[
        str | None, Query(pattern=r"^20\d\d-(0[1-9]|1[0-2])$", description="YYYY-MM (UTC); the present one if left out")
    ] = None,
) -> models.Usage:
    """Core-hours of a month, and what is left of the limit."""
    now = gateway.clock.now()
    asked = Month.of(now) if month is None else Month.parse(month)
    usage = allocations.usage_of(session, caller.project, gateway.policy, asked, now)
    hours = usage.core_hours
    return models.Usage(
        project=caller.project.name,
        month=str(usage.month),
        core_hours=hours.used,
        committed=hours.committed,
        limit=hours.limit,
        left=hours.left,
        jobs=usage.attempts,
        open_jobs=usage.open_jobs,
        max_open_jobs=usage.max_open_jobs,
    )


def _wire(project: ProjectRow, policy: JobPolicy) -> models.Allocation:
    site = models.AllocationValues(
        account=policy.labels.account,
        partition=policy.labels.partition,
        qos=policy.labels.qos,
        wckey=policy.labels.wckey,
        max_cores=policy.ceilings.cores,
        max_memory_mb=policy.ceilings.memory_mb,
        max_minutes=policy.ceilings.minutes,
        max_open_jobs=policy.project_limits.open_jobs,
        core_hours_a_month=policy.project_limits.core_hours,
        max_bytes=policy.project_bytes,
    )
    own = {name: getattr(project, _COLUMNS.get(name, name)) for name in models.AllocationValues.model_fields}
    return models.Allocation(project=project.name, site=site, **own)
