"""Migrations on both databases: up, down, up again, and no drift between them and the models."""

from __future__ import annotations

import json
from datetime import datetime

import pytest
from alembic.script import ScriptDirectory
from divbase_gateway.db import migrate, revision
from divbase_gateway.db.models import Base, JobRow
from divbase_gateway.db.session import Database
from divbase_gateway.domain.errors import Conflict, DatabaseUnavailable
from sqlalchemy import inspect, select, text


def tables(url: str) -> set[str]:
    database = Database(url)
    try:
        return set(inspect(database.engine).get_table_names())
    finally:
        database.close()


def test_up_makes_every_table(empty_url: str) -> None:
    """An empty database gets exactly the tables of the models."""
    migrate.upgrade(empty_url)

    assert tables(empty_url) == set(Base.metadata.tables) | {"alembic_version"}
    assert revision.current(empty_url) == revision.head()


def test_up_twice_changes_nothing(empty_url: str) -> None:
    """Migrating a database that is up to date is no error."""
    migrate.upgrade(empty_url)
    migrate.upgrade(empty_url)

    assert revision.require_head(empty_url) == revision.head()


def test_the_newest_revision_is_the_one_that_alembic_finds() -> None:
    """The gateway reads it off the names of the files, without Alembic."""
    assert revision.head() == ScriptDirectory(str(revision.MIGRATIONS)).get_current_head()


def test_down_removes_everything_and_up_works_again(empty_url: str) -> None:
    """Every migration can be taken back and made again."""
    migrate.upgrade(empty_url)
    migrate.downgrade(empty_url)
    assert tables(empty_url) == {"alembic_version"}
    assert revision.current(empty_url) is None

    migrate.upgrade(empty_url)
    assert "users" in tables(empty_url)


def test_models_and_migrations_agree(empty_url: str) -> None:
    """A changed model without a migration is found here."""
    migrate.upgrade(empty_url)

    assert migrate.check_drift(empty_url) == []


def test_drift_is_seen(empty_url: str) -> None:
    """The comparison is not blind: a column that the models do not know is named."""
    migrate.upgrade(empty_url)
    database = Database(empty_url)
    with database.engine.begin() as connection:
        connection.execute(text("ALTER TABLE users ADD COLUMN shoe_size INTEGER"))
    database.close()

    drift = migrate.check_drift(empty_url)
    assert len(drift) == 1
    assert "shoe_size" in drift[0]


def test_the_two_tables_that_point_at_each_other_are_tied(empty_url: str) -> None:
    """The foreign key from files to file_versions exists on both databases, however it had to be made."""
    migrate.upgrade(empty_url)
    database = Database(empty_url)
    keys = inspect(database.engine).get_foreign_keys("files")
    database.close()

    assert {tuple(key["constrained_columns"]): key["referred_table"] for key in keys} == {
        ("current_id",): "file_versions",
        ("project_id",): "projects",
    }


def test_an_old_schema_is_refused_with_the_command_to_run(empty_url: str) -> None:
    """A gateway does not start over a schema that it does not know."""
    with pytest.raises(Conflict) as caught:
        revision.require_head(empty_url)

    assert "divbase-gateway migrate" in str(caught.value.hint)


def test_a_database_that_is_not_there_is_our_error() -> None:
    """A driver's error does not leave the database layer."""
    with pytest.raises(DatabaseUnavailable):
        migrate.upgrade("postgresql+psycopg://nobody@/nothing?host=/nonexistent")


def test_what_jobs_left_before_is_counted(empty_url: str) -> None:
    """Results from before there was a retention have sizes, and were last used when their jobs ended; index jobs have
    none that could be removed."""
    migrate.upgrade(empty_url, "0006")
    database = Database(empty_url)
    index = [{"role": "index", "key": "x", "version_id": "v", "size": 7, "sha256": "0"}]
    log = [{"role": "log", "key": "x", "version_id": "v", "size": 2, "sha256": "0"}]
    provenance = [{"role": "provenance", "key": "x", "version_id": "v", "size": 1, "sha256": "0"}]
    result = [{"role": "result", "key": "x", "version_id": "v", "size": 100, "sha256": "0"}]
    left = [
        ("query", "SUCCEEDED", result + index + log + provenance),
        ("query", "FAILED", log),
        ("index", "SUCCEEDED", index + log),
        ("query", "RUNNING", []),
    ]
    with database.engine.begin() as connection:
        connection.execute(_OLD_USER, {"then": THEN})
        connection.execute(_OLD_PROJECT, {"then": THEN})
        for number, (kind, state, results) in enumerate(left, start=1):
            values = {"id": number, "kind": kind, "state": state, "results": json.dumps(results), "then": THEN}
            connection.execute(_OLD_JOB, values)
    migrate.upgrade(empty_url)
    with database.read() as session:
        jobs = session.scalars(select(JobRow).order_by(JobRow.id)).all()
    database.close()
    ended = datetime.fromisoformat(f"{THEN}+00:00")
    assert [(job.result_bytes, job.record_bytes, job.results_used_at) for job in jobs] == [
        (107, 3, ended),
        (0, 2, None),
        (0, 2, None),
        (0, 0, None),
    ]


THEN = "2024-05-01 12:00:00"
_OLD_USER = text("INSERT INTO users VALUES (1, 'u', 'a@example.org', '', false, true, :then)")
_OLD_PROJECT = text(
    "INSERT INTO projects (id, name, description, bucket, created_at) VALUES (1, 'owls', '', 'b', :then)"
)
_OLD_JOB = text(
    "INSERT INTO jobs (id, public_id, project_id, user_id, kind, name, plan, plan_digest, state, attempt, cores, "
    "memory_mb, minutes, created_at, state_since, ended_at, progress_done, progress_total, results) VALUES (:id, :id, "
    "1, 1, :kind, 'x', '{}', '', :state, 1, 1, 1, 1, :then, :then, :then, 0, 0, :results)"
)
