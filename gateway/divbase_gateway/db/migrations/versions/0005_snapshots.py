"""Snapshots of projects, and the newest answer to an equal plan found by an index alone.

Revision: 0005, after 0004.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "snapshots",
        sa.Column("id", _ID, nullable=False),
        sa.Column("project_id", _ID, nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("note", sa.String(length=1000), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by_id", _ID, nullable=True),
        sa.Column("files", sa.Integer(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["created_by_id"], ["users.id"], name=op.f("fk_snapshots_created_by_id_users"), ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_snapshots_project_id_projects"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_snapshots")),
        sa.UniqueConstraint("project_id", "name", name=op.f("uq_snapshots_project_id_name")),
    )
    op.create_table(
        "snapshot_files",
        sa.Column("snapshot_id", _ID, nullable=False),
        sa.Column("version_id", _ID, nullable=False),
        sa.ForeignKeyConstraint(
            ["snapshot_id"], ["snapshots.id"], name=op.f("fk_snapshot_files_snapshot_id_snapshots"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["version_id"], ["file_versions.id"], name=op.f("fk_snapshot_files_version_id_file_versions")
        ),
        sa.PrimaryKeyConstraint("snapshot_id", "version_id", name=op.f("pk_snapshot_files")),
    )
    op.create_index(op.f("ix_snapshot_files_version_id"), "snapshot_files", ["version_id"])
    op.drop_index("ix_jobs_plan_digest", table_name="jobs")
    op.create_index("ix_jobs_plan_digest", "jobs", ["project_id", "plan_digest", "id"])


def downgrade() -> None:
    op.drop_index("ix_jobs_plan_digest", table_name="jobs")
    op.create_index("ix_jobs_plan_digest", "jobs", ["project_id", "plan_digest"])
    op.drop_index(op.f("ix_snapshot_files_version_id"), table_name="snapshot_files")
    op.drop_table("snapshot_files")
    op.drop_table("snapshots")
