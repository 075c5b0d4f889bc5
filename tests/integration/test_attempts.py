"""Another attempt after failures of the site, requeues, cancels and reruns.

The scheduler is the one in memory, and the job's own calls are made by `tests.world`; on both databases.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from divbase_gateway.ports import Sighting

from tests.fakes.scheduler import LostAnswer
from tests.world import (
    COMPLETED,
    FAILED,
    LOST_AFTER,
    NODE_FAIL,
    PENDING,
    QUIET,
    RUNNING,
    SECOND,
    Killed,
    World,
    index_of,
)

# --- another attempt -----------------------------------------------------------------------------------------------


def test_a_node_that_failed_leads_to_a_new_attempt(world: World) -> None:
    """Guards: the job goes on under a new attempt, whose result counts; the message says so meanwhile."""
    job = world.submit()
    world.node(job).claim()
    world.sees(job, NODE_FAIL)
    world.tick()
    row = world.job(job)
    assert row.state == "ACCEPTED"
    assert (row.message or "").startswith("Attempt 1 failed: The compute node")
    world.tick()
    assert [each.number for each in world.attempts(job)] == [1, 2]
    world.node(job).work()
    world.sees(job, COMPLETED)
    world.tick()
    row = world.job(job)
    assert (row.state, row.message) == ("SUCCEEDED", None)
    assert [each.outcome for each in row.attempts] == ["node_failed", "succeeded"]


def test_a_requeued_run_is_followed_by_a_new_attempt(world: World) -> None:
    """Guards: the run that SLURM put back into its queue has the attempt's claim, so that no later run of it could do
    the work: it is cancelled there, and another attempt does."""
    job = world.submit()
    world.node(job).claim()
    world.node(job).report("cancelled", "The job was cancelled.")
    world.sees(job, replace(PENDING, restarts=1, reason="BeginTime"))
    world.tick(SECOND)
    assert [attempt.outcome for attempt in world.attempts(job)] == ["requeued"]
    assert [ref.name for ref in world.scheduler.cancelled] == [world.attempts(job)[0].slurm_name]
    world.tick()
    world.node(job).work()
    world.sees(job, COMPLETED)
    world.tick()
    assert world.state(job) == "SUCCEEDED"


def test_a_requeue_that_is_seen_while_the_run_still_ends_is_not_overlooked(world: World) -> None:
    """Guards: SLURM counts the restart before the run that it takes back has ended. That is no restart that the claim
    survived, or the job would wait for a run that can do nothing."""
    job = world.submit()
    world.node(job).claim()
    world.sees(job, RUNNING)
    world.tick(SECOND)
    for _ in range(2):
        world.sees(job, replace(RUNNING, state="COMPLETING", restarts=1))
        world.tick(SECOND)
        assert world.state(job) == "FINALIZING"
    world.sees(job, replace(PENDING, restarts=1, reason="BeginTime"))
    world.tick(SECOND)
    assert [attempt.outcome for attempt in world.attempts(job)] == ["requeued"]
    world.tick()
    world.node(job).work()
    world.sees(job, COMPLETED)
    world.tick()
    assert world.state(job) == "SUCCEEDED"


def test_a_run_that_was_requeued_before_it_claimed_goes_on(world: World) -> None:
    """Guards: a restart that nobody lost anything by is no failure."""
    job = world.submit()
    world.sees(job, replace(PENDING, restarts=1, reason="BeginTime"))
    world.tick(SECOND)
    world.node(job).work()
    world.sees(job, replace(COMPLETED, restarts=1))
    world.tick(SECOND)
    assert [attempt.outcome for attempt in world.attempts(job)] == ["succeeded"]


def test_attempts_are_bounded(world: World) -> None:
    """Guards: three nodes that failed are enough (jobs.max_attempts)."""
    job = world.submit()
    for _ in range(5):
        if not world.job(job).ended_at:
            world.sees(job, NODE_FAIL)
        world.tick()
        world.tick()
    assert world.end(job) == ("FAILED", "node_failed")
    assert [each.outcome for each in world.attempts(job)] == ["node_failed"] * 3


def test_an_old_attempt_has_nothing_to_say(world: World) -> None:
    """Guards: the token of an attempt dies with it: a node that was thought dead cannot claim, send or report."""
    job = world.submit()
    old = world.node(job)
    old.claim()
    old.push("result.vcf.gz", "result", b"of the old attempt")
    world.sees(job, NODE_FAIL)
    world.tick()
    world.tick()
    assert len(world.attempts(job)) == 2
    answers = [
        old.claim(),
        old.report(),
        old.call("progress", {"stage": "running", "done": 1, "total": 2}),
        old.call("urls", {}),
        old.call("outputs/complete", {"name": "result.vcf.gz"}),
    ]
    assert [answer.status_code for answer in answers] == [401] * 5
    assert world.state(job) == "QUEUED"


def test_a_token_is_dead_when_its_job_has_ended(world: World) -> None:
    """Guards: after the end nothing of the job can be changed."""
    job = world.submit()
    node = world.node(job)
    node.work()
    world.sees(job, COMPLETED)
    world.tick()
    assert node.claim().status_code == 401
    assert node.report("internal_error", "no, it failed").status_code == 401
    assert world.end(job) == ("SUCCEEDED", None)


def test_only_one_run_gets_the_attempt(world: World) -> None:
    """Guards: a second copy of the job is told to do nothing; the first may ask again."""
    job = world.submit()
    node = world.node(job)
    assert node.claim("claimant-1").status_code == 200
    assert node.claim("claimant-2").status_code == 409
    assert node.claim("claimant-1").status_code == 200


def test_only_the_first_report_counts(world: World) -> None:
    """Guards: a repeated report is a lost answer asked for again, not a second opinion."""
    job = world.submit()
    node = world.node(job)
    node.work()
    assert node.report("disk_full", "no room").status_code == 200
    world.sees(job, COMPLETED)
    world.tick()
    assert world.state(job) == "SUCCEEDED"


def test_a_report_of_outputs_that_cannot_be_is_refused(world: World, tmp_path: Path) -> None:
    """Guards: one job's nonsense does not stop the look at all the others."""
    job, _ = index_of(world, tmp_path)
    other = world.submit()
    node = world.node(job)
    node.claim()
    output = {"name": "x", "role": "result", "size": 1, "sha256": "0" * 64, "version_id": "v", "etag": "e"}
    assert node.call("finish", {"status": "succeeded", "outputs": [output]}).status_code == 422
    world.sees(other, RUNNING)
    world.tick()
    assert world.state(other) == "RUNNING"


