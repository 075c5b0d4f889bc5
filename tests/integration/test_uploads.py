"""Uploads over the API: begun, resumed, completed and aborted, on a fake store and on a real one."""

from __future__ import annotations

import gzip
import hashlib
import random
from pathlib import Path

import pytest
from divbase_gateway.db.models import UploadRow
from divbase_gateway.db.session import Database
from divbase_gateway.domain.projects import Role
from divbase_gateway.services.uploads import part_size_for
from sqlalchemy import select

from tests.lab import MIB, PART_SIZE, Lab, lab_in_memory, lab_on_s3, stated_parts, together
from tests.variants import plain_gzip, simulate


@pytest.fixture
def lab(request: pytest.FixtureRequest, database: Database, bucket_name: str) -> Lab:
    """An empty project, on SQLite with the store in memory and on PostgreSQL with a real S3: neither sees the other."""
    if request.node.callspec.params["database"] == "sqlite":
        return lab_in_memory(database)
    return lab_on_s3(database, request.getfixturevalue("seaweed"), bucket_name)


LARGE = random.Random(7).randbytes(PART_SIZE * 2 + 1000)


def test_a_small_file_goes_in_one_put_and_is_recorded(lab: Lab) -> None:
    """Guards: the whole way of a file of one part, and what is told of it."""
    begun = lab.begin("notes.txt", b"hello").json()
    assert (begun["mode"], begun["part_size"], begun["parts"], begun["file"]) == ("single", None, [], None)
    lab.send_parts(begun, b"hello")
    file = lab.complete(begun, b"hello").json()
    assert (file["key"], file["size"], file["state"]) == ("notes.txt", 5, "STORED")
    assert file["sha256"] == hashlib.sha256(b"hello").hexdigest()
    assert file["etag"] == "5d41402abc4b2a76b9719d911017c592"
    assert file["uploaded_by"] == "edda@example.org"
    assert lab.objects("notes.txt") == [file["version_id"]]


def test_the_object_says_what_it_is(lab: Lab) -> None:
    """Guards: the checksum of the whole travels with the object as metadata."""
    file = lab.upload("notes.txt", b"hello")
    info = lab.store.head(lab.project.bucket, "notes.txt", file["version_id"])
    assert info.metadata["sha256"] == hashlib.sha256(b"hello").hexdigest()


def test_an_empty_file_is_a_file(lab: Lab) -> None:
    """Guards: zero bytes are one part of size zero."""
    assert lab.upload("empty.txt", b"")["size"] == 0


def test_a_large_file_goes_in_parts(lab: Lab) -> None:
    """Guards: above the part size the upload is a multipart one, and its ETag is that of the parts."""
    begun = lab.begin("big.txt", LARGE).json()
    assert (begun["mode"], begun["part_size"]) == ("multipart", PART_SIZE)
    lab.send_parts(begun, LARGE)
    file = lab.complete(begun, LARGE).json()
    assert file["size"] == len(LARGE)
    assert file["etag"].endswith("-3")


def test_a_file_of_exactly_the_part_size_goes_in_one_put(lab: Lab) -> None:
    """Guards: the border between one PUT and parts."""
    sha256 = "0" * 64
    body = {"key": "a.txt", "size": PART_SIZE, "sha256": sha256}
    assert lab.editor.post(f"{lab.path}/uploads", body).json()["mode"] == "single"
    body = {"key": "b.txt", "size": PART_SIZE + 1, "sha256": sha256}
    assert lab.editor.post(f"{lab.path}/uploads", body).json()["mode"] == "multipart"


