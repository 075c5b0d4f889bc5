"""What a project keeps and the most that it may, over the API on both databases: what counts, what is refused and with
which numbers; and uploads that nobody goes on with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import pytest
from divbase_gateway.db import retention as retention_rows
from divbase_gateway.db import storage as storage_rows
from divbase_gateway.db.models import FileRow, FileVersionRow, JobRow, ProjectRow, UploadRow
from divbase_gateway.db.session import Database
from divbase_gateway.domain.errors import NotFound
from divbase_gateway.domain.projects import Role
from divbase_gateway.services import uploads
from divbase_gateway.services.storage import amount
from divbase_gateway.settings import FileSettings, LimitSettings, Settings
from httpx import Response
from sqlalchemy import select, text

from tests.api import Api, Caller, build_api
from tests.fakes.clock import FakeClock
from tests.fakes.object_store import FakeObjectStore
from tests.fakes.scheduler import FakeScheduler
from tests.lab import PART_SIZE, FaultyStore, Lab, send_in_memory, together
from tests.statements import statements_of

pytestmark = pytest.mark.slow  # many requests each

QUERY = {"all_samples": True}
LARGE = b"x" * (2 * PART_SIZE + 7)
DAY = timedelta(days=1)


@dataclass
class Room:
    """A project with somebody who edits it, and the site's admin, who says how much it may keep."""

    lab: Lab
    root: Caller

    @property
    def api(self) -> Api:
        return self.lab.api

    def kept(self) -> dict[str, Any]:
        answer = self.lab.editor.get(f"{self.lab.path}/storage")
        assert answer.status_code == 200, answer.text
        return cast("dict[str, Any]", answer.json())

    def allow(self, size: int | None) -> None:
        path = f"{self.lab.path}/allocation"
        assert self.root.request("PATCH", path, json={"max_bytes": size}).status_code == 200

    def query(self, **asked: Any) -> Response:
        return self.lab.editor.post(f"{self.lab.path}/jobs", {**QUERY, **asked})

    def give_up(self) -> int:
        gateway = self.api.gateway
        return uploads.give_up(gateway.sessions, gateway.store, gateway.clock.now(), 10)

    def open_uploads(self) -> list[str]:
        with self.api.gateway.sessions.read() as session:
            return list(session.scalars(select(UploadRow.key).where(UploadRow.completed_at.is_(None))))


@pytest.fixture
def make_room(database: Database, clock: FakeClock) -> Callable[..., Room]:
    """A room under these limits of the site."""

    def make(**limits: Any) -> Room:
        store = FaultyStore(FakeObjectStore(clock.now))
        settings = Settings(limits=LimitSettings(**limits), files=FileSettings(part_size_mib=5))
        api = build_api(database, cast("Any", store), FakeScheduler(clock), clock, settings)
        project = api.add_project("owls")
        editor = api.add_caller("ada@example.org")
        api.add_member(project, editor.user, Role.EDIT)
        lab = Lab(api, store, project, editor, send_in_memory(cast("FakeObjectStore", store.inner)))
        return Room(lab, api.add_caller("root@example.org", admin=True))

    return make


@pytest.fixture
def room(make_room: Callable[..., Room]) -> Room:
    return make_room()


def add_variants(room: Room, size: int = 1000) -> None:
    """A file that can be asked, with an index of DivBase's own of 100 bytes, as the catalogue has it."""
    with room.api.gateway.sessions.write() as session:
        file = FileRow(project_id=room.lab.project.id, key="a.vcf.gz")
        session.add(file)
        session.flush()
        version = FileVersionRow(
            file_id=file.id, version_id="v1", size=size, etag="e1", sha256=None, format="vcf.gz", state="READY",
            samples=["A", "B"], contigs=[["1", 1000, 5]], index_key=".divbase/indexes/a.csi", index_version_id="v2",
            index_kind="csi", index_size=100, index_etag="e2", index_bytes=100,
            uploaded_at=room.api.gateway.clock.now(),
        )  # fmt: skip
        session.add(version)
        session.flush()
        file.current_id = version.id


def set_sizes(room: Room, job: str, **sizes: int) -> None:
    with room.api.gateway.sessions.write() as session:
        row = session.scalars(select(JobRow).where(JobRow.public_id == job)).one()
        for name, size in sizes.items():
            setattr(row, name, size)


# --- what counts ---------------------------------------------------------------------------------------------------