# --- cancel and rerun ----------------------------------------------------------------------------------------------


def test_cancel_before_submission(world: World) -> None:
    """Guards: an accepted job ends at once and never leaves the house."""
    job = world.accept()
    assert world.cancel(job).json()["state"] == "CANCELLED"
    world.tick()
    assert (world.end(job), world.scheduler.accepted) == (("CANCELLED", "cancelled"), 0)


@pytest.mark.parametrize("killed", list(LostAnswer))
def test_cancel_while_the_submission_is_unanswered(world: World, killed: LostAnswer) -> None:
    """Guards: the job is looked for all the same: cancelled where it is found, over where it never was."""
    job = world.accept()
    world.scheduler.kills = killed
    with pytest.raises(Killed):
        world.tick()
    assert world.cancel(job).json()["state"] == "SUBMITTING"
    for _ in range(3):
        world.tick(QUIET)
    assert world.end(job) == ("CANCELLED", "cancelled")
    accepted = 1 if killed is LostAnswer.AFTER_ACCEPT else 0
    assert (world.scheduler.accepted, len(world.scheduler.cancelled)) == (accepted, accepted)


@pytest.mark.parametrize("sighting", [PENDING, RUNNING])
def test_cancel_of_a_job_that_the_scheduler_has(world: World, sighting: Sighting) -> None:
    """Guards: the scheduler is asked once, and the job is over when it is seen to be."""
    job = world.submit()
    world.sees(job, sighting)
    world.tick()
    assert world.cancel(job).json()["cancel_requested"] is True
    world.tick()
    assert world.end(job) == ("CANCELLED", "cancelled")
    world.tick()
    assert len(world.scheduler.cancelled) == 1
    assert len(world.attempts(job)) == 1


def test_a_cancelled_job_that_the_scheduler_forgets(world: World) -> None:
    """Guards: one that waited, was cancelled and left no record is no lost job; one that had claimed its attempt is."""
    waiting, claimed = world.submit(), world.submit()
    world.node(claimed).claim()
    world.scheduler.forgetful = True
    for job in (waiting, claimed):
        world.cancel(job)
    world.tick()
    world.tick(LOST_AFTER - SECOND)
    assert world.state(waiting) == "QUEUED"
    world.tick(SECOND)
    assert world.end(waiting) == ("CANCELLED", "cancelled")
    assert "SLURM keeps no record" in str(world.job(waiting).message)
    assert world.end(claimed) == ("LOST", "not_seen")


