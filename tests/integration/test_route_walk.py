"""Every route of the app, called by nobody, by a stranger, by a member whose role is too low and by one whose is exact.

A route that is new here has to say who may call it (`require`) and gets a sample request in SAMPLES; without either
its test fails.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from divbase_gateway.api.app import create_app
from divbase_gateway.api.auth import Access, ProjectAccess, Public, access_of
from divbase_gateway.db.models import AttemptRow, FileRow, FileVersionRow, JobRow
from divbase_gateway.db.session import Database
from divbase_gateway.domain.jobs import JobState
from divbase_gateway.domain.projects import Role
from fastapi import FastAPI
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts
from httpx import Response
from sqlalchemy import select

from tests.api import PREFIX, Api, Caller, build_api
from tests.fakes.clock import FakeClock
from tests.fakes.object_store import FakeObjectStore
from tests.fakes.scheduler import FakeScheduler
from tests.integration.conftest import gateway_without_parts
from tests.lab import FaultyStore, Lab, send_in_memory, stated_parts
from tests.variants import vcf_header

pytestmark = pytest.mark.slow  # many requests each

NOTES = b"hello"
QUERY = {"all_samples": True, "command": "view", "name": "result"}
TOKENS = {"owls": "t" * 43, "other": "o" * 43}


# --- what there is to walk ----------------------------------------------------------------------------------------


def routes_of(app: FastAPI) -> dict[str, RouteContext]:
    """Routes by `METHOD path`, those of the framework (documents, HEAD) aside."""
    contexts = [each for each in iter_route_contexts(app.routes) if isinstance(each.original_route, APIRoute)]
    return {f"{method} {each.path}": each for each in contexts for method in each.methods or ()}


def declared_access(context: RouteContext) -> Access | ProjectAccess:
    """The one access that a route declares.

    Raises:
        LookupError: it declares none, or several.
    """
    assert isinstance(context.original_route, APIRoute)
    declared = [access_of(each.call) for each in context.original_route.dependant.dependencies]
    found = [each for each in declared if each is not None]
    if len(found) != 1:
        raise LookupError(f"{context.path} declares {len(found)} accesses instead of one; see api/auth.py")
    return found[0]


# --- the world that is walked in ------------------------------------------------------------------------------------


@dataclass
class World:
    """A project `owls` with a member for each role, files, jobs and an attempt; and people who are not in it."""

    lab: Lab
    members: dict[Role, Caller]
    stranger: Caller
    admin: Caller
    scheduler: CountingScheduler
    _jobs: dict[JobState, str] = field(default_factory=dict)

    @property
    def api(self) -> Api:
        return self.lab.api

    def job(self, state: JobState) -> str:
        """The id of a query job of the querier, in this state."""
        answer = self.members[Role.QUERY].post("/projects/owls/jobs", QUERY)
        assert answer.status_code == 201, answer.text
        job_id: str = answer.json()["id"]
        with self.api.gateway.sessions.write() as session:
            row = session.scalars(select(JobRow).where(JobRow.public_id == job_id)).one()
            row.state = state.value
        return job_id

    def attempt(self, token: str) -> str:
        """`<job>.<number>` of a running attempt with this token."""
        job_id = self.job(JobState.RUNNING)
        now = self.api.gateway.clock.now()
        with self.api.gateway.sessions.write() as session:
            row = session.scalars(select(JobRow).where(JobRow.public_id == job_id)).one()
            row.attempt = 1
            sha256 = hashlib.sha256(token.encode()).hexdigest()
            session.add(
                AttemptRow(
                    job_id=row.id,
                    number=1,
                    slurm_name=f"divbase-{job_id}",
                    token_sha256=sha256,
                    created_at=now,
                    cores=1,
                    memory_mb=512,
                    minutes=10,
                    uploads=[],
                )
            )
        return f"{job_id}.1"

    def open_upload(self) -> dict[str, Any]:
        upload: dict[str, Any] = self.lab.begin("open.txt", NOTES).json()
        return upload

    def sent_upload(self) -> dict[str, Any]:
        upload = self.open_upload()
        self.lab.send_parts(upload, NOTES)
        return upload


@dataclass
class CountingScheduler(FakeScheduler):
    """Counts what is asked of it."""

    questions: int = 0

    def _answer(self) -> None:
        self.questions += 1
        super()._answer()


@pytest.fixture
def world(database: Database, clock: FakeClock) -> World:
    store = FakeObjectStore(clock.now)
    scheduler = CountingScheduler(clock)
    api = build_api(database, FaultyStore(store), scheduler, clock)  # type: ignore[arg-type]
    owls = api.add_project("owls")
    members = {role: api.add_caller(f"{role.value.lower()}@example.org") for role in Role}
    for role, caller in members.items():
        api.add_member(owls, caller.user, role)
    lab = Lab(api, FaultyStore(store), owls, members[Role.EDIT], send_in_memory(store))
    lab.upload("notes.txt", NOTES)
    lab.upload("sample_metadata.tsv", b"#Sample_ID\tArea\nA\tNorth\nB\tWest\n")
    add_variants(api, owls.id)
    api.add_member(api.add_project("terns"), members[Role.MANAGE].user, Role.MANAGE)
    stranger, admin = api.add_caller("stranger@example.org"), api.add_caller("root@example.org", admin=True)
    return World(lab, members, stranger, admin, scheduler)


def add_variants(api: Api, project_id: int) -> None:
    """A variant file that is ready for queries, as the catalogue would have it."""
    now = api.gateway.clock.now()
    with api.gateway.sessions.write() as session:
        file = FileRow(project_id=project_id, key="a.vcf.gz")
        session.add(file)
        session.flush()
        version = FileVersionRow(
            file_id=file.id, version_id="v1", size=1000, etag="e1", sha256=None, format="vcf.gz", state="READY",
            samples=["A", "B"], contigs=[["1", 1000, 5]], index_key=".divbase/a.csi", index_version_id="v2",
            index_kind="csi", index_size=100, index_etag="e2", uploaded_at=now,
        )  # fmt: skip
        session.add(version)
        session.flush()
        file.current_id = version.id


# --- a sample request for every route --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """A request that succeeds for who may make it. `names` fill the path."""

    body: object = None
    params: dict[str, Any] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)


def _upload_body(key: str) -> dict[str, Any]:
    return {"key": key, "size": len(NOTES), "sha256": hashlib.sha256(NOTES).hexdigest()}


def _md5() -> str:
    return b64encode(hashlib.md5(NOTES, usedforsecurity=False).digest()).decode()


def _output() -> dict[str, Any]:
    return {
        "name": "result.vcf.gz",
        "role": "result",
        "size": len(NOTES),
        "sha256": hashlib.sha256(NOTES).hexdigest(),
        "md5s": [_md5()],
    }


def _delete_notes(world: World) -> Sample:
    assert world.lab.delete("notes.txt").status_code == 200
    return Sample({"key": "notes.txt"})


def _unpacked(world: World) -> Sample:
    world.lab.upload("text.vcf", vcf_header(["A"], {"1": 1000}).encode())
    return Sample({"key": "text.vcf"})


def _sent(world: World) -> Sample:
    upload = world.sent_upload()
    return Sample({"parts": stated_parts(upload, NOTES)}, names={"upload": upload["id"]})


def _announced(world: World) -> Sample:
    attempt = world.attempt(TOKENS["owls"])
    path = f"/api/v1/attempts/{attempt}/outputs"
    headers = {"Authorization": f"Bearer {TOKENS['owls']}"}
    announced = world.api.client.post(path, json=_output(), headers=headers)
    request = announced.json()["requests"][0]["request"]
    assert world.lab.send(request, NOTES) == 200
    return Sample({"name": "result.vcf.gz"}, names={"attempt": attempt})


def _job(state: JobState, body: object = None) -> Callable[[World], Sample]:
    return lambda world: Sample(body, names={"job": world.job(state)})


def _attempt(body: object) -> Callable[[World], Sample]:
    return lambda world: Sample(body, names={"attempt": world.attempt(TOKENS["owls"])})


def _just(body: object = None, names: dict[str, str] | None = None, **params: Any) -> Callable[[World], Sample]:
    return lambda _world: Sample(body, params, names or {})


def _open(body: object = None) -> Callable[[World], Sample]:
    return lambda world: Sample(body, names={"upload": world.open_upload()["id"]})


def _snapshot(world: World) -> Sample:
    made = world.members[Role.EDIT].post("/projects/owls/snapshots", {"name": "paper-1"})
    assert made.status_code == 201, made.text
    return Sample(names={"snapshot": "paper-1"})


def _own_key(world: World) -> Sample:
    return Sample(names={"key": world.stranger.api.add_key(world.stranger.user).partition(".")[0]})


_MEMBER = {"user": "read@example.org"}

SAMPLES: dict[str, Callable[[World], Sample]] = {
    "GET /health": _just(),
    "GET /ready": _just(),
    "GET /me": _just(),
    "GET /users": _just(),
    "POST /users": _just({"email": "new@example.org"}),
    "PATCH /users/{user}": _just({"name": "R"}, _MEMBER),
    "GET /keys": _just(),
    "POST /keys": _just({"name": "laptop"}),
    "DELETE /keys/{key}": _own_key,
    "GET /projects": _just(),
    "POST /projects": _just({"name": "finches"}),
    "GET /projects/{project}": _just(),
    "PATCH /projects/{project}": _just({"description": "Night birds"}),
    "GET /projects/{project}/allocation": _just(),
    "PATCH /projects/{project}/allocation": _just({"account": "popgen"}),
    "GET /projects/{project}/usage": _just(month="2024-05"),
    "GET /projects/{project}/storage": _just(),
    "GET /projects/{project}/retention": _just(),
    "PUT /projects/{project}/retention": _just({"days": 30}),
    "GET /projects/{project}/members": _just(),
    "PUT /projects/{project}/members/{user}": _just({"role": "READ"}, _MEMBER),
    "DELETE /projects/{project}/members/{user}": _just(None, _MEMBER),
    "GET /projects/{project}/files": _just(),
    "GET /projects/{project}/files/info": _just(key="notes.txt"),
    "GET /projects/{project}/files/download": _just(key="notes.txt"),
    "DELETE /projects/{project}/files": _just(key="notes.txt"),
    "POST /projects/{project}/files/restore": _delete_notes,
    "POST /projects/{project}/files/repair": _unpacked,
    "POST /projects/{project}/files/refresh": _just({}),
    "POST /projects/{project}/uploads": _just(_upload_body("new.txt")),
    "POST /projects/{project}/uploads/{upload}/urls": _open({"parts": [{"number": 1, "md5": _md5()}]}),
    "POST /projects/{project}/uploads/{upload}/complete": _sent,
    "DELETE /projects/{project}/uploads/{upload}": _open(),
    "GET /projects/{project}/metadata": _just(),
    "POST /projects/{project}/metadata/query": _just({"where": "Area:North"}),
    "GET /projects/{project}/samples": _just(),
    "GET /projects/{project}/snapshots": _just(),
    "POST /projects/{project}/snapshots": _just({"name": "paper-1"}),
    "GET /projects/{project}/snapshots/{snapshot}": _snapshot,
    "GET /projects/{project}/snapshots/{snapshot}/files": _snapshot,
    "DELETE /projects/{project}/snapshots/{snapshot}": _snapshot,
    "POST /projects/{project}/queries/plan": _just(QUERY),
    "POST /projects/{project}/queries/script": _just(QUERY),
    "GET /projects/{project}/jobs": _just(),
    "POST /projects/{project}/jobs": _just(QUERY),
    "GET /projects/{project}/jobs/{job}": _job(JobState.RUNNING),
    "GET /projects/{project}/jobs/{job}/log": _job(JobState.RUNNING),
    "GET /projects/{project}/jobs/{job}/result": _job(JobState.SUCCEEDED),
    "POST /projects/{project}/jobs/{job}/cancel": _job(JobState.RUNNING),
    "PUT /projects/{project}/jobs/{job}/pin": _job(JobState.RUNNING),
    "DELETE /projects/{project}/jobs/{job}/pin": _job(JobState.RUNNING),
    "POST /projects/{project}/jobs/{job}/rerun": _job(JobState.FAILED, {}),
    "POST /attempts/{attempt}/claim": _attempt({"claimant": "c" * 16, "host": "node1"}),
    "POST /attempts/{attempt}/urls": _attempt({}),
    "POST /attempts/{attempt}/progress": _attempt({"stage": "running", "done": 1, "total": 2}),
    "POST /attempts/{attempt}/outputs": _attempt(_output()),
    "POST /attempts/{attempt}/outputs/complete": _announced,
    "POST /attempts/{attempt}/finish": _attempt({"status": "failed", "reason": "disk_full"}),
}


# --- the walk ---------------------------------------------------------------------------------------------------------


@dataclass
class Walker:
    """One route with its sample request, to be sent by one caller after the other."""

    world: World
    method: str
    path: str
    sample: Sample
    sent: int = 0

    def status(self, token: str | None) -> int:
        return self.send(token).status_code

    def send(self, token: str | None) -> Response:
        self.sent += 1
        headers = {"Idempotency-Key": f"walk-{self.sent}"} | ({"Authorization": f"Bearer {token}"} if token else {})
        path = self.path.format(**{"project": "owls", **self.sample.names})
        arguments: dict[str, Any] = {} if self.sample.body is None else {"json": self.sample.body}
        return self.world.api.client.request(self.method, path, headers=headers, params=self.sample.params, **arguments)


ROUTES = routes_of(create_app(gateway_without_parts()))


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("route", ROUTES)
def test_a_route_lets_through_whom_it_should(route: str, world: World) -> None:
    """Nobody 401, a stranger 404 (or 403 where there is no project), a role too low 403, the exact role 2xx."""
    method, _, path = route.partition(" ")
    name = f"{method} {path.removeprefix(PREFIX)}"
    assert name in SAMPLES, f"{name} is new: add a sample request for it to SAMPLES"
    walker = Walker(world, method, path, SAMPLES[name](world))
    access = declared_access(ROUTES[route])

    refused, allowed = callers_of(access, world)
    for token, expected in refused:
        assert walker.status(token) == expected
    answer = walker.send(allowed)
    assert 200 <= answer.status_code < 300, answer.text
    # Whoever looks, however often, asks the database: the reconciler alone asks the scheduler.
    assert world.scheduler.questions == (1 if name == "GET /ready" else 0)


def callers_of(access: Access | ProjectAccess, world: World) -> tuple[list[tuple[str | None, int]], str | None]:
    """Tokens that are refused with their statuses, and the one that is just enough."""
    nobody = (None, 401)
    if isinstance(access, ProjectAccess):
        lower = [role for role in Role if role.rank < access.role.rank]
        too_low = [(world.members[role].key, 403) for role in (Role if access.admin else lower)]
        allowed = world.admin if access.admin else world.members[access.role]
        return [nobody, (world.stranger.key, 404), *too_low], allowed.key
    if access is Access.ADMIN:
        return [nobody, (world.stranger.key, 403), (world.members[Role.MANAGE].key, 403)], world.admin.key
    if access is Access.JOB_TOKEN:
        world.attempt(TOKENS["other"])
        return [nobody, (world.admin.key, 401), (TOKENS["other"], 401)], TOKENS["owls"]
    return ([], None) if access is Access.PUBLIC else ([nobody], world.stranger.key)


def test_every_sample_has_its_route() -> None:
    """A route that is gone takes its sample with it."""
    assert {f"{method} {PREFIX}{path}" for method, _, path in (name.partition(" ") for name in SAMPLES)} == set(ROUTES)


def test_only_liveness_and_readiness_are_public() -> None:
    """Whatever else needs no key is a mistake."""
    public = {name for name, context in ROUTES.items() if declared_access(context) is Access.PUBLIC}

    assert public == {f"GET {PREFIX}/health", f"GET {PREFIX}/ready"}


def test_routes_under_a_project_declare_a_role() -> None:
    """A path with a project in it is guarded by a role in that project."""
    for name, context in ROUTES.items():
        if "{project}" in name:
            assert isinstance(declared_access(context), ProjectAccess), name


def test_a_route_without_declared_access_is_found() -> None:
    """The walk is not blind: forgetting `require`, or saying it twice, is an error."""
    app = FastAPI()

    @app.get("/forgotten")
    def forgotten() -> None: ...

    @app.get("/twice", dependencies=[Public, Public])
    def twice() -> None: ...

    routes = routes_of(app)
    for name in ("GET /forgotten", "GET /twice"):
        with pytest.raises(LookupError):
            declared_access(routes[name])