def test_everything_is_counted_once_under_its_name(room: Room) -> None:
    """Guards: newest versions, older ones and deleted files, built indexes, results, records and open uploads."""
    add_variants(room)
    for content in (b"first", b"second!"):
        room.lab.upload("notes.txt", content)
    room.lab.upload("gone.txt", b"gone")
    room.lab.delete("gone.txt")
    room.lab.begin("coming.txt", b"twelve bytes")
    set_sizes(room, room.query().json()["id"], result_bytes=5000, record_bytes=30)
    assert room.kept() == {
        "project": "owls",
        "files": 1000 + 7,
        "older_versions": 5 + 4,
        "indexes": 100,
        "copies": 0,
        "results": 5000,
        "records": 30,
        "open_uploads": 12,
        "total": 1007 + 9 + 100 + 5030 + 12,
        "limit": None,
        "left": None,
    }
    assert storage_totals(room) == {"owls": 6158}


def storage_totals(room: Room) -> dict[str, int]:
    with room.api.gateway.sessions.read() as session:
        return storage_rows.stored_by_project(session)


def test_an_empty_project_keeps_nothing(room: Room) -> None:
    """Guards: zeros, not nulls; another project's files are its own."""
    other = room.api.add_project("terns")
    room.lab.upload("notes.txt", b"hello")
    with room.api.gateway.sessions.read() as session:
        assert storage_rows.stored(session, other.id) == storage_rows.Stored(0, 0, 0, 0, 0, 0, 0)
    assert room.kept()["total"] == 5


def test_an_index_that_users_sent_is_a_file_and_no_index(room: Room) -> None:
    """Guards: it is in the bucket once, and counted once."""
    add_variants(room)
    with room.api.gateway.sessions.write() as session:
        version = session.scalars(select(FileVersionRow)).one()
        version.index_key, version.index_bytes = "a.vcf.gz.csi", 0
    assert room.kept()["indexes"] == 0


def test_it_is_one_statement_that_reads_indexes_only(room: Room) -> None:
    """Guards: however much there is, rows with their plans and samples are not touched."""
    add_variants(room)
    database = room.api.gateway.sessions
    with database.read() as session, statements_of(database) as said:
        storage_rows.stored(session, room.lab.project.id)
    (statement,) = [each for each in said if each != "BEGIN"]
    if database.engine.dialect.name == "sqlite":
        plan = plan_of(database, statement)
        for index in ("ix_file_versions_stored", "ix_sidecars_stored", "ix_jobs_stored", "ix_uploads_open"):
            assert any(f"COVERING INDEX {index}" in line for line in plan), plan


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_so_is_what_a_retention_would_remove(room: Room) -> None:
    """Guards: neither what it would remove nor what is due reads the rows of jobs."""
    database, now = room.api.gateway.sessions, room.api.gateway.clock.now()
    with database.read() as session, statements_of(database) as said:
        retention_rows.expiring(session, room.lab.project.id, now)
        retention_rows.count_pinned(session, room.lab.project.id)
        retention_rows.due(session, room.lab.project.id, now, 10)
        retention_rows.being_removed(session, 10)
    plans = ["; ".join(plan_of(database, each)) for each in said if each != "BEGIN"]
    wanted = ["COVERING INDEX ix_jobs_expiring", "COVERING INDEX ix_jobs_pinned", "COVERING INDEX ix_jobs_expiring"]
    assert [index in plan for index, plan in zip([*wanted, "ix_jobs_removing"], plans, strict=True)] == [True] * 4, (
        plans
    )


def plan_of(database: Database, statement: str) -> list[str]:
    """How SQLite would answer."""
    with database.engine.connect() as connection:
        explained = connection.execute(text(f"EXPLAIN QUERY PLAN {statement.replace('?', '1')}"))
        return [str(row[-1]) for row in explained]


# --- uploads -------------------------------------------------------------------------------------------------------


