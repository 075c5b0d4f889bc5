"""Which revision of the schema a database is at, and which one this program needs. It changes nothing, and does without
Alembic (`db.migrate`), which takes a gateway a quarter of a second to load."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import OperationalError

from divbase_gateway.db.session import Database
from divbase_gateway.domain.errors import Conflict, DatabaseUnavailable

MIGRATIONS = Path(__file__).parent / "migrations"

_LOCK = 0x64_76_62  # "dvb": replicas that start together migrate one after the other


def current(url: str) -> str | None:
    """The revision that the database is at, None for an empty one; while another process migrates it, that is waited
    for.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    with sole_connection(url) as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
        return revision


def head() -> str:
    """The newest revision that this program knows. One follows the other, and their files are named by them."""
    return max(each.name.partition("_")[0] for each in (MIGRATIONS / "versions").glob("[0-9]*_*.py"))


def require_head(url: str) -> str:
    """The revision, if it is the newest.

    Raises:
        Conflict: the schema is older or newer than this program.
        DatabaseUnavailable: the database does not answer.
    """
    found = current(url)
    if found != head():
        raise Conflict(
            f"The database's schema is at revision {found or 'none'}; this gateway needs {head()}.",
            hint="Run `divbase-gateway migrate` (and `divbase-gateway init` on a new site).",
            details={"found": found, "needed": head()},
        )
    return found


@contextmanager
def sole_connection(url: str) -> Iterator[Connection]:
    """A transaction that no other of these runs beside.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    database = Database(url)
    try:
        with database.engine.connect().execution_options(divbase_write=True) as connection, connection.begin():
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            yield connection
    except OperationalError as error:
        raise DatabaseUnavailable(
            f"The database does not answer: {str(error.orig).strip().splitlines()[0]}.",
            hint="Check `database.url` with `divbase-gateway settings`.",
        ) from error
    finally:
        database.close()
