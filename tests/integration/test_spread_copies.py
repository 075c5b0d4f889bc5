"""Queries that are spread over jobs, of files with BCF copies, and what either takes of a project's room; on both
databases.

The scheduler is the one in memory, and the jobs' own calls are made here, as in test_spread.py.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import Any

import pysam.bcftools
import pytest
from divbase_gateway.db.models import SidecarRow
from divbase_gateway.db.session import Database
from divbase_gateway.db.storage import stored_by_project
from divbase_gateway.domain.projects import Role
from divbase_gateway.domain.retention import GRACE
from divbase_gateway.domain.sidecars import GRACE as COPY_GRACE
from divbase_gateway.services.submission import together
from divbase_gateway.settings import JobSettings
from sqlalchemy import select, text

from tests.integration import test_spread as spreading
from tests.integration.test_spread import SHARDS, TIMEOUT, fail, hidden, join, shards_of, shown, site, states, work
from tests.variants import VariantFile, index_variants
from tests.world import COMPLETED, Node, World

pytestmark = pytest.mark.slow  # many requests each

variants = spreading.variants
world = spreading.world

KEY = "a.vcf.gz"
SWEEP = timedelta(seconds=10)


def storage(world: World) -> dict[str, Any]:
    answer = world.lab.editor.get(f"{world.lab.path}/storage")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def switch(world: World, *, on: bool) -> None:
    answer = world.lab.editor.request("PATCH", world.lab.path, json={"sidecars": on})
    assert answer.status_code == 200, answer.text


def copies(world: World) -> list[str]:
    return [each.key for each in world.store.list_versions(world.lab.project.bucket, ".divbase/bcf/")]


def sidecar_states(world: World) -> list[str]:
    with world.gateway.sessions.read() as session:
        return list(session.scalars(select(SidecarRow.state)))


@pytest.fixture
def copied(world: World, variants: VariantFile, tmp_path: Path) -> int:
    """The file has a copy: its bytes, with its index."""
    path = tmp_path / "copy.bcf"
    pysam.bcftools.view("--no-version", "-Ob1", "-o", str(path), str(variants.path), catch_stdout=False)
    body, index = path.read_bytes(), index_variants(path, "csi").read_bytes()
    world.lab.api.add_member(world.lab.project, world.lab.editor.user, Role.MANAGE)
    switch(world, on=True)
    world.tick(SWEEP)
    world.tick()
    job = str(world.lab.info(KEY)["sidecar"]["job"])
    node = world.node(job)
    node.claim()
    node.push("copy.bcf", "result", body)
    node.push("copy.bcf.csi", "index", index)
    node.report()
    world.sees(job, COMPLETED)
    world.tick()
    assert world.lab.info(KEY)["sidecar"]["state"] == "READY"
    return len(body) + len(index)


def ask(world: World) -> tuple[str, list[str]]:
    """A spread query whose shards the scheduler has."""
    job = world.accept()
    world.tick()
    assert states(world, job) == ["QUEUED"] * SHARDS
    return job, shards_of(world, job)


def format_read(node: Node) -> str:
    [entry] = node.claim().json()["inputs"]
    assert entry["key"] == KEY
    return str(entry["format"])


def finish(world: World, job: str, shards: list[str]) -> None:
    for shard in shards:
        work(world, shard)
    world.tick()
    world.tick()
    join(world, job)
    world.tick()
    assert world.end(job) == ("SUCCEEDED", None)


# --- copies --------------------------------------------------------------------------------------------------------


def test_shards_read_the_copy_that_the_plan_reads(world: World, copied: int) -> None:
    """Guards: each shard reads it, the script says so, and nobody removes it while the query is open; the digest is
    that of the question without copies."""
    job, shards = ask(world)
    detail = shown(world, job)
    assert detail["plan"]["inputs"][0]["copy_size"] is not None
    for shard in shards:
        assert '"a.vcf.gz" (its BCF copy)' in world.at_scheduler(shard).submission.script
        assert world.job(shard).plan["inputs"][0]["copy"] is not None
    assert format_read(world.node(shards[0])) == "bcf"
    switch(world, on=False)
    world.tick(SWEEP)
    plain = world.lab.editor.post(f"{world.lab.path}/queries/plan", {"all_samples": True, "command": "view"}).json()
    assert (plain["digest"], plain["inputs"][0]["copy_size"]) == (detail["plan"]["digest"], None)
    world.tick(COPY_GRACE)
    assert len(copies(world)) == 2
    finish(world, job, shards)
    world.tick(SWEEP)
    assert copies(world) == []


def test_a_shard_whose_copy_is_damaged_reads_the_file_alone(world: World, copied: int) -> None:
    """Guards: a damaged copy costs that shard an attempt; the others are neither ended nor told, and it is no failure
    that any run would have. What the shard asks for is more now, so it goes out by itself."""
    job, shards = ask(world)
    fail(world, shards[1], "input_corrupt", f"the BCF copy of {KEY} is damaged.")
    world.tick()
    assert (world.state(job), states(world, job)[0], states(world, job)[2]) == ("SPREAD", "QUEUED", "QUEUED")
    assert world.scheduler.cancelled == []
    assert sidecar_states(world) == ["GOING"]
    with world.gateway.sessions.read() as session:
        assert [len(each) for each in together(session, [world.job(shard).id for shard in shards])] == [2, 1]
    world.tick()
    assert [len(world.attempts(shard)) for shard in shards] == [1, 2, 1]
    assert [format_read(world.node(shard)) for shard in shards] == ["bcf", "vcf.gz", "bcf"]
    finish(world, job, shards)


def test_the_job_that_joins_gives_no_copy_up(world: World, copied: int) -> None:
    """Guards: it has read what shards made, so that what is wrong with that says nothing of copies, and no attempt
    without them would be another."""
    job, shards = ask(world)
    for shard in shards:
        work(world, shard)
    world.tick()
    world.tick()
    fail(world, job, "input_missing", "A shard is not there.")
    world.tick()
    assert world.end(job) == ("FAILED", "input_missing")
    assert (len(world.attempts(job)), sidecar_states(world)) == (1, ["READY"])


def test_a_rerun_without_copies_runs_only_what_is_missing(world: World, copied: int) -> None:
    """Guards: where the copy went meanwhile, the shard that is run again reads the file; those that succeeded stay, and
    the job joins all of them."""
    job, shards = ask(world)
    work(world, shards[0])
    work(world, shards[2])
    world.node(shards[1]).claim()
    world.sees(shards[1], TIMEOUT)
    world.tick()
    assert world.end(job) == ("FAILED", "timed_out")
    switch(world, on=False)
    world.tick(SWEEP)
    world.tick(COPY_GRACE)
    assert copies(world) == []
    digest = world.job(job).plan_digest
    assert world.rerun(job, more=True).status_code == 201
    world.tick()
    assert states(world, job) == ["SUCCEEDED", "QUEUED", "SUCCEEDED"]
    assert format_read(world.node(shards[1])) == "vcf.gz"
    work(world, shards[1])
    world.tick()
    world.tick()
    script = world.at_scheduler(job).submission.script
    assert all(f"in/{number}.bcf" in script for number in range(1, SHARDS + 1))
    join(world, job)
    world.tick()
    assert (world.state(job), world.job(job).plan_digest) == ("SUCCEEDED", digest)


# --- the nodes' cache ----------------------------------------------------------------------------------------------


def test_shards_share_the_cache_and_what_they_made_is_not_in_it(database: Database, variants: VariantFile) -> None:
    """Guards: others may ask for the same blocks; nobody else ever reads what a shard made."""
    jobs = JobSettings(spread_after_s=2, cache_dir=PurePosixPath("/scratch/cache"), cache_gb=1)
    world = spreading.world_of(database, variants, site().model_copy(update={"jobs": jobs}))
    job, shards = ask(world)
    told = world.node(shards[0]).claim().json()["cache"]
    assert told == {"folder": "/scratch/cache", "bytes": 10**9}
    for shard in shards:
        work(world, shard)
    world.tick()
    world.tick()
    assert world.node(job).claim().json()["cache"] is None


# --- room ----------------------------------------------------------------------------------------------------------


def test_copies_take_room(world: World, copied: int) -> None:
    """Guards: they are a part of their own, counted until they are gone, in both sums."""
    found = storage(world)
    assert found["copies"] == copied
    parts = ("files", "older_versions", "indexes", "copies", "results", "records", "open_uploads")
    assert found["total"] == sum(found[part] for part in parts)
    with world.gateway.sessions.read() as session:
        assert stored_by_project(session) == {world.lab.project.name: found["total"]}
    switch(world, on=False)
    world.tick(SWEEP)
    assert storage(world)["copies"] == copied
    world.tick(COPY_GRACE)
    assert storage(world)["copies"] == 0


def test_what_shards_made_takes_room_until_it_is_gone(world: World) -> None:
    """Guards: among the results, as long as it is in the bucket, also while the store does not let it go."""
    job, shards = ask(world)
    for shard in shards:
        work(world, shard)
    world.tick()
    made = sum(len(f"what {shard} made") + len(b"its index") for shard in shards)
    assert storage(world)["results"] == made
    world.tick()
    join(world, job)
    world.lab.store.away.add("delete_version")
    world.tick()
    result = sum(each["size"] for each in world.job(job).results)
    assert storage(world)["results"] == made + result
    world.lab.store.away.clear()
    world.restart("the second")
    world.tick(timedelta(minutes=5))
    assert (storage(world)["results"], hidden(world)) == (result, [])


# --- retention -----------------------------------------------------------------------------------------------------


def days_pass(world: World, days: int) -> None:
    """With a look on each: after a day without any, the warning begins anew."""
    for _ in range(days):
        world.tick(timedelta(hours=23))


def test_a_spread_query_is_pinned_removed_and_rerun_whole(world: World) -> None:
    """Guards: a result is a result, however it was made; what its shards made went long ago, so all of them run again,
    and their objects never expire by themselves."""
    world.lab.api.add_member(world.lab.project, world.lab.editor.user, Role.MANAGE)
    job, shards = ask(world)
    finish(world, job, shards)
    answer = world.lab.editor.request("PUT", f"{world.lab.path}/jobs/{job}/pin")
    assert answer.status_code == 200, answer.text
    answer = world.lab.editor.request("PUT", f"{world.lab.path}/retention", json={"days": 1})
    assert answer.status_code == 200, answer.text
    days_pass(world, GRACE.days + 3)
    assert shown(world, job)["results_removed_at"] is None
    world.lab.editor.request("DELETE", f"{world.lab.path}/jobs/{job}/pin")
    days_pass(world, 3)
    assert shown(world, job)["results_removed_at"] is not None
    assert storage(world)["results"] == 0
    assert world.rerun(job).status_code == 201
    assert (world.state(job), states(world, job)) == ("SPREAD", ["ACCEPTED"] * SHARDS)
    world.tick()
    finish(world, job, shards)
    assert [len(world.attempts(each)) for each in (job, *shards)] == [2] * (SHARDS + 1)
    assert shown(world, job)["results_removed_at"] is None
    assert world.lab.editor.get(f"{world.lab.path}/jobs/{job}/result").status_code == 200


def test_a_full_project_runs_no_shard_again(world: World) -> None:
    """Guards: the rerun of a spread query is refused as that of any other is."""
    job, shards = ask(world)
    for shard in shards:
        world.node(shard).claim()
        world.sees(shard, TIMEOUT)
    world.tick()
    assert world.state(job) == "FAILED"
    with world.gateway.sessions.write() as session:
        session.execute(text("UPDATE projects SET max_bytes = 1"))
    answer = world.rerun(job, more=True)
    assert (answer.status_code, answer.json()["code"]) == (409, "storage_full"), answer.text
    assert states(world, job) == ["FAILED"] * SHARDS
