"""The SQL that a database is told, for tests of how much of it there is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from divbase_gateway.db.session import Database
from sqlalchemy import event


@contextmanager
def at_each_statement(database: Database, act: Callable[..., Any]) -> Iterator[None]:
    """Call `act(connection, cursor, statement, parameters, context, many)` before each statement, within the block.

    The engine of a test is used by the tests after it too, so nothing may stay on it.
    """
    event.listen(database.engine, "before_cursor_execute", act)
    try:
        yield
    finally:
        event.remove(database.engine, "before_cursor_execute", act)


@contextmanager
def statements_of(database: Database) -> Iterator[list[str]]:
    """The statements of the block, as they come."""
    said: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        said.append(statement)

    with at_each_statement(database, note):
        yield said
