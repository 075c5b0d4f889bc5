"""Queries that are spread over several jobs, from acceptance to their end, whatever becomes of their shards, on both
databases.

The scheduler is the one in memory, and the jobs' own calls are made here, as in test_reconciler.py.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, cast

import pytest
from divbase_gateway.db.models import JobRow
from divbase_gateway.db.session import Database
from divbase_gateway.domain.jobs import JobState
from divbase_gateway.ports import Sighting
from divbase_gateway.reconciler import Reconciler
from divbase_gateway.services import audit, drain, shards, submission
from divbase_gateway.services.jobs import SHARDS_KEPT
from divbase_gateway.settings import FileSettings, JobSettings, LimitSettings, Settings
from sqlalchemy import select
from sqlalchemy.orm import Session

from tests.fakes.scheduler import FakeArrayScheduler, LostAnswer
from tests.lab import lab_in_memory
from tests.variants import VariantFile, bgzf, index_variants, simulate
from tests.world import (
    COMPLETED,
    FAILED,
    LOST_AFTER,
    NODE_FAIL,
    PENDING,
    QUIET,
    RUNNING,
    SECOND,
    MortalScheduler,
    Node,
    World,
)

pytestmark = pytest.mark.slow  # three nodes' work for each query

SHARDS = 3
CANCELLED = Sighting("CANCELLED by 0", exit_code=0, signal=15)
TIMEOUT = Sighting("TIMEOUT", exit_code=0, signal=15)


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> VariantFile:
    """In many small blocks, so that its index knows of places to cut it at."""
    whole = simulate(tmp_path_factory.mktemp("variants") / "a.vcf.gz", sites=400)
    whole.path.write_bytes(bgzf(gzip.decompress(whole.path.read_bytes()), block=600))
    return replace(whole, index=index_variants(whole.path, "csi"))


def site(**limits: Any) -> Settings:
    """One that spreads whatever takes longer than two seconds, which is everything."""
    return Settings(
        files=FileSettings(part_size_mib=5), jobs=JobSettings(spread_after_s=2), limits=LimitSettings(**limits)
    )


def world_of(database: Database, variants: VariantFile, settings: Settings) -> World:
    lab = lab_in_memory(database, settings)
    assert variants.index is not None
    for path in (variants.index, variants.path):
        lab.upload_file(path)
    scheduler = MortalScheduler(lab.api.gateway.clock, by_itself=False)
    world = World(lab, scheduler, cast("Reconciler", None), variants)
    world.restart("the first")
    return world


@pytest.fixture
def world(database: Database, variants: VariantFile) -> World:
    return world_of(database, variants, site())


def shards_of(world: World, job: str) -> list[str]:
    with world.gateway.sessions.read() as session:
        of_this = select(JobRow.public_id).where(JobRow.kind == "shard", JobRow.public_id.startswith(f"{job}-"))
        return list(session.scalars(of_this.order_by(JobRow.task)))


def shown(world: World, job: str) -> dict[str, Any]:
    answer = world.lab.editor.get(f"{world.lab.path}/jobs/{job}")
    assert answer.status_code == 200, answer.text
    return cast("dict[str, Any]", answer.json())


def states(world: World, job: str) -> list[str]:
    return [world.state(each) for each in shards_of(world, job)]


def content(shard: str) -> bytes:
    return f"what {shard} made".encode()


def work(world: World, shard: str) -> Node:
    """What a shard's job does that succeeds, up to what the scheduler says of it."""
    node = world.node(shard)
    assert node.claim().status_code == 200
    node.push("shard.bcf", "result", content(shard))
    node.push("shard.bcf.csi", "index", b"its index")
    assert node.report().status_code == 200
    world.sees(shard, COMPLETED)
    return node


def fail(world: World, shard: str, reason: str, words: str) -> None:
    node = world.node(shard)
    assert node.claim().status_code == 200
    assert node.report(reason, words).status_code == 200
    world.sees(shard, FAILED)


def join(world: World, job: str) -> Node:
    """What the query's own job does once it was submitted."""
    node = world.node(job)
    node.work()
    world.sees(job, COMPLETED)
    return node


def hidden(world: World) -> list[str]:
    """Keys of what shards made, every version of them."""
    versions = world.store.list_versions(world.lab.project.bucket, ".divbase/shards/")
    return [each.key for each in versions]


