"""Two runs of one attempt at the scheduler, because sbatch submitted twice by itself: the one that claims counts,
whichever the gateway was told of, and whether it was told of any yet."""

from __future__ import annotations

from datetime import timedelta

import pytest
from divbase_gateway.domain.errors import SchedulerUnavailable, SubmissionRefused
from divbase_gateway.ports import Sighting

from tests.fakes.scheduler import LostAnswer
from tests.world import COMPLETED, LOST_AFTER, QUIET, RESULT, RUNNING, Node, World

pytestmark = pytest.mark.slow  # many requests each


ENDED_AT_CLAIM = Sighting("FAILED", exit_code=3, signal=0)


def run_of(world: World, job: str, slurm_job_id: str | None, claimant: str = "claimant-1") -> Node:
    """A run of the job's attempt that says it is this one."""
    return Node(world, world.at_scheduler(job).submission, claimant=claimant, slurm_job_id=slurm_job_id)


def shows(world: World, slurm_job_id: str, sighting: Sighting) -> None:
    next(job for job in world.scheduler.jobs if job.ref.job_id == slurm_job_id).sighting = sighting


def submit_twice(world: World) -> str:
    """A job of which the scheduler has run 1, which the gateway was told of, and run 2."""
    world.scheduler.submit_twice = True
    job = world.submit()
    assert (world.ids(job), len(world.scheduler.jobs)) == (["1"], 2)
    return job


def test_the_run_that_claims_is_the_one_that_is_followed(world: World) -> None:
    """Guards: the copy that the gateway was told of ends without work, and the job is not failed for it."""
    job = submit_twice(world)
    worker, late = run_of(world, job, "2"), run_of(world, job, "1", "claimant-2")
    assert worker.claim().status_code == 200
    assert world.ids(job) == ["2"]
    assert late.claim().status_code == 409
    shows(world, "1", ENDED_AT_CLAIM)
    shows(world, "2", RUNNING)
    world.tick()
    assert world.state(job) == "RUNNING"
    worker.push("result.vcf.gz", "result", RESULT)
    assert worker.report().status_code == 200
    shows(world, "2", COMPLETED)
    world.tick()
    assert world.end(job) == ("SUCCEEDED", None)
    assert [(each.number, each.slurm_job_id, each.outcome) for each in world.attempts(job)] == [(1, "2", "succeeded")]


def test_the_told_run_claims_and_nothing_changes(world: World) -> None:
    """Guards: the other copy, refused, takes nothing over."""
    job = submit_twice(world)
    assert run_of(world, job, "1").claim().status_code == 200
    assert run_of(world, job, "2", "claimant-2").claim().status_code == 409
    assert world.ids(job) == ["1"]


@pytest.mark.parametrize("told", [None, "", "1_4", "1+1", "[1-3]", "\N{ARABIC-INDIC DIGIT TWO}", "nonsense"])
def test_what_is_no_plain_id_changes_nothing(world: World, told: str | None) -> None:
    """Guards: outside SLURM there is none, and other forms are another way to write what sbatch printed."""
    job = world.submit()
    assert run_of(world, job, told).claim().status_code == 200
    assert world.ids(job) == ["1"]


def test_a_cancel_that_went_to_the_other_copy_is_sent_again(world: World) -> None:
    """Guards: a wish that was told to the wrong run is not taken as done."""
    job = submit_twice(world)
    assert world.cancel(job).status_code == 200
    shows(world, "2", RUNNING)
    world.scheduler.during_look = lambda: run_of(world, job, "2").claim()
    world.tick()
    assert ([ref.job_id for ref in world.scheduler.cancelled], world.state(job)) == (["1"], "RUNNING")
    world.tick()
    assert ([ref.job_id for ref in world.scheduler.cancelled], world.state(job)) == (["1", "2"], "CANCELLED")


def test_a_cancel_after_the_claim_goes_to_the_run_that_works(world: World) -> None:
    """Guards: the user's wish reaches what uses the cluster."""
    job = submit_twice(world)
    run_of(world, job, "2").claim()
    shows(world, "2", RUNNING)
    assert world.cancel(job).status_code == 200
    world.tick()
    assert [ref.job_id for ref in world.scheduler.cancelled] == ["2"]
    assert world.state(job) == "CANCELLED"


def test_a_look_that_was_under_way_is_not_taken_for_the_other_run(world: World) -> None:
    """Guards: the end of the copy, seen while the claim came in, is not the end of the attempt."""
    job = submit_twice(world)
    shows(world, "1", ENDED_AT_CLAIM)
    world.scheduler.during_look = lambda: run_of(world, job, "2").claim()
    world.tick()
    assert (world.state(job), world.ids(job)) == ("RUNNING", ["2"])
    shows(world, "2", RUNNING)
    world.tick()
    assert world.state(job) == "RUNNING"


def test_a_claim_before_the_answer_is_remembered(world: World) -> None:
    """Guards: the late answer of sbatch names the other copy, and the run that works is followed all the same."""
    job = world.accept()
    world.scheduler.submit_twice = True
    world.scheduler.before_answer = lambda: run_of(world, job, "2").claim()
    world.tick()
    assert (world.state(job), world.ids(job)) == ("QUEUED", ["2"])
    shows(world, "2", RUNNING)
    world.tick()
    assert world.state(job) == "RUNNING"


def test_a_claim_without_an_id_before_the_answer_leaves_it_to_the_answer(world: World) -> None:
    """Guards: a node that knows no id does not stand in the way of the one that is told."""
    job = world.accept()
    world.scheduler.before_answer = lambda: run_of(world, job, None).claim()
    world.tick()
    assert world.ids(job) == ["1"]


def test_a_search_prefers_the_run_that_claimed(world: World) -> None:
    """Guards: an answer was lost, both copies are found by the name, and one of them has told which it is."""
    job = world.accept()
    world.scheduler.submit_twice = True
    world.scheduler.lose_answer = LostAnswer.AFTER_ACCEPT
    world.scheduler.before_answer = lambda: run_of(world, job, "2").claim()
    world.tick()
    assert (world.state(job), world.ids(job)) == ("QUEUED", ["2"])


def test_a_run_that_claimed_and_is_not_found_is_never_submitted_again(world: World) -> None:
    """Guards: it reached the scheduler, whatever searches say; after the deadline it is LOST, which is loud."""
    job = world.accept()
    world.scheduler.lose_answer = LostAnswer.AFTER_ACCEPT

    def claim_and_vanish() -> None:
        run_of(world, job, "1").claim()
        world.scheduler.jobs.clear()

    world.scheduler.before_answer = claim_and_vanish
    world.tick()
    world.tick(QUIET + timedelta(seconds=1))
    assert (world.state(job), world.scheduler.accepted) == ("SUBMIT_UNKNOWN", 1)
    world.tick(LOST_AFTER)
    assert (world.end(job), world.scheduler.accepted) == (("LOST", "not_seen"), 1)


@pytest.mark.parametrize("error", [SubmissionRefused("no"), SchedulerUnavailable("nobody there")])
def test_a_no_of_sbatch_to_a_job_that_runs_is_no_answer(world: World, error: Exception) -> None:
    """Guards: sbatch may print an error for a job that was accepted; the claim proves that it was."""
    job = world.accept()

    def claim_and_fail() -> None:
        run_of(world, job, "1").claim()
        raise error

    world.scheduler.before_answer = claim_and_fail
    world.tick()
    assert (world.state(job), world.ids(job), world.scheduler.accepted) == ("QUEUED", ["1"], 1)
