"""What open jobs may use and what a month's attempts used, answered by indexes alone.

Revision: 0003, after 0002.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_OPEN = "state NOT IN ('SUCCEEDED', 'FAILED', 'CANCELLED', 'LOST')"
_SETTLED = "outcome IS NOT NULL"


def upgrade() -> None:
    op.create_index(
        "ix_jobs_open_use",
        "jobs",
        ["project_id", "user_id", "kind", "cores", "minutes", "state"],
        sqlite_where=sa.text(_OPEN),
        postgresql_where=sa.text(_OPEN),
    )
    op.create_index(
        "ix_attempts_use",
        "attempts",
        ["ended_at", "job_id", "started_at", "elapsed_s", "alloc_cpus", "cores", "outcome"],
        sqlite_where=sa.text(_SETTLED),
        postgresql_where=sa.text(_SETTLED),
    )


def downgrade() -> None:
    op.drop_index("ix_attempts_use", table_name="attempts")
    op.drop_index("ix_jobs_open_use", table_name="jobs")
