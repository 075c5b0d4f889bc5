"""Bringing the schema of a database up or down, comparing it with the models. It touches no rows."""

from __future__ import annotations

from typing import Any, Literal

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from divbase_gateway.db.models import Base, UtcDateTime
from divbase_gateway.db.revision import MIGRATIONS, sole_connection


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the database to `revision`; on one that is there already it changes nothing.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    with sole_connection(url) as connection:
        command.upgrade(_config(connection), revision)


def downgrade(url: str, revision: str = "base") -> None:
    """Take migrations back down to `revision`; `base` removes every table, rows included."""
    with sole_connection(url) as connection:
        command.downgrade(_config(connection), revision)


def check_drift(url: str) -> list[str]:
    """What the models say and the database does not have, or the other way round: one line each, none if they agree."""
    with sole_connection(url) as connection:
        context = MigrationContext.configure(connection, opts=configuration())
        return [str(difference) for difference in compare_metadata(context, Base.metadata)]


def new_revision(url: str, message: str) -> None:
    """Write a migration for what `check_drift` finds on a database at the newest revision. For developers."""
    with sole_connection(url) as connection:
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
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _render_item(kind: str, item: Any, _context: Any) -> str | Literal[False]:
    """A migration is history: it spells our column types out instead of importing what may change later."""
    if kind == "type" and isinstance(item, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    return False
