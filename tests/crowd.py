"""A database with a crowd of jobs that the scheduler has: what the cost of a tick is measured on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta

from divbase_gateway.db.models import AttemptRow, JobRow, ProjectRow, UserRow
from divbase_gateway.db.session import Database
from divbase_gateway.domain.jobs import JobState
from divbase_gateway.ports import SlurmRef
from sqlalchemy import insert, select, text

CLUSTER = "crowded"
_BATCH = 2_000
_PLAN = {
    "output": "vcf.gz",
    "output_name": "result.vcf.gz",
    "inputs": [{"key": f"sites/site{n:03}.vcf.gz"} for n in range(40)],
}


def write_crowd(database: Database, count: int, state: JobState, now: datetime) -> list[SlurmRef]:
    """`count` jobs of one project in this state, each with one attempt that the scheduler took: their references."""
    submitted_at = (now - timedelta(hours=1)).replace(microsecond=0)
    with database.write() as session:
        user = UserRow(public_id="u-crowd", email="crowd@example.org", name="", is_admin=False, created_at=now)
        project = ProjectRow(name="crowd", description="", bucket="b-crowd", created_at=now)
        session.add_all([user, project])
        session.flush()
        user_id, project_id = user.id, project.id
    refs = [
        SlurmRef(CLUSTER, str(1000 + number), f"divbase-crowd-c{number:05}-0a1b2c3d", submitted_at)
        for number in range(count)
    ]
    for start in range(0, count, _BATCH):
        with database.write() as session:
            batch = refs[start : start + _BATCH]
            session.execute(insert(JobRow), [_job(ref, state, user_id, project_id) for ref in batch])
            named = [_public_id(ref) for ref in batch]
            found = session.execute(select(JobRow.public_id, JobRow.id).where(JobRow.public_id.in_(named)))
            ids = {row.public_id: row.id for row in found}
            session.execute(insert(AttemptRow), [_attempt(ref, ids[_public_id(ref)], state) for ref in batch])
    with database.write() as session:
        session.execute(text("ANALYZE"))  # as a server does by itself within a minute
    return refs


def _public_id(ref: SlurmRef) -> str:
    return ref.name.split("-")[2]


def _job(ref: SlurmRef, state: JobState, user_id: int, project_id: int) -> dict[str, object]:
    return {
        "public_id": _public_id(ref),
        "project_id": project_id,
        "user_id": user_id,
        "kind": "query",
        "name": "result.vcf.gz",
        "query": {"all_samples": True},
        "plan": _PLAN,
        "plan_digest": "0" * 64,
        "state": state,
        "attempt": 1,
        "cores": 2,
        "memory_mb": 4096,
        "minutes": 60,
        "created_at": ref.submitted_at,
        "state_since": ref.submitted_at,
        "started_at": None if state is JobState.QUEUED else ref.submitted_at,
        "results": [],
    }


def _attempt(ref: SlurmRef, job_id: int, state: JobState) -> dict[str, object]:
    waits = state is JobState.QUEUED
    return {
        "job_id": job_id,
        "number": 1,
        "slurm_name": ref.name,
        "token_sha256": hashlib.sha256(ref.name.encode()).hexdigest(),
        "created_at": ref.submitted_at,
        "cores": 2,
        "memory_mb": 4096,
        "minutes": 60,
        "cluster": ref.cluster,
        "slurm_job_id": ref.job_id,
        "submitted_at": ref.submitted_at,
        "slurm_state": "PENDING" if waits else "RUNNING",
        "slurm_reason": "Priority" if waits else None,
        "node": None if waits else "c1",
        "uploads": [],
    }


def positions(database: Database, refs: Sequence[SlurmRef]) -> list[tuple[int | None, int | None]]:
    """(place, length) of these jobs in the queue, as the rows have them."""
    with database.read() as session:
        found = session.execute(select(AttemptRow.slurm_name, AttemptRow.queue_place, AttemptRow.queue_length))
        by_name = {name: (place, length) for name, place, length in found}
    return [by_name[ref.name] for ref in refs]
