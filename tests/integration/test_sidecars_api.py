"""BCF copies from the project's wish to their removal: accepted once, used only if they are of the file, and never
taken from a job that was planned on them; on both databases.

The node's calls are made here over the real API; that bcftools does its part is tested elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pysam.bcftools
import pytest
from divbase_gateway.db.models import FileRow, FileVersionRow, ProjectRow, SidecarMapRow, SidecarRow, SnapshotFileRow
from divbase_gateway.domain.projects import Role
from divbase_gateway.domain.sidecars import GRACE
from divbase_gateway.ports import Sighting
from sqlalchemy import delete, func, select, update

from tests.api import Caller
from tests.variants import VariantFile, index_variants, simulate
from tests.world import COMPLETED, FAILED, World, work_on_index

pytestmark = pytest.mark.slow  # many requests each


KEY = "a.vcf.gz"
SWEEP = timedelta(seconds=10)


@dataclass(frozen=True)
class Copy:
    """What a node makes of a file."""

    body: bytes
    index: bytes


def copy_of(path: Path, folder: Path) -> Copy:
    target = folder / "copy.bcf"
    pysam.bcftools.view("--no-version", "-Ob1", "-o", str(target), str(path), catch_stdout=False)
    return Copy(target.read_bytes(), index_variants(target, "csi").read_bytes())


@pytest.fixture(scope="module")
def copy(variants: VariantFile, tmp_path_factory: pytest.TempPathFactory) -> Copy:
    return copy_of(variants.path, tmp_path_factory.mktemp("copy"))


@pytest.fixture
def manager(world: World) -> Caller:
    caller = world.lab.api.add_caller("mia@example.org")
    world.lab.api.add_member(world.lab.project, caller.user, Role.MANAGE)
    return caller


def switch(world: World, manager: Caller, on: bool) -> None:
    answer = manager.request("PATCH", world.lab.path, json={"sidecars": on})
    assert (answer.status_code, answer.json()["sidecars"]) == (200, on), answer.text
    assert manager.get(world.lab.path).json()["sidecars"] is on


def jobs(world: World) -> list[dict[str, Any]]:
    """Jobs that write copies, newest first."""
    items: list[dict[str, Any]] = world.lab.editor.get(f"{world.lab.path}/jobs", kind="sidecar").json()["items"]
    return items


def sidecar(world: World, key: str = KEY) -> dict[str, Any] | None:
    found: dict[str, Any] | None = world.lab.info(key)["sidecar"]
    return found


def write(world: World, job: str, made: Copy) -> None:
    """The node's work, to the end of the job."""
    node = world.node(job)
    assert node.claim().json()["kind"] == "sidecar"
    node.push("copy.bcf", "result", made.body)
    node.push("copy.bcf.csi", "index", made.index)
    assert node.report().status_code == 200
    world.sees(job, COMPLETED)
    world.tick()


def fail(world: World, job: str, reason: str, message: str) -> None:
    node = world.node(job)
    node.claim()
    node.report(reason, message)
    world.sees(job, FAILED)
    world.tick()


@pytest.fixture
def ready(world: World, manager: Caller, copy: Copy) -> str:
    """The file has a copy: the job that wrote it."""
    switch(world, manager, on=True)
    world.tick()
    world.tick()
    job = str(jobs(world)[0]["id"])
    write(world, job, copy)
    assert world.end(job) == ("SUCCEEDED", None)
    return job


def hidden(world: World) -> list[str]:
    """Keys of what the bucket has of copies."""
    return [each.key for each in world.store.list_versions(world.lab.project.bucket, ".divbase/bcf/")]


def planned(world: World, **question: Any) -> dict[str, Any]:
    body = {"all_samples": True, "command": "view", **question}
    answer = world.lab.editor.post(f"{world.lab.path}/queries/plan", body)
    assert answer.status_code == 200, answer.text
    plan: dict[str, Any] = answer.json()
    return plan


def reads_copies(plan: dict[str, Any]) -> list[bool]:
    return [entry["copy_size"] is not None for entry in plan["inputs"]]