def is_audited(world: World) -> bool:
    """Whether the scheduler's accounting and the database say the same."""
    gateway = world.gateway
    since = world.clock.now() - timedelta(days=1)
    found = audit.audit(gateway.sessions, world.scheduler, world.clock, since, LOST_AFTER)
    return [finding for finding in found.findings if not finding.is_harmless] == []


# --- the good way --------------------------------------------------------------------------------------------------


def test_shards_run_as_jobs_and_one_joins_them(world: World) -> None:
    """Guards: every shard reads only its own regions and is a job with a run of its own; the query's job is submitted
    when all have succeeded, and not before, reads what they made, pinned, and has the result; then that goes."""
    job = world.accept()
    detail = shown(world, job)
    assert (detail["state"], detail["plan"]["spread"]["tasks"]) == ("SPREAD", SHARDS)
    made = shards_of(world, job)
    assert made == [f"{job}-{number}" for number in range(1, SHARDS + 1)]
    world.tick()
    assert (states(world, job), world.state(job)) == (["QUEUED"] * SHARDS, "SPREAD")
    for shard in made[1:]:
        work(world, shard)
    world.tick()
    world.tick()
    assert (states(world, job), world.state(job)) == (["QUEUED", "SUCCEEDED", "SUCCEEDED"], "SPREAD")
    assert world.scheduler.accepted == SHARDS
    work(world, made[0])
    world.tick()
    assert world.state(job) == "ACCEPTED"
    world.tick()
    assert (world.state(job), world.scheduler.accepted) == ("QUEUED", SHARDS + 1)
    manifest = world.node(job).claim().json()
    assert [each["key"] for each in manifest["inputs"]] == [f".divbase/shards/{job}/{n}.bcf" for n in (1, 2, 3)]
    assert [each["number"] for each in manifest["inputs"]] == [1, 2, 3]
    assert all(each["sha256"] and each["index"] is None for each in manifest["inputs"])
    gathered = manifest["provenance"]["gathers"]
    assert [each["regions"] for each in gathered] == [world.job(shard).plan["regions"] for shard in made]
    assert all(each["commands"][-1][0] == "bcftools" for each in gathered)
    join(world, job)
    world.tick()
    row = world.job(job)
    assert (row.state, [each["key"] for each in row.results if each["role"] == "result"]) == (
        "SUCCEEDED",
        [f"results/{job}/result.vcf.gz"],
    )
    world.tick()
    assert hidden(world) == []
    assert is_audited(world)


def test_a_shard_is_given_only_its_own_regions(world: World) -> None:
    """Guards: the script and the manifest of a shard are of its part; together they are of everything once."""
    job = world.accept()
    world.tick()
    regions = [world.job(shard).plan["regions"] for shard in shards_of(world, job)]
    assert len({json.dumps(each) for each in regions}) == SHARDS
    for shard, own in zip(shards_of(world, job), regions, strict=True):
        script = world.at_scheduler(shard).submission.script
        assert f"--regions {','.join(own)}" in script.replace("'", "")
        assert "-o out/shard.bcf" in script


def test_what_shards_made_is_in_no_listing(world: World) -> None:
    """Guards: neither as files nor as jobs; who asks for shards gets them."""
    job = world.accept()
    world.tick()
    for shard in shards_of(world, job):
        work(world, shard)
    world.tick()
    assert hidden(world)
    world.lab.refresh()
    assert {file["key"] for file in world.lab.files()} == {"a.vcf.gz", "a.vcf.gz.csi"}
    listed = world.lab.editor.get(f"{world.lab.path}/jobs").json()["items"]
    assert [each["kind"] for each in listed] == ["query"]
    listed = world.lab.editor.get(f"{world.lab.path}/jobs", kind="shard").json()["items"]
    assert [each["id"] for each in listed] == shards_of(world, job)[::-1]


def test_an_equal_question_is_answered_by_the_spread_one(world: World) -> None:
    """Guards: one digest, however the work was done; and a shard answers no question."""
    job = world.accept()
    world.tick()
    for shard in shards_of(world, job):
        work(world, shard)
    world.tick()
    world.tick()
    join(world, job)
    world.tick()
    answer = world.lab.editor.post(f"{world.lab.path}/jobs", {"all_samples": True, "command": "view"})
    assert (answer.status_code, answer.json()["id"]) == (200, job)


