"""What looks at the scheduler show, what jobs report and what is in the store, and what follows from the three.

The scheduler is the one in memory, and the job's own calls are made by `tests.world`; on both databases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from divbase_gateway.ports import Observation, Sighting, SlurmRef
from divbase_gateway.reconciler import Pace

from tests.world import COMPLETED, FAILED, LOST_AFTER, PENDING, RESULT, RUNNING, SECOND, World

# --- looking -------------------------------------------------------------------------------------------------------


def test_a_look_that_failed_changes_nothing(world: World) -> None:
    """Guards: while the scheduler is away every job stays as it is, however long."""
    queued, running = world.submit(), world.submit()
    world.sees(running, RUNNING)
    world.tick()
    before = [(world.state(job), world.job(job).observed_at) for job in (queued, running)]
    world.scheduler.away = True
    for _ in range(3):
        world.tick(timedelta(minutes=20))
    assert [(world.state(job), world.job(job).observed_at) for job in (queued, running)] == before


def test_an_absent_job_is_lost_after_the_site_s_time(world: World) -> None:
    """Guards: absence from successful looks is no end until it has lasted; then it is loud."""
    job = world.submit()
    world.scheduler.forget(world.at_scheduler(job).ref.name)
    world.tick()
    world.tick(LOST_AFTER - SECOND)
    assert world.state(job) == "QUEUED"
    world.tick(SECOND)
    assert world.end(job) == ("LOST", "not_seen")
    assert len(world.scheduler.cancelled) == 1  # should it be there after all, it has nothing to do any more


def test_absence_does_not_count_while_nobody_could_look(world: World) -> None:
    """Guards: two empty looks with an outage between them are two looks, not the whole time."""
    job = world.submit()
    name = world.at_scheduler(job).ref.name
    world.scheduler.forget(name)
    world.tick()
    world.scheduler.away = True
    world.tick(LOST_AFTER)
    world.scheduler.away = False
    world.tick(SECOND)
    assert world.state(job) == "QUEUED"
    world.tick(LOST_AFTER)
    assert world.state(job) == "LOST"


def test_absence_does_not_count_while_accounting_is_away(world: World) -> None:
    """Guards: who is not in squeue while slurmdbd does not answer is not missing, and the row of looks begins anew."""
    job = world.submit()
    world.scheduler.forget(world.at_scheduler(job).ref.name)
    world.tick()
    world.scheduler.accounting_away = True
    world.tick(LOST_AFTER * 2)
    assert world.state(job) == "QUEUED"
    world.scheduler.accounting_away = False
    world.tick(SECOND)
    assert world.state(job) == "QUEUED"
    world.tick(LOST_AFTER)
    assert world.state(job) == "LOST"


def test_looks_keep_their_distance_although_submissions_do_not(world: World) -> None:
    """Guards: who wakes the reconciler has it submit at once; the cluster is not asked about its jobs each time."""
    world.restart("the first", Pace(between_looks=3600))
    first = world.submit()
    second = world.submit()
    assert (world.state(first), world.state(second), world.scheduler.looks) == ("QUEUED", "QUEUED", 1)


def test_absence_does_not_count_while_the_gateway_was_down(world: World) -> None:
    """Guards: the first look after a long stop loses no job."""
    job = world.submit()
    world.scheduler.forget(world.at_scheduler(job).ref.name)
    world.tick()
    world.clock.advance(LOST_AFTER * 2)
    world.restart()
    world.tick()
    assert world.state(job) == "QUEUED"


def test_a_job_that_comes_back_was_not_lost(world: World) -> None:
    """Guards: a sighting ends an absence."""
    job = world.submit()
    kept = world.scheduler.jobs[:]
    world.scheduler.jobs = []
    world.tick()
    world.tick(LOST_AFTER - SECOND)
    world.scheduler.jobs = kept
    world.sees(job, RUNNING)
    world.tick()
    world.scheduler.jobs = []
    world.tick(LOST_AFTER - SECOND)
    assert world.state(job) == "RUNNING"


def test_a_word_that_is_unknown_changes_nothing(world: World) -> None:
    """Guards: a state that a newer SLURM made up is kept beside the job and ends nothing."""
    job = world.submit()
    world.sees(job, RUNNING)
    world.tick()
    world.sees(job, Sighting("REVOKED"))
    world.tick()
    assert world.state(job) == "RUNNING"
    assert world.attempts(job)[0].slurm_state == "REVOKED"


def test_a_late_sighting_does_not_take_a_claim_back(world: World) -> None:
    """Guards: a look that began before the claim and calls the job pending."""
    job = world.submit()
    assert world.node(job).claim().status_code == 200
    world.sees(job, PENDING)
    world.tick()
    assert world.state(job) == "RUNNING"


def test_a_claim_that_comes_while_a_look_is_under_way_is_of_the_run_after_the_restart(world: World) -> None:
    """Guards: what the look shows of the queue was before the claim, with the restart that it is the first to show."""
    job = world.submit()
    node, observe = world.node(job), world.scheduler.observe

    def look_and_be_late(refs: Sequence[SlurmRef]) -> Observation:
        seen = observe(refs)
        world.clock.advance(SECOND)
        assert node.claim().status_code == 200
        return seen

    world.sees(job, replace(PENDING, restarts=1, reason="BeginTime"))
    world.scheduler.observe = look_and_be_late  # type: ignore[method-assign]
    world.tick(SECOND)
    world.scheduler.observe = observe  # type: ignore[method-assign]
    assert world.state(job) == "RUNNING"
    world.sees(job, replace(RUNNING, restarts=1))
    world.tick(SECOND)
    node.work()
    world.sees(job, replace(COMPLETED, restarts=1))
    world.tick(SECOND)
    assert [attempt.outcome for attempt in world.attempts(job)] == ["succeeded"]


def test_a_waiting_job_says_why_it_will_not_start(world: World) -> None:
    """Guards: the stuck mark comes and goes with the scheduler's reason."""
    job = world.submit()
    world.sees(job, Sighting("PENDING", reason="DependencyNeverSatisfied"))
    world.tick()
    assert world.job(job).stuck == "A job that it depends on has failed; cancel it and ask again."
    world.sees(job, PENDING)
    world.tick()
    assert world.job(job).stuck is None


