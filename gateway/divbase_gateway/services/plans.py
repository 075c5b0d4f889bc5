"""Index plans, and plans to and from the JSON that is stored with a job. The rules of planning are in the domain."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

from divbase_gateway.db.models import FileVersionRow, JobRow
from divbase_gateway.domain.allocations import Resources
from divbase_gateway.domain.planning import plan_from_dict
from divbase_gateway.domain.queries import IndexPlan, Plan
from divbase_gateway.domain.repairs import RepairPlan
from divbase_gateway.domain.sidecars import KIND as SIDECAR
from divbase_gateway.domain.sidecars import SidecarPlan

_MIB = 1024 * 1024


def index_plan_for(key: str, version: FileVersionRow) -> IndexPlan:
    """What building the index of this version takes: one core, a sequential read at some 50 MB/s with room to spare."""
    size_mb = version.size // _MIB + 1
    return IndexPlan(
        key=key,
        version_id=version.version_id,
        size=version.size,
        etag=version.etag,
        sha256=version.sha256,
        format=version.format,
        output_key=f".divbase/indexes/{key}/{version.version_id}.csi",
        memory_mb=512,
        cores=1,
        minutes=10 + size_mb // 1000,
        scratch_mb=size_mb + 64,
    )


def index_plan_to_dict(plan: IndexPlan) -> dict[str, Any]:
    return asdict(plan)


def index_plan_digest(plan: IndexPlan) -> str:
    return hashlib.sha256(json.dumps(asdict(plan), sort_keys=True).encode()).hexdigest()


def resources_of(plan: Plan | IndexPlan | RepairPlan | SidecarPlan) -> Resources:
    """What a job of this plan asks of the scheduler."""
    return Resources(plan.cores, plan.memory_mb, plan.minutes)


def query_plan_of(job: JobRow) -> Plan:
    """The stored plan of a query job."""
    return plan_from_dict(job.plan)


def index_plan_of(job: JobRow) -> IndexPlan:
    """The stored plan of an index job."""
    return IndexPlan(**job.plan)


def repair_plan_of(job: JobRow) -> RepairPlan:
    """The stored plan of a repair."""
    return RepairPlan(**job.plan)


def sidecar_plan_of(job: JobRow) -> SidecarPlan:
    """The stored plan of a job that writes a BCF copy."""
    return SidecarPlan(**job.plan)


def file_plan_of(job: JobRow) -> IndexPlan | RepairPlan | SidecarPlan:
    """The stored plan of a job that reads one file whole."""
    if job.kind == SIDECAR:
        return sidecar_plan_of(job)
    return index_plan_of(job) if job.kind == "index" else repair_plan_of(job)
