"""Repairs from the request to the file's new version: what is refused, what is asked for twice, and what becomes of the
file when somebody changes it meanwhile, on both databases.

The node's calls are made here over the real API; that bcftools does its part is tested elsewhere.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from divbase_gateway.domain.errors import StoreUnavailable
from httpx import Response

from tests.lab import together
from tests.variants import bgzf, index_variants, plain_gzip, vcf_header, vcf_records, write_variants
from tests.world import COMPLETED, FAILED, NODE_FAIL, Node, World, index_of, work_on_index

pytestmark = pytest.mark.slow  # many requests each


KEY = "sent/s.vcf.gz"
TEXT = vcf_header(["A", "B"], {"chr1": 9000}) + vcf_records("chr1", 9000, ["A", "B"], 30, 1)


@dataclass(frozen=True)
class Mended:
    """What a node makes of the file."""

    body: bytes
    index: bytes


@pytest.fixture(scope="module")
def mended(tmp_path_factory: pytest.TempPathFactory) -> Mended:
    path = tmp_path_factory.mktemp("mended") / "s.vcf.gz"
    write_variants(path, TEXT)
    return Mended(path.read_bytes(), index_variants(path, "csi").read_bytes())


def upload(world: World, body: bytes, key: str = KEY) -> dict[str, Any]:
    return world.lab.upload(key, body)


def ask(world: World, key: str = KEY, once: str | None = None) -> Response:
    return world.lab.editor.post(f"{world.lab.path}/files/repair", {"key": key}, once)


def accepted(world: World) -> str:
    """A repair of a plain gzip file that the scheduler has."""
    upload(world, plain_gzip(TEXT.encode()))
    answer = ask(world)
    assert answer.status_code == 201, answer.text
    world.tick()
    return str(answer.json()["id"])


def send(world: World, job: str, mended: Mended) -> Node:
    """The node's work up to its report."""
    node = world.node(job)
    assert node.claim().status_code == 200
    node.push("repaired.vcf.gz", "result", mended.body)
    node.push("repaired.vcf.gz.csi", "index", mended.index)
    return node


def finish(world: World, job: str, node: Node) -> tuple[str, str | None]:
    assert node.report().status_code == 200
    world.sees(job, COMPLETED)
    world.tick()
    return world.end(job)


def versions(world: World) -> list[str]:
    """Every version and delete marker that the bucket has of the file, newest first."""
    found = world.store.list_versions(world.lab.project.bucket, KEY)
    return [version.version_id for version in found if version.key == KEY]


def left_behind(world: World) -> list[str]:
    """Objects that DivBase has written for repairs, and uploads that nobody has ended."""
    bucket = world.lab.project.bucket
    keys = [version.key for version in world.store.list_versions(bucket, ".divbase/indexes/sent/")]
    return keys + [upload.key for upload in world.store._buckets[bucket].uploads.values()]


# --- asking ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "body", "words", "hint"),
    [
        ("cut.vcf.gz", bgzf(TEXT.encode(), eof=False), "It is truncated", "upload it again under the same name"),
        ("cut.vcf", TEXT.encode()[:-4], "Its last line has no end", "upload it again under the same name"),
        ("page.vcf.gz", b"<html>404</html>", "It is not a VCF: it looks like an HTML page", "upload it again"),
        ("empty.vcf.gz", b"", "It is empty", "upload it again"),
        (
            "twice.vcf.gz",
            plain_gzip(TEXT.replace("\tB\n", "\tA\n").encode()),
            "It has duplicate samples, more than one column named: A. Rename them",
            "upload it again",
        ),
        ("notes.txt", b"some notes", "it is no variant file by its name", "Files called .vcf"),
        ("sample_metadata.tsv", b"no table", "is for its author to mend", "divbase metadata validate"),
        ("a.vcf.gz", None, "there is nothing to mend: it is READY", "Queries use it as it is."),
    ],
)
def test_what_no_job_mends_is_refused(world: World, key: str, body: bytes | None, words: str, hint: str) -> None:
    """Guards: the user reads why, and what to do; no job is made."""
    if body is not None:
        upload(world, body, key)
    answer = ask(world, key)
    problem = answer.json()
    assert (answer.status_code, words in problem["detail"], hint in problem["hint"]) == (409, True, True), problem
    assert world.lab.editor.get(f"{world.lab.path}/jobs", kind="repair").json()["items"] == []


