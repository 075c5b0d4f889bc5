"""The list of a project's jobs: what a line says, and what it costs to read, on both databases."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, cast

import pytest
from divbase_gateway.db import jobs as rows
from divbase_gateway.db.models import AttemptRow, JobRow
from divbase_gateway.db.session import Database
from divbase_gateway.domain.jobs import JobState
from divbase_gateway.ports import ObjectStore
from sqlalchemy import delete, select, update

from tests.api import Caller, build_api
from tests.crowd import write_crowd
from tests.fakes.clock import FakeClock
from tests.fakes.object_store import FakeObjectStore
from tests.fakes.scheduler import FakeScheduler
from tests.statements import at_each_statement, statements_of

JOBS = "/projects/crowd/jobs"


@pytest.fixture
def admin(database: Database, clock: FakeClock) -> Caller:
    """A site admin, on a database that has no jobs yet."""
    api = build_api(database, cast("ObjectStore", FakeObjectStore(clock)), FakeScheduler(clock), clock)
    return api.add_caller("ada@example.org", admin=True)


def test_a_line_says_what_the_job_itself_says(database: Database, clock: FakeClock, admin: Caller) -> None:
    """Guards: a listing is read another way than a job, and says the same: waiting, running, ended, without attempt,
    and of several attempts the one that counts."""
    write_crowd(database, 5, JobState.QUEUED, clock.now())
    now = clock.now()
    with database.write() as session:
        ids = list(session.scalars(select(JobRow.id).order_by(JobRow.id)))
        waits = {"queue_place": 3, "queue_length": 9, "expected_start": now + timedelta(hours=1), "partition": "main"}
        session.execute(update(AttemptRow).values(node="c7", **waits))
        session.execute(update(JobRow).where(JobRow.id == ids[1]).values(state="RUNNING", started_at=now))
        running = {"progress_stage": "run", "progress_done": 2, "progress_total": 4, "cancel_requested_at": now}
        session.execute(update(JobRow).where(JobRow.id == ids[1]).values(running))
        failed = {"state": "FAILED", "reason": "disk_full", "message": "The disk is full.", "ended_at": now}
        session.execute(update(JobRow).where(JobRow.id == ids[2]).values(failed))
        session.execute(update(JobRow).where(JobRow.id == ids[3]).values(state="ACCEPTED", attempt=0))
        session.execute(delete(AttemptRow).where(AttemptRow.job_id == ids[3]))
        session.execute(update(JobRow).where(JobRow.id == ids[4]).values(attempt=2, stuck="It is held."))
        again = {"number": 2, "slurm_name": "again", "token_sha256": "0" * 64, "created_at": now, "uploads": []}
        session.add(AttemptRow(job_id=ids[4], cores=1, memory_mb=1, minutes=1, slurm_reason="Resources", **again))
        session.execute(update(JobRow).values(kind="index"))  # of which GET reads no plan
    lines = admin.get(JOBS).json()["items"]
    assert [line["state"] for line in lines] == ["QUEUED", "ACCEPTED", "FAILED", "RUNNING", "QUEUED"]
    for line in lines:
        whole = admin.get(f"{JOBS}/{line['id']}").json()
        assert line == {name: whole[name] for name in line}
    assert lines[0]["slurm_reason"] == "Resources"
    assert (lines[4]["queue_place"], lines[3]["queue_place"]) == (3, None)
    assert lines[1]["slurm_job_id"] is None


@pytest.mark.parametrize("count", [1, 60])
def test_a_page_costs_as_many_statements_as_a_line(
    database: Database, clock: FakeClock, admin: Caller, count: int
) -> None:
    """Guards: one query for the caller and one for the page, and no plan is read for it."""
    write_crowd(database, count, JobState.RUNNING, clock.now())
    admin.get(JOBS)  # notes that the key was used
    with statements_of(database) as said:
        page = admin.get(JOBS, limit=50).json()
    assert len(page["items"]) == min(count, 50)
    assert len([each for each in said if each.startswith("SELECT")]) == 2
    assert not [each for each in said if "jobs.plan" in each]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "asked", [{}, {"states": ["RUNNING", "QUEUED"]}, {"user_id": 1}, {"kind": "repair"}, {"before": 7}]
)
def test_what_a_page_passes_over_is_not_read(database: Database, asked: dict[str, Any]) -> None:
    """Guards: to find that nothing runs, the rows of a long history are not touched; SQLite says how it would go."""
    found: list[str] = []

    def explain(connection: Any, cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        if not statement.startswith("EXPLAIN"):
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            found.extend(row[3] for row in plan if " jobs " in row[3])

    with at_each_statement(database, explain), database.read() as session:
        rows.list_jobs(session, 1, **{"before": None, "limit": 50, **asked})
    by_index, by_row = found if "COVERING" in found[0] else found[::-1]
    assert by_index.startswith("SEARCH jobs USING COVERING INDEX ix_jobs_listed (project_id=?")
    assert by_row == "SEARCH jobs USING INTEGER PRIMARY KEY (rowid=?)"
