"""Query jobs and the BCF copies that their plans read: a copy that is gone or damaged costs a query time and never its
answer, because the files themselves are still there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy.orm import Session

from divbase_gateway.db import sidecars as rows
from divbase_gateway.db.models import JobRow, ProjectRow
from divbase_gateway.domain.files import CataloguedFile
from divbase_gateway.domain.jobs import Reason
from divbase_gateway.domain.plans import plan_to_dict, without_copies
from divbase_gateway.domain.sidecars import SidecarState
from divbase_gateway.services.allocations import ceilings_of
from divbase_gateway.services.plans import query_plan_of
from divbase_gateway.services.policy import JobPolicy

log = structlog.get_logger()

_OF_INPUTS = (Reason.INPUT_MISSING, Reason.INPUT_CORRUPT)

Copy = tuple[str, str]
"""Key and version id of a copy."""


def with_sidecars(session: Session, project: ProjectRow, files: Sequence[CataloguedFile]) -> list[CataloguedFile]:
    """The files with the copies that plans may read of them: none where the project does not want any."""
    found = rows.sidecars_of(session, project.id) if project.sidecars else {}
    return [replace(each, sidecar=found.get((each.key, each.version_id))) for each in files] if found else list(files)


def copies_of(plan: Mapping[str, Any]) -> dict[str, Copy]:
    """Key of a file -> the copy that a stored plan reads in its place."""
    copied = ((entry["key"], entry.get("copy")) for entry in plan.get("inputs", ()))
    return {key: (copy["key"], copy["version_id"]) for key, copy in copied if copy is not None}


def label_of(key: str) -> str:
    """What a job calls the copy of a file."""
    return f"the BCF copy of {key}"


def require_copies(session: Session, job: JobRow, policy: JobPolicy) -> None:
    """Before a query runs again: where a copy that it was planned on is gone, it reads the files themselves."""
    copies = copies_of(job.plan)
    if copies and len(rows.find_ready(session, job.project_id, list(copies.values()))) < len(copies):
        _read_files(job, policy)


def give_up(session: Session, job: JobRow, reason: Reason, message: str, policy: JobPolicy, now: datetime) -> bool:
    """After a query, or a shard of one, failed for an input: whether that may have been a copy. Then the plan reads the
    files themselves, and the copies that the message names are written anew (all of them, where it names no input).

    A job that joins what shards made has read no copy, whatever its plan says of theirs.
    """
    copies = copies_of(job.plan) if job.gathers is None else {}
    if reason not in _OF_INPUTS or not copies:
        return False
    named = [copy for key, copy in copies.items() if label_of(key) in message]
    read_themselves = [entry["key"] for entry in job.plan["inputs"] if entry["key"] not in copies]
    if not named and any(key in message for key in read_themselves):
        return False
    for row in rows.find_ready(session, job.project_id, named or list(copies.values())):
        row.state, row.state_since, row.data_begin = SidecarState.GOING, now, None
        log.warning("sidecar.given_up", key=row.key, version_id=row.version_id, job=job.public_id, message=message)
    _read_files(job, policy)
    return True


def _read_files(job: JobRow, policy: JobPolicy) -> None:
    plan = without_copies(query_plan_of(job))
    most = ceilings_of(job.project, policy).minutes
    job.minutes = max(job.minutes, plan.minutes if most is None else min(plan.minutes, most))
    job.plan = plan_to_dict(replace(plan, minutes=min(plan.minutes, job.minutes)))  # a plan that may run again