def test_a_deleted_file_and_none_are_refused(world: World) -> None:
    """Guards: a file comes back before it is mended, and a wrong name is not found."""
    upload(world, plain_gzip(TEXT.encode()))
    world.lab.delete(KEY)
    assert (ask(world).status_code, "restore" in ask(world).json()["hint"]) == (409, True)
    assert ask(world, "other.vcf.gz").status_code == 404


def test_a_version_is_mended_by_one_job(world: World) -> None:
    """Guards: who asks again, at the same time or later, gets the job that is there; a repeated request its answer."""
    upload(world, plain_gzip(TEXT.encode()))
    first, second = together(lambda: ask(world), lambda: ask(world))
    assert sorted([first.status_code, second.status_code]) == [200, 201]
    assert first.json()["id"] == second.json()["id"]
    third = ask(world, once="the same")
    assert (third.status_code, third.json()["reused"], third.json()["kind"]) == (200, True, "repair")
    world.cancel(first.json()["id"])
    assert ask(world, once="the same").json() == third.json()
    assert ask(world).status_code == 201


def test_a_repair_counts_against_the_limits(world: World) -> None:
    """Guards: it is a job that somebody asks for, like a query."""
    upload(world, plain_gzip(TEXT.encode()))
    admin = world.lab.api.add_caller("root@example.org", admin=True)
    limit = admin.request("PATCH", f"{world.lab.path}/allocation", json={"max_open_jobs": 0})
    assert limit.status_code == 200, limit.text
    assert (ask(world).status_code, ask(world).json()["code"]) == (409, "limit_reached")


def test_a_missing_index_is_built_without_writing_the_file_anew(world: World, tmp_path: Path) -> None:
    """Guards: where nothing is wrong with a file but that its index job was lost, a repair is an index job."""
    job, index = index_of(world, tmp_path)
    assert ask(world, "b.vcf.gz").json()["id"] == job  # it is at work
    world.tick()
    node = world.node(job)
    node.claim()
    node.report("out_of_memory", "It had too little.")
    world.sees(job, FAILED)
    world.tick()
    answer = ask(world, "b.vcf.gz")
    assert (answer.status_code, answer.json()["kind"]) == (201, "index")
    assert world.lab.info("b.vcf.gz")["state"] == "INDEXING"
    world.tick()
    work_on_index(world, answer.json()["id"], index)
    assert (world.lab.info("b.vcf.gz")["state"], world.lab.count_versions("b.vcf.gz")) == ("READY", 1)


@pytest.mark.parametrize(
    ("reason", "status", "words"),
    [
        ("unsorted", 201, None),
        ("input_corrupt", 409, "bytes of it are damaged or missing"),
        ("bcftools_failed", 409, "bcftools cannot read what is in it"),
    ],
)
def test_why_an_index_could_not_be_built_decides(
    world: World, tmp_path: Path, reason: str, status: int, words: str | None
) -> None:
    """Guards: an unsorted file is written anew, a damaged one is not."""
    job, _ = index_of(world, tmp_path)
    world.tick()
    node = world.node(job)
    node.claim()
    node.report(reason, "So it is.")
    world.sees(job, FAILED)
    world.tick()
    answer = ask(world, "b.vcf.gz")
    assert answer.status_code == status, answer.text
    assert answer.json()["kind"] == "repair" if words is None else words in answer.json()["detail"]


# --- the new version -------------------------------------------------------------------------------------------------


def test_a_repair_writes_a_new_version(world: World, mended: Mended) -> None:
    """Guards: nothing is to be seen before the job has succeeded; then the file is READY, and its old version stays."""
    job = accepted(world)
    (old,) = versions(world)
    node = send(world, job, mended)
    assert node.outputs[0]["version_id"] is None
    assert versions(world) == [old]
    assert world.lab.info(KEY)["state"] == "UNUSABLE"
    assert finish(world, job, node) == ("SUCCEEDED", None)
    info = world.lab.info(KEY)
    assert (info["state"], info["variants"], info["reason"], info["size"]) == ("READY", 30, None, len(mended.body))
    assert (info["sha256"], info["uploaded_by"]) == (hashlib.sha256(mended.body).hexdigest(), "edda@example.org")
    assert info["index_key"] == f".divbase/indexes/{KEY}/{job}.csi"
    assert versions(world) == [info["version_id"], old]
    listed = world.lab.files(versions=True, prefix=KEY)
    assert [(each["version_id"], each["state"]) for each in listed] == [
        (info["version_id"], "READY"),
        (old, "UNUSABLE"),
    ]
    results = {each["role"]: each for each in world.job(job).results}
    assert (results["result"]["key"], results["result"]["version_id"]) == (KEY, info["version_id"])
    plan = world.lab.editor.post(f"{world.lab.path}/queries/plan", {"samples": ["A"], "command": "view"})
    assert [each["key"] for each in plan.json()["inputs"]] == [KEY]


