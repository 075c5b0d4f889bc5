"""How long results are kept, which are pinned or removed, and what everything takes of a project's room.

Revision: 0007, after 0006.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# With the columns of the conditions too: SQLite looks at the row for those that are not there.
_EXPIRING_COLUMNS = ["project_id", "results_used_at", "result_bytes", "id", "pinned_at", "results_removed_at"]
_PINNED_COLUMNS = ["project_id", "pinned_at", "results_used_at", "results_removed_at"]
_EXPIRING = "results_used_at IS NOT NULL AND pinned_at IS NULL AND results_removed_at IS NULL"
_REMOVING = "results_removed_at IS NOT NULL AND results_cleared_at IS NULL"
_OPEN = "completed_at IS NULL"
_PAGE = 1000

_PROJECT_COLUMNS = {
    "max_bytes": sa.BigInteger(),
    "result_days": sa.Integer(),
    "retention_days": sa.Integer(),
    "retention_since": sa.DateTime(timezone=True),
    "retention_seen_at": sa.DateTime(timezone=True),
}
_JOB_TIMES = ("pinned_at", "results_used_at", "results_removed_at", "results_cleared_at")


def upgrade() -> None:
    for name, kind in _PROJECT_COLUMNS.items():
        op.add_column("projects", sa.Column(name, kind, nullable=True))
    op.add_column("file_versions", sa.Column("index_bytes", sa.BigInteger(), nullable=False, server_default="0"))
    for name in ("result_bytes", "record_bytes"):
        op.add_column("jobs", sa.Column(name, sa.BigInteger(), nullable=False, server_default="0"))
    for name in _JOB_TIMES:
        op.add_column("jobs", sa.Column(name, sa.DateTime(timezone=True), nullable=True))
    op.add_column("jobs", sa.Column("results_removed_days", sa.Integer(), nullable=True))
    _count_what_is_there()
    op.create_index("ix_file_versions_stored", "file_versions", ["file_id", "id", "size", "index_bytes"])
    op.create_index("ix_jobs_stored", "jobs", ["project_id", "result_bytes", "record_bytes"])
    _partial_index("ix_jobs_expiring", "jobs", _EXPIRING_COLUMNS, _EXPIRING)
    _partial_index("ix_jobs_pinned", "jobs", _PINNED_COLUMNS, "pinned_at IS NOT NULL")
    _partial_index("ix_jobs_removing", "jobs", ["id"], _REMOVING)
    _partial_index("ix_uploads_open", "uploads", ["project_id", "created_at", "size", "completed_at"], _OPEN)


def _partial_index(name: str, table: str, columns: list[str], where: str) -> None:
    op.create_index(name, table, columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def _count_what_is_there() -> None:
    """Sizes of what earlier jobs left, and when: a query's result counts as used when the job ended."""
    op.execute("UPDATE file_versions SET index_bytes = index_size WHERE substr(index_key, 1, 9) = '.divbase/'")
    op.execute("UPDATE jobs SET results_used_at = ended_at WHERE kind = 'query' AND state = 'SUCCEEDED'")
    connection = op.get_bind()
    jobs = sa.table(
        "jobs",
        sa.column("id", sa.BigInteger()),
        sa.column("kind", sa.String()),
        sa.column("results", sa.JSON()),
        sa.column("result_bytes", sa.BigInteger()),
        sa.column("record_bytes", sa.BigInteger()),
    )
    last = 0
    while True:
        page = connection.execute(
            sa.select(jobs.c.id, jobs.c.kind, jobs.c.results)
            .where(jobs.c.id > last)
            .order_by(jobs.c.id)
            .limit(_PAGE)
        ).all()
        if not page:
            return
        last = page[-1].id
        for row in page:
            if row.results:
                connection.execute(sa.update(jobs).where(jobs.c.id == row.id).values(_counted(row)))


def _counted(row: sa.Row[tuple[int, str, list[dict[str, Any]]]]) -> dict[str, int]:
    sizes = {"result_bytes": 0, "record_bytes": 0}
    for each in row.results:
        if each["role"] in ("log", "provenance"):
            sizes["record_bytes"] += each["size"]
        elif row.kind == "query":
            sizes["result_bytes"] += each["size"]
    return sizes


def downgrade() -> None:
    op.drop_index("ix_uploads_open", table_name="uploads")
    for name in ("ix_jobs_removing", "ix_jobs_pinned", "ix_jobs_expiring", "ix_jobs_stored"):
        op.drop_index(name, table_name="jobs")
    op.drop_index("ix_file_versions_stored", table_name="file_versions")
    for name in ("results_removed_days", *_JOB_TIMES, "record_bytes", "result_bytes"):
        op.drop_column("jobs", name)
    op.drop_column("file_versions", "index_bytes")
    for name in _PROJECT_COLUMNS:
        op.drop_column("projects", name)
