"""What every route of the API shares: sessions, idempotency, errors, request ids, logs, health."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest
import structlog
from divbase_gateway.api.auth import Admin, Public
from divbase_gateway.api.deps import WriteSession
from divbase_gateway.api.routes import new_router
from divbase_gateway.db.models import UserRow
from divbase_gateway.db.session import Database
from divbase_gateway.domain.errors import Conflict, DatabaseUnavailable, DivBaseError, InvalidStep, SubmissionRefused
from divbase_gateway.domain.projects import Role
from divbase_gateway.logs import set_up_logs
from divbase_gateway.ports import ObjectStore
from divbase_gateway.services import idempotency
from divbase_gateway.services.health import Readiness
from fastapi import APIRouter
from sqlalchemy import Connection, event, func, select
from sqlalchemy.orm import Session
from structlog.testing import capture_logs

from tests.api import Api, Caller, build_api
from tests.fakes.clock import FakeClock
from tests.fakes.scheduler import FakeScheduler
from tests.integration.conftest import Buckets


@pytest.fixture
def admin(api: Api) -> Caller:
    return api.add_caller("root@example.org", admin=True)


@pytest.fixture
def plain_logs() -> Iterator[io.StringIO]:
    """What the gateway logs as JSON lines."""
    stream = io.StringIO()
    set_up_logs("json", "info", stream)
    yield stream
    structlog.reset_defaults()


def users_of(api: Api) -> int:
    with api.gateway.sessions.read() as session:
        return session.scalar(select(func.count()).select_from(UserRow)) or 0


def added_to(api: Api) -> APIRouter:
    """A router of the API for routes of a test; what is added to it is there at once."""
    router = new_router("tests")
    api.client.app.include_router(router)
    return router


# --- sessions -----------------------------------------------------------------------------------------------------


def test_a_commit_that_fails_is_not_answered_as_success(api: Api) -> None:
    """The commit comes before the answer: what the client is told of is stored, or the client is told of a failure."""

    @added_to(api).post("/added", dependencies=[Public])
    def added(session: WriteSession) -> dict[str, bool]:
        def fail(_session: Session) -> None:
            raise DatabaseUnavailable("The disk is full.")

        event.listen(session, "before_commit", fail)
        return {"stored": True}

    answer = api.client.post("/added")
    assert answer.status_code == 503
    assert answer.json()["detail"] == "The disk is full."


def test_what_is_written_is_there_when_the_answer_arrives(api: Api, admin: Caller) -> None:
    """A client may act on the answer at once."""
    assert admin.post("/users", {"email": "bo@example.org"}).status_code == 201

    assert users_of(api) == 2


def test_an_error_takes_back_what_was_written(api: Api) -> None:
    """A request is carried out whole or not at all."""

    @added_to(api).post("/added", dependencies=[Public])
    def added(session: WriteSession) -> None:
        now = api.gateway.clock.now()
        session.add(UserRow(public_id="x", email="x@x", name="", is_admin=False, active=True, created_at=now))
        session.flush()
        raise Conflict("No.")

    assert api.client.post("/added").status_code == 409
    assert users_of(api) == 0


@pytest.mark.slow
def test_more_writers_than_worker_threads_all_get_through(api: Api, admin: Caller) -> None:
    """Writers that wait for the database do not take the threads that those need who hold it."""
    with ThreadPoolExecutor(60) as pool:
        answers = list(
            pool.map(lambda n: admin.post("/users", {"email": f"u{n}@example.org"}, once=f"w{n}"), range(60))
        )

    assert [answer.status_code for answer in answers] == [201] * 60


def test_a_look_is_one_transaction(api: Api, admin: Caller) -> None:
    """The key is looked up in the session that the route reads with."""
    assert admin.get("/users").status_code == 200  # notes the key's use, once a minute
    with transactions_of(api) as begun:
        assert admin.get("/users").status_code == 200

    assert begun == ["read"]


def test_nothing_is_locked_for_a_stranger(api: Api, admin: Caller) -> None:
    """The permission comes before the session to write with, in whatever order a route names the two."""

    @added_to(api).post("/added")
    def added(session: WriteSession, caller: Admin) -> None: ...

    stranger = api.add_caller("stranger@example.org")
    told = {"Authorization": f"Bearer {stranger.key}"}
    assert api.client.post("/added", headers=told).status_code == 403
    with transactions_of(api) as begun:
        assert api.client.post("/added", headers=told).status_code == 403

    assert begun == ["read"]


@contextmanager
def transactions_of(api: Api) -> Iterator[list[str]]:
    """What the transactions of the block are for, as they begin."""
    begun: list[str] = []

    def note(connection: Connection) -> None:
        begun.append("write" if connection.get_execution_options().get("divbase_write") else "read")

    event.listen(api.gateway.sessions.engine, "begin", note)
    try:
        yield begun
    finally:
        event.remove(api.gateway.sessions.engine, "begin", note)


# --- idempotency --------------------------------------------------------------------------------------------------


def test_a_repeat_gets_the_first_answer(api: Api, admin: Caller) -> None:
    """Same key, same body: same status and body, marked as a replay, and nothing is made twice."""
    first = admin.post("/users", {"email": "bo@example.org", "name": "Bo"}, once="k")
    again = admin.post("/users", {"name": "Bo", "email": "bo@example.org"}, once="k")

    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    assert "Idempotent-Replay" not in first.headers
    assert again.headers["Idempotent-Replay"] == "true"
    assert users_of(api) == 2


def test_the_same_key_for_something_else_is_a_conflict(admin: Caller) -> None:
    """Another body, or another route, is another request."""
    admin.post("/users", {"email": "bo@example.org"}, once="k")

    assert admin.post("/users", {"email": "cy@example.org"}, once="k").status_code == 409
    assert admin.post("/projects", {"name": "owls"}, once="k").status_code == 409


def test_two_people_may_use_the_same_key(api: Api, admin: Caller) -> None:
    """Keys are the caller's own."""
    other = api.add_caller("two@example.org", admin=True)
    admin.post("/users", {"email": "bo@example.org"}, once="k")

    assert other.post("/users", {"email": "cy@example.org"}, once="k").status_code == 201


