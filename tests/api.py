"""The HTTP API of a gateway made of fakes, with callers that hold real keys: what tests of routes start from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from anyio.from_thread import BlockingPortal, start_blocking_portal
from divbase_gateway import bootstrap
from divbase_gateway.api.app import create_app
from divbase_gateway.bootstrap import Gateway
from divbase_gateway.db.models import MembershipRow, ProjectRow, UserRow
from divbase_gateway.db.session import Database
from divbase_gateway.domain.projects import Role
from divbase_gateway.ports import Clock, ObjectStore, Scheduler
from divbase_gateway.services import keys, users
from divbase_gateway.settings import Settings
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient, Response

PREFIX = "/api/v1"


class ApiClient:
    """A client of an app in this process. Its requests are carried out on the event loop of `one_event_loop`; the
    TestClient of Starlette asks a loop seven times for each, which takes as long as what most routes do."""

    portal: ClassVar[BlockingPortal]

    def __init__(self, app: FastAPI):
        self.app = app
        self._client = AsyncClient(
            transport=ASGITransport(app, raise_app_exceptions=False), base_url="http://testserver"
        )

    def request(self, method: str, path: str, **arguments: Any) -> Response:
        return self.portal.call(partial(self._client.request, method, path, **arguments))

    def get(self, path: str, **arguments: Any) -> Response:
        return self.request("GET", path, **arguments)

    def post(self, path: str, **arguments: Any) -> Response:
        return self.request("POST", path, **arguments)


@contextmanager
def one_event_loop() -> Iterator[None]:
    with start_blocking_portal() as portal:
        ApiClient.portal = portal
        yield


@dataclass
class Api:
    """A client of the app, and the gateway behind it."""

    gateway: Gateway
    client: ApiClient
    posts: int = 0

    def add_user(self, email: str, *, admin: bool = False) -> UserRow:
        with self.gateway.sessions.write() as session:
            return users.create_user(session, email, email.partition("@")[0], admin, self.gateway.clock.now())

    def add_key(self, user: UserRow, days: int | None = 90) -> str:
        """A fresh key of the user, as text."""
        with self.gateway.sessions.write() as session:
            created = keys.create_key(session, user, "test", days, self.gateway.clock.now(), 100)
            return str(created.text)

    def add_project(self, name: str) -> ProjectRow:
        with self.gateway.sessions.write() as session:
            project = ProjectRow(name=name, description="", bucket=f"b-{name}", created_at=self.gateway.clock.now())
            session.add(project)
        self.gateway.store.ensure_bucket(project.bucket)
        return project

    def add_member(self, project: ProjectRow, user: UserRow, role: Role) -> None:
        with self.gateway.sessions.write() as session:
            session.merge(MembershipRow(project_id=project.id, user_id=user.id, role=role.value))

    def add_caller(self, email: str, *, admin: bool = False) -> Caller:
        user = self.add_user(email, admin=admin)
        return Caller(self, user, self.add_key(user))


@dataclass
class Caller:
    """Somebody with a key. Every POST has an Idempotency-Key of its own unless one is given."""

    api: Api
    user: UserRow
    key: str

    def get(self, path: str, **params: Any) -> Response:
        return self.request("GET", path, params=params)

    def post(self, path: str, body: object = None, once: str | None = None) -> Response:
        self.api.posts += 1
        return self.request("POST", path, json=body or {}, headers={"Idempotency-Key": once or f"n{self.api.posts}"})

    def request(self, method: str, path: str, headers: dict[str, str] | None = None, **arguments: Any) -> Response:
        sent = {"Authorization": f"Bearer {self.key}", **(headers or {})}
        return self.api.client.request(method, PREFIX + path, headers=sent, **arguments)


def build_api(
    sessions: Database, store: ObjectStore, scheduler: Scheduler, clock: Clock, settings: Settings | None = None
) -> Api:
    """The API over these parts; nothing runs in the background."""
    chosen = settings or Settings()
    gateway = bootstrap.assemble(chosen, sessions, store, scheduler, clock, bootstrap.job_policy(chosen))
    return Api(gateway, ApiClient(create_app(gateway)))