# --- wishing ---------------------------------------------------------------------------------------------------------


def test_a_project_has_no_copies_unless_it_wants_some(world: World, manager: Caller) -> None:
    """Guards: off by default, and no job without a wish."""
    assert manager.get(world.lab.path).json()["sidecars"] is False
    world.tick(SWEEP)
    assert (jobs(world), sidecar(world)) == ([], None)


def test_only_managers_wish(world: World) -> None:
    """Guards: copies cost room and core-hours of all."""
    answer = world.lab.editor.request("PATCH", world.lab.path, json={"sidecars": True})
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


def test_a_description_leaves_the_wish_alone(world: World, manager: Caller) -> None:
    """Guards: what is not named stays."""
    switch(world, manager, on=True)
    answer = manager.request("PATCH", world.lab.path, json={"description": "Birches"})
    assert (answer.json()["sidecars"], answer.json()["description"]) == (True, "Birches")


def test_a_version_has_one_job(world: World, manager: Caller) -> None:
    """Guards: however often is looked, and after a restart, there is one, the uploader's; no limit counts it."""
    switch(world, manager, on=True)
    for _ in range(3):
        world.tick(SWEEP)
    world.restart()
    world.tick(SWEEP)
    [job] = jobs(world)
    assert (job["kind"], job["name"], job["created_by"]) == ("sidecar", f"bcf {KEY}", "edda@example.org")
    assert sidecar(world) == {"state": "WRITING", "size": None, "reason": None, "job": job["id"]}
    assert manager.get(f"{world.lab.path}/usage").json()["open_jobs"] == 0


def test_a_new_version_gets_a_copy_of_its_own(world: World, ready: str, tmp_path: Path) -> None:
    """Guards: each version that becomes READY, also by an index that a job builds; the old one's copy goes."""
    newer = simulate(tmp_path / KEY, seed=2)
    world.lab.upload_file(newer.path)
    index_job = world.lab.info(KEY)["index_job"]
    world.tick(SWEEP)
    assert (len(jobs(world)), sidecar(world)) == (1, None)
    work_on_index(world, index_job, index_variants(newer.path, "csi").read_bytes())
    world.tick(SWEEP)
    world.tick()
    assert len(jobs(world)) == 2
    write(world, jobs(world)[0]["id"], copy_of(newer.path, tmp_path))
    assert reads_copies(planned(world)) == [True]
    world.tick(GRACE)
    assert {key.split("/")[-1].split(".")[0] for key in hidden(world)} == {jobs(world)[0]["id"]}


