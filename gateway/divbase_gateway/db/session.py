"""The way to the database: an engine tuned for SQLite or PostgreSQL and sessions for reading and for writing.

Whoever opens a write session is the edge where the commit happens; code below it only flushes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from divbase_gateway.domain.errors import DatabaseUnavailable

_BUSY_TIMEOUT_MS = 15_000


class Database:
    """An engine and its sessions. `url` is SQLAlchemy's: `sqlite:///path` or `postgresql+psycopg://…`."""

    def __init__(self, url: str, pool_size: int = 10):
        self.url = url
        self.engine = _engine(url, pool_size)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session for looking; whatever it changed is forgotten. Its rows can be read after it, but not followed.

        Raises:
            DatabaseUnavailable: the database does not answer.
        """
        with _translated(self.url), Session(self.engine, expire_on_commit=False) as session:
            yield session  # closing it, unlike a rollback, leaves the rows' values in place

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A session that commits at the end of the block and rolls back on any error.

        On SQLite it takes the write lock at once, so that two writers queue instead of failing half-way.

        Raises:
            DatabaseUnavailable: the database does not answer, or stays locked.
        """
        with _translated(self.url), Session(self.engine, expire_on_commit=False) as session, session.begin():
            session.connection(execution_options={"divbase_write": True})
            yield session

    def ping(self) -> str:
        """The database's kind and version, after a query that proves that it answers."""
        with self.read() as session:
            if self.engine.dialect.name == "sqlite":
                return f"SQLite {session.scalar(text('select sqlite_version()'))}"
            return f"PostgreSQL {session.scalar(text('show server_version'))}"

    def close(self) -> None:
        self.engine.dispose()


def after_commit(session: Session, action: Callable[[], None]) -> None:
    """Do `action` once the session's transaction is durable; never, if it is rolled back."""
    event.listen(session, "after_commit", lambda _session: action(), once=True)


def _engine(url: str, pool_size: int) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return create_engine(url, pool_size=pool_size, max_overflow=pool_size, pool_pre_ping=True)
    if parsed.database and parsed.database != ":memory:":
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(
        url,
        pool_size=pool_size,
        max_overflow=4 * pool_size,
        connect_args={"timeout": _BUSY_TIMEOUT_MS / 1000, "check_same_thread": False},
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _record: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves; the driver would say it too late
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={_BUSY_TIMEOUT_MS}"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("divbase_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


@contextmanager
def _translated(url: str) -> Iterator[None]:
    """Driver errors that mean 'not there' become ours, once, here; integrity errors stay for those who expect them."""
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        raise _unavailable(url, error) from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise _unavailable(url, error) from error
        raise


def _unavailable(url: str, error: DBAPIError) -> DatabaseUnavailable:
    words = str(error.orig).strip().splitlines()
    details: dict[str, Any] = {"database": make_url(url).render_as_string(hide_password=True)}
    return DatabaseUnavailable(
        f"The database does not answer: {words[0] if words else type(error.orig).__name__}.",
        hint="Nothing was changed. Ask again later; the operator runs `divbase-gateway doctor`.",
        details=details,
    )
