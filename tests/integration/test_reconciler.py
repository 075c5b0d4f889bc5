"""Jobs from acceptance to what is tidied after their end, and the one of several gateways that leads.

The scheduler is the one in memory, and the job's own calls are made by `tests.world`; on both databases.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from divbase_gateway.db import jobs as job_rows
from divbase_gateway.db.session import Database
from divbase_gateway.domain.jobs import JobState
from divbase_gateway.ports import SlurmRef, Submission
from sqlalchemy import event

from tests.world import COMPLETED, FAILED, RESULT, World, index_of, work_on_index

# --- the good way --------------------------------------------------------------------------------------------------


def test_a_job_from_acceptance_to_success(world: World) -> None:
    """Guards: every state on the way, one attempt, results pinned to their versions, the directory gone."""
    job = world.accept()
    assert world.state(job) == "ACCEPTED"
    world.tick()
    assert world.state(job) == "QUEUED"
    node = world.node(job)
    assert node.claim().status_code == 200
    assert world.state(job) == "RUNNING"
    node.push("result.vcf.gz", "result", RESULT)
    assert node.report().status_code == 200
    assert world.state(job) == "FINALIZING"
    world.sees(job, COMPLETED)
    world.tick()
    row = world.job(job)
    assert (row.state, row.reason, row.message, len(row.attempts)) == ("SUCCEEDED", None, None, 1)
    assert [(each["role"], each["key"], each["version_id"]) for each in row.results] == [
        ("result", f"results/{job}/result.vcf.gz", node.outputs[0]["version_id"])
    ]
    assert [attempt.outcome for attempt in row.attempts] == ["succeeded"]
    assert [ref.name for ref in world.scheduler.discarded] == [row.attempts[0].slurm_name]


def test_a_tick_with_nothing_to_do_asks_nobody(world: World) -> None:
    """Guards: an idle gateway leaves the scheduler in peace, and says that it is idle."""
    assert world.reconciler.tick() is False
    assert world.scheduler.looks == 0


def test_one_look_for_all_jobs(world: World) -> None:
    """Guards: the scheduler is asked once a tick, however many jobs there are."""
    for _ in range(3):
        world.accept()
    world.tick()
    assert world.scheduler.looks == 1
    world.tick()
    assert world.scheduler.looks == 2


# --- afterwards ----------------------------------------------------------------------------------------------------


def test_the_log_of_a_job_that_could_not_send_it_is_kept(world: World) -> None:
    """Guards: the log is taken from the job's directory before that is removed."""
    job = world.submit()
    world.at_scheduler(job).log = b"bash: bcftools: command not found\n"
    world.sees(job, FAILED)
    world.tick()
    assert world.log(job) == {"text": "bash: bcftools: command not found\n", "complete": True}
    assert len(world.scheduler.discarded) == 1


def test_what_is_tidied_waits_for_store_and_scheduler(world: World) -> None:
    """Guards: a log that cannot be stored yet keeps its directory."""
    job = world.submit()
    world.at_scheduler(job).log = b"a log"
    world.sees(job, FAILED)
    world.store.away = True
    world.reconciler._tick_safely()
    assert (world.state(job), world.scheduler.discarded) == ("FAILED", [])
    world.store.away = False
    world.tick()
    assert len(world.scheduler.discarded) == 1
    assert world.log(job)["complete"] is True


def test_a_built_index_makes_its_file_usable(world: World, tmp_path: Path) -> None:
    """Guards: the file gets its index when the job has succeeded."""
    job, index = index_of(world, tmp_path)
    world.tick()
    work_on_index(world, job, index)
    assert world.end(job) == ("SUCCEEDED", None)
    assert world.lab.info("b.vcf.gz")["state"] == "READY"


def test_an_index_that_could_not_be_built_can_be_built_by_a_rerun(world: World, tmp_path: Path) -> None:
    """Guards: the file says why it cannot be used, and can be once the job ran again with success."""
    job, index = index_of(world, tmp_path)
    world.tick()
    node = world.node(job)
    node.claim()
    node.report("unsorted", "b.vcf.gz is not sorted.")
    world.sees(job, FAILED)
    world.tick()
    info = world.lab.info("b.vcf.gz")
    assert (info["state"], info["reason"]) == ("UNUSABLE", "b.vcf.gz is not sorted.")
    assert world.rerun(job).status_code == 201
    world.tick()
    work_on_index(world, job, index)
    info = world.lab.info("b.vcf.gz")
    assert (info["state"], info["reason"]) == ("READY", None)