def test_only_so_many_jobs_are_open_at_a_time(
    world: World, manager: Caller, variants: VariantFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards: the queries of people do not wait behind copies of thousands of files."""
    monkeypatch.setattr("divbase_gateway.services.sidecars.MOST_OPEN", 2)
    assert variants.index is not None
    for name in ("b", "c", "d"):
        world.lab.upload_file(variants.index, f"{name}.vcf.gz.csi")
        world.lab.upload_file(variants.path, f"{name}.vcf.gz")
    switch(world, manager, on=True)
    world.tick(SWEEP)
    world.tick(SWEEP)
    assert len(jobs(world)) == 2
    world.cancel(jobs(world)[0]["id"])
    world.sees(jobs(world)[0]["id"], Sighting("CANCELLED"))
    world.tick()
    world.tick(SWEEP)
    assert len(jobs(world)) == 3


# --- using -----------------------------------------------------------------------------------------------------------


def test_a_copy_is_read_and_never_listed(world: World, ready: str, copy: Copy) -> None:
    """Guards: plans read it, people see the file; `files info` says how large it is; no listing has its name."""
    assert sidecar(world) == {
        "state": "READY",
        "size": len(copy.body) + len(copy.index),
        "reason": None,
        "job": ready,
    }
    plan = planned(world)
    [entry] = plan["inputs"]
    assert (entry["key"], entry["copy_size"], entry["bytes_needed"]) == (
        KEY,
        len(copy.body),
        len(copy.body) + len(copy.index),
    )
    assert plan["commands"][0].endswith("in/1.bcf")
    script = world.lab.editor.post(f"{world.lab.path}/queries/script", {"all_samples": True}).json()["script"]
    assert f'#   1  "{KEY}" (its BCF copy)' in script
    assert hidden(world) == [f".divbase/bcf/{KEY}/{ready}.bcf", f".divbase/bcf/{KEY}/{ready}.bcf.csi"]
    assert world.lab.refresh() == []
    listed = world.lab.files(versions=True, deleted=True)
    assert [file["key"] for file in listed if "bcf" in file["key"] or file["key"].startswith(".divbase")] == []


def test_the_node_gets_the_copy_under_the_name_of_the_file(world: World, ready: str, copy: Copy) -> None:
    """Guards: key and format say what is read, and its checksums are those of the copy."""
    job = world.submit()
    [entry] = world.node(job).claim().json()["inputs"]
    assert (entry["key"], entry["copy_key"], entry["format"], entry["size"]) == (
        KEY,
        f".divbase/bcf/{KEY}/{ready}.bcf",
        "bcf",
        len(copy.body),
    )
    assert entry["sha256"] == world.job(ready).results[0]["sha256"]
    assert entry["index"]["kind"] == "csi"


def test_a_part_of_a_copy_is_planned_by_its_maps(world: World, manager: Caller, tmp_path: Path) -> None:
    """Guards: the catalogue keeps the index of a copy as it keeps that of a file; no byte of it is read to plan."""
    large = simulate(tmp_path / "large.vcf.gz", samples=40, sites=9000, index="csi")
    assert large.index is not None
    for path in (large.index, large.path):
        world.lab.upload_file(path)
    switch(world, manager, on=True)
    world.tick()
    world.tick()
    job = next(job["id"] for job in jobs(world) if "large" in job["name"])
    write(world, job, copy_of(large.path, tmp_path))
    world.lab.store.calls.clear()
    plan = planned(world, files=["large.vcf.gz"], command="view -r chr1:500000-510000")
    assert reads_copies(plan) == [True]
    assert plan["bytes_needed"] < plan["inputs"][0]["copy_size"] / 4
    assert world.lab.store.calls == []


def test_an_equal_question_is_answered_by_the_earlier_result(world: World, manager: Caller, copy: Copy) -> None:
    """Guards: with a copy and without it is the same question."""
    first = world.submit()
    world.node(first).work()
    world.sees(first, COMPLETED)
    switch(world, manager, on=True)
    world.tick(SWEEP)
    world.tick()
    write(world, jobs(world)[0]["id"], copy)
    assert reads_copies(planned(world)) == [True]
    answer = world.lab.editor.post(f"{world.lab.path}/jobs", {"all_samples": True, "command": "view"})
    assert (answer.status_code, answer.json()["id"], answer.json()["reused"]) == (200, first, True)


def test_a_snapshot_is_asked_by_copies(world: World, ready: str, tmp_path: Path) -> None:
    """Guards: a version that a snapshot names keeps its copy, and `--at` reads it."""
    named = world.lab.editor.post(f"{world.lab.path}/snapshots", {"name": "then"})
    assert named.status_code == 201, named.text
    newer = simulate(tmp_path / KEY, seed=2)
    world.lab.upload_file(newer.path)
    world.tick(SWEEP)
    world.tick(GRACE)
    assert reads_copies(planned(world, at="then")) == [True]
    assert f".divbase/bcf/{KEY}/{ready}.bcf" in hidden(world)


# --- refusing --------------------------------------------------------------------------------------------------------


def other_samples(path: Path) -> VariantFile:
    return simulate(path, samples=["X", "Y", "Z"])


def fewer_records(path: Path) -> VariantFile:
    return simulate(path, sites=49)


@pytest.mark.parametrize(("make", "words"), [(other_samples, "other names"), (fewer_records, "49 records on 'chr1'")])
def test_the_copy_of_another_file_is_not_used(
    world: World, manager: Caller, tmp_path: Path, make: Any, words: str
) -> None:
    """Guards: whatever a job says, samples and counts are compared; what is refused is removed, and says why."""
    switch(world, manager, on=True)
    world.tick()
    world.tick()
    job = jobs(world)[0]["id"]
    write(world, job, copy_of(make(tmp_path / "other.vcf.gz").path, tmp_path))
    found = sidecar(world)
    assert found is not None
    assert (found["state"], words in found["reason"]) == ("NONE", True), found
    assert (reads_copies(planned(world)), hidden(world)) == ([False], [])
    assert world.lab.info(KEY)["state"] == "READY"


def test_a_job_that_fails_leaves_the_file_as_it_was(world: World, manager: Caller, copy: Copy) -> None:
    """Guards: the reason is there to be read, nothing is tried again by itself, and a rerun makes the copy."""
    switch(world, manager, on=True)
    world.tick()
    world.tick()
    job = jobs(world)[0]["id"]
    fail(world, job, "copy_differs", "There will be no BCF copy of the file: so it is.")
    found = sidecar(world)
    assert found is not None
    assert (found["state"], "so it is" in found["reason"]) == ("NONE", True)
    for _ in range(3):
        world.tick(SWEEP)
    assert (len(jobs(world)), reads_copies(planned(world))) == (1, [False])
    assert world.rerun(job).status_code == 201
    world.tick()
    write(world, job, copy)
    assert reads_copies(planned(world)) == [True]
    assert world.rerun(job).status_code == 409


def test_faults_of_the_machinery_are_tried_again_so_often(world: World, manager: Caller) -> None:
    """Guards: a full disk is no reason to give up at once, and none to try for ever."""
    switch(world, manager, on=True)
    world.tick()
    world.tick()
    job = jobs(world)[0]["id"]
    for _ in range(world.gateway.policy.max_attempts):
        fail(world, job, "disk_full", "The disk is full.")
        world.tick(SWEEP)
    assert world.end(job) == ("FAILED", "disk_full")
    found = sidecar(world)
    assert found is not None
    assert (found["state"], len(jobs(world))) == ("NONE", 1)


def test_a_store_that_is_away_decides_nothing(world: World, manager: Caller, copy: Copy) -> None:
    """Guards: the copy waits until it can be looked at."""
    switch(world, manager, on=True)
    world.tick()
    world.tick()
    job = jobs(world)[0]["id"]
    node = world.node(job)
    node.claim()
    node.push("copy.bcf", "result", copy.body)
    node.push("copy.bcf.csi", "index", copy.index)
    node.report()
    world.sees(job, COMPLETED)
    world.lab.store.away.add("read")
    world.tick()
    found = sidecar(world)
    assert found is not None
    assert found["state"] == "WRITING"
    world.lab.store.away.clear()
    world.tick()
    assert reads_copies(planned(world)) == [True]


# --- removing --------------------------------------------------------------------------------------------------------


def rows(world: World, model: type) -> int:
    with world.gateway.sessions.read() as session:
        return session.scalar(select(func.count()).select_from(model)) or 0


def test_switched_off_nothing_is_read_and_all_is_removed(world: World, manager: Caller, ready: str) -> None:
    """Guards: no plan reads a copy from that moment on; when those that did can have been accepted, it is gone."""
    switch(world, manager, on=False)
    assert reads_copies(planned(world)) == [False]
    world.tick(SWEEP)
    assert len(hidden(world)) == 2
    world.tick(GRACE)
    assert (hidden(world), rows(world, SidecarRow), rows(world, SidecarMapRow)) == ([], 0, 0)
    assert world.lab.info(KEY)["state"] == "READY"


def test_switched_on_again_in_time_it_is_kept(world: World, manager: Caller, ready: str) -> None:
    """Guards: who changes their mind pays nothing for it."""
    switch(world, manager, on=False)
    world.tick(SWEEP)
    switch(world, manager, on=True)
    world.tick(SWEEP)
    assert (reads_copies(planned(world)), len(jobs(world))) == ([True], 1)
    world.tick(GRACE)
    assert len(hidden(world)) == 2


def test_a_job_keeps_the_copies_that_it_was_planned_on(world: World, manager: Caller, ready: str) -> None:
    """Guards: what an open job is to read is there until it has ended, whatever is switched off meanwhile."""
    job = world.submit()
    switch(world, manager, on=False)
    for _ in range(3):
        world.tick(GRACE)
    assert len(hidden(world)) == 2
    world.node(job).work()
    world.sees(job, COMPLETED)
    world.tick()
    world.tick(SWEEP)
    assert (world.state(job), hidden(world)) == ("SUCCEEDED", [])


def test_a_query_that_runs_again_reads_the_file_where_the_copy_is_gone(
    world: World, manager: Caller, ready: str
) -> None:
    """Guards: a rerun long after works on the versions that it was planned on, and has the time that this takes."""
    job = world.submit()
    minutes = world.job(job).minutes
    fail(world, job, "out_of_memory", "It had too little.")
    switch(world, manager, on=False)
    world.tick(SWEEP)
    world.tick(GRACE)
    assert hidden(world) == []
    assert world.rerun(job).status_code == 201
    world.tick()
    [entry] = world.node(job).claim().json()["inputs"]
    assert (entry["key"], entry["copy_key"], entry["format"]) == (KEY, None, "vcf.gz")
    assert "in/1.vcf.gz" in world.at_scheduler(job).submission.script
    assert world.job(job).minutes > minutes


def test_a_query_that_fell_back_to_its_file_can_be_rerun_at_the_ceiling(world: World, ready: str) -> None:
    """Guards: the longer time that the file takes is no more than the project may have, in the plan as in the job."""
    job = world.submit()
    with world.gateway.sessions.write() as session:
        session.execute(update(ProjectRow).values(max_minutes=world.job(job).minutes))
    fail(world, job, "input_corrupt", f"the BCF copy of {KEY} is not what it was.")
    world.tick()
    fail(world, job, "bcftools_failed", "No such tag.")
    assert world.end(job) == ("FAILED", "bcftools_failed")
    again = world.rerun(job)
    assert again.status_code == 201, again.text


@pytest.mark.parametrize("reason", ["input_missing", "input_corrupt"])
def test_a_copy_that_cannot_be_read_fails_no_query(world: World, ready: str, copy: Copy, reason: str) -> None:
    """Guards: the next attempt reads the file, whatever the number of attempts allowed; the copy is written anew."""
    job = world.submit()
    fail(world, job, reason, f"the BCF copy of {KEY} is not what it was.")
    assert world.state(job) in ("ACCEPTED", "QUEUED")
    assert "reads no BCF copies" in str(world.job(job).message)
    assert reads_copies(planned(world)) == [False]
    world.tick()
    assert world.node(job).claim().json()["inputs"][0]["copy_key"] is None
    fail(world, job, reason, "The file is not what it was.")
    assert world.end(job) == ("FAILED", reason)
    world.tick(GRACE)
    world.tick(SWEEP)
    world.tick()
    assert len(jobs(world)) == 2
    write(world, jobs(world)[0]["id"], copy)
    assert reads_copies(planned(world)) == [True]


@pytest.mark.parametrize("words", ["{} is not in the store any more: 404", "the index of {} is damaged: its MD5 is 0"])
def test_a_fault_of_a_file_that_has_no_copy_is_not_blamed_on_those_of_others(
    world: World, ready: str, tmp_path: Path, words: str
) -> None:
    """Guards: what another attempt would find again ends the job, and the copies of the sound files stay."""
    other = simulate(tmp_path / "b.vcf.gz", samples=["X", "Y", "Z"], index="csi")
    assert other.index is not None
    for path in (other.index, other.path):
        world.lab.upload_file(path)
    assert reads_copies(planned(world)) == [True, False]
    job = world.submit()
    fail(world, job, "input_missing", words.format("b.vcf.gz"))
    assert world.end(job) == ("FAILED", "input_missing")
    assert reads_copies(planned(world)) == [True, False]


def test_another_failure_is_not_blamed_on_copies(world: World, ready: str) -> None:
    """Guards: a question that bcftools refuses is not asked twice."""
    job = world.submit()
    fail(world, job, "bcftools_failed", "No such tag.")
    assert (world.end(job), reads_copies(planned(world))) == (("FAILED", "bcftools_failed"), [True])


def test_a_deleted_file_loses_its_copy_and_a_restored_one_gets_another(world: World, ready: str) -> None:
    """Guards: what nobody can ask costs no room."""
    world.lab.delete(KEY)
    world.tick(SWEEP)
    world.tick(GRACE)
    assert hidden(world) == []
    assert world.lab.editor.post(f"{world.lab.path}/files/restore", {"key": KEY}).status_code == 200
    world.tick(SWEEP)
    assert len(jobs(world)) == 2


def test_a_version_that_is_removed_for_good_takes_its_copy_along(world: World, ready: str) -> None:
    """Guards: whoever removes the row of a version leaves nothing in the bucket that nobody knows of."""
    with world.gateway.sessions.write() as session:
        session.execute(delete(SnapshotFileRow))
        version = session.scalars(select(SidecarRow.version_row_id)).one()
        session.execute(update(FileRow).where(FileRow.current_id == version).values(current_id=None))
        session.execute(delete(FileVersionRow).where(FileVersionRow.id == version))
    world.tick(SWEEP)
    world.tick(GRACE)
    assert (hidden(world), rows(world, SidecarRow)) == ([], 0)


def test_a_removal_that_was_interrupted_is_finished(world: World, manager: Caller, ready: str) -> None:
    """Guards: a store that goes away in the middle leaves a row that is found again, and no plan reads half a copy."""
    switch(world, manager, on=False)
    world.tick(SWEEP)
    world.lab.store.away.add("delete_version")
    world.tick(GRACE)
    assert world.scheduler.discarded  # which goes on meanwhile
    world.lab.store.away.clear()
    switch(world, manager, on=True)
    world.tick(SWEEP)
    assert reads_copies(planned(world)) == [False]
    world.tick(GRACE)
    assert ready not in "".join(hidden(world))


def test_a_leader_that_was_overtaken_removes_no_copy_of_a_later_attempt(
    world: World, manager: Caller, copy: Copy
) -> None:
    """Guards: a job that failed was settled by another gateway and run again while the store kept this one waiting."""
    switch(world, manager, on=True)
    world.tick()
    world.tick()
    job = jobs(world)[0]["id"]
    leader = world.reconciler
    node = world.node(job)
    node.claim()
    node.report("bcftools_failed", "No such tag.")
    world.sees(job, FAILED)

    def others() -> None:
        world.lab.store.before.clear()
        world.restart("the second")
        world.tick(after=timedelta(minutes=1))
        assert world.rerun(job).status_code == 201
        world.tick()
        write(world, job, copy)

    world.lab.store.before["list_versions"] = others
    leader.tick()
    assert not world.lab.store.before
    assert len(hidden(world)) == 2
    assert reads_copies(planned(world)) == [True]


def test_leftovers_of_earlier_attempts_go_when_one_succeeds(world: World, manager: Caller, copy: Copy) -> None:
    """Guards: each attempt writes the same key; one version of it stays."""
    switch(world, manager, on=True)
    world.tick()
    world.tick()
    job = jobs(world)[0]["id"]
    node = world.node(job)
    node.claim()
    node.push("copy.bcf", "result", b"half a copy")
    node.report("store_unavailable", "S3 went away.")
    world.sees(job, FAILED)
    world.tick()
    world.tick()
    assert len(hidden(world)) == 1
    write(world, job, copy)
    assert len(hidden(world)) == 2
    assert reads_copies(planned(world)) == [True]
