"""Databases for integration tests: the same test on SQLite and on a real PostgreSQL, each test with its own."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
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

from tests.api import Api, build_api, one_event_loop
from tests.fakes.clock import FakeClock
from tests.fakes.scheduler import FakeScheduler
from tests.lab import lab_in_memory
from tests.postgres import Postgres, start_postgres
from tests.variants import VariantFile, simulate
from tests.world import World, world_of

BOTH = ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)]
"""The parameters of a fixture: what is the same on both is asked of one in a hurry."""


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


@pytest.fixture(params=BOTH)
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without tables."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.sqlite3'}"
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    with postgres.database(migrated=False) as url:
        yield url


class Databases:
    """One database of each kind for a worker, made anew for each test.

    The engine stays: SQLAlchemy keeps the SQL of a statement with it, and making that takes longer than running it.
    """

    def __init__(self) -> None:
        self._opened: dict[str, Database] = {}

    @contextmanager
    def at(self, url: str) -> Iterator[Database]:
        if url not in self._opened:
            self._opened[url] = Database(url)
        database = self._opened[url]
        try:
            yield database
        finally:
            database.close()  # its connections; the next one that is asked for is opened again


@pytest.fixture(scope="session")
def databases() -> Databases:
    return Databases()


@pytest.fixture(params=BOTH)
def database(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, databases: Databases
) -> Iterator[Database]:
    """A database with the newest schema and no rows."""
    if request.param == "sqlite":
        path = tmp_path_factory.getbasetemp() / "divbase.sqlite3"
        for rest in path.parent.glob(f"{path.name}-*"):
            rest.unlink()
        shutil.copyfile(request.getfixturevalue("sqlite_template"), path)
        with databases.at(f"sqlite:///{path}") as opened:
            yield opened
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    name: str = request.getfixturevalue("postgres_database")
    postgres.empty(name)
    with databases.at(postgres.url(name)) as opened:
        yield opened


@pytest.fixture(scope="session")
def postgres_database(postgres: Postgres) -> Iterator[str]:
    """The name of a worker's own PostgreSQL database with the newest schema."""
    name = f"t_{os.getpid()}"
    with postgres.database(migrated=True, name=name):
        yield name


@pytest.fixture(scope="session", autouse=True)
def event_loop_for_requests() -> Iterator[None]:
    with one_event_loop():
        yield


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


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> VariantFile:
    """The file of `world`."""
    return simulate(tmp_path_factory.mktemp("variants") / "a.vcf.gz", index="csi")


@pytest.fixture
def world(database: Database, variants: VariantFile) -> World:
    """A project, a scheduler and a reconciler in memory, on both databases."""
    return world_of(lab_in_memory(database), variants)