# --- three witnesses -----------------------------------------------------------------------------------------------


def test_the_scheduler_s_word_alone_is_no_success(world: World) -> None:
    """Guards: COMPLETED without a report."""
    job = world.submit()
    world.node(job).claim()
    world.sees(job, COMPLETED)
    world.tick()
    assert world.end(job) == ("FAILED", "result_missing")


def test_without_the_scheduler_s_word_a_good_report_is_no_success(world: World) -> None:
    """Guards: a job that reported and then failed."""
    job = world.submit()
    world.node(job).work()
    world.sees(job, FAILED)
    world.tick()
    assert world.end(job) == ("FAILED", "script_failed")
    assert [each["role"] for each in world.job(job).results if each["role"] != "log"] == []


def test_without_the_object_there_is_no_success(world: World) -> None:
    """Guards: the version that was reported is not in the store any more."""
    job = world.submit()
    node = world.node(job)
    node.work()
    key = f"results/{job}/result.vcf.gz"
    world.store.delete_version(world.lab.project.bucket, key, node.outputs[0]["version_id"])
    world.sees(job, COMPLETED)
    world.tick()
    assert world.end(job) == ("FAILED", "result_mismatch")


def test_a_newer_object_of_the_same_name_does_no_harm(world: World) -> None:
    """Guards: results are pinned to the version that was reported."""
    job = world.submit()
    node = world.node(job)
    node.work()
    world.store.write(world.lab.project.bucket, f"results/{job}/result.vcf.gz", b"somebody else's")
    world.sees(job, COMPLETED)
    world.tick()
    assert world.state(job) == "SUCCEEDED"
    assert world.job(job).results[0]["version_id"] == node.outputs[0]["version_id"]


def test_a_report_of_another_checksum_is_no_success(world: World) -> None:
    """Guards: the store's checksum and the job's must be the same."""
    job = world.submit()
    node = world.node(job)
    node.claim()
    node.push("result.vcf.gz", "result", RESULT)
    node.outputs[0]["sha256"] = "0" * 64
    node.report()
    world.sees(job, COMPLETED)
    world.tick()
    assert world.end(job) == ("FAILED", "result_mismatch")


def test_a_report_without_a_result_is_no_success(world: World) -> None:
    """Guards: a job that only sent its log."""
    job = world.submit()
    node = world.node(job)
    node.claim()
    node.push("job.log", "log", b"a log")
    node.report()
    world.sees(job, COMPLETED)
    world.tick()
    assert world.end(job) == ("FAILED", "result_mismatch")


