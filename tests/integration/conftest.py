"""Databases for integration tests: the same test on SQLite and on a real PostgreSQL, each test with its own."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import structlog
from divbase_gateway.bootstrap import Gateway
from divbase_gateway.db import migrate
from divbase_gateway.db.session import Database
from divbase_gateway.domain.errors import NotFound, StoreUnavailable
from divbase_gateway.ports import ObjectInfo, ObjectStore
from divbase_gateway.settings import Settings

from tests.api import Api, build_api
from tests.fakes.clock import FakeClock
from tests.fakes.scheduler import FakeScheduler
from tests.postgres import Postgres, start_postgres


def _run_folder(factory: pytest.TempPathFactory, worker: str) -> Path:
    """One folder for all workers of a run."""
    base = factory.getbasetemp()
    return base if worker == "master" else base.parent


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Postgres:
    worker = getattr(request.config, "workerinput", {}).get("workerid", "master")
    return start_postgres(_run_folder(tmp_path_factory, worker))


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with the newest schema and no rows."""
    path = tmp_path_factory.mktemp("template") / "template.sqlite3"
    migrate.upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without tables."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.sqlite3'}"
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    with postgres.database(migrated=False) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database with the newest schema and no rows."""
    if request.param == "sqlite":
        path = tmp_path / "divbase.sqlite3"
        shutil.copyfile(request.getfixturevalue("sqlite_template"), path)
        yield from _opened(f"sqlite:///{path}")
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    with postgres.database(migrated=True) as url:
        yield from _opened(url)


@pytest.fixture(autouse=True)
def readable_logs() -> Iterator[None]:
    """Log lines as text; structlog's own default renders tracebacks for many seconds."""
    renderer = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, renderer])
    yield
    structlog.reset_defaults()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def _opened(url: str) -> Iterator[Database]:
    database = Database(url)
    try:
        yield database
    finally:
        database.close()


class Buckets:
    """As much of an object store as accounts and projects need: which buckets there are. Not for files."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.down = False
        self.pings = 0

    def ensure_bucket(self, bucket: str) -> bool:
        self._answer()
        created = bucket not in self.names
        self.names.add(bucket)
        return created

    def list_objects(self, bucket: str, prefix: str = "") -> Iterator[ObjectInfo]:
        self._answer()
        if bucket not in self.names:
            raise NotFound(f"There is no bucket {bucket!r}.")
        return iter(())

    def ping(self) -> str:
        self.pings += 1
        self._answer()
        return "buckets in memory"

    def _answer(self) -> None:
        if self.down:
            raise StoreUnavailable("S3 does not answer.", hint="Ask again later.")


@pytest.fixture
def buckets() -> Buckets:
    return Buckets()


@pytest.fixture
def api(database: Database, buckets: Buckets, clock: FakeClock) -> Api:
    """The HTTP API on both databases, with a store that knows buckets only."""
    return build_api(database, cast("ObjectStore", buckets), FakeScheduler(clock), clock)


def gateway_without_parts() -> Gateway:
    """Enough of a gateway for looking at the routes of an app; nothing of it may be called."""
    nothing = cast("Any", None)
    return Gateway(Settings(), nothing, nothing, nothing, nothing, nothing, nothing, nothing)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