def test_an_upload_that_fits_to_the_byte_is_taken_and_no_more(room: Room) -> None:
    """Guards: the limit is what may be kept, and what is refused says what is used, left and would help."""
    room.lab.upload("a.txt", b"12345")
    room.allow(10)
    assert room.lab.begin("b.txt", b"12345").status_code == 201
    refused = room.lab.begin("c.txt", b"1")
    assert (refused.status_code, refused.json()["code"]) == (409, "storage_full")
    assert refused.json()["detail"] == (
        "'c.txt' has 1 bytes, and project owls has 0 bytes left of the 10 bytes that it may keep: files 5 bytes, "
        "uploads under way 5 bytes."
    )
    assert "divbase projects allocation set owls --max-size" in refused.json()["hint"]
    assert refused.json()["details"] == {
        "project": "owls", "what": "bytes", "used": 5, "committed": 5, "this_upload": 1, "limit": 10, "left": 0,
    }  # fmt: skip
    assert room.open_uploads() == ["b.txt"]


def test_results_make_room_by_a_shorter_retention_and_the_hint_says_so(room: Room) -> None:
    """Guards: what helps is named only where it does."""
    add_variants(room)
    set_sizes(room, room.query().json()["id"], result_bytes=5000)
    room.allow(6100)
    hint = room.lab.begin("c.txt", b"1").json()["hint"]
    assert "divbase projects retention set owls --days N" in hint
    assert "uploads" not in hint


def test_what_is_refused_was_not_begun_at_the_store(room: Room) -> None:
    """Guards: no multipart upload is left behind that nobody knows of."""
    room.allow(len(LARGE) - 1)
    room.lab.store.calls.clear()
    assert room.lab.begin("big.txt", LARGE).status_code == 409
    assert "start_multipart" not in room.lab.store.calls


def test_two_at_once_do_not_both_get_the_last_room(room: Room) -> None:
    """Guards: each fits by itself; what one of them had begun at the store is ended there."""
    room.allow(len(LARGE) + 10)
    answers = together(*(lambda key=key: room.lab.begin(key, LARGE) for key in ("a.txt", "b.txt", "c.txt")))
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409]
    calls = room.lab.store.calls
    assert calls.count("abort_multipart") == calls.count("start_multipart") - 1
    assert len(room.open_uploads()) == 1


def test_an_upload_that_was_let_in_goes_on(room: Room) -> None:
    """Guards: resumed and completed whatever the limit has become; the same content again is no upload at all."""
    begun = room.lab.begin("big.txt", LARGE).json()
    room.lab.send_parts(begun, LARGE, [1])
    room.allow(0)
    resumed = room.lab.begin("big.txt", LARGE)
    assert (resumed.status_code, resumed.json()["id"]) == (201, begun["id"])
    room.lab.send_parts(begun, LARGE, [2, 3])
    assert room.lab.complete(begun, LARGE).status_code == 200
    assert room.lab.begin("big.txt", LARGE).json()["mode"] == "unchanged"
    assert room.kept()["open_uploads"] == 0


def test_an_upload_that_the_store_forgot_is_not_counted_twice(room: Room) -> None:
    """Guards: what takes its place needs no room of its own."""
    room.allow(len(LARGE))
    assert room.lab.begin("big.txt", LARGE).status_code == 201
    with room.api.gateway.sessions.read() as session:
        row = session.scalars(select(UploadRow)).one()
    room.lab.store.inner.abort_multipart(room.lab.project.bucket, "big.txt", str(row.s3_upload_id))
    again = room.lab.begin("big.txt", LARGE)
    assert again.status_code == 201, again.text
    assert again.json()["id"] != row.public_id


def test_the_site_s_limit_holds_where_a_project_has_none(make_room: Callable[..., Room]) -> None:
    """Guards: in GB of 10^9 bytes; a project may have more."""
    room = make_room(gb_per_project=1)
    body = {"key": "huge.txt", "size": 1_000_000_001, "sha256": hashlib.sha256(b"").hexdigest()}
    refused = room.lab.editor.post(f"{room.lab.path}/uploads", body)
    assert (refused.status_code, refused.json()["details"]["limit"]) == (409, 1_000_000_000)
    room.allow(2_000_000_000)
    assert room.lab.editor.post(f"{room.lab.path}/uploads", body).status_code == 201


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (2 * 10**12, "2 TB"), (123_456_789, "123.5 MB")],
)
def test_sizes_are_told_in_powers_of_a_thousand(size: int, words: str) -> None:
    """Guards: as the command line prints them."""
    assert amount(size) == words


# --- queries -------------------------------------------------------------------------------------------------------