@pytest.mark.parametrize(
    ("size", "expected"),
    [(1, 32 * MIB), (320_000 * MIB, 32 * MIB), (320_000 * MIB + 1, 33 * MIB), (5 * 1024**4, 525 * MIB)],
)
def test_parts_grow_so_that_there_are_at_most_ten_thousand(size: int, expected: int) -> None:
    """Guards: S3's limit of 10,000 parts, for files up to its largest."""
    grown = part_size_for(size, 32 * MIB)
    assert grown == expected
    assert -(-size // grown) <= 10_000


def test_equal_content_is_not_sent_again(lab: Lab) -> None:
    """Guards: the current content is recognised by size and sha256, and answered with 200."""
    file = lab.upload("notes.txt", b"hello")
    answer = lab.begin("notes.txt", b"hello")
    assert answer.status_code == 200
    assert answer.json()["mode"] == "unchanged"
    assert answer.json()["file"] == file
    assert lab.count_versions("notes.txt") == 1


def test_content_of_a_deleted_file_is_sent_again(lab: Lab) -> None:
    """Guards: a deleted file is not there, so its content is not `unchanged`; the new version makes it live."""
    lab.upload("notes.txt", b"hello")
    lab.delete("notes.txt")
    assert lab.upload("notes.txt", b"hello")["deleted"] is False
    assert lab.count_versions("notes.txt") == 2


def test_a_new_version_becomes_the_current_one(lab: Lab) -> None:
    """Guards: two uploads of one key are two versions of one file."""
    old = lab.upload("notes.txt", b"one")
    new = lab.upload("notes.txt", b"two")
    assert lab.info("notes.txt")["version_id"] == new["version_id"]
    assert [file["version_id"] for file in lab.files(versions=True)] == [new["version_id"], old["version_id"]]


def test_begun_again_an_upload_goes_on_with_the_parts_that_are_there(lab: Lab) -> None:
    """Guards: a killed client gets its upload back, with what S3 has of it."""
    first = lab.begin("big.txt", LARGE).json()
    lab.send_parts(first, LARGE, [2])
    again = lab.begin("big.txt", LARGE).json()
    assert again["id"] == first["id"]
    assert again["parts"] == [stated_parts(first, LARGE)[1]]
    lab.send_parts(again, LARGE, [1, 3])
    assert lab.complete(again, LARGE).status_code == 200


def test_begun_again_a_single_put_that_arrived_is_not_sent_again(lab: Lab) -> None:
    """Guards: an object that arrived before the client died counts as the part that is there."""
    first = lab.begin("notes.txt", b"hello").json()
    lab.send_parts(first, b"hello")
    again = lab.begin("notes.txt", b"hello").json()
    assert again["parts"] == stated_parts(first, b"hello")
    assert lab.complete(again, b"hello").status_code == 200


def test_other_content_for_the_same_key_is_another_upload(lab: Lab) -> None:
    """Guards: only exactly the same content resumes."""
    first = lab.begin("notes.txt", b"hello").json()
    assert lab.begin("notes.txt", b"other").json()["id"] != first["id"]


def test_an_upload_that_s3_forgot_begins_anew(lab: Lab) -> None:
    """Guards: a multipart upload that the bucket's lifecycle rule removed does not block its file."""
    first = lab.begin("big.txt", LARGE).json()
    for upload in _open_multiparts(lab):
        lab.store.inner.abort_multipart(lab.project.bucket, "big.txt", upload)
    again = lab.begin("big.txt", LARGE).json()
    assert again["id"] != first["id"]
    lab.send_parts(again, LARGE)
    assert lab.complete(again, LARGE).status_code == 200
    assert lab.complete(first, LARGE).status_code == 404


def test_the_same_begin_with_the_same_key_gets_the_first_answer(lab: Lab) -> None:
    """Guards: Idempotency-Key on the begin of an upload."""
    first = lab.begin("notes.txt", b"hello", once="k1")
    again = lab.begin("notes.txt", b"hello", once="k1")
    assert again.json() == first.json()
    assert again.headers["Idempotent-Replay"] == "true"


def test_completing_twice_gives_the_same_file(lab: Lab) -> None:
    """Guards: a complete whose answer was lost can be repeated."""
    begun = lab.begin("notes.txt", b"hello").json()
    lab.send_parts(begun, b"hello")
    first = lab.complete(begun, b"hello")
    again = lab.complete(begun, b"hello")
    assert again.json() == first.json()
    assert lab.count_versions("notes.txt") == 1


@pytest.mark.parametrize("data", [b"hello", LARGE], ids=["single", "multipart"])
def test_two_completes_at_once_record_one_version(lab: Lab, data: bytes) -> None:
    """Guards: a version is never recorded twice, and no second object is left in the bucket."""
    begun = lab.begin("notes.txt", data).json()
    lab.send_parts(begun, data)
    answers = together(*[lambda: lab.complete(begun, data)] * 4)
    assert [answer.status_code for answer in answers] == [200] * 4
    assert len({answer.json()["version_id"] for answer in answers}) == 1
    assert lab.count_versions("notes.txt") == 1
    assert lab.objects("notes.txt") == [answers[0].json()["version_id"]]


def test_many_uploads_of_one_key_at_once_are_versions_of_one_file(lab: Lab) -> None:
    """Guards: completes of different contents of one new key do not collide."""
    contents = [b"one", b"two", b"three", b"four"]
    begun = [lab.begin("notes.txt", data).json() for data in contents]
    for upload, data in zip(begun, contents, strict=True):
        lab.send_parts(upload, data)
    answers = together(
        *[lambda u=upload, d=data: lab.complete(u, d) for upload, data in zip(begun, contents, strict=True)]
    )
    assert [answer.status_code for answer in answers] == [200] * 4
    assert lab.count_versions("notes.txt") == 4
    assert lab.info("notes.txt")["version_id"] == lab.objects("notes.txt")[0]


def test_a_late_complete_does_not_cover_the_newer_version(lab: Lab) -> None:
    """Guards: the current version is the one that S3 calls the newest, whoever completes last."""
    older = lab.begin("notes.txt", b"older").json()
    lab.send_parts(older, b"older")
    newer = lab.upload("notes.txt", b"newer")
    late = lab.complete(older, b"older").json()
    assert late["is_latest"] is False
    assert lab.info("notes.txt")["version_id"] == newer["version_id"]


def test_missing_parts_are_named(lab: Lab) -> None:
    """Guards: a complete before everything has arrived says what is missing, and the upload stays open."""
    begun = lab.begin("big.txt", LARGE).json()
    lab.send_parts(begun, LARGE, [1])
    answer = lab.complete(begun, LARGE)
    assert answer.status_code == 409
    assert answer.json()["details"]["missing"] == [2, 3]
    lab.send_parts(begun, LARGE, [2, 3])
    assert lab.complete(begun, LARGE).status_code == 200


def test_a_put_that_did_not_arrive_is_a_conflict(lab: Lab) -> None:
    """Guards: nothing is recorded of an object that is not there."""
    begun = lab.begin("notes.txt", b"hello").json()
    answer = lab.complete(begun, b"hello")
    assert answer.status_code == 409
    assert lab.files() == []


def test_other_bytes_than_stated_are_removed(lab: Lab) -> None:
    """Guards: where the ETag is not the stated MD5, the version goes and the client is told to upload again."""
    begun = lab.begin("notes.txt", b"hello").json()
    lab.send_parts(begun, b"hello")
    answer = lab.complete(begun, b"jello")
    assert answer.status_code == 409
    assert answer.json()["hint"] == "It was removed. Upload the file again."
    assert lab.objects("notes.txt") == []
    assert lab.files() == []
    assert lab.upload("notes.txt", b"hello")["size"] == 5


def test_a_wrong_complete_leaves_an_older_version_alone(lab: Lab) -> None:
    """Guards: only what this upload brought is ever removed."""
    kept = lab.upload("notes.txt", b"kept")
    begun = lab.begin("notes.txt", b"hello").json()
    assert lab.complete(begun, b"jello").status_code == 409
    assert lab.objects("notes.txt") == [kept["version_id"]]


@pytest.mark.parametrize(
    "parts",
    [
        [{"number": 2, "etag": "0" * 32, "size": 5}],
        [{"number": 1, "etag": "0" * 32, "size": 4}],
        [{"number": 1, "etag": "not an md5", "size": 5}],
        [{"number": n, "etag": "0" * 32, "size": 5} for n in (1, 2)],
    ],
)
def test_parts_that_cannot_be_right_are_refused(lab: Lab, parts: list[dict[str, object]]) -> None:
    """Guards: numbers, sizes and checksums are checked before S3 is asked, and nothing is removed."""
    begun = lab.begin("notes.txt", b"hello").json()
    lab.send_parts(begun, b"hello")
    answer = lab.editor.post(f"{lab.path}/uploads/{begun['id']}/complete", {"parts": parts})
    assert answer.status_code in (400, 422)
    assert answer.json()["code"] == "invalid_request"
    assert lab.complete(begun, b"hello").status_code == 200


def test_urls_are_given_for_parts_that_exist(lab: Lab) -> None:
    """Guards: a part number beyond the last is refused."""
    begun = lab.begin("notes.txt", b"hello").json()
    body = {"parts": [{"number": 2, "md5": "XUFAKrxLKna5cZ2REBfFkg=="}]}
    answer = lab.editor.post(f"{lab.path}/uploads/{begun['id']}/urls", body)
    assert answer.status_code in (400, 422)
    assert answer.json()["detail"] == "The upload of 'notes.txt' has 1 part(s); there is no part 2."


def test_a_completed_upload_takes_no_more_bytes(lab: Lab) -> None:
    """Guards: nobody puts other bytes over a completed file with an old upload."""
    begun = lab.begin("notes.txt", b"hello").json()
    lab.send_parts(begun, b"hello")
    lab.complete(begun, b"hello")
    body = {"parts": [{"number": 1, "md5": "XUFAKrxLKna5cZ2REBfFkg=="}]}
    assert lab.editor.post(f"{lab.path}/uploads/{begun['id']}/urls", body).status_code == 409


@pytest.mark.parametrize("data", [b"hello", LARGE], ids=["single", "multipart"])
def test_an_aborted_upload_leaves_nothing(lab: Lab, data: bytes) -> None:
    """Guards: abort removes what has arrived, and the upload is gone."""
    begun = lab.begin("notes.txt", data).json()
    lab.send_parts(begun, data)
    url = f"{lab.path}/uploads/{begun['id']}"
    assert lab.editor.request("DELETE", url).status_code == 204
    assert lab.objects("notes.txt") == []
    assert lab.complete(begun, data).status_code == 404
    assert lab.editor.request("DELETE", url).status_code == 404


def test_a_completed_upload_cannot_be_aborted(lab: Lab) -> None:
    """Guards: abort never takes away a recorded file."""
    begun = lab.begin("notes.txt", b"hello").json()
    lab.send_parts(begun, b"hello")
    lab.complete(begun, b"hello")
    assert lab.editor.request("DELETE", f"{lab.path}/uploads/{begun['id']}").status_code == 409
    assert len(lab.objects("notes.txt")) == 1


@pytest.mark.parametrize(
    "key", ["../a.vcf.gz", "a\nb.vcf.gz", "-o.vcf.gz", "results/x.vcf.gz", ".divbase/x.csi", "a.exe", "", "a//b.txt"]
)
def test_a_hostile_name_is_refused(lab: Lab, key: str) -> None:
    """Guards: the rules for names stand at the door; nothing is begun."""
    answer = lab.begin(key, b"hello")
    assert answer.status_code in (400, 422)
    assert answer.json()["code"] == "invalid_name"


@pytest.mark.parametrize("key", ["a b.txt", 'it\'s "$(x)" & `y`.txt', "älg/höst #1+2%.txt", "a?b*c[d].txt"])
def test_an_odd_name_comes_back_unchanged(lab: Lab, key: str) -> None:
    """Guards: whatever may name a file does so in S3, in URLs and in listings."""
    assert lab.upload(key, b"hello")["key"] == key
    assert [file["key"] for file in lab.files()] == [key]
    assert lab.editor.get(f"{lab.path}/files/download", key=key).json()["size"] == 5


def test_a_file_that_is_too_large_is_refused(lab: Lab) -> None:
    """Guards: the site's largest size."""
    body = {"key": "a.txt", "size": 5121 * 1024**3, "sha256": "0" * 64}
    answer = lab.editor.post(f"{lab.path}/uploads", body)
    assert answer.status_code in (400, 422)
    assert answer.json()["code"] == "invalid_request"


@pytest.mark.parametrize("method", ["complete_multipart", "head", "list_parts"])
def test_s3_away_during_a_complete_leaves_nothing_half_done(lab: Lab, method: str) -> None:
    """Guards: 503 as a problem, no row, and the repeat works."""
    begun = lab.begin("big.txt", LARGE).json()
    lab.send_parts(begun, LARGE)
    lab.store.away = {method}
    answer = lab.complete(begun, LARGE)
    assert answer.status_code == 503
    assert answer.json()["code"] == "store_unavailable"
    assert lab.files() == []
    lab.store.away = set()
    assert lab.complete(begun, LARGE).status_code == 200
    assert len(lab.objects("big.txt")) == 1


def test_s3_away_while_the_header_is_read_leaves_nothing_half_done(lab: Lab, tmp_path: Path) -> None:
    """Guards: the object is there but not recorded; the repeat finds it and records it once."""
    data = simulate(tmp_path / "a.vcf.gz").path.read_bytes()
    begun = lab.begin("a.vcf.gz", data).json()
    lab.send_parts(begun, data)
    lab.store.away = {"read"}
    assert lab.complete(begun, data).status_code == 503
    assert lab.files() == []
    assert lab.index_jobs() == []
    lab.store.away = set()
    assert lab.complete(begun, data).json()["state"] == "INDEXING"
    assert lab.count_versions("a.vcf.gz") == 1
    assert lab.index_jobs() == ["index a.vcf.gz"]


def test_a_gateway_that_died_between_s3_and_its_row_goes_on(lab: Lab) -> None:
    """Guards: joined at S3 but not recorded, the upload is finished by the next complete."""
    begun = lab.begin("big.txt", LARGE).json()
    lab.send_parts(begun, LARGE)
    _join_behind_the_gateway(lab, begun)
    file = lab.complete(begun, LARGE).json()
    assert lab.objects("big.txt") == [file["version_id"]]


def test_a_client_that_begins_again_after_that_sends_nothing(lab: Lab) -> None:
    """Guards: joined at S3 but not recorded, the upload is finished by the next begin."""
    begun = lab.begin("big.txt", LARGE).json()
    lab.send_parts(begun, LARGE)
    _join_behind_the_gateway(lab, begun)
    answer = lab.begin("big.txt", LARGE)
    assert (answer.status_code, answer.json()["mode"]) == (200, "unchanged")
    assert lab.objects("big.txt") == [answer.json()["file"]["version_id"]]


def test_no_s3_request_is_made_while_the_database_is_locked(lab: Lab, tmp_path: Path) -> None:
    """Guards: uploads that complete together do not wait for one another's S3 requests."""
    data = simulate(tmp_path / "a.vcf.gz").path.read_bytes()

    def write_meanwhile() -> None:
        with lab.api.gateway.sessions.write():
            pass  # would wait for 15 seconds and fail, were a write transaction open

    watched = ("head", "read", "list_parts", "start_multipart", "complete_multipart", "list_versions", "delete_version")
    lab.store.before = dict.fromkeys(watched, write_meanwhile)
    assert lab.upload("a.vcf.gz", data)["state"] == "INDEXING"
    assert lab.upload("big.txt", LARGE)["state"] == "STORED"
    assert {"read", "complete_multipart"} <= set(lab.store.calls)


def test_a_variant_file_with_its_index_is_ready(lab: Lab, tmp_path: Path) -> None:
    """Guards: with a user's index beside it no job is needed, and the catalogue has samples, contigs and counts."""
    made = simulate(tmp_path / "a.vcf.gz", index="csi", sites=20)
    assert made.index is not None
    lab.upload_file(made.index)
    file = lab.upload_file(made.path)
    assert (file["state"], file["index"], file["samples"], file["contigs"], file["variants"]) == (
        "READY", "csi", 3, 2, 40,
    )  # fmt: skip
    assert lab.info("a.vcf.gz")["index_key"] == "a.vcf.gz.csi"
    assert lab.info("a.vcf.gz")["sample_names"] == ["S001", "S002", "S003"]
    assert lab.index_jobs() == []


def test_a_variant_file_without_an_index_gets_a_job(lab: Lab, tmp_path: Path) -> None:
    """Guards: a missing index is built by a job that is accepted with the file, once."""
    file = lab.upload_file(simulate(tmp_path / "a.vcf.gz").path)
    assert (file["state"], file["index"], file["samples"]) == ("INDEXING", None, 3)
    assert lab.index_jobs() == ["index a.vcf.gz"]
    assert lab.info("a.vcf.gz")["index_job"] is not None


@pytest.mark.parametrize("kind", ["csi", "tbi"])
def test_an_index_that_comes_later_is_used(lab: Lab, tmp_path: Path, kind: str) -> None:
    """Guards: a user's index makes an INDEXING file READY at once."""
    made = simulate(tmp_path / "a.vcf.gz", index=kind)
    assert made.index is not None
    lab.upload_file(made.path)
    lab.upload_file(made.index)
    assert (lab.info("a.vcf.gz")["state"], lab.info("a.vcf.gz")["index_key"]) == ("READY", f"a.vcf.gz.{kind}")


def test_an_index_of_another_file_is_not_used(lab: Lab, tmp_path: Path) -> None:
    """Guards: a wrong index changes nothing; the file waits for its own."""
    other = simulate(tmp_path / "other.vcf.gz", index="csi", contigs={"chr9": 90_000}, sites=4000)
    assert other.index is not None
    lab.upload_file(simulate(tmp_path / "a.vcf.gz").path)
    lab.upload_file(other.index, "a.vcf.gz.csi")
    assert lab.info("a.vcf.gz")["state"] == "INDEXING"


def test_s3_away_while_the_index_is_held_against_its_file_can_be_repeated(lab: Lab, tmp_path: Path) -> None:
    """Guards: the index is recorded, and repeating its complete makes the file READY."""
    made = simulate(tmp_path / "a.vcf.gz", index="csi")
    assert made.index is not None
    lab.upload_file(made.path)
    data = made.index.read_bytes()
    begun = lab.begin("a.vcf.gz.csi", data).json()
    lab.send_parts(begun, data)
    lab.store.away = {"read"}
    assert lab.complete(begun, data).status_code == 503
    lab.store.away = set()
    assert lab.complete(begun, data).status_code == 200
    assert lab.info("a.vcf.gz")["state"] == "READY"


def test_a_plain_gzip_file_is_kept_and_marked(lab: Lab, tmp_path: Path) -> None:
    """Guards: what bcftools cannot index is stored with the reason in words, and the other files stay usable."""
    made = simulate(tmp_path / "good.vcf.gz", index="csi")
    assert made.index is not None
    lab.upload_file(made.index)
    lab.upload_file(made.path)
    file = lab.upload("bad.vcf.gz", plain_gzip(gzip.decompress(made.path.read_bytes())))
    assert file["state"] == "UNUSABLE"
    assert "plain gzip and must be BGZF" in file["reason"]
    assert lab.index_jobs() == []
    samples = lab.editor.get(f"{lab.path}/samples").json()["samples"]
    assert samples == [{"sample": name, "files": ["good.vcf.gz"]} for name in ("S001", "S002", "S003")]


def test_a_reader_cannot_upload(lab: Lab) -> None:
    """Guards: uploads take the role EDIT."""
    reader = lab.api.add_caller("rune@example.org")
    lab.api.add_member(lab.project, reader.user, Role.READ)
    body = {"key": "a.txt", "size": 5, "sha256": "0" * 64}
    assert reader.post(f"{lab.path}/uploads", body).status_code == 403


def test_an_upload_of_another_project_is_not_found(lab: Lab) -> None:
    """Guards: upload ids are only good in their own project."""
    begun = lab.begin("notes.txt", b"hello").json()
    other = lab.api.add_project(f"{lab.project.name}-2")
    lab.api.add_member(other, lab.editor.user, Role.EDIT)
    body = {"parts": stated_parts(begun, b"hello")}
    assert lab.editor.post(f"/projects/{other.name}/uploads/{begun['id']}/complete", body).status_code == 404


def _open_multiparts(lab: Lab) -> list[str]:
    with lab.api.gateway.sessions.read() as session:
        return [upload for upload in session.scalars(select(UploadRow.s3_upload_id)) if upload is not None]


def _join_behind_the_gateway(lab: Lab, begun: dict[str, object]) -> None:
    """What S3 has done for a gateway that did not live to write it down."""
    store, (upload,) = lab.store.inner, _open_multiparts(lab)
    parts = store.list_parts(lab.project.bucket, "big.txt", upload)
    store.complete_multipart(lab.project.bucket, "big.txt", upload, parts)