# --- what a user sees ----------------------------------------------------------------------------------------------


def test_the_standing_of_shards_is_shown(world: World) -> None:
    """Guards: how many are done, run and wait, each with its node and ids, and how far all of them are."""
    job = world.accept()
    first, second, _ = shards_of(world, job)
    world.tick()
    work(world, first)
    node = world.node(second)
    node.claim()
    node.call("progress", {"stage": "running", "done": 50, "total": 100})
    world.sees(second, RUNNING)
    world.tick()
    detail = shown(world, job)
    assert detail["waiting"] == "Shards: 1 of 3 done, 1 running, 1 waiting."
    assert [each["state"] for each in detail["shards"]] == ["SUCCEEDED", "RUNNING", "QUEUED"]
    assert detail["shards"][1]["node"] == "n1"
    assert [each["slurm_job_id"] for each in detail["shards"]] == ["1", "2", "3"]
    assert detail["progress"] == {"stage": "shards", "done": 500, "total": 1000}
    assert detail["started_at"] is not None


def test_a_drain_holds_shards_back_and_says_so(world: World) -> None:
    """Guards: nothing is submitted, and the query says what its shards wait for."""
    job = world.accept()
    with world.gateway.sessions.write() as session:
        drain.begin(session, "new disks", world.clock.now())
    world.tick()
    assert (states(world, job), world.scheduler.accepted) == (["ACCEPTED"] * SHARDS, 0)
    assert "new disks" in shown(world, job)["waiting"]
    with world.gateway.sessions.write() as session:
        drain.end(session)
    world.tick()
    assert states(world, job) == ["QUEUED"] * SHARDS


# --- shards that fail ----------------------------------------------------------------------------------------------


def test_only_the_shard_whose_node_failed_gets_another_attempt(world: World) -> None:
    """Guards: a fault of the machinery under one shard costs one run."""
    job = world.accept()
    first, second, third = shards_of(world, job)
    world.tick()
    world.node(second).claim()
    world.sees(second, NODE_FAIL)
    world.tick()
    world.tick()
    assert [len(world.attempts(shard)) for shard in (first, second, third)] == [1, 2, 1]
    for shard in (first, second, third):
        work(world, shard)
    world.tick()
    world.tick()
    join(world, job)
    world.tick()
    assert world.state(job) == "SUCCEEDED"
    assert is_audited(world)


