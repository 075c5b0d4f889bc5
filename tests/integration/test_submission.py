"""Jobs are submitted once, whatever answer is lost and whoever dies.

The scheduler is the one in memory, and the job's own calls are made by `tests.world`; on both databases.
"""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from divbase_gateway.db.models import JobRow
from divbase_gateway.domain.errors import SchedulerUnavailable, SubmissionUnknown
from divbase_gateway.ports import SlurmRef, Submission
from divbase_gateway.reconciler import Pace
from sqlalchemy import select

from tests.fakes.clock import FakeClock
from tests.fakes.scheduler import LostAnswer
from tests.world import COMPLETED, QUIET, SECOND, Killed, World

# --- submission: exactly once --------------------------------------------------------------------------------------


def test_an_answer_that_was_lost_after_accepting_is_found(world: World) -> None:
    """Guards: the job is adopted by its name, not submitted again."""
    job = world.accept()
    world.scheduler.lose_answer = LostAnswer.AFTER_ACCEPT
    world.tick()
    assert (world.state(job), world.scheduler.accepted) == ("QUEUED", 1)
    attempts = world.attempts(job)
    assert [(each.number, each.slurm_job_id) for each in attempts] == [(1, "1")]


def test_an_answer_that_was_lost_before_accepting_leads_to_a_new_attempt(world: World) -> None:
    """Guards: after a quiet period of empty answers the job goes out once more, under another name and token."""
    job = world.accept()
    world.scheduler.lose_answer = LostAnswer.BEFORE_ACCEPT
    world.tick()
    assert world.state(job) == "SUBMIT_UNKNOWN"
    world.tick(QUIET - SECOND)
    assert (world.state(job), world.scheduler.accepted) == ("SUBMIT_UNKNOWN", 0)
    world.tick(SECOND)
    world.tick()
    assert (world.state(job), world.scheduler.accepted) == ("QUEUED", 1)
    first, second = world.attempts(job)
    assert (first.outcome, second.outcome) == ("not_submitted", None)
    assert first.slurm_name != second.slurm_name
    assert first.token_sha256 != second.token_sha256


@pytest.mark.parametrize(("killed", "attempt"), [(LostAnswer.AFTER_ACCEPT, 1), (LostAnswer.BEFORE_ACCEPT, 2)])
@pytest.mark.parametrize("same_process", [True, False])
def test_a_gateway_that_dies_while_it_submits_looks_before_it_submits_again(
    world: World, killed: LostAnswer, attempt: int, same_process: bool
) -> None:
    """Guards: kill -9 between the commit of SUBMITTING and that of the answer; also where only the commit failed."""
    job = world.accept()
    world.scheduler.kills = killed
    with pytest.raises(Killed):
        world.tick()
    assert world.state(job) == "SUBMITTING"
    if not same_process:
        world.clock.advance(timedelta(minutes=1))  # until the dead one's lease has expired
        world.restart()
    world.tick()
    world.tick(QUIET)
    world.tick()
    assert (world.state(job), world.scheduler.accepted, len(world.attempts(job))) == ("QUEUED", 1, attempt)


def test_searches_that_fail_are_no_empty_answers(world: World) -> None:
    """Guards: the quiet period is one of successful searches; it begins anew after one that failed."""
    job = world.accept()
    world.scheduler.lose_answer = LostAnswer.BEFORE_ACCEPT
    world.tick()
    world.scheduler.away = True
    world.tick(QUIET)
    world.scheduler.away = False
    world.tick(QUIET)
    assert (world.state(job), len(world.attempts(job))) == ("SUBMIT_UNKNOWN", 1)
    world.tick(QUIET)
    world.tick()
    assert (world.state(job), len(world.attempts(job))) == ("QUEUED", 2)


def test_a_search_looks_far_enough_back(world: World) -> None:
    """Guards: a scheduler whose clock is behind ours writes a submission time before the one that we noted, by hours
    where somebody took local time for UTC."""
    job = world.accept()
    world.scheduler.lose_answer = LostAnswer.AFTER_ACCEPT
    behind = FakeClock(world.clock.now() - timedelta(hours=14))
    world.scheduler.clock = behind
    world.tick()
    assert (world.state(job), world.scheduler.accepted) == ("QUEUED", 1)