# --- several gateways ----------------------------------------------------------------------------------------------


def test_one_of_two_reconcilers_leads(world: World) -> None:
    """Guards: the other does nothing, until the leader stops or is not heard of any more."""
    first = world.reconciler
    first.tick()
    second = world.restart("the second")
    job = world.accept()
    second.tick()
    assert world.state(job) == "ACCEPTED"
    first.tick()
    assert world.state(job) == "QUEUED"
    first.stop()
    other = world.accept()
    second.tick()
    assert world.state(other) == "QUEUED"
    assert world.scheduler.accepted == 2


def test_a_leader_that_is_not_heard_of_is_succeeded(world: World) -> None:
    """Guards: the lease of a gateway that was killed expires."""
    world.tick()
    world.restart("the second")
    job = world.accept()
    world.tick(timedelta(seconds=25))
    assert world.state(job) == "ACCEPTED"
    world.tick(timedelta(seconds=10))
    assert world.state(job) == "QUEUED"


def test_a_deposed_leader_s_late_answer_is_not_lost(world: World) -> None:
    """Guards: a submission that took longer than the lease: its answer is adopted, its job not submitted twice."""
    job = world.accept()
    slow = world.scheduler.submit

    def submit(submission: Submission) -> SlurmRef:
        ref = slow(submission)
        world.clock.advance(timedelta(minutes=5))
        world.scheduler.submit = slow  # type: ignore[method-assign]
        world.restart("the second").tick()
        return ref

    world.scheduler.submit = submit  # type: ignore[method-assign]
    world.tick()
    world.tick()
    assert (world.state(job), world.scheduler.accepted, len(world.attempts(job))) == ("QUEUED", 1, 1)


def test_a_tick_longer_than_the_lease_keeps_it(world: World) -> None:
    """Guards: a scheduler that takes its time (SLURM lets a user in twice a second) deposes nobody."""
    jobs = [world.accept() for _ in range(4)]
    slow, first = world.scheduler.submit, world.reconciler
    second = world.restart("the second")

    def submit(submission: Submission) -> SlurmRef:
        world.clock.advance(timedelta(seconds=20))
        second.tick()
        return slow(submission)

    world.scheduler.submit = submit  # type: ignore[method-assign]
    first.tick()
    assert [world.state(job) for job in jobs] == ["QUEUED"] * 4
    assert world.scheduler.accepted == 4


def test_a_leader_that_was_deposed_in_a_tick_does_no_more(world: World) -> None:
    """Guards: nothing new is begun, nothing is looked at by two."""
    jobs = [world.accept() for _ in range(3)]
    slow, first = world.scheduler.submit, world.reconciler
    second = world.restart("the second")

    def submit(submission: Submission) -> SlurmRef:
        world.scheduler.submit = slow  # type: ignore[method-assign]
        world.clock.advance(timedelta(minutes=5))
        second.tick()
        looks.append(world.scheduler.looks)
        return slow(submission)

    looks: list[int] = []
    world.scheduler.submit = submit  # type: ignore[method-assign]
    first.tick()
    assert world.scheduler.looks == looks[0]
    second.tick()
    assert [world.state(job) for job in jobs] == ["QUEUED"] * 3
    assert world.scheduler.accepted == 3


# --- cost ----------------------------------------------------------------------------------------------------------


def test_a_tick_reads_no_job_that_is_over(sqlite_template: Path) -> None:
    """Guards: what the reconciler asks every tick is answered from the small index on open jobs."""
    database = Database(f"sqlite:///{sqlite_template}")
    asked: list[tuple[str, Any]] = []
    event.listen(
        database.engine,
        "before_cursor_execute",
        lambda c, u, statement, values, x, m: asked.append((statement, values)),
    )
    questions: list[Callable[[Any], object]] = [
        lambda session: job_rows.next_to_submit(session, 200),
        job_rows.count_open_jobs,
        job_rows.attempts_at_scheduler,
        lambda session: job_rows.jobs_in_state(session, JobState.SUBMITTING),
    ]
    try:
        for question in questions:
            asked.clear()
            with database.read() as session:
                question(session)
                statement, values = next(each for each in asked if each[0].startswith("SELECT"))
                plan = session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values).all()
            assert any("ix_jobs_open" in line[3] for line in plan), plan
    finally:
        database.close()