def test_cancel_while_the_scheduler_is_away(world: World) -> None:
    """Guards: the wish is kept until the scheduler can be told."""
    job = world.submit()
    world.scheduler.away = True
    world.cancel(job)
    world.tick()
    assert (world.state(job), world.scheduler.cancelled) == ("QUEUED", [])
    world.scheduler.away = False
    world.tick()
    assert world.state(job) == "CANCELLED"


def test_cancel_between_two_attempts(world: World) -> None:
    """Guards: a job that waits for its next attempt ends at once."""
    job = world.submit()
    world.sees(job, NODE_FAIL)
    world.tick()
    assert world.state(job) == "ACCEPTED"
    assert world.cancel(job).json()["state"] == "CANCELLED"
    world.tick()
    assert world.scheduler.accepted == 1


def test_a_failed_node_does_not_bring_a_cancelled_job_back(world: World) -> None:
    """Guards: no new attempt of a job that somebody wants to end."""
    job = world.submit()
    world.cancel(job)
    world.sees(job, NODE_FAIL)
    world.tick()
    assert world.state(job) == "FAILED"
    assert len(world.attempts(job)) == 1


def test_cancel_of_a_job_that_is_over_changes_nothing(world: World) -> None:
    """Guards: an end never changes."""
    job = world.submit()
    world.node(job).work()
    world.sees(job, COMPLETED)
    world.tick()
    answer = world.cancel(job)
    assert (answer.status_code, answer.json()["state"]) == (200, "SUCCEEDED")


def test_a_failed_job_runs_again_as_a_new_attempt(world: World) -> None:
    """Guards: rerun; a job that succeeded or has not ended is not run again."""
    job = world.submit()
    assert world.rerun(job).status_code == 409
    world.sees(job, FAILED)
    world.tick()
    assert world.end(job) == ("FAILED", "script_failed")
    assert world.rerun(job).status_code == 201
    world.tick()
    world.node(job).work()
    world.sees(job, COMPLETED)
    world.tick()
    assert (world.state(job), len(world.attempts(job))) == ("SUCCEEDED", 2)
    assert world.rerun(job).status_code == 409


@pytest.mark.parametrize(("end", "column"), [("OUT_OF_MEMORY", "memory_mb"), ("TIMEOUT", "minutes")])
def test_a_job_that_ran_out_runs_again_with_double(world: World, end: str, column: str) -> None:
    """Guards: the message names the command, the scheduler is asked for double, each attempt keeps what it had."""
    job = world.submit()
    world.sees(job, Sighting(end, exit_code=0, signal=9))
    world.tick()
    assert world.job(job).message.endswith(f"`divbase jobs rerun {job} --more` asks for double.")  # type: ignore[union-attr]
    answer = world.rerun(job, more=True)
    assert answer.status_code == 201, answer.text
    world.tick()
    first, second = world.attempts(job)
    assert (getattr(second, column), answer.json()[column]) == (2 * getattr(first, column),) * 2
    assert getattr(world.at_scheduler(job).submission, column) == getattr(second, column)


def test_a_job_killed_over_its_memory_ran_out_of_memory(world: World) -> None:
    """Guards: without cgroups SLURM says only FAILED 0:9; accounting saw what it used."""
    job = world.submit()
    asked = world.attempts(job)[0].memory_mb * 2**20
    world.sees(job, Sighting("FAILED", exit_code=0, signal=9, max_rss_bytes=asked + 1))
    world.tick()
    assert world.end(job) == ("FAILED", "out_of_memory")


def test_a_job_killed_below_its_memory_did_not_run_out(world: World) -> None:
    """Guards: somebody's kill -9 is not called a lack of memory, and more is refused."""
    job = world.submit()
    asked = world.attempts(job)[0].memory_mb * 2**20
    world.sees(job, Sighting("FAILED", exit_code=0, signal=9, max_rss_bytes=asked // 2))
    world.tick()
    assert world.end(job) == ("FAILED", "script_failed")
    refused = world.rerun(job, more=True)
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    assert world.rerun(job, memory_mb=1).status_code == 422
    assert world.state(job) == "FAILED"


def test_a_rerun_asks_for_the_numbers_that_it_is_given(world: World) -> None:
    """Guards: memory and time reach the scheduler, in the script too."""
    job = world.submit()
    world.sees(job, FAILED)
    world.tick()
    assert world.rerun(job, memory_mb=12_345, minutes=77).status_code == 201
    world.tick()
    submission = world.at_scheduler(job).submission
    assert (submission.memory_mb, submission.minutes) == (12_345, 77)
    assert "#SBATCH --mem=12345" in submission.script
