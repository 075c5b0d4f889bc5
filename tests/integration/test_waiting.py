"""What a look at the scheduler writes of jobs that wait: places, expected starts, reasons; on both databases."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any, cast

import pytest
from divbase_gateway.db.models import AttemptRow, JobRow
from divbase_gateway.db.session import Database
from divbase_gateway.domain.jobs import JobState
from divbase_gateway.ports import ObjectStore, Observation, Sighting, SlurmRef
from divbase_gateway.reconciler import Pace, Reconciler
from divbase_gateway.services import settlement, waiting
from divbase_gateway.services.policy import JobPolicy
from divbase_gateway.slurm.commands import SlurmCommands
from divbase_gateway.slurm.runners import LocalRunner
from divbase_gateway.slurm.scheduler import CliScheduler
from sqlalchemy import select, update

from tests.crowd import CLUSTER, positions, write_crowd
from tests.fakes.clock import FakeClock
from tests.fakes.object_store import FakeObjectStore
from tests.fakes.recorded_slurm import RecordedSlurm, squeue_line
from tests.statements import statements_of


class Crowd:
    """Jobs that a SLURM has which prints what it is told, and reconcilers that look at it."""

    def __init__(self, database: Database, clock: FakeClock, folder: Path):
        self.database = database
        self.clock = clock
        self.slurm = RecordedSlurm(folder / "slurm")
        self.refs: list[SlurmRef] = []

    def add(self, count: int, state: JobState = JobState.QUEUED) -> list[SlurmRef]:
        self.refs = write_crowd(self.database, count, state, self.clock.now())
        return self.refs

    def reconciler(self, holder: str = "one") -> Reconciler:
        commands = SlurmCommands(PurePosixPath(self.slurm.bin_dir))
        scheduler = CliScheduler(LocalRunner(), commands, PurePosixPath(self.slurm.work_dir), CLUSTER, self.clock)
        store = cast("ObjectStore", FakeObjectStore(self.clock))
        return Reconciler(self.database, scheduler, store, self.clock, JobPolicy("http://node"), Pace(), holder)

    def waits(self, *values: dict[str, Any]) -> None:
        """What squeue prints from now on: each job waits, with these values beside the usual ones."""
        self.slurm.answer(
            "squeue",
            [
                squeue_line(ref.job_id, ref.name, **{"state": "PENDING", **own})
                for ref, own in zip(self.refs, values, strict=True)
            ],
        )

    def attempts(self) -> list[AttemptRow]:
        with self.database.read() as session:
            return list(session.scalars(select(AttemptRow).order_by(AttemptRow.id)))

    def jobs(self) -> list[JobRow]:
        with self.database.read() as session:
            return list(session.scalars(select(JobRow).order_by(JobRow.id)))


@pytest.fixture
def crowd(database: Database, clock: FakeClock, tmp_path: Path) -> Iterator[Crowd]:
    return Crowd(database, clock, tmp_path)


def test_place_in_the_queue_of_its_partition(crowd: Crowd) -> None:
    """Guards: higher priority first, then who came first; each partition is a queue of its own."""
    refs = crowd.add(4)
    crowd.waits({"PriorityLong": 5}, {"PriorityLong": 9}, {"PriorityLong": 5}, {"Partition": "long"})
    crowd.reconciler().tick()
    assert positions(crowd.database, refs) == [(2, 3), (1, 3), (3, 3), (1, 1)]


def test_expected_start_is_kept_and_goes_when_the_job_starts(crowd: Crowd) -> None:
    """Guards: a job that runs has no place in the queue and no guess; its partition stays."""
    crowd.add(2)
    start = crowd.clock.now().replace(microsecond=0) + timedelta(hours=2)
    crowd.waits({"StartTime": int(start.timestamp())}, {})
    reconciler = crowd.reconciler()
    reconciler.tick()
    first = crowd.attempts()[0]
    assert (first.expected_start, first.queue_place, first.queue_length, first.partition) == (start, 1, 2, "main")
    crowd.waits({"state": "RUNNING"}, {})
    reconciler.tick()
    first, second = crowd.attempts()
    assert (first.expected_start, first.queue_place, first.queue_length, first.partition) == (None, None, None, "main")
    assert (second.queue_place, second.queue_length) == (1, 1)


def test_a_guess_that_moves_by_seconds_is_no_news(crowd: Crowd) -> None:
    """Guards: SLURM guesses anew each half minute; nothing is written for that."""
    crowd.add(1)
    start = int(crowd.clock.now().timestamp()) + 3600
    crowd.waits({"StartTime": start})
    reconciler = crowd.reconciler()
    reconciler.tick()
    crowd.waits({"StartTime": start + 20})
    reconciler.tick()
    (attempt,) = crowd.attempts()
    assert attempt.expected_start is not None
    assert attempt.expected_start.timestamp() == start


def test_reason_and_mark_follow_the_scheduler(crowd: Crowd) -> None:
    """Guards: a job that will not start by itself is marked, and no longer when it will."""
    crowd.add(2)
    crowd.waits({"Reason": "PartitionTimeLimit"}, {"Reason": "QOSMaxJobsPerUserLimit"})
    reconciler = crowd.reconciler()
    reconciler.tick()
    first, second = crowd.jobs()
    assert (first.stuck or "").startswith("It asks for more time than its partition gives.")
    assert (second.stuck, crowd.attempts()[1].slurm_reason) == (None, "QOSMaxJobsPerUserLimit")
    crowd.waits({"Reason": "Resources"}, {})
    reconciler.tick()
    assert [(job.stuck, job.state) for job in crowd.jobs()] == [(None, "QUEUED"), (None, "QUEUED")]


def test_a_job_that_claimed_its_attempt_since_the_look_is_left_alone(crowd: Crowd) -> None:
    """Guards: what a look began to see before the job started is not written over its start."""
    (ref,) = crowd.add(1)
    with crowd.database.read() as session:
        tracked = settlement.tracked_attempts(session)
    with crowd.database.write() as session:
        session.execute(update(AttemptRow).values(claimed_at=crowd.clock.now(), node="c2"))
        session.execute(update(JobRow).values(state=JobState.RUNNING))
    look = Observation(crowd.clock.now(), {ref: Sighting("PENDING", reason="JobHeldAdmin", source="squeue")})
    with crowd.database.write() as session:
        waiting.record_waiting(session, tracked, look, crowd.clock.now())
    (attempt,) = crowd.attempts()
    assert (attempt.queue_place, attempt.slurm_reason, crowd.jobs()[0].stuck) == (None, "Priority", None)


def test_of_very_many_that_moved_the_furthest_off_come_first(crowd: Crowd) -> None:
    """Guards: a long queue is written in pieces, and none of it is left behind."""
    refs = crowd.add(4)

    def look(*priorities: int) -> list[tuple[int | None, int | None]]:
        waits = [Sighting("PENDING", "Priority", priority=priority, source="squeue") for priority in priorities]
        observation = Observation(crowd.clock.now(), dict(zip(refs, waits, strict=True)))
        with crowd.database.write() as session:
            tracked = settlement.tracked_attempts(session)
            waiting.record_waiting(session, tracked, observation, crowd.clock.now(), most_moves=2)
        return positions(crowd.database, refs)

    assert look(4, 3, 2, 1) == [(1, 4), (2, 4), (None, None), (None, None)]
    assert look(4, 3, 2, 1) == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert look(1, 2, 3, 4) == [(4, 4), (2, 4), (3, 4), (1, 4)]
    assert look(1, 2, 3, 4) == [(4, 4), (3, 4), (2, 4), (1, 4)]


# --- cost --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [10, 1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_commands_and_statements_of_a_tick_do_not_grow_with_the_jobs(crowd: Crowd, count: int) -> None:
    """Guards: one squeue a tick for any number of waiting jobs, whatever changed, and with two gateways the same; no
    row is read whole or written alone (`python -m benchmarks ticks` measures what is left)."""
    crowd.add(count)
    leader, other = crowd.reconciler("one"), crowd.reconciler("another")
    counts = []
    for reason in ("Priority", "Resources"):
        crowd.waits(*({"PriorityLong": number, "Reason": reason} for number in range(count)))
        begun = time.process_time()
        with statements_of(crowd.database) as statements:
            leader.tick()
        assert time.process_time() - begun < 6
        counts.append(len(statements))
        other.tick()
        assert crowd.slurm.calls() == ["squeue"]
    assert max(counts) < 30, statements
    assert positions(crowd.database, crowd.refs) == [(count - number, count) for number in range(count)]
    with crowd.database.read() as session:
        assert set(session.scalars(select(AttemptRow.slurm_reason))) == {"Resources"}


def test_the_second_gateway_takes_over_with_the_same_commands(crowd: Crowd) -> None:
    """Guards: when the leader is gone the other one looks, once a tick as well."""
    crowd.add(10)
    crowd.waits(*({} for _ in range(10)))
    crowd.reconciler("one").tick()
    other = crowd.reconciler("another")
    other.tick()
    assert crowd.slurm.calls() == ["squeue"]
    crowd.clock.advance(timedelta(minutes=5))
    other.tick()
    assert crowd.slurm.calls() == ["squeue"]


def test_ended_jobs_cost_one_sacct_together(crowd: Crowd) -> None:
    """Guards: two commands a tick at most, however many jobs have left squeue."""
    crowd.add(100)
    reconciler = crowd.reconciler()
    reconciler.tick()
    assert crowd.slurm.calls() == ["squeue", "sacct"]
    missing: set[datetime | None] = {attempt.missing_since for attempt in crowd.attempts()}
    assert missing == {crowd.clock.now()}
