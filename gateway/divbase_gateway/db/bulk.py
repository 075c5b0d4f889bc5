"""Many rows changed by one statement, each to values of its own.

SQLAlchemy's way from a value to the driver takes longer than the database's work on it, so the values of thousands of
rows go past it: to PostgreSQL as one JSON text, to SQLite as tuples for the driver's own loop.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import repeat
from typing import Any, cast

import sqlalchemy as sql
from sqlalchemy import ColumnElement, Connection, Table, bindparam, column, func, update
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import Session
from sqlalchemy.types import TypeEngine

from divbase_gateway.db.models import Base


def update_each(
    session: Session,
    model: type[Base],
    names: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *conditions: ColumnElement[bool],
    constants: Mapping[str, Any] | None = None,
) -> None:
    """Set columns of the rows whose ids are given: one statement, or none where there are no rows.

    Objects that the session has already read learn nothing of it.

    Args:
        names: what the values of `rows` are, `id` first.
        conditions: a row that does not meet them stays as it is.
        constants: columns that get the same value in every row.
    """
    if not rows:
        return
    connection, table = session.connection(), cast("Table", model.__table__)
    write = _write_json if connection.dialect.name == "postgresql" else _write_tuples
    write(connection, table, names, rows, conditions, constants or {})


def _write_json(
    connection: Connection,
    table: Table,
    names: Sequence[str],
    rows: Sequence[Sequence[Any]],
    conditions: Sequence[ColumnElement[bool]],
    constants: Mapping[str, Any],
) -> None:
    told = json.dumps([dict(zip(names, row, strict=True)) for row in rows], default=datetime.isoformat)
    given = func.json_to_recordset(sql.cast(sql.literal(told, sql.Text), sql.JSON))
    new = given.table_valued(*(column(name, table.c[name].type) for name in names)).render_derived(with_types=True)
    values = {name: new.c[name] for name in names[1:]}
    connection.execute(update(table).where(table.c.id == new.c.id, *conditions).values({**values, **constants}))


def _write_tuples(
    connection: Connection,
    table: Table,
    names: Sequence[str],
    rows: Sequence[Sequence[Any]],
    conditions: Sequence[ColumnElement[bool]],
    constants: Mapping[str, Any],
) -> None:
    new = {name: bindparam(f"new_{name}", type_=table.c[name].type) for name in (*names, *constants)}
    values = {name: bound for name, bound in new.items() if name != "id"}
    statement = update(table).where(table.c.id == new["id"], *conditions).values(values)
    compiled = statement.compile(dialect=connection.dialect)
    columns = dict(zip((f"new_{name}" for name in names), zip(*rows, strict=True), strict=True))
    # What the conditions compare with is bound too, and the same for every row, as the constants are.
    fixed = {**compiled.params, **{f"new_{name}": value for name, value in constants.items()}}
    places = [
        _bound(columns.get(name, repeat(fixed[name])), compiled.binds[name].type, connection.dialect)
        for name in compiled.positiontup or ()
    ]
    connection.exec_driver_sql(str(compiled), list(zip(*places, strict=False)))


def _bound(values: Iterable[Any], kind: TypeEngine[Any], dialect: Dialect) -> Iterable[Any]:
    """The values as the driver takes them."""
    process = kind.dialect_impl(dialect).bind_processor(dialect)
    return values if process is None else map(process, values)