def test_a_file_that_was_replaced_stays_as_it_is(world: World, mended: Mended) -> None:
    """Guards: who uploads while a repair runs keeps what they uploaded, and the job says why it failed."""
    job = accepted(world)
    node = send(world, job, mended)
    newer = upload(world, plain_gzip((TEXT + "chr1\t9000\t.\tA\tC\t.\t.\t.\tGT\t0/0\t0/1\n").encode()))
    before = versions(world)
    assert finish(world, job, node) == ("FAILED", "superseded")
    assert "was replaced or deleted while it was being repaired" in (world.job(job).message or "")
    assert (versions(world), world.lab.info(KEY)["version_id"]) == (before, newer["version_id"])
    assert left_behind(world) == []
    assert ask(world).status_code == 201  # of what is there now
    again = world.rerun(job)
    assert (again.status_code, "is not the file any more" in again.json()["detail"]) == (409, True)


def test_a_file_that_was_deleted_stays_deleted(world: World, mended: Mended) -> None:
    """Guards: a repair brings no file back."""
    job = accepted(world)
    node = send(world, job, mended)
    world.lab.delete(KEY)
    before = versions(world)
    assert finish(world, job, node) == ("FAILED", "superseded")
    assert (versions(world), world.lab.info(KEY)["deleted"], left_behind(world)) == (before, True, [])


def test_what_is_uploaded_while_parts_are_joined_is_not_covered(world: World, mended: Mended) -> None:
    """Guards: between the look at the file and the joining somebody may be faster; then ours is taken away again."""
    job = accepted(world)
    node = send(world, job, mended)
    bucket, newer = world.lab.project.bucket, plain_gzip(TEXT.replace("PASS", ".").encode())
    put = [lambda: world.store.write(bucket, KEY, newer)]
    world.lab.store.before["complete_multipart"] = lambda: put and put.pop()()  # type: ignore[assignment,return-value]
    assert finish(world, job, node) == ("FAILED", "superseded")
    assert world.store.head(bucket, KEY).size == len(newer)
    assert (len(versions(world)), left_behind(world)) == (2, [])


def test_what_is_uploaded_just_after_stays_the_newest(world: World, mended: Mended) -> None:
    """Guards: a file that changes between the joining and its record has the repaired one as an earlier version."""
    job = accepted(world)
    node = send(world, job, mended)
    newest: list[str] = []

    def put() -> None:  # the gateway's look at the new file: it is in its place by then
        world.lab.store.before.pop("read")
        newest.append(upload(world, plain_gzip(TEXT.replace("PASS", ".").encode()))["version_id"])

    assert node.report().status_code == 200
    world.sees(job, COMPLETED)
    world.lab.store.before["read"] = put
    world.tick()
    assert world.end(job) == ("SUCCEEDED", None)
    assert world.lab.info(KEY)["version_id"] == newest[0] == world.store.head(world.lab.project.bucket, KEY).version_id
    assert {each["state"] for each in world.lab.files(versions=True, prefix=KEY)} == {"READY", "UNUSABLE"}


@pytest.mark.parametrize("method", ["complete_multipart", "read"])
def test_a_store_that_goes_away_delays_the_end(world: World, mended: Mended, method: str) -> None:
    """Guards: joined or not, with a lost answer or none, the next look finds where it stands; nothing is done twice."""
    job = accepted(world)
    node = send(world, job, mended)
    if method == "read":
        world.lab.store.away.add("read")
    else:
        world.store.lose_answer_of.add(method)
    state, _ = finish(world, job, node)
    assert state in ("FINALIZING", "RUNNING")
    assert len(versions(world)) == 2
    world.lab.store.away.clear()
    world.tick()
    assert world.end(job) == ("SUCCEEDED", None)
    assert (world.lab.info(KEY)["state"], len(versions(world))) == ("READY", 2)


def test_a_refresh_that_is_faster_than_the_record_does_no_harm(world: World, mended: Mended) -> None:
    """Guards: a version that a refresh has catalogued without its index gets it from the repair."""
    job = accepted(world)
    node = send(world, job, mended)
    world.store.lose_answer_of.add("complete_multipart")
    finish(world, job, node)
    (seen,) = world.lab.refresh()
    assert seen["state"] == "INDEXING"
    world.tick()
    assert world.end(job) == ("SUCCEEDED", None)
    assert (world.lab.info(KEY)["state"], world.lab.count_versions(KEY)) == ("READY", 2)


