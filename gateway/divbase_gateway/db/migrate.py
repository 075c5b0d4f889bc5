"""The schema's version: bringing a database up or down, comparing it with the models. It touches no rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

from divbase_gateway.db.models import Base, UtcDateTime
from divbase_gateway.db.session import Database
from divbase_gateway.domain.errors import Conflict, DatabaseUnavailable

_FOLDER = Path(__file__).parent / "migrations"

_LOCK = 0x64_76_62  # "dvb": replicas that start together migrate one after the other


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the database to `revision`; on one that is there already it changes nothing.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    with _connection(url) as connection:
        command.upgrade(_config(connection), revision)


def downgrade(url: str, revision: str = "base") -> None:
    """Take migrations back down to `revision`; `base` removes every table, rows included."""
    with _connection(url) as connection:
        command.downgrade(_config(connection), revision)


def current(url: str) -> str | None:
    """The revision that the database is at, None for an empty one."""
    with _connection(url) as connection:
        revision: str | None = MigrationContext.configure(connection).get_current_revision()
        return revision


def head() -> str:
    """The newest revision that this program knows."""
    newest = ScriptDirectory(str(_FOLDER)).get_current_head()
    assert newest is not None  # noqa: S101 - the package ships at least one
    return newest


def require_head(url: str) -> str:
    """The revision, if it is the newest.

    Raises:
        Conflict: the schema is older or newer than this program.
    """
    found = current(url)
    if found != head():
        raise Conflict(
            f"The database's schema is at revision {found or 'none'}; this gateway needs {head()}.",
            hint="Run `divbase-gateway migrate` (and `divbase-gateway init` on a new site).",
            details={"found": found, "needed": head()},
        )
    return found


def check_drift(url: str) -> list[str]:
    """What the models say and the database does not have, or the other way round: one line each, none if they agree."""
    with _connection(url) as connection:
        context = MigrationContext.configure(connection, opts=configuration())
        return [str(difference) for difference in compare_metadata(context, Base.metadata)]


def new_revision(url: str, message: str) -> None:
    """Write a migration for what `check_drift` finds on a database at the newest revision. For developers."""
    with _connection(url) as connection:
        command.revision(_config(connection), message=message, autogenerate=True)


def configuration() -> dict[str, Any]:
    """How Alembic compares and writes, for every command."""
    return {
        "target_metadata": Base.metadata,
        "compare_type": True,
        "render_as_batch": True,  # SQLite cannot alter a table in place
        "render_item": _render_item,
        "transaction_per_migration": False,
    }


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


@contextmanager
def _connection(url: str) -> Iterator[Connection]:
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


def _render_item(kind: str, item: Any, _context: Any) -> str | Literal[False]:
    """A migration is history: it spells our column types out instead of importing what may change later."""
    if kind == "type" and isinstance(item, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    return False
