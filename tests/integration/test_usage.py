"""What attempts used, counted from the rows on both databases."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from divbase_gateway.db import usage as rows
from divbase_gateway.db.models import AttemptRow, JobRow, ProjectRow, UserRow
from divbase_gateway.db.session import Database
from divbase_gateway.services.corrections import Corrections

from tests.fakes.scheduler import FakeScheduler
from tests.world import COMPLETED, World

MAY = datetime(2026, 5, 1, tzinfo=UTC)
JUNE = datetime(2026, 6, 1, tzinfo=UTC)
NOON = datetime(2026, 5, 20, 12, tzinfo=UTC)


@dataclass
class Books:
    """Projects, users and attempts, put into the database as they are told."""

    database: Database
    projects: dict[str, int] = field(default_factory=dict)
    users: dict[str, int] = field(default_factory=dict)
    count: int = 0

    def attempt(self, project: str = "pelican", user: str = "ada@example.org", **values: Any) -> int:
        """A settled attempt of a job of its own that ran for an hour on two cores, but for `values`; its row's id."""
        self.count += 1
        with self.database.write() as session:
            for name, known, row in (
                (project, self.projects, ProjectRow(name=project, bucket=f"divbase-{project}", created_at=MAY)),
                (user, self.users, UserRow(public_id=f"u{self.count}", email=user, created_at=MAY)),
            ):
                if name not in known:
                    session.add(row)
                    session.flush()
                    known[name] = row.id
            job = values.pop("job_id", None) or self._job(session, project, user)
            started = values.get("started_at", NOON)
            filled = {
                "job_id": job,
                "number": 1,
                "slurm_name": f"divbase-{project}-{self.count}",
                "token_sha256": "0" * 64,
                "created_at": NOON,
                "cores": 2,
                "memory_mb": 100,
                "minutes": 90,
                "uploads": [],
                "cluster": "fake",
                "slurm_job_id": str(self.count),
                "submitted_at": NOON,
                "started_at": started,
                "ended_at": None if started is None else started + timedelta(hours=1),
                "elapsed_s": 3600.0,
                "cpu_s": 1800.0,
                "alloc_cpus": 2,
                "outcome": "succeeded",
            }
            attempt = AttemptRow(**{**filled, **values})
            session.add(attempt)
            session.flush()
            return attempt.id

    def _job(self, session: Any, project: str, user: str) -> int:
        job = JobRow(
            public_id=f"j{self.count}",
            project_id=self.projects[project],
            user_id=self.users[user],
            kind="query",
            name="x",
            plan={},
            plan_digest="",
            state="SUCCEEDED",
            attempt=1,
            cores=2,
            memory_mb=100,
            minutes=90,
            created_at=NOON,
            state_since=NOON,
            results=[],
        )
        session.add(job)
        session.flush()
        return job.id

    def job_of(self, attempt: int) -> int:
        with self.database.read() as session:
            return session.get_one(AttemptRow, attempt).job_id

    def core_s(self, **whose: int) -> float:
        with self.database.read() as session:
            return rows.core_seconds(session, MAY, JUNE, **whose)


@pytest.fixture
def books(database: Database) -> Books:
    return Books(database)


def test_core_seconds_are_time_by_the_processors_that_were_given(books: Books) -> None:
    """A node may give more than was asked for, and the site pays for that."""
    books.attempt(alloc_cpus=4)
    assert books.core_s() == 4 * 3600


def test_what_accounting_has_not_told_counts_as_asked_for_and_seen(books: Books) -> None:
    """Slurmdbd may be away for hours; a limit must hold meanwhile."""
    books.attempt(elapsed_s=None, alloc_cpus=None, cpu_s=None)
    assert books.core_s() == pytest.approx(2 * 3600)


@pytest.mark.parametrize(("ended_at", "counts"), [(MAY, True), (JUNE, False), (MAY - timedelta(seconds=1), False)])
def test_attempt_counts_when_it_ended(books: Books, ended_at: datetime, counts: bool) -> None:
    """The first moment of the month belongs to it, the last is the next month's first."""
    books.attempt(ended_at=ended_at)
    assert books.core_s() == (7200 if counts else 0)


def test_what_still_runs_does_not_count_yet(books: Books) -> None:
    """It is counted whole when it has ended."""
    books.attempt(outcome=None, ended_at=None, elapsed_s=None)
    assert books.core_s() == 0


def test_core_seconds_of_a_project_and_of_a_user(books: Books) -> None:
    """Each has their own, and nothing of others."""
    books.attempt("pelican", "ada@example.org")
    books.attempt("pelican", "eve@example.org", elapsed_s=1800.0)
    books.attempt("heron", "ada@example.org", elapsed_s=10.0)
    assert books.core_s(project_id=books.projects["pelican"]) == 2 * (3600 + 1800)
    assert books.core_s(user_id=books.users["ada@example.org"]) == 2 * (3600 + 10)


