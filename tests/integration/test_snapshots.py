"""Snapshots over the API: made, listed, shown and removed, kept from deletion, and asked questions at, on both
databases."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from divbase_gateway.db.models import FileRow, SnapshotFileRow
from divbase_gateway.db.session import Database
from divbase_gateway.domain.projects import Role
from divbase_gateway.services import metadata
from divbase_gateway.services.uploads import UPLOAD_LIFETIME
from httpx import Response
from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError

from tests.fakes.clock import FakeClock
from tests.lab import Lab, lab_in_memory, together
from tests.variants import VariantFile, simulate

pytestmark = pytest.mark.slow  # many requests each

TABLE = b"#Sample_ID\tArea\nS001\tNorth\nS002\tWest\n"


@pytest.fixture
def lab(database: Database) -> Lab:
    return lab_in_memory(database)


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> VariantFile:
    return simulate(tmp_path_factory.mktemp("variants") / "a.vcf.gz", index="csi")


def create(lab: Lab, name: str, note: str = "", once: str | None = None) -> Response:
    return lab.editor.post(f"{lab.path}/snapshots", {"name": name, "note": note}, once)


def created(lab: Lab, name: str, note: str = "") -> dict[str, Any]:
    answer = create(lab, name, note)
    assert answer.status_code == 201, answer.text
    return cast("dict[str, Any]", answer.json())


def versions_at(lab: Lab, name: str) -> dict[str, str]:
    answer = lab.editor.get(f"{lab.path}/snapshots/{name}/files")
    assert answer.status_code == 200, answer.text
    return {file["key"]: file["version_id"] for file in answer.json()["items"]}


def upload_variants(lab: Lab, variants: VariantFile) -> dict[str, Any]:
    assert variants.index is not None
    lab.upload_file(variants.index, "a.vcf.gz.csi")
    return lab.upload_file(variants.path, "a.vcf.gz")


def plan(lab: Lab, **query: Any) -> Response:
    return lab.editor.post(f"{lab.path}/queries/plan", {"command": "view", **query})


# --- what one is --------------------------------------------------------------------------------------------------


def test_a_snapshot_names_the_current_versions(lab: Lab) -> None:
    """Guards: of every file that is there, whatever its kind; older versions and deleted files are not in it."""
    lab.upload("a.txt", b"old")
    now = lab.upload("a.txt", b"newer")
    table = lab.upload("sample_metadata.tsv", TABLE)
    lab.upload("gone.txt", b"x")
    lab.delete("gone.txt")
    made = created(lab, "paper-1", "as submitted")
    assert made == {
        "name": "paper-1",
        "note": "as submitted",
        "created_by": "edda@example.org",
        "created_at": made["created_at"],
        "files": 2,
        "bytes": 5 + len(TABLE),
    }
    assert lab.editor.get(f"{lab.path}/snapshots/paper-1").json() == made
    assert versions_at(lab, "paper-1") == {
        "a.txt": now["version_id"],
        "sample_metadata.tsv": table["version_id"],
    }


def test_what_becomes_of_the_files_changes_nothing_in_it(lab: Lab) -> None:
    """Guards: a snapshot is of its moment, and each of its files says what has become of it since."""
    first = {key: lab.upload(key, b"1")["version_id"] for key in ("a.txt", "b.txt", "c.txt")}
    created(lab, "before")
    lab.upload("b.txt", b"2")
    lab.delete("c.txt")
    lab.upload("d.txt", b"1")
    assert versions_at(lab, "before") == first
    shown = lab.editor.get(f"{lab.path}/snapshots/before/files").json()["items"]
    assert [(file["is_latest"], file["deleted"]) for file in shown] == [(True, False), (False, False), (True, True)]
    for file in shown:
        answer = lab.editor.get(f"{lab.path}/files/download", key=file["key"], version=file["version_id"])
        assert answer.json()["size"] == 1


def test_listings_go_on_where_a_page_ended(lab: Lab) -> None:
    """Guards: the cursors: snapshots newest first, their files by code point."""
    for key in ("b.txt", "B.txt", "ä.txt"):
        lab.upload(key, b"1")
    for name in ("one", "two", "three"):
        created(lab, name)
    for path, name, expected in (
        ("snapshots", "name", ["three", "two", "one"]),
        ("snapshots/one/files", "key", ["B.txt", "b.txt", "ä.txt"]),
    ):
        found: list[str] = []
        cursor = None
        while len(found) < 4:
            params = {"limit": 1} | ({"cursor": cursor} if cursor else {})
            page = lab.editor.get(f"{lab.path}/{path}", **params).json()
            found += [item[name] for item in page["items"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert found == expected


def test_a_name_that_could_do_harm_is_refused(lab: Lab) -> None:
    """Guards: a name can be typed in a shell and stand in a URL; asking for another finds nothing, on any database."""
    lab.upload("a.txt", b"1")
    for name in ("", ".", "..", ".hid", "-rf", "a b", "a/b", "a\nb", "a\0b", "a;rm", "é", "x" * 101, "${HOME}"):
        assert create(lab, name).json()["code"] == "invalid_name", name
        assert plan(lab, all_samples=True, at=name).status_code == 404, name


def test_a_note_is_a_line_of_text(lab: Lab) -> None:
    """Guards: no control character gets into the database, nor from there into a terminal."""
    lab.upload("a.txt", b"1")
    for note in ("\x1b[2Jgone", "two\nlines", "nul\0", "\u2028"):
        assert create(lab, "good", note).json()["code"] == "invalid_name", note
    assert created(lab, "good", "Übersicht; 'quoted' $(fine)")["note"] == "Übersicht; 'quoted' $(fine)"


def test_a_name_is_given_once(lab: Lab) -> None:
    """Guards: a taken name is refused with what to do, and of two that ask at once one gets it; a repeated request is
    one request; another project has names of its own."""
    lab.upload("a.txt", b"1")
    answers = together(lambda: create(lab, "same"), lambda: create(lab, "same"))
    assert sorted(answer.status_code for answer in answers) == [201, 409]
    assert "divbase snapshots rm same" in create(lab, "same").json()["hint"]
    first, second = create(lab, "other", once="again"), create(lab, "other", once="again")
    assert (first.status_code, second.json()) == (201, first.json())
    assert [each["name"] for each in lab.editor.get(f"{lab.path}/snapshots").json()["items"]] == ["other", "same"]
    elsewhere = lab.api.add_project("alder")
    lab.api.add_member(elsewhere, lab.editor.user, Role.EDIT)
    lab.project = elsewhere
    lab.upload("a.txt", b"1")
    assert lab.editor.get(f"{lab.path}/snapshots/same").status_code == 404
    created(lab, "same")


def test_two_snapshots_at_once_name_the_same(lab: Lab) -> None:
    """Guards: neither keeps the other from being made."""
    lab.upload("a.txt", b"1")
    answers = together(lambda: create(lab, "left"), lambda: create(lab, "right"))
    assert [answer.status_code for answer in answers] == [201, 201]
    assert versions_at(lab, "left") == versions_at(lab, "right")


def test_an_upload_under_way_is_in_it_once_it_is_completed(lab: Lab) -> None:
    """Guards: not a version more, not one less: what has arrived but is not verified yet is no version."""
    old = lab.upload("a.txt", b"old")
    begun = lab.begin("a.txt", b"new").json()
    lab.send_parts(begun, b"new")
    created(lab, "during")
    new = lab.complete(begun, b"new").json()
    created(lab, "after")
    assert versions_at(lab, "during") == {"a.txt": old["version_id"]}
    assert versions_at(lab, "after") == {"a.txt": new["version_id"]}


def test_a_project_without_files_has_nothing_to_keep(lab: Lab) -> None:
    """Guards: a snapshot of the wrong project is noticed, and leaves no name behind."""
    assert create(lab, "empty").json()["code"] == "conflict"
    assert lab.editor.get(f"{lab.path}/snapshots").json()["items"] == []


def test_an_unknown_snapshot_is_named_with_what_is_close(lab: Lab) -> None:
    """Guards: NotFound names it and those that look like it, wherever it was asked for."""
    lab.upload("a.txt", b"1")
    created(lab, "paper-1")
    expected = f"Project {lab.project.name} has no snapshot 'paper1'. Close to it: 'paper-1'."
    for answer in (
        lab.editor.get(f"{lab.path}/snapshots/paper1"),
        lab.editor.get(f"{lab.path}/snapshots/paper1/files"),
        lab.editor.request("DELETE", f"{lab.path}/snapshots/paper1"),
        plan(lab, all_samples=True, at="paper1"),
    ):
        assert (answer.status_code, answer.json()["detail"]) == (404, expected)


# --- who may remove one, and what it keeps ----------------------------------------------------------------------


def test_who_may_remove_a_snapshot(lab: Lab) -> None:
    """Guards: its creator and who manages the project, nobody else; the files stay."""
    file = lab.upload("a.txt", b"1")
    for name in ("one", "two"):
        created(lab, name)
    other, manager = lab.api.add_caller("olga@example.org"), lab.api.add_caller("mia@example.org")
    lab.api.add_member(lab.project, other.user, Role.EDIT)
    lab.api.add_member(lab.project, manager.user, Role.MANAGE)
    refused = other.request("DELETE", f"{lab.path}/snapshots/one")
    assert (refused.status_code, "edda@example.org" in refused.json()["detail"]) == (403, True)
    assert manager.request("DELETE", f"{lab.path}/snapshots/one").status_code == 204
    assert lab.editor.request("DELETE", f"{lab.path}/snapshots/two").status_code == 204
    assert lab.editor.get(f"{lab.path}/snapshots").json()["items"] == []
    assert lab.info("a.txt")["version_id"] == file["version_id"]


def test_what_a_snapshot_names_is_not_removed_for_good(lab: Lab) -> None:
    """Guards: an upload that was forgotten became a file by a refresh and is in a snapshot; giving the upload up then
    does not take the bytes away, and says which snapshots keep them."""
    begun = lab.begin("a.txt", b"hello").json()
    lab.send_parts(begun, b"hello")
    cast("FakeClock", lab.api.gateway.clock).advance(UPLOAD_LIFETIME + timedelta(hours=1))
    (file,) = lab.refresh()
    created(lab, "first")
    created(lab, "second")
    answer = lab.editor.request("DELETE", f"{lab.path}/uploads/{begun['id']}")
    assert (answer.status_code, answer.json()["details"]["snapshots"]) == (409, ["first", "second"])
    assert lab.objects("a.txt") == [file["version_id"]]


def test_what_a_snapshot_names_stays_in_the_database(lab: Lab) -> None:
    """Guards: the last line of defence: the row of a named version cannot be deleted, that of a removed one can, and
    with its project everything goes."""
    lab.upload("a.txt", b"1")
    created(lab, "kept")
    sessions = lab.api.gateway.sessions
    with pytest.raises(IntegrityError), sessions.write() as session:
        session.execute(delete(FileRow))
    lab.editor.request("DELETE", f"{lab.path}/snapshots/kept")
    with sessions.write() as session:
        assert session.scalars(select(SnapshotFileRow)).all() == []
        session.execute(delete(FileRow))


# --- questions at one ---------------------------------------------------------------------------------------------


def test_a_question_at_a_snapshot_reads_what_it_names(lab: Lab, variants: VariantFile, tmp_path: Path) -> None:
    """Guards: files that changed, came or went since do not matter; the plan without --at is about those of now."""
    old = upload_variants(lab, variants)
    created(lab, "before")
    upload_variants(lab, simulate(tmp_path / "a.vcf.gz", index="csi", samples=["N"], seed=2))
    then = plan(lab, all_samples=True, at="before").json()
    now = plan(lab, all_samples=True).json()
    assert [(each["key"], each["version_id"]) for each in then["inputs"]] == [("a.vcf.gz", old["version_id"])]
    assert (then["samples"], now["samples"]) == (list(variants.samples), ["N"])
    lab.delete("a.vcf.gz")
    assert plan(lab, all_samples=True).status_code == 422
    assert plan(lab, all_samples=True, at="before").json() == then


def test_a_filter_at_a_snapshot_asks_the_table_of_then(lab: Lab, variants: VariantFile) -> None:
    """Guards: who was from the north at that time, also when the table has changed or is gone."""
    upload_variants(lab, variants)
    lab.upload("sample_metadata.tsv", TABLE)
    created(lab, "before")
    lab.upload("sample_metadata.tsv", TABLE.replace(b"North", b"South"))
    assert plan(lab, where="Area:North", at="before").json()["samples"] == ["S001"]
    assert plan(lab, where="Area:North").status_code == 422
    lab.delete("sample_metadata.tsv")
    assert plan(lab, where="Area:North", at="before").json()["samples"] == ["S001"]


def test_a_snapshot_without_a_table_cannot_be_filtered(lab: Lab, variants: VariantFile) -> None:
    """Guards: the table of now is not taken for that of then."""
    upload_variants(lab, variants)
    created(lab, "before")
    lab.upload("sample_metadata.tsv", TABLE)
    answer = plan(lab, where="Area:North", at="before")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_selection")
    assert "snapshot 'before'" in answer.json()["detail"]


def test_a_table_that_the_bucket_has_lost_is_said_to_be(lab: Lab, variants: VariantFile) -> None:
    """Guards: a lifecycle rule of the bucket took the version away; no other table is read in its place."""
    upload_variants(lab, variants)
    table = lab.upload("sample_metadata.tsv", TABLE + b"S003\tlost\n")
    created(lab, "before")
    lab.upload("sample_metadata.tsv", TABLE)
    lab.store.delete_version(lab.project.bucket, "sample_metadata.tsv", table["version_id"])
    forget_tables(lab)
    answer = plan(lab, where="Area:North", at="before").json()
    assert answer["code"] == "invalid_selection"
    assert "is gone from the bucket" in answer["detail"]
    assert table["version_id"] in answer["detail"]


def forget_tables(lab: Lab) -> None:
    """Read so many other tables that the gateway keeps no earlier one in memory."""
    for number in range(20):
        table = lab.store.write(lab.project.bucket, ".divbase/table", TABLE + f"R{number}\tx\n".encode())
        metadata.read_version(lab.store, lab.project.bucket, table.key, table.version_id, table.etag, table.size)


def test_a_file_that_was_being_indexed_is_read_once_it_can_be(lab: Lab, variants: VariantFile) -> None:
    """Guards: a snapshot keeps the version; what the catalogue learns of it afterwards counts for it too."""
    file = lab.upload_file(variants.path)
    assert file["state"] == "INDEXING"
    created(lab, "early")
    assert plan(lab, all_samples=True, at="early").json()["code"] == "unusable_file"
    assert variants.index is not None
    lab.upload_file(variants.index)
    assert plan(lab, all_samples=True, at="early").json()["inputs"][0]["version_id"] == file["version_id"]


def test_an_unchanged_project_answers_alike_at_a_snapshot(lab: Lab, variants: VariantFile) -> None:
    """Guards: the same versions are the same plan, so that one's result answers the other; the job says how it was
    asked."""
    upload_variants(lab, variants)
    created(lab, "now")
    digests = {plan(lab, all_samples=True, **at).json()["digest"] for at in ({}, {"at": "now"})}
    assert len(digests) == 1
    job = lab.editor.post(f"{lab.path}/jobs", {"all_samples": True, "at": "now"})
    assert (job.status_code, job.json()["query"]["at"]) == (201, "now")