def test_a_query_is_refused_only_where_there_is_no_room_at_all(room: Room) -> None:
    """Guards: a result's size is not known beforehand; with a byte left it may run, and the plan says what may come."""
    add_variants(room)
    room.allow(1101)
    planned = room.lab.editor.post(f"{room.lab.path}/queries/plan", QUERY).json()
    assert [each for each in planned["warnings"] if "has 1 bytes left of the 1.101 kB" in each]
    job = room.query()
    assert job.status_code == 201
    room.allow(1100)
    refused = room.query(name="other")
    assert (refused.status_code, refused.json()["code"]) == (409, "storage_full")
    assert refused.json()["details"]["this_upload"] is None
    planned = room.lab.editor.post(f"{room.lab.path}/queries/plan", QUERY).json()
    assert planned["warnings"][-1].startswith("It would be refused. Project owls keeps all of the 1.1 kB")


def test_a_rerun_needs_room_too(room: Room) -> None:
    """Guards: nothing is refused to a new job that an old one is given."""
    add_variants(room)
    job = room.query().json()["id"]
    assert room.lab.editor.post(f"{room.lab.path}/jobs/{job}/cancel").status_code == 200
    room.allow(0)
    assert room.lab.editor.post(f"{room.lab.path}/jobs/{job}/rerun").json()["code"] == "storage_full"


def test_without_a_limit_nothing_is_summed(room: Room) -> None:
    """Guards: a site that sets no limit pays nothing for there being one."""
    add_variants(room)
    with statements_of(room.api.gateway.sessions) as said:
        assert room.query().status_code == 201
        assert room.lab.begin("b.txt", b"12345").status_code == 201
    assert not [each for each in said if "sum(" in each]


# --- uploads that nobody goes on with ------------------------------------------------------------------------------


def test_an_upload_that_nobody_goes_on_with_is_given_up(room: Room) -> None:
    """Guards: after seven days and no sooner its parts are gone from the store, and its row with them."""
    begun = room.lab.begin("big.txt", LARGE).json()
    room.lab.send_parts(begun, LARGE, [1])
    with room.api.gateway.sessions.read() as session:
        upload = str(session.scalars(select(UploadRow)).one().s3_upload_id)
    clock = cast("FakeClock", room.api.gateway.clock)
    clock.advance(7 * DAY)
    assert (room.give_up(), room.open_uploads()) == (0, ["big.txt"])
    clock.advance(timedelta(seconds=1))
    assert (room.give_up(), room.open_uploads()) == (1, [])
    with pytest.raises(NotFound):
        room.lab.store.inner.list_parts(room.lab.project.bucket, "big.txt", upload)
    assert room.kept()["open_uploads"] == 0
    assert room.lab.upload("big.txt", LARGE)["size"] == len(LARGE)


def test_a_completed_upload_is_not_given_up(room: Room) -> None:
    """Guards: whatever its age."""
    room.lab.upload("notes.txt", b"hello")
    cast("FakeClock", room.api.gateway.clock).advance(30 * DAY)
    assert room.give_up() == 0
    assert [file["key"] for file in room.lab.files()] == ["notes.txt"]


def test_what_has_arrived_whole_is_the_users_own(room: Room) -> None:
    """Guards: a file whose laptop died before the last word stays, and a refresh takes it into the catalogue."""
    begun = room.lab.begin("notes.txt", b"hello").json()
    room.lab.send_parts(begun, b"hello")
    cast("FakeClock", room.api.gateway.clock).advance(8 * DAY)
    assert room.give_up() == 1
    assert [file["key"] for file in room.lab.refresh()] == ["notes.txt"]


def test_a_store_that_is_away_puts_it_off(room: Room) -> None:
    """Guards: the row goes only after the parts have, else nobody would ever find them."""
    room.lab.begin("big.txt", LARGE)
    cast("FakeClock", room.api.gateway.clock).advance(8 * DAY)
    room.lab.store.away = {"abort_multipart"}
    room.api.gateway.reconciler.tick()
    assert room.open_uploads() == ["big.txt"]
    room.lab.store.away = set()
    cast("FakeClock", room.api.gateway.clock).advance(timedelta(minutes=5))
    room.api.gateway.reconciler.tick()
    assert room.open_uploads() == []


def test_a_project_s_limit_is_part_of_its_row(room: Room) -> None:
    """Guards: null takes it away again."""
    room.allow(5)
    room.allow(None)
    with room.api.gateway.sessions.read() as session:
        assert session.scalars(select(ProjectRow)).one().max_bytes is None
    assert room.kept()["limit"] is None