def test_grouped_by_project_and_by_user(books: Books) -> None:
    """A job of two attempts is one job; one that never started is none; processor time only where it is known."""
    first = books.attempt("pelican", "ada@example.org", outcome="node_failed", cpu_s=None, elapsed_s=60.0)
    books.attempt("pelican", "ada@example.org", job_id=books.job_of(first), number=2)
    books.attempt("pelican", "eve@example.org", started_at=None, ended_at=NOON, elapsed_s=0.0, cpu_s=0.0)
    books.attempt("heron", "eve@example.org", cpu_s=7200.0)
    with books.database.read() as session:
        assert rows.used_by_project(session, MAY, JUNE) == [
            rows.Used("heron", 1, 1, 7200.0, 7200.0, 7200.0),
            rows.Used("pelican", 1, 2, 7320.0, 1800.0, 7200.0),
        ]
        assert [(each.name, each.attempts) for each in rows.used_by_user(session, MAY, JUNE)] == [
            ("ada@example.org", 2),
            ("eve@example.org", 1),
        ]


def test_attempts_without_accounting_are_those_that_ran_and_ended(books: Books) -> None:
    """Not what still runs, never reached the scheduler, is known already, or is older."""
    missing = books.attempt(elapsed_s=None)
    books.attempt(elapsed_s=None, outcome=None)
    books.attempt(elapsed_s=None, slurm_job_id=None)
    books.attempt()
    books.attempt(elapsed_s=None, created_at=MAY - timedelta(days=1))
    with books.database.read() as session:
        assert [attempt.id for attempt in rows.without_accounting(session, MAY)] == [missing]


# --- what accounting could not tell at the time ------------------------------------------------------------------


def ended_without_accounting(world: World) -> str:
    """A job that was settled while accounting was away, at a gateway whose housekeeping is due."""
    job = world.submit()
    world.node(job).work()
    world.sees(job, COMPLETED)
    world.tick()
    assert (world.state(job), world.attempts(job)[0].elapsed_s) == ("SUCCEEDED", None)
    ended_at = world.clock.now()
    world.at_scheduler(job).sighting = replace(
        COMPLETED, started_at=ended_at, ended_at=ended_at, elapsed_s=60.0, cpu_s=30.0, alloc_cpus=3
    )
    cast("FakeScheduler", world.gateway.scheduler).jobs = world.scheduler.jobs
    world.clock.advance(timedelta(hours=1))  # until the lease of the reconciler before has expired
    return job


def test_housekeeping_asks_for_what_accounting_could_not_tell(world: World) -> None:
    """Guards: numbers that are missing come by themselves, within the hour."""
    job = ended_without_accounting(world)
    world.gateway.reconciler.tick()
    (attempt,) = world.attempts(job)
    assert (attempt.elapsed_s, attempt.cpu_s, attempt.alloc_cpus) == (60.0, 30.0, 3)


def test_housekeeping_does_not_mind_that_accounting_is_away(world: World) -> None:
    """Guards: the tick goes on, and the next hour asks again."""
    job = ended_without_accounting(world)
    scheduler = cast("FakeScheduler", world.gateway.scheduler)
    scheduler.accounting_away = True
    world.gateway.reconciler.tick()
    assert world.attempts(job)[0].elapsed_s is None
    scheduler.accounting_away = False
    world.clock.advance(timedelta(minutes=61))
    world.gateway.reconciler.tick()
    assert world.attempts(job)[0].elapsed_s == 60.0


def test_what_was_given_is_kept_with_the_attempt(world: World) -> None:
    """Guards: the cores that the scheduler gave, which may be more than were asked for, are written down at the end."""
    job = world.submit()
    world.node(job).work()
    world.sees(job, replace(COMPLETED, elapsed_s=60.0, cpu_s=30.0, alloc_cpus=3))
    world.tick()
    assert world.attempts(job)[0].alloc_cpus == 3


def test_what_jobs_took_corrects_the_next_plans(books: Books) -> None:
    """The latest that succeeded and that the model gave ten seconds count, newest first; others say nothing of it."""
    for elapsed_s in (100.0, 300.0, 200.0, 200.0, 200.0):
        books.attempt(model_s=100, elapsed_s=elapsed_s, max_rss_bytes=50 << 20)
    books.attempt(model_s=100, elapsed_s=1.0, outcome="node_failed")
    books.attempt(model_s=9, elapsed_s=90.0)
    books.attempt(model_s=100, elapsed_s=None)
    books.attempt(elapsed_s=7.0)
    with books.database.read() as session:
        found = rows.latest_timed(session, 200)
        assert len(rows.latest_timed(session, 2)) == 2
    assert [took for _, took, _, _ in found] == [200.0, 200.0, 200.0, 300.0, 100.0]
    assert found[0] == (100, 200.0, 100, 50 << 20)
    corrections = Corrections()
    assert corrections.current(books.database, NOON).usual == 2.0
    for _ in range(20):
        books.attempt(model_s=100, elapsed_s=400.0)
    assert corrections.current(books.database, NOON + timedelta(minutes=1)).usual == 2.0, "asked a minute ago"
    assert corrections.current(books.database, NOON + timedelta(minutes=6)).usual == 4.0
