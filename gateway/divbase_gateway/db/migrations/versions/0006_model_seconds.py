"""What the cost model said of an attempt is kept beside what it took.

Revision: 0006, after 0005.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_TELLS = "outcome = 'succeeded' AND model_s >= 10 AND elapsed_s IS NOT NULL"


def upgrade() -> None:
    op.add_column("attempts", sa.Column("model_s", sa.Integer(), nullable=True))
    op.create_index(
        "ix_attempts_pace",
        "attempts",
        ["id", "model_s", "elapsed_s", "memory_mb", "max_rss_bytes"],
        sqlite_where=sa.text(_TELLS),
        postgresql_where=sa.text(_TELLS),
    )


def downgrade() -> None:
    op.drop_index("ix_attempts_pace", table_name="attempts")
    op.drop_column("attempts", "model_s")