def test_a_failed_request_can_be_tried_again_with_its_key(admin: Caller) -> None:
    """Errors are not kept: the key is stored with what was made, or not at all."""
    assert admin.post("/users", {"email": "nonsense"}, once="k").status_code == 422

    assert admin.post("/users", {"email": "bo@example.org"}, once="k").status_code == 201


def test_two_equal_requests_at_once_make_one_thing(api: Api, admin: Caller) -> None:
    """One creates; the other waits for it and gets the same answer."""
    with ThreadPoolExecutor(8) as pool:
        body = {"email": "bo@example.org"}
        answers = list(pool.map(lambda _: admin.post("/users", body, once="k"), range(8)))

    assert [answer.status_code for answer in answers] == [201] * 8
    assert len({answer.text for answer in answers}) == 1
    assert sum("Idempotent-Replay" not in answer.headers for answer in answers) == 1
    assert users_of(api) == 2


@pytest.mark.parametrize(("key", "words"), [(None, "is missing"), ("x" * 201, "printable"), ("a\tb", "printable")])
def test_a_creating_post_needs_a_key(admin: Caller, key: str | None, words: str) -> None:
    """Without a usable Idempotency-Key nothing is created, and the answer says what to send."""
    headers = {} if key is None else {"Idempotency-Key": key}

    answer = admin.request("POST", "/users", headers=headers, json={"email": "bo@example.org"})
    assert answer.status_code == 422
    assert words in answer.json()["detail"]


def test_answers_are_forgotten_after_their_time(api: Api, admin: Caller, clock: FakeClock) -> None:
    """What is older than asked for is purged, and only that."""
    admin.post("/users", {"email": "old@example.org"}, once="old")
    clock.advance(timedelta(days=6))
    admin.post("/users", {"email": "new@example.org"}, once="new")
    clock.advance(timedelta(days=2))

    with api.gateway.sessions.write() as session:
        assert idempotency.purge(session, clock.now(), timedelta(days=7)) == 1
    assert admin.post("/users", {"email": "new@example.org"}, once="new").headers["Idempotent-Replay"] == "true"


# --- errors -------------------------------------------------------------------------------------------------------


def test_an_error_is_a_problem_document(admin: Caller) -> None:
    """RFC 9457, with a stable code, a hint and the request's id."""
    answer = admin.get("/projects/owls")

    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {
        "type": "urn:divbase:problem:not_found",
        "title": "Not found",
        "status": 404,
        "detail": "There is no project 'owls', or you are not a member of it.",
        "code": "not_found",
        "hint": "`divbase projects ls` lists yours.",
        "request_id": answer.headers["X-Request-Id"],
        "details": {"project": "owls"},
    }


def test_every_wrong_field_is_named(admin: Caller) -> None:
    """All faults at once, each with its place, and never the value: it may be a secret."""
    answer = admin.post("/keys", {"name": "", "expires_in_days": 0, "colour": "s3cret"})

    assert answer.status_code == 422
    assert answer.json()["code"] == "invalid_fields"
    faults = answer.json()["details"]["faults"]
    assert sorted(fault["field"] for fault in faults) == ["body.colour", "body.expires_in_days", "body.name"]
    assert "s3cret" not in answer.text