def test_a_store_that_is_away_delays_the_success(world: World) -> None:
    """Guards: who could not be asked has not said no."""
    job = world.submit()
    world.node(job).work()
    world.sees(job, COMPLETED)
    world.store.away = True
    world.tick()
    assert world.state(job) == "FINALIZING"
    world.store.away = False
    world.tick()
    assert world.state(job) == "SUCCEEDED"


def test_the_report_may_come_before_the_first_sighting(world: World) -> None:
    """Guards: a job that is faster than the reconciler; its late sightings do not undo anything."""
    job = world.submit()
    world.node(job).work()
    assert world.state(job) == "FINALIZING"
    for sighting in (PENDING, RUNNING):
        world.sees(job, sighting)
        world.tick()
        assert world.state(job) == "FINALIZING"
    world.sees(job, COMPLETED)
    world.tick()
    assert world.state(job) == "SUCCEEDED"


def test_the_report_may_come_after_the_sighting(world: World) -> None:
    """Guards: RUNNING, then COMPLETING are seen before the job reports."""
    job = world.submit()
    node = world.node(job)
    node.claim()
    world.sees(job, RUNNING)
    world.tick()
    world.sees(job, Sighting("COMPLETING"))
    world.tick()
    assert world.state(job) == "FINALIZING"
    node.push("result.vcf.gz", "result", RESULT)
    assert node.report().status_code == 200
    world.sees(job, COMPLETED)
    world.tick()
    assert world.state(job) == "SUCCEEDED"


def test_a_reported_failure_keeps_its_words(world: World) -> None:
    """Guards: the user reads what the job said; NUL bytes in it, which PostgreSQL does not take, do no harm."""
    job = world.submit()
    node = world.node(job)
    node.claim()
    answer = node.call(
        "finish",
        {"status": "failed", "reason": "bcftools_failed", "message": "it said \0 this", "log_tail": "a\0b"},
    )
    assert answer.status_code == 200
    world.sees(job, FAILED)
    world.tick()
    row = world.job(job)
    assert (row.state, row.reason, row.message) == ("FAILED", "bcftools_failed", "it said \ufffd this")
    assert row.attempts[0].log_tail == "a\ufffdb"


# --- outputs -------------------------------------------------------------------------------------------------------


def test_announcing_again_goes_on_with_the_same_upload(world: World) -> None:
    """Guards: fresh URLs, where S3 refused the old ones, for the parts that are still missing."""
    node = world.node(world.submit())
    node.claim()
    first = node.announce("result.vcf.gz", "result", b"one", b"two")
    assert node.announce("result.vcf.gz", "result", b"one", b"two")["upload"] == first["upload"]
    assert node.announce("result.vcf.gz", "result", b"one", b"xxx")["upload"] != first["upload"]


def test_a_refused_upload_is_begun_anew(world: World) -> None:
    """Guards: after a 409 the parts go into another upload, for the first one is joined or will never be."""
    node = world.node(world.submit())
    node.claim()
    parts = (b"one", b"two")
    first = node.announce("result.vcf.gz", "result", *parts)
    node.send(first, b"one")
    assert node.complete("result.vcf.gz", first, *parts).status_code == 409
    second = node.announce("result.vcf.gz", "result", *parts)
    assert second["upload"] != first["upload"]
    assert node.send(second, *parts) == [200, 200]
    assert node.complete("result.vcf.gz", second, *parts).status_code == 200


def test_an_object_that_is_not_there_is_to_be_sent_again(world: World) -> None:
    """Guards: the store lost what was sent: 409, which the node answers by sending it again, not 404."""
    node = world.node(world.submit())
    node.claim()
    announced = node.announce("result.vcf.gz", "result", RESULT)
    assert node.complete("result.vcf.gz", announced, RESULT).status_code == 409


def test_parts_that_were_never_joined_are_forgotten(world: World) -> None:
    """Guards: a job that died while it sent its result leaves no parts that cost room for good."""
    job = world.submit()
    node = world.node(job)
    node.claim()
    upload = node.announce("result.vcf.gz", "result", b"one", b"two")
    node.send(upload, b"one")
    world.sees(job, FAILED)
    world.tick()
    assert world.state(job) == "FAILED"
    assert node.send(upload, b"one") == [404]