def test_a_result_that_cannot_be_used_is_removed(world: World, mended: Mended) -> None:
    """Guards: what has no valid index, or is no VCF, never becomes the file's version."""
    job = accepted(world)
    before = versions(world)
    node = send(world, job, Mended(mended.body[:-28], mended.index))
    assert finish(world, job, node) == ("FAILED", "result_mismatch")
    assert "cannot be used, and was removed: It is truncated" in (world.job(job).message or "")
    assert (versions(world), world.lab.info(KEY)["state"], left_behind(world)) == (before, "UNUSABLE", [])


def test_a_failed_repair_leaves_nothing(world: World, mended: Mended) -> None:
    """Guards: parts and indexes of a job that failed after it had sent them are gone; the file is as it was."""
    job = accepted(world)
    before = versions(world)
    send(world, job, mended).report("disk_full", "No room.")
    world.sees(job, FAILED)
    world.tick()
    world.tick()
    send(world, job, mended).report("bcftools_failed", "It cannot read this.")
    world.sees(job, FAILED)
    world.tick()
    assert (world.end(job), len(world.attempts(job))) == (("FAILED", "bcftools_failed"), 2)
    assert (versions(world), world.lab.info(KEY)["state"], left_behind(world)) == (before, "UNUSABLE", [])


def test_a_later_attempt_takes_away_what_an_earlier_one_has_put_there(world: World, mended: Mended) -> None:
    """Guards: a run that was given up between joining and record does not stand in the way of the next."""
    job = accepted(world)
    node = send(world, job, mended)
    world.lab.store.away.add("read")
    finish(world, job, node)
    (theirs, old) = versions(world)
    world.sees(job, NODE_FAIL)
    world.lab.store.away.clear()
    world.tick()
    world.tick()
    assert len(world.attempts(job)) == 2
    again = send(world, job, mended)
    assert finish(world, job, again) == ("SUCCEEDED", None)
    new, *rest = versions(world)
    assert (rest, theirs != new) == ([old], True)
    assert world.lab.info(KEY)["version_id"] == new


def test_parts_that_did_not_arrive_are_asked_for_again(world: World, mended: Mended) -> None:
    """Guards: the gateway looks at the parts when the node says that it has sent them, not only in the end."""
    job = accepted(world)
    node = world.node(job)
    node.claim()
    announced = node.announce("repaired.vcf.gz", "result", mended.body)
    assert announced["upload"] is not None
    refused = node.complete("repaired.vcf.gz", announced, mended.body)
    assert (refused.status_code, "0 parts" in refused.json()["detail"]) == (409, True)
    assert len(world.store._buckets[world.lab.project.bucket].uploads) == 1
    node.push("repaired.vcf.gz", "result", mended.body)
    assert len(world.store._buckets[world.lab.project.bucket].uploads) == 1  # the refused one was ended
    node.push("repaired.vcf.gz.csi", "index", mended.index)
    assert finish(world, job, node) == ("SUCCEEDED", None)


def test_a_file_in_several_parts_is_joined_from_them(world: World, mended: Mended) -> None:
    """Guards: the parts are put together in their order, and the file is what they were cut from."""
    job = accepted(world)
    node = world.node(job)
    node.claim()
    node.push("repaired.vcf.gz", "result", mended.body[:300], mended.body[300:])
    node.push("repaired.vcf.gz.csi", "index", mended.index)
    assert finish(world, job, node) == ("SUCCEEDED", None)
    assert world.lab.info(KEY)["etag"].endswith("-2")


def test_a_success_without_the_file_is_none(world: World, mended: Mended) -> None:
    """Guards: a report that names an index only is not believed."""
    job = accepted(world)
    node = world.node(job)
    node.claim()
    node.push("repaired.vcf.gz.csi", "index", mended.index)
    assert finish(world, job, node) == ("FAILED", "result_mismatch")
    assert (len(versions(world)), left_behind(world)) == (1, [])


def test_a_store_that_is_away_refuses_the_question(world: World) -> None:
    """Guards: what is wrong with a file is looked at anew; where nobody can look, nothing is promised."""
    upload(world, plain_gzip(TEXT.encode()))
    world.lab.store.away.add("read")
    assert (ask(world).status_code, ask(world).json()["code"]) == (503, StoreUnavailable.code)