def test_a_body_that_is_not_json_is_told(admin: Caller) -> None:
    """A broken body is a problem document too."""
    headers = {"Content-Type": "application/json"}
    answer = admin.request("POST", "/keys", headers=headers, content=b"{nope")

    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"


def test_authentication_comes_before_the_body(api: Api) -> None:
    """Who has no key learns nothing of what a body should be."""
    assert api.client.post("/api/v1/keys", json={"nonsense": 1}).status_code == 401


def test_who_may_not_call_a_route_is_not_told_what_is_wrong_with_the_request(api: Api, admin: Caller) -> None:
    """Neither of its body, nor of its parameters, nor of its cursor: the key comes first, then the membership."""
    api.add_project("owls")
    stranger = api.add_caller("stranger@example.org")
    nobody = Caller(api, stranger.user, stranger.key[:-1] + ("a" if stranger.key[-1] != "a" else "b"))

    for caller, status in ((nobody, 401), (stranger, 404)):
        assert caller.post("/projects/owls/jobs", {"nonsense": 1}).status_code == status
        assert caller.get("/projects/owls/jobs", limit=0).status_code == status
        assert caller.get("/projects/owls/jobs", cursor="?").status_code == status
    assert admin.post("/projects/owls/jobs", {"nonsense": 1}).status_code == 422
    assert admin.get("/projects/owls/jobs", limit=0).status_code == 422
    assert admin.get("/projects/owls/jobs", cursor="?").json()["code"] == "invalid_request"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/api/v1/nothing", 404, "no_such_route"),
        ("GET", "/", 404, "no_such_route"),
        ("PUT", "/api/v1/me", 405, "method_not_allowed"),
    ],
)
def test_unknown_paths_and_methods_are_problems_too(api: Api, method: str, path: str, status: int, code: str) -> None:
    """Every error has one form, also those of the framework."""
    answer = api.client.request(method, path)

    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == code
    assert answer.json()["request_id"] == answer.headers["X-Request-Id"]


def test_a_body_that_is_too_large_is_refused(admin: Caller) -> None:
    """Bytes of files do not come through the gateway: more than 8 MiB is 413."""
    answer = admin.request("POST", "/keys", json={"name": "x" * (9 * 1024 * 1024)})

    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidStep("x"), 422),
        (Conflict("x"), 409),
        (DatabaseUnavailable("x"), 503),
        (SubmissionRefused("x"), 502),
        (DivBaseError("x"), 500),
    ],
)
def test_each_class_of_error_has_its_status(api: Api, error: DivBaseError, status: int) -> None:
    """A class without a line of its own has the status of its parent."""

    @added_to(api).get("/fails", dependencies=[Public])
    def fails() -> None:
        raise error

    assert api.client.get("/fails").status_code == status


def test_a_fault_of_ours_tells_nothing_of_our_insides(api: Api, plain_logs: io.StringIO) -> None:
    """500 with the request's id for the client; the traceback with the same id in the log."""

    @added_to(api).get("/crash", dependencies=[Public])
    def crash() -> None:
        raise RuntimeError("the password is swordfish")

    answer = api.client.get("/crash", headers={"X-Request-Id": "abc-1"})
    assert answer.status_code == 500
    assert answer.json()["code"] == "internal_error"
    assert answer.json()["request_id"] == answer.headers["X-Request-Id"] == "abc-1"
    assert "swordfish" not in answer.text
    crashed = next(line for line in map(json.loads, plain_logs.getvalue().splitlines()) if "exception" in line)
    assert (crashed["event"], crashed["request_id"]) == ("request.crashed", "abc-1")
    assert "swordfish" in crashed["exception"]


# --- request ids and logs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["", "a b", "x" * 65, "<script>", "ä".encode("latin-1")])
def test_a_strange_request_id_is_replaced(api: Api, given: str | bytes) -> None:
    """What could break a log or a page is not repeated."""
    answered = api.client.get("/api/v1/health", headers={"X-Request-Id": given}).headers["X-Request-Id"]

    assert len(answered) == 32
    assert set(answered) <= set("0123456789abcdef")


def test_a_sane_request_id_is_kept(api: Api) -> None:
    """A proxy's id runs through."""
    answer = api.client.get("/api/v1/health", headers={"X-Request-Id": "proxy.7-a_B"})

    assert answer.headers["X-Request-Id"] == "proxy.7-a_B"