@pytest.mark.parametrize(
    ("end", "state", "reason"), [(TIMEOUT, "FAILED", "timed_out"), (CANCELLED, "CANCELLED", "cancelled")]
)
def test_a_failed_shard_leaves_the_others_at_work_and_is_rerun_alone(
    world: World, end: Sighting, state: str, reason: str
) -> None:
    """Guards: the query ends when its last shard has, names the one that failed, and a rerun runs only that."""
    job = world.accept()
    first, second, third = shards_of(world, job)
    world.tick()
    work(world, first)
    world.node(second).claim()
    world.sees(second, end)
    world.sees(third, RUNNING)
    world.tick()
    assert (world.state(job), states(world, job)) == ("SPREAD", ["SUCCEEDED", state, "RUNNING"])
    assert world.scheduler.cancelled == []
    work(world, third)
    world.tick()
    row = world.job(job)
    assert (row.state, row.reason) == (state, reason)
    assert row.message is not None
    assert row.message.startswith("Shard 2 of 3 (")
    assert f"2 of 3 shards have succeeded; `divbase jobs rerun {job}` runs only the others." in row.message
    answer = world.rerun(job, more=True) if reason == "timed_out" else world.rerun(job)
    assert answer.status_code == 201, answer.text
    world.tick()
    assert [len(world.attempts(shard)) for shard in (first, second, third)] == [1, 2, 1]
    factor = 2 if reason == "timed_out" else 1
    assert [world.job(shard).minutes // world.job(first).minutes for shard in (first, second, third)] == [1, factor, 1]
    work(world, second)
    world.tick()
    world.tick()
    assert world.node(job).claim().status_code == 200
    join(world, job)
    world.tick()
    assert world.state(job) == "SUCCEEDED"
    assert is_audited(world)


def test_a_failure_that_any_run_would_have_ends_the_others(world: World) -> None:
    """Guards: with a damaged input the other shards do not use up the allocation; each says why it was ended."""
    job = world.accept()
    first, second, third = shards_of(world, job)
    world.scheduler.by_itself = False
    world.tick()
    work(world, first)
    fail(world, second, "input_corrupt", "a.vcf.gz is damaged.")
    world.node(third).claim()
    world.sees(third, RUNNING)
    world.tick()
    world.tick()
    world.tick()
    assert [ref.name for ref in world.scheduler.cancelled] == [world.attempts(third)[0].slurm_name]
    row = world.job(job)
    assert (row.state, row.reason) == ("FAILED", "input_corrupt")
    assert row.message is not None
    assert "failed: a.vcf.gz is damaged." in row.message
    assert "1 of 3 shards have succeeded" in row.message
    assert "shard 2 of 3" in (world.job(third).message or "")
    world.rerun(job)
    world.tick()
    assert [len(world.attempts(shard)) for shard in (first, second, third)] == [1, 2, 2]


def test_a_join_that_failed_is_rerun_without_the_shards(world: World) -> None:
    """Guards: what they made is still there; but where it was not what was expected, all of them run again."""
    job = world.accept()
    world.tick()
    for shard in shards_of(world, job):
        work(world, shard)
    world.tick()
    world.tick()
    fail(world, job, "bcftools_failed", "bcftools concat failed.")
    world.tick()
    assert world.end(job) == ("FAILED", "bcftools_failed")
    assert world.rerun(job).status_code == 201
    assert world.state(job) == "ACCEPTED"
    world.tick()
    fail(world, job, "input_missing", "A shard is not there.")
    world.tick()
    assert world.rerun(job).status_code == 201
    assert (world.state(job), states(world, job)) == ("SPREAD", ["ACCEPTED"] * SHARDS)


def test_what_shards_made_is_kept_for_a_rerun_and_not_for_ever(world: World) -> None:
    """Guards: a week after the query failed it is removed, and a rerun runs every shard."""
    job = world.accept()
    first, second, third = shards_of(world, job)
    world.tick()
    for shard in (first, third):
        work(world, shard)
    world.node(second).claim()
    world.sees(second, TIMEOUT)
    world.tick()
    world.tick(SHARDS_KEPT - SECOND)
    assert f".divbase/shards/{job}/1.bcf" in hidden(world)
    world.tick(SECOND)
    assert hidden(world) == []
    assert world.rerun(job).status_code == 201
    assert states(world, job) == ["ACCEPTED"] * SHARDS


def test_what_is_removed_is_removed_after_a_fault_too(world: World) -> None:
    """Guards: while the store is away it waits; rows say what is no longer to be built on."""
    job = world.accept()
    world.tick()
    for shard in shards_of(world, job):
        work(world, shard)
    world.tick()
    world.tick()
    join(world, job)
    world.lab.store.away.add("delete_version")
    world.tick()
    assert world.state(job) == "SUCCEEDED"
    assert hidden(world)
    world.lab.store.away.clear()
    world.restart("the second")
    world.tick(timedelta(minutes=5))
    assert hidden(world) == []


def test_a_leader_that_was_overtaken_removes_no_shards_of_a_rerun(world: World) -> None:
    """Guards: another gateway cleared them and the query ran again while the store kept this one waiting."""
    job = world.accept()
    world.tick()
    first, second, third = shards_of(world, job)
    for shard in (first, third):
        work(world, shard)
    world.node(second).claim()
    world.sees(second, TIMEOUT)
    world.tick()
    leader = world.reconciler

    def others() -> None:
        world.lab.store.before.clear()
        world.restart("the second")
        world.tick(timedelta(minutes=1))
        assert hidden(world) == []
        assert world.rerun(job).status_code == 201
        world.tick()
        for shard in (first, second, third):
            work(world, shard)
        world.tick()

    world.lab.store.before["list_versions"] = others
    world.clock.advance(SHARDS_KEPT)
    leader.tick()
    assert not world.lab.store.before
    assert len(hidden(world)) == 2 * SHARDS
    assert states(world, job) == ["SUCCEEDED"] * SHARDS


# --- cancel and limits ---------------------------------------------------------------------------------------------


def test_cancel_before_shards_are_submitted(world: World) -> None:
    """Guards: nothing reaches the scheduler."""
    job = world.accept()
    assert world.cancel(job).json()["state"] == "CANCELLED"
    assert states(world, job) == ["CANCELLED"] * SHARDS
    world.tick()
    assert world.scheduler.accepted == 0


def test_cancel_of_shards_that_the_scheduler_has(world: World) -> None:
    """Guards: all that run and wait are ended, and then the query is; what had succeeded is kept for a rerun."""
    job = world.accept()
    first, second, third = shards_of(world, job)
    world.tick()
    work(world, first)
    world.sees(second, RUNNING)
    world.sees(third, PENDING)
    world.tick()
    assert world.cancel(job).json()["state"] == "SPREAD"
    world.tick()
    world.tick()
    assert states(world, job) == ["SUCCEEDED", "CANCELLED", "CANCELLED"]
    assert world.end(job) == ("CANCELLED", "cancelled")
    assert len(world.scheduler.cancelled) == 2
    world.rerun(job)
    assert states(world, job) == ["SUCCEEDED", "ACCEPTED", "ACCEPTED"]


def test_rerun_of_a_query_that_was_cancelled_when_its_shards_were_done(world: World) -> None:
    """Guards: it joins what they made, and not the files that they read; nothing is done twice."""
    job = world.accept()
    world.tick()
    for shard in shards_of(world, job):
        work(world, shard)
    assert world.cancel(job).json()["state"] == "SPREAD"
    world.tick()
    world.tick()
    assert states(world, job) == ["SUCCEEDED"] * SHARDS
    assert world.end(job) == ("CANCELLED", "cancelled")
    assert world.rerun(job).status_code == 201
    assert world.state(job) == "SPREAD"
    world.tick()
    world.tick()
    read = [each["key"] for each in world.node(job).claim().json()["inputs"]]
    assert read == [f".divbase/shards/{job}/{number}.bcf" for number in range(1, SHARDS + 1)]
    assert [len(world.attempts(shard)) for shard in shards_of(world, job)] == [1] * SHARDS


def test_a_shard_that_reports_no_result_has_not_succeeded(world: World) -> None:
    """Guards: an index alone is nothing to join, and keeps neither this query nor others from being settled."""
    job = world.accept()
    first, *_ = shards_of(world, job)
    world.tick()
    node = world.node(first)
    node.claim()
    node.push("shard.bcf.csi", "index", b"its index")
    node.report()
    world.sees(first, COMPLETED)
    world.tick()
    assert world.attempts(first)[0].outcome == "result_mismatch"
    assert world.state(first) != "SUCCEEDED"


def test_a_fault_in_one_query_s_shards_leaves_it_there_and_the_others_go_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards: rows that we have a fault with hold up no other query, nor the rest of the tick, and are not lost."""
    settle_one, broken = shards.settle_one, world.accept()
    sound = world.accept(fresh=True)
    world.tick()
    for job in (broken, sound):
        for shard in shards_of(world, job):
            work(world, shard)

    def faulty(session: Session, parent_id: int, now: datetime) -> JobRow | None:
        parent = settle_one(session, parent_id, now)
        if parent is not None and parent.public_id == broken:
            raise RuntimeError("a fault of ours")
        return parent

    monkeypatch.setattr(shards, "settle_one", faulty)
    world.tick()
    world.tick()
    assert (world.state(broken), world.state(sound)) == ("SPREAD", "QUEUED")
    monkeypatch.undo()
    world.tick()
    world.tick()
    assert world.state(broken) == "QUEUED"


def test_a_shard_is_cancelled_and_rerun_only_with_its_query(world: World) -> None:
    """Guards: the answer names the query and the command for it."""
    job = world.accept()
    shard = shards_of(world, job)[0]
    for answer, verb in ((world.cancel(shard), "cancel"), (world.rerun(shard), "rerun")):
        assert answer.status_code == 409
        assert f"`divbase jobs {verb} {job}`" in answer.json()["hint"]


def test_a_query_counts_once_and_all_its_core_hours_count(database: Database, variants: VariantFile) -> None:
    """Guards: limits on open jobs see one, those on core-hours see the shards and the job that joins them."""
    world = world_of(database, variants, site(open_jobs_per_user=2))
    job = world.accept()
    world.accept()
    answer = world.lab.editor.post(f"{world.lab.path}/jobs", {"all_samples": True, "command": "view"})
    assert answer.status_code == 409, answer.text
    assert "has 2 open jobs, and 2 is the limit" in answer.text
    usage = world.lab.editor.get(f"{world.lab.path}/usage").json()
    rows = [world.job(each) for each in (job, *shards_of(world, job))]
    assert usage["open_jobs"] == 2
    assert usage["committed"] == pytest.approx(2 * sum(row.cores * row.minutes for row in rows[:4]) / 60)


def test_too_few_core_hours_refuse_the_query_whole(database: Database, variants: VariantFile) -> None:
    """Guards: what its own job could have is not enough for its shards, and nothing of it is accepted."""
    world = world_of(database, variants, site(core_hours_per_user_month=0.6))
    answer = world.lab.editor.post(f"{world.lab.path}/jobs", {"all_samples": True, "command": "view"})
    assert "and 3 shards of" in answer.text
    with world.gateway.sessions.read() as session:
        assert session.scalars(select(JobRow.id).where(JobRow.kind != "index")).all() == []


def test_another_leader_goes_on_with_the_shards(world: World) -> None:
    """Guards: whatever is known of a query and its shards is in the database: another gateway joins them, once."""
    job = world.accept()
    world.tick()
    for shard in shards_of(world, job):
        work(world, shard)
    world.clock.advance(timedelta(minutes=5))
    world.restart("the second").tick()
    world.restart("the third")
    world.tick(timedelta(minutes=5))
    assert (world.state(job), world.scheduler.accepted) == ("QUEUED", SHARDS + 1)


# --- as an array ---------------------------------------------------------------------------------------------------


@pytest.fixture
def arrays(world: World) -> FakeArrayScheduler:
    """The world's scheduler takes arrays."""
    scheduler = FakeArrayScheduler(world.clock, by_itself=False)
    world.scheduler = cast("MortalScheduler", scheduler)
    world.restart("the first")
    return scheduler


def test_shards_are_submitted_as_one_array(world: World, arrays: FakeArrayScheduler) -> None:
    """Guards: one call for all that ask for the same; each task is a job with its own name, id, script and token, and
    is followed, settled and accounted for like any other; the job that joins is submitted alone."""
    job = world.accept()
    world.tick()
    tasks = shards_of(world, job)
    assert arrays.arrays == [[1, 2, 3]]
    assert [world.ids(shard) for shard in tasks] == [["1_1"], ["1_2"], ["1_3"]]
    names = [world.attempts(shard)[0].slurm_name for shard in tasks]
    assert {name.rpartition(".")[0] for name in names} == {names[0].rpartition(".")[0]}
    assert [name.rpartition(".")[2] for name in names] == ["1", "2", "3"]
    assert f"-{job}-" in names[0]
    for shard in tasks:
        node = world.node(shard)
        node.slurm_job_id = world.ids(shard)[0]
        assert node.claim("claimant-of-" + shard).json()["job"] == shard
        node.claimant = "claimant-of-" + shard
        node.push("shard.bcf", "result", content(shard))
        node.report()
        world.sees(shard, COMPLETED)
    world.tick()
    world.tick()
    assert (world.state(job), len(arrays.arrays), arrays.accepted) == ("QUEUED", 1, 4)
    join(world, job)
    world.tick()
    assert world.state(job) == "SUCCEEDED"
    assert is_audited(world)


def test_tasks_of_an_array_are_cancelled_in_one_call(world: World, arrays: FakeArrayScheduler) -> None:
    """Guards: SLURM keeps no record of a waiting task that is cancelled without the others."""
    job = world.accept()
    world.tick()
    world.cancel(job)
    world.tick()
    assert (arrays.cancels, len(arrays.cancelled)) == (1, SHARDS)
    world.tick()
    assert world.state(job) == "CANCELLED"


def test_a_task_that_is_tried_again_is_submitted_alone(world: World, arrays: FakeArrayScheduler) -> None:
    """Guards: the others of its array are not touched, and their ids stay."""
    job = world.accept()
    world.tick()
    first, second, third = shards_of(world, job)
    world.node(second).claim()
    world.sees(second, NODE_FAIL)
    world.tick()
    world.tick()
    assert arrays.arrays == [[1, 2, 3]]
    assert [world.ids(shard) for shard in (first, second, third)] == [["1_1"], ["1_2", "4"], ["1_3"]]


def test_two_tasks_that_are_rerun_are_an_array_and_more_memory_is_another(
    world: World, arrays: FakeArrayScheduler
) -> None:
    """Guards: tasks keep their numbers; those that ask for something else are not among them."""
    job = world.accept()
    world.tick()
    first, second, third = shards_of(world, job)
    work(world, second)
    for shard in (first, third):
        world.node(shard).claim()
        world.sees(shard, TIMEOUT)
    world.tick()
    world.rerun(job, more=True)
    world.tick()
    assert arrays.arrays == [[1, 2, 3], [1, 3]]
    assert world.ids(third) == ["1_3", "4_3"]


def test_the_one_task_that_is_left_of_an_array_is_an_array(
    world: World, arrays: FakeArrayScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards: it has the name of a task, by which it is searched for, so as a task it is submitted. The others were
    taken in the moment between the look at what waits and its submission."""
    together, job = submission.together, world.accept()
    first, second, third = shards_of(world, job)

    def others_are_taken(session: Session, job_ids: Sequence[int]) -> list[list[int]]:
        groups = together(session, job_ids)
        with world.gateway.sessions.write() as other:
            taken = other.scalars(select(JobRow).where(JobRow.public_id.in_([first, third])))
            for row in taken:
                row.state = JobState.QUEUED
        return groups

    monkeypatch.setattr(submission, "together", others_are_taken)
    world.tick()
    assert arrays.arrays == [[2]]
    assert world.ids(second) == ["1_2"]


@pytest.mark.parametrize(("lost", "attempts"), [(LostAnswer.AFTER_ACCEPT, 1), (LostAnswer.BEFORE_ACCEPT, 2)])
def test_the_lost_answer_of_an_array_is_looked_for_by_every_task(
    world: World, arrays: FakeArrayScheduler, lost: LostAnswer, attempts: int
) -> None:
    """Guards: all tasks of an array that was accepted are adopted; where none was, all go out once more."""
    job = world.accept()
    arrays.lose_answer = lost
    world.tick()
    if lost is LostAnswer.BEFORE_ACCEPT:
        assert states(world, job) == ["SUBMIT_UNKNOWN"] * SHARDS
        world.tick(QUIET)
        world.tick()
    assert states(world, job) == ["QUEUED"] * SHARDS
    assert [len(world.attempts(shard)) for shard in shards_of(world, job)] == [attempts] * SHARDS
    assert [world.ids(shard)[-1] for shard in shards_of(world, job)] == ["1_1", "1_2", "1_3"]


def test_an_array_that_was_submitted_twice_does_its_work_once(world: World, arrays: FakeArrayScheduler) -> None:
    """Guards: of each task one run claims, whichever it is, and that one is followed from there on."""
    job = world.accept()
    arrays.submit_twice = True
    world.tick()
    second = shards_of(world, job)[1]
    assert world.ids(second) == ["1_2"]
    node = world.node(second)
    node.slurm_job_id = "4_2"
    assert node.claim().status_code == 200
    assert node.claim("claimant-2").status_code == 409
    assert world.ids(second) == ["4_2"]


def test_a_refused_array_fails_the_query_in_the_scheduler_s_words(world: World, arrays: FakeArrayScheduler) -> None:
    """Guards: nothing of it is left at the scheduler."""
    job = world.accept()
    arrays.refusal = "Invalid account"
    world.tick()
    world.tick()
    assert world.end(job) == ("FAILED", "submission_refused")
    assert "Invalid account" in (world.job(job).message or "")
    arrays.refusal = None
    arrays.away = True
    again = world.accept()
    world.tick()
    with world.gateway.sessions.read() as session:
        found = session.scalars(select(JobRow).where(JobRow.public_id.like(f"{again}-%"))).all()
        assert [(row.state, row.attempt) for row in found] == [("ACCEPTED", 0)] * SHARDS
