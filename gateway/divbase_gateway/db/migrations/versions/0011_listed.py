"""A page of jobs is chosen by an index alone, whatever it is asked for by.

Revision: 0011, after 0010.
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_jobs_listed", "jobs", ["project_id", "id", "state", "user_id", "kind", "parent_id"])
    op.drop_index("ix_jobs_project_id_id", table_name="jobs")


def downgrade() -> None:
    op.create_index("ix_jobs_project_id_id", "jobs", ["project_id", "id"])
    op.drop_index("ix_jobs_listed", table_name="jobs")