def test_each_request_is_one_log_line(api: Api, admin: Caller) -> None:
    """Method, path template, status, time, user; no key, no query string, no name out of the path."""
    api.add_member(api.add_project("owls"), admin.user, Role.READ)
    with capture_logs() as logs:
        admin.get("/projects/owls/files", prefix="hidden-name")

    assert [line["event"] for line in logs] == ["request.answered"]
    line = logs[0]
    assert (line["method"], line["path"], line["status"]) == ("GET", "/api/v1/projects/{project}/files", 200)
    assert line["user"] == "root@example.org"
    assert isinstance(line["ms"], float)
    assert "hidden-name" not in str(logs)
    assert admin.key.partition(".")[2] not in str(logs)


def test_unknown_paths_are_logged_without_their_text(api: Api) -> None:
    """A scanner's paths do not fill the log with its own words."""
    with capture_logs() as logs:
        api.client.get("/wp-admin?x=1")

    assert [line["path"] for line in logs] == ["(no such route)"]


def test_logs_are_json_lines(plain_logs: io.StringIO) -> None:
    """One JSON object a line, with time and level; libraries' warnings come in the same form."""
    import logging

    structlog.get_logger().info("job.submitted", job="k3v9")
    logging.getLogger("library").warning("something")
    logging.getLogger("library").info("chatter")

    lines = [json.loads(line) for line in plain_logs.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["job.submitted", "something"]
    assert lines[0]["job"] == "k3v9"
    assert {"timestamp", "level"} <= lines[0].keys() & lines[1].keys()


# --- health -------------------------------------------------------------------------------------------------------


def test_alive_asks_nobody(api: Api, buckets: Buckets) -> None:
    """Liveness is about the process; an S3 that is away must not get it restarted."""
    buckets.down = True

    assert api.client.get("/api/v1/health").json()["status"] == "ok"
    assert buckets.pings == 0


@dataclass
class CountingScheduler(FakeScheduler):
    """Counts pings, and holds them up while `hold` is cleared; `held` says that one is."""

    pings: int = 0
    hold: threading.Event = field(default_factory=threading.Event)
    held: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.hold.set()

    def ping(self) -> str:
        self.pings += 1
        if not self.hold.is_set():
            self.held.set()
            assert self.hold.wait(10)
        return super().ping()


def test_ready_pings_at_most_every_five_seconds(api: Api, buckets: Buckets, clock: FakeClock) -> None:
    """Many who ask do not become many pings."""
    for _ in range(3):
        assert api.client.get("/api/v1/ready").status_code == 200
    assert buckets.pings == 1
    clock.advance(timedelta(seconds=5))
    api.client.get("/api/v1/ready")
    assert buckets.pings == 2


def test_ready_pings_the_scheduler_at_most_every_thirty_seconds(
    database: Database, buckets: Buckets, clock: FakeClock
) -> None:
    """A ping is two commands on the cluster: a probe each second must not become a poll. Its return is seen sooner."""
    scheduler = CountingScheduler(clock)
    api = build_api(database, cast("ObjectStore", buckets), scheduler, clock)
    for _ in range(30):
        assert api.client.get("/api/v1/ready").json()["checks"]["scheduler"] == "ok"
        clock.advance(timedelta(seconds=1))
    assert scheduler.pings == 1
    scheduler.away = True
    assert api.client.get("/api/v1/ready").status_code == 503
    scheduler.away = False
    clock.advance(timedelta(seconds=5))
    assert api.client.get("/api/v1/ready").status_code == 200
    assert scheduler.pings == 3


def test_ready_does_not_wait_for_a_scheduler_that_hangs(database: Database, buckets: Buckets, clock: FakeClock) -> None:
    """While one asks, the others get the last answer: no thread of the gateway waits with it."""
    scheduler = CountingScheduler(clock)
    readiness = Readiness(database, cast("ObjectStore", buckets), scheduler, clock)
    before = readiness.checks()
    clock.advance(timedelta(minutes=1))
    scheduler.hold.clear()
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(readiness.checks)
        assert scheduler.held.wait(10)
        assert readiness.checks() is before
        scheduler.hold.set()
        assert slow.result(10) is not before


def test_not_ready_says_what_is_away(api: Api, buckets: Buckets) -> None:
    """503, and which of the three it is."""
    buckets.down = True

    answer = api.client.get("/api/v1/ready")
    assert answer.status_code == 503
    assert answer.json()["checks"] == {"database": "ok", "store": "S3 does not answer.", "scheduler": "ok"}


# --- the OpenAPI document -----------------------------------------------------------------------------------------


def test_the_openapi_document_is_up_to_date() -> None:
    """docs/openapi.json is what the routes say; a changed route without it fails here."""
    from divbase_gateway.api.app import openapi_document

    path = Path(__file__).parents[2] / "docs" / "openapi.json"
    stored = json.loads(path.read_text("utf-8"))
    assert stored == openapi_document(), "run: divbase-gateway openapi > docs/openapi.json"
