"""Files over the API: listed, shown, downloaded, deleted, restored and refreshed, on both databases and stores."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from divbase_gateway.db import files as file_rows
from divbase_gateway.db.models import JobRow
from divbase_gateway.db.session import Database
from divbase_gateway.domain.files import FileState
from divbase_gateway.services.files import catalogue_of

from tests.lab import Lab, lab_in_memory, lab_on_s3
from tests.variants import simulate


@pytest.fixture
def lab(request: pytest.FixtureRequest, database: Database, bucket_name: str) -> Lab:
    """An empty project, on SQLite with the store in memory and on PostgreSQL with a real S3: neither sees the other."""
    if request.node.callspec.params["database"] == "sqlite":
        return lab_in_memory(database)
    return lab_on_s3(database, request.getfixturevalue("seaweed"), bucket_name)


def test_files_are_listed_by_code_point(lab: Lab) -> None:
    """Guards: the order is the same on every database, capitals before small letters, no language's rules."""
    for key in ("b.txt", "B.txt", "a/z.txt", "ä.txt", "a-b.txt"):
        lab.upload(key, b"x")
    assert [file["key"] for file in lab.files()] == ["B.txt", "a-b.txt", "a/z.txt", "b.txt", "ä.txt"]


def test_a_listing_goes_on_where_a_page_ended(lab: Lab) -> None:
    """Guards: the cursor, for files and for versions."""
    for key in ("B.txt", "a.txt", "b.txt"):
        lab.upload(key, b"1")
        lab.upload(key, b"2")
    for versions, expected in (
        (False, ["B.txt", "a.txt", "b.txt"]),
        (True, ["B.txt"] * 2 + ["a.txt"] * 2 + ["b.txt"] * 2),
    ):
        keys, cursor = [], None
        while True:
            params = {"limit": 1, "versions": versions} | ({"cursor": cursor} if cursor else {})
            page = lab.editor.get(f"{lab.path}/files", **params).json()
            keys += [file["key"] for file in page["items"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert keys == expected


def test_a_cursor_of_another_listing_is_refused(lab: Lab) -> None:
    """Guards: a cursor of files does not silently begin a listing of versions somewhere."""
    lab.upload("a.txt", b"1")
    lab.upload("b.txt", b"1")
    cursor = lab.editor.get(f"{lab.path}/files", limit=1).json()["next_cursor"]
    answer = lab.editor.get(f"{lab.path}/files", versions=True, cursor=cursor)
    assert answer.json()["code"] == "invalid_request"


def test_a_prefix_is_taken_literally(lab: Lab) -> None:
    """Guards: `_`, `%` and letter case mean themselves."""
    for key in ("a_1.txt", "ab1.txt", "A_1.txt", "a%.txt"):
        lab.upload(key, b"x")
    assert [file["key"] for file in lab.files(prefix="a_")] == ["a_1.txt"]
    assert [file["key"] for file in lab.files(prefix="a%")] == ["a%.txt"]


def test_what_divbase_writes_itself_is_not_listed(lab: Lab) -> None:
    """Guards: results and built indexes are no files of the project, not after a refresh either."""
    lab.store.write(lab.project.bucket, "results/j1/result.vcf.gz", b"x")
    lab.store.write(lab.project.bucket, ".divbase/indexes/a.csi", b"x")
    assert lab.refresh() == []
    assert lab.files() == []


def test_an_unknown_file_is_named_with_what_is_close(lab: Lab) -> None:
    """Guards: NotFound names key and project and keys that look like it."""
    lab.upload("north/pines.txt", b"x")
    lab.upload("oaks.txt", b"x")
    for route in ("info", "download"):
        problem = lab.editor.get(f"{lab.path}/files/{route}", key="Pines.txt")
        assert problem.status_code == 404
        assert problem.json()["detail"] == (
            f"Project {lab.project.name} has no file 'Pines.txt'. Close to it: 'north/pines.txt'."
        )
    assert lab.delete("oak.txt").json()["details"]["close"] == ["oaks.txt"]


def test_an_unknown_version_is_not_found(lab: Lab) -> None:
    """Guards: a version that is not there names itself."""
    lab.upload("a.txt", b"x")
    problem = lab.editor.get(f"{lab.path}/files/info", key="a.txt", version="nope")
    assert problem.status_code == 404
    assert problem.json()["details"]["version"] == "nope"


def test_a_download_is_pinned_to_its_version(lab: Lab) -> None:
    """Guards: the URL gives the bytes of the version that was asked for, whatever came after."""
    old = lab.upload("folder/a b.txt", b"old")
    first = lab.editor.get(f"{lab.path}/files/download", key="folder/a b.txt").json()
    lab.upload("folder/a b.txt", b"newer")
    again = lab.editor.get(f"{lab.path}/files/download", key="folder/a b.txt", version=old["version_id"]).json()
    assert (first["version_id"], again["version_id"]) == (old["version_id"], old["version_id"])
    assert (again["size"], again["sha256"], again["etag"]) == (3, old["sha256"], old["etag"])
    if first["request"]["url"].startswith("http://127"):
        got = httpx.get(first["request"]["url"], headers=first["request"]["headers"], trust_env=False)
        assert got.content == b"old"
        assert "a%20b.txt" in got.headers["content-disposition"]


def test_a_result_is_downloaded_by_its_key(lab: Lab) -> None:
    """Guards: `results/` keys are those of the project's jobs, pinned by version, and of no other project."""
    info = lab.store.write(lab.project.bucket, "results/j1/r.vcf.gz", b"bytes")
    now = lab.api.gateway.clock.now()
    result = {
        "role": "result", "key": info.key, "version_id": info.version_id, "size": 5, "sha256": "0" * 64,
        "etag": info.etag,
    }  # fmt: skip
    with lab.api.gateway.sessions.write() as session:
        session.add(
            JobRow(
                public_id="j1", project_id=lab.project.id, user_id=lab.editor.user.id, kind="query", name="r",
                plan={}, plan_digest="", state="SUCCEEDED", created_at=now, state_since=now, results=[result],
                cores=1, memory_mb=512, minutes=10,
            )
        )  # fmt: skip
    answer = lab.editor.get(f"{lab.path}/files/download", key="results/j1/r.vcf.gz").json()
    assert (answer["version_id"], answer["size"]) == (info.version_id, 5)
    for params in ({"key": "results/j1/other"}, {"key": "results/j2/r.vcf.gz"}, {"key": "results/"},
                   {"key": "results/j1/r.vcf.gz", "version": "nope"}):  # fmt: skip
        assert lab.editor.get(f"{lab.path}/files/download", **params).status_code == 404


def test_a_deleted_file_is_hidden_and_comes_back_as_it_was(lab: Lab) -> None:
    """Guards: delete puts a marker, restore takes it away; the version stays the same one, nothing is copied."""
    file = lab.upload("a.txt", b"x")
    assert lab.delete("a.txt").json()["deleted"] is True
    assert lab.files() == []
    assert [entry["deleted"] for entry in lab.files(deleted=True)] == [True]
    answer = lab.editor.get(f"{lab.path}/files/download", key="a.txt")
    assert (answer.status_code, answer.json()["hint"]) == (404, "`divbase files restore 'a.txt'` brings it back.")
    pinned = lab.editor.get(f"{lab.path}/files/download", key="a.txt", version=file["version_id"])
    assert pinned.status_code == 200
    restored = lab.editor.post(f"{lab.path}/files/restore", {"key": "a.txt"})
    assert restored.json() == file
    assert lab.store.head(lab.project.bucket, "a.txt").version_id == file["version_id"]
    assert lab.objects("a.txt") == [file["version_id"]]


def test_deleting_and_restoring_twice_is_no_error(lab: Lab) -> None:
    """Guards: both can be repeated after a lost answer."""
    file = lab.upload("a.txt", b"x")
    assert lab.delete("a.txt").status_code == lab.delete("a.txt").status_code == 200
    for _ in range(2):
        assert lab.editor.post(f"{lab.path}/files/restore", {"key": "a.txt"}).json() == file


def test_a_repeated_restore_does_not_undo_a_later_delete(lab: Lab) -> None:
    """Guards: the repeat of an old request with its Idempotency-Key gets the first answer and touches nothing."""
    lab.upload("a.txt", b"x")
    lab.delete("a.txt")
    first = lab.editor.post(f"{lab.path}/files/restore", {"key": "a.txt"}, once="k1")
    lab.delete("a.txt")
    again = lab.editor.post(f"{lab.path}/files/restore", {"key": "a.txt"}, once="k1")
    assert again.json() == first.json()
    assert lab.files() == []
    assert lab.files(deleted=True)[0]["deleted"] is True


@pytest.mark.parametrize("method", ["delete", "delete_version", "list_versions"])
def test_s3_away_during_a_delete_or_restore_changes_nothing(lab: Lab, method: str) -> None:
    """Guards: 503, the row as before, and the repeat works."""
    lab.upload("a.txt", b"x")
    if method != "delete":
        lab.delete("a.txt")
    before = lab.files(deleted=True)

    def act() -> httpx.Response:
        if method == "delete":
            return lab.delete("a.txt")
        return lab.editor.post(f"{lab.path}/files/restore", {"key": "a.txt"})

    lab.store.away = {method}
    assert act().status_code == 503
    assert lab.files(deleted=True) == before
    lab.store.away = set()
    assert act().status_code == 200


def test_a_refresh_catalogues_what_came_another_way(lab: Lab, tmp_path: Path) -> None:
    """Guards: an adopted bucket's files are catalogued with their indexes, and a second refresh finds nothing."""
    made = simulate(tmp_path / "b.vcf.gz", index="csi", sites=10)
    bare = simulate(tmp_path / "a.vcf.gz", sites=10)
    assert made.index is not None
    for path in (made.path, made.index, bare.path):
        lab.store.write(lab.project.bucket, path.name, path.read_bytes())
    changed = lab.refresh()
    assert [(file["key"], file["state"]) for file in changed] == [
        ("a.vcf.gz", "INDEXING"),
        ("b.vcf.gz", "READY"),
        ("b.vcf.gz.csi", "STORED"),
    ]
    assert {file["sha256"] for file in changed} == {None}
    assert lab.index_jobs() == ["index a.vcf.gz"]
    assert lab.refresh() == []


def test_a_refresh_notes_what_was_replaced_or_deleted_behind_our_back(lab: Lab) -> None:
    """Guards: the bucket is the truth; versions that queries are pinned to stay recorded."""
    for key in ("gone.txt", "kept.txt", "new.txt"):
        lab.upload(key, b"old")
    lab.store.delete(lab.project.bucket, "gone.txt")
    info = lab.store.write(lab.project.bucket, "new.txt", b"other")
    changed = {file["key"]: file for file in lab.refresh()}
    assert set(changed) == {"gone.txt", "new.txt"}
    assert changed["gone.txt"]["deleted"] is True
    assert changed["new.txt"]["version_id"] == info.version_id
    assert lab.count_versions("new.txt") == 2
    assert lab.editor.post(f"{lab.path}/files/restore", {"key": "gone.txt"}).json()["deleted"] is False
    assert lab.refresh() == []


def test_a_refresh_leaves_an_upload_that_is_under_way_alone(lab: Lab) -> None:
    """Guards: an object that its upload has yet to complete is verified then, not catalogued now."""
    begun = lab.begin("a.txt", b"hello").json()
    lab.send_parts(begun, b"hello")
    assert lab.refresh() == []
    assert lab.complete(begun, b"hello").json()["uploaded_by"] == "edda@example.org"


def test_a_refresh_passes_over_names_that_cannot_be(lab: Lab) -> None:
    """Guards: a hostile key in an adopted bucket is never shown, and hinders nothing."""
    for key in ("a\nb.txt", "-rf", "good.txt"):
        lab.store.write(lab.project.bucket, key, b"x")
    assert [file["key"] for file in lab.refresh()] == ["good.txt"]


def test_content_that_is_gone_from_the_bucket_cannot_be_restored(lab: Lab) -> None:
    """Guards: a version that was removed for good is a conflict in words, not a broken file."""
    file = lab.upload("a.txt", b"x")
    lab.delete("a.txt")
    lab.store.delete_version(lab.project.bucket, "a.txt", file["version_id"])
    answer = lab.editor.post(f"{lab.path}/files/restore", {"key": "a.txt"})
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")


def test_the_catalogue_has_live_variant_files_only(lab: Lab, tmp_path: Path) -> None:
    """Guards: what plans start from: current versions of variant files, in key order, with all that is known."""
    made = simulate(tmp_path / "b.vcf.gz", index="tbi", sites=10)
    assert made.index is not None
    lab.upload_file(made.index)
    file = lab.upload_file(made.path)
    lab.upload_file(made.path, "a.vcf.gz")
    lab.upload_file(made.path, "deleted.vcf.gz")
    lab.delete("deleted.vcf.gz")
    with lab.api.gateway.sessions.read() as session:
        found = catalogue_of(session, lab.project.id)
        row = file_rows.find_file(session, lab.project.id, "b.vcf.gz")
    assert [(entry.key, entry.state) for entry in found] == [
        ("a.vcf.gz", FileState.INDEXING),
        ("b.vcf.gz", FileState.READY),
    ]
    ready = found[1]
    assert row is not None
    assert row.current is not None
    assert file_rows.catalogued("b.vcf.gz", row.current) == ready
    assert ready.version_id == file["version_id"]
    assert ready.samples == ("S001", "S002", "S003")
    assert [(contig.name, contig.length, contig.variants) for contig in ready.contigs] == [
        ("chr1", 1_000_000, 10),
        ("chr2", 500_000, 10),
    ]
    assert ready.index is not None
    assert (ready.index.key, ready.index.kind.value) == ("b.vcf.gz.tbi", "tbi")


def test_files_of_another_project_are_not_seen(lab: Lab) -> None:
    """Guards: every query is about one project."""
    lab.upload("a.txt", b"x")
    other = lab.api.add_project(f"{lab.project.name}-2")
    reader = lab.api.add_caller("rune@example.org", admin=True)
    assert reader.get(f"/projects/{other.name}/files").json()["items"] == []
    assert reader.get(f"/projects/{other.name}/files/info", key="a.txt").status_code == 404