def test_a_job_may_claim_before_its_answer_is_found(world: World) -> None:
    """Guards: a fast job whose submission is still unanswered works, and is adopted afterwards."""
    job = world.accept()
    world.scheduler.kills = LostAnswer.AFTER_ACCEPT
    with pytest.raises(Killed):
        world.tick()
    world.node(job).work()
    world.sees(job, COMPLETED)
    world.tick()
    assert (world.end(job), len(world.attempts(job))) == (("SUCCEEDED", None), 1)


def test_a_refused_job_has_failed_in_the_scheduler_s_words(world: World) -> None:
    """Guards: a definite no is not tried again."""
    job = world.accept()
    world.scheduler.refusal = "sbatch: error: invalid account"
    world.tick()
    row = world.job(job)
    assert (row.state, row.reason, row.message) == (
        "FAILED",
        "submission_refused",
        "sbatch: error: invalid account",
    )
    world.tick()
    assert len(world.attempts(job)) == 1


def test_a_scheduler_that_is_away_gets_the_job_later(world: World) -> None:
    """Guards: nothing was accepted, so the job waits, and hours of waiting leave no trail of attempts."""
    job = world.accept()
    world.scheduler.away = True
    for _ in range(5):
        world.tick(timedelta(minutes=10))
    row = world.job(job)
    assert (row.state, row.attempt, row.attempts) == ("ACCEPTED", 0, [])
    world.scheduler.away = False
    world.tick()
    assert (world.state(job), [each.number for each in world.attempts(job)]) == ("QUEUED", [1])


def test_a_job_without_a_script_does_not_hold_up_the_next(world: World) -> None:
    """Guards: a plan that cannot be rendered fails its own job only."""
    broken, sound = world.accept(), world.accept()
    with world.gateway.sessions.write() as session:
        plan = session.scalars(select(JobRow).where(JobRow.public_id == broken)).one()
        plan.plan = {"minutes": 1, "cores": 1, "memory_mb": 1}
    world.tick()
    assert world.end(broken) == ("FAILED", "internal_error")
    assert world.state(sound) == "QUEUED"


# --- several submissions at once -----------------------------------------------------------------------------------


def test_submissions_are_under_way_at_the_same_time_and_no_more_than_may(world: World) -> None:
    """Guards: four clients' jobs do not wait for each other's answers; each job goes out once, oldest first."""
    jobs = [world.accept() for _ in range(9)]
    take, meet, lock, under_way, most = world.scheduler.submit, threading.Barrier(3), threading.Lock(), [0], [0]

    def submit(submission: Submission) -> SlurmRef:
        with lock:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
        meet.wait(30)
        with lock:
            under_way[0] -= 1
            return take(submission)

    world.scheduler.submit = submit  # type: ignore[method-assign]
    world.restart(pace=Pace(submissions=3)).tick()
    assert [world.state(job) for job in jobs] == ["QUEUED"] * 9
    assert [len(world.attempts(job)) for job in jobs] == [1] * 9
    assert (world.scheduler.accepted, most) == (9, [3])


@pytest.mark.parametrize("fault", [SubmissionUnknown("lost"), SchedulerUnavailable("away")])
def test_after_a_fault_no_submission_is_begun(world: World, fault: Exception) -> None:
    """Guards: those under way end, and the rest of the row stays ACCEPTED."""
    jobs = [world.accept() for _ in range(8)]
    asked, lock = [], threading.Lock()

    def submit(submission: Submission) -> SlurmRef:
        with lock:
            asked.append(submission.name)
        raise fault

    world.scheduler.submit = submit  # type: ignore[method-assign]
    world.scheduler.find = lambda name, since: []  # type: ignore[method-assign]
    world.restart(pace=Pace(submissions=2)).tick()
    assert 1 <= len(asked) <= 2
    states = [world.state(job) for job in jobs]
    left = "SUBMIT_UNKNOWN" if isinstance(fault, SubmissionUnknown) else "ACCEPTED"
    assert states == [left] * len(asked) + ["ACCEPTED"] * (8 - len(asked))
