"""Jobs from acceptance to their end, whatever is lost, late, away or killed on the way, on both databases.

The scheduler is the one in memory, and the job's own calls are made here, over the real API, with the token that the
scheduler was given.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from divbase_gateway.bootstrap import Gateway
from divbase_gateway.db import jobs as job_rows
from divbase_gateway.db.models import AttemptRow, JobRow
from divbase_gateway.db.session import Database
from divbase_gateway.domain.errors import SchedulerUnavailable, SubmissionUnknown
from divbase_gateway.domain.jobs import JobState
from divbase_gateway.ports import Sighting, SlurmRef, Submission
from divbase_gateway.reconciler import Pace, Reconciler
from httpx import Response
from sqlalchemy import event, select
from sqlalchemy.orm import selectinload

from tests.fakes.clock import FakeClock
from tests.fakes.object_store import FakeObjectStore
from tests.fakes.scheduler import FakeJob, FakeScheduler, LostAnswer
from tests.lab import Lab, base64_md5, lab_in_memory
from tests.variants import VariantFile, simulate

PENDING = Sighting("PENDING", reason="Resources")
RUNNING = Sighting("RUNNING", node="n1")
COMPLETED = Sighting("COMPLETED", exit_code=0, signal=0)
FAILED = Sighting("FAILED", exit_code=1, signal=0)
NODE_FAIL = Sighting("NODE_FAIL")

QUIET = timedelta(seconds=2)  # as long as empty answers about the embedded scheduler have to last
LOST_AFTER = timedelta(seconds=900)  # the default of jobs.lost_after_s
SECOND = timedelta(seconds=1)
RESULT = b"the result of the query"


class Killed(BaseException):
    """What ends the gateway in the middle of a step, as SIGKILL would."""


@dataclass
class MortalScheduler(FakeScheduler):
    """A scheduler during whose call the gateway dies: `kills` says when, once."""

    kills: LostAnswer | None = None

    def submit(self, submission: Submission) -> SlurmRef:
        kills, self.kills = self.kills, None
        if kills is LostAnswer.BEFORE_ACCEPT:
            raise Killed
        ref = super().submit(submission)
        if kills is LostAnswer.AFTER_ACCEPT:
            raise Killed
        return ref


@dataclass
class Node:
    """What a job does on its node, with the ticket that came with its script."""

    world: World
    submission: Submission
    claimant: str = "claimant-1"
    slurm_job_id: str | None = None
    outputs: list[dict[str, Any]] = field(default_factory=list)

    def call(self, name: str, body: dict[str, Any]) -> Response:
        ticket = json.loads(self.submission.files["job.json"])
        answer: Response = self.world.lab.api.client.post(
            f"/api/v1/attempts/{ticket['attempt']}/{name}",
            json=body,
            headers={"Authorization": f"Bearer {ticket['token']}"},
        )
        return answer

    def claim(self, claimant: str | None = None) -> Response:
        said = {"claimant": claimant or self.claimant, "host": "n1", "slurm_job_id": self.slurm_job_id}
        return self.call("claim", said)

    def announce(self, name: str, role: str, *parts: bytes) -> dict[str, Any]:
        whole = b"".join(parts)
        body = {
            "name": name,
            "role": role,
            "size": len(whole),
            "sha256": hashlib.sha256(whole).hexdigest(),
            "md5s": [base64_md5(part) for part in parts],
        }
        answer = self.call("outputs", body)
        assert answer.status_code == 200, answer.text
        return cast("dict[str, Any]", answer.json())

    def send(self, announced: dict[str, Any], *parts: bytes) -> list[int]:
        numbered = {each["number"]: each["request"] for each in announced["requests"]}
        return [self.world.lab.send(numbered[number], part) for number, part in enumerate(parts, start=1)]

    def complete(self, name: str, announced: dict[str, Any], *parts: bytes) -> Response:
        etags = [hashlib.md5(part, usedforsecurity=False).hexdigest() for part in parts]
        stated = [{"number": number, "etag": etag} for number, etag in enumerate(etags, start=1)]
        return self.call("outputs/complete", {"name": name, "upload": announced["upload"], "parts": stated})

    def push(self, name: str, role: str, *parts: bytes) -> None:
        content = b"".join(parts)
        announced = self.announce(name, role, *parts)
        assert self.send(announced, *parts) == [200] * len(parts)
        stored = self.complete(name, announced, *parts)
        assert stored.status_code == 200, stored.text
        self.outputs.append(
            {
                "name": name,
                "role": role,
                "size": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
                **stored.json(),
            }
        )

    def report(self, reason: str | None = None, message: str | None = None) -> Response:
        status = "failed" if reason else "succeeded"
        return self.call("finish", {"status": status, "reason": reason, "message": message, "outputs": self.outputs})

    def work(self) -> None:
        """Everything that a job does that succeeds."""
        assert self.claim().status_code == 200
        self.push("result.vcf.gz", "result", RESULT)
        self.push("result.vcf.gz.csi", "index", b"its index")
        assert self.report().status_code == 200


@dataclass
class World:
    """A project with one usable file, the scheduler in memory, and a reconciler that ticks when told to."""

    lab: Lab
    scheduler: MortalScheduler
    reconciler: Reconciler
    variants: VariantFile

    @property
    def gateway(self) -> Gateway:
        return self.lab.api.gateway

    @property
    def clock(self) -> FakeClock:
        return cast("FakeClock", self.gateway.clock)

    @property
    def store(self) -> FakeObjectStore:
        return cast("FakeObjectStore", self.lab.store.inner)

    def restart(self, holder: str = "another", pace: Pace | None = None) -> Reconciler:
        """A reconciler as a new process of the gateway has it."""
        gateway = self.gateway
        self.reconciler = Reconciler(
            gateway.sessions,
            self.scheduler,
            gateway.store,
            gateway.clock,
            gateway.policy,
            pace or Pace(),
            holder,
        )
        return self.reconciler

    def accept(self, **asked: Any) -> str:
        """A query that the gateway has accepted: the job's id."""
        answer = self.lab.editor.post(f"{self.lab.path}/jobs", {"all_samples": True, "command": "view", **asked})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def submit(self) -> str:
        """A job that the scheduler has."""
        job = self.accept()
        self.tick()
        assert self.state(job) == "QUEUED"
        return job

    def tick(self, after: timedelta = timedelta(0)) -> None:
        self.clock.advance(after)
        self.reconciler.tick()

    def job(self, job: str) -> JobRow:
        with self.gateway.sessions.read() as session:
            return session.scalars(
                select(JobRow).where(JobRow.public_id == job).options(selectinload(JobRow.attempts))
            ).one()

    def state(self, job: str) -> str:
        return self.job(job).state

    def end(self, job: str) -> tuple[str, str | None]:
        row = self.job(job)
        return row.state, row.reason

    def attempts(self, job: str) -> list[AttemptRow]:
        return self.job(job).attempts

    def ids(self, job: str) -> list[str | None]:
        """The ids at the scheduler that the attempts are followed under."""
        return [attempt.slurm_job_id for attempt in self.attempts(job)]

    def at_scheduler(self, job: str) -> FakeJob:
        """The newest attempt as the scheduler has it."""
        return self.scheduler.job(self.attempts(job)[-1].slurm_name)

    def sees(self, job: str, sighting: Sighting) -> None:
        """What the next looks at the job see; a cancel changes it."""
        self.at_scheduler(job).sighting = sighting

    def node(self, job: str) -> Node:
        return Node(self, self.at_scheduler(job).submission)

    def cancel(self, job: str) -> Response:
        return self.lab.editor.post(f"{self.lab.path}/jobs/{job}/cancel")

    def rerun(self, job: str, **wish: object) -> Response:
        return self.lab.editor.post(f"{self.lab.path}/jobs/{job}/rerun", wish)

    def log(self, job: str) -> dict[str, Any]:
        return cast("dict[str, Any]", self.lab.editor.get(f"{self.lab.path}/jobs/{job}/log").json())


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> VariantFile:
    return simulate(tmp_path_factory.mktemp("variants") / "a.vcf.gz", index="csi")


@pytest.fixture
def world(database: Database, variants: VariantFile) -> World:
    return world_of(lab_in_memory(database), variants)


def world_of(lab: Lab, variants: VariantFile) -> World:
    assert variants.index is not None
    for path in (variants.index, variants.path):
        lab.upload_file(path)
    assert lab.info("a.vcf.gz")["state"] == "READY"
    scheduler = MortalScheduler(lab.api.gateway.clock, by_itself=False)
    world = World(lab, scheduler, cast("Reconciler", None), variants)
    world.restart("the first")
    return world


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


def index_of(world: World, tmp_path: Path) -> tuple[str, bytes]:
    """A file without an index, uploaded: the job that is to build it, and the index that it should build."""
    file = simulate(tmp_path / "b.vcf.gz", samples=["B1"], index="csi")
    assert file.index is not None
    world.lab.upload_file(file.path)
    assert world.lab.info("b.vcf.gz")["state"] == "INDEXING"
    return str(world.lab.info("b.vcf.gz")["index_job"]), file.index.read_bytes()


def work_on_index(world: World, job: str, index: bytes) -> None:
    node = world.node(job)
    node.claim()
    node.push("index.csi", "index", index)
    node.report()
    world.sees(job, COMPLETED)
    world.tick()


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
