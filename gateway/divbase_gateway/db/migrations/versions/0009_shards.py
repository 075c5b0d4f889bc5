"""Shards of a query may be jobs of their own: whose they are, which, and what the query's own job joins.

Revision: 0009, after 0008.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # No foreign key: SQLite cannot add one to a table, and rows of jobs go only with their project, all at once.
    op.add_column("jobs", sa.Column("parent_id", sa.BigInteger(), nullable=True))
    op.add_column("jobs", sa.Column("task", sa.Integer(), nullable=True))
    op.add_column("jobs", sa.Column("gathers", sa.JSON(), nullable=True))
    op.add_column("jobs", sa.Column("shards_until", sa.DateTime(timezone=True), nullable=True))
    op.create_index(
        "ix_jobs_parent_id",
        "jobs",
        ["parent_id", "task"],
        sqlite_where=sa.text("parent_id IS NOT NULL"),
        postgresql_where=sa.text("parent_id IS NOT NULL"),
    )
    op.create_index(
        "ix_jobs_shards_until",
        "jobs",
        ["shards_until"],
        sqlite_where=sa.text("shards_until IS NOT NULL"),
        postgresql_where=sa.text("shards_until IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_jobs_shards_until", table_name="jobs")
    op.drop_index("ix_jobs_parent_id", table_name="jobs")
    op.drop_column("jobs", "shards_until")
    op.drop_column("jobs", "gathers")
    op.drop_column("jobs", "task")
    op.drop_column("jobs", "parent_id")
