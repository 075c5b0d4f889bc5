"""Whether records of a file may be blocks of a gVCF, whose merges are not cut into shards.

Revision: 0010, after 0009.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("file_versions", sa.Column("has_blocks", sa.Boolean(), nullable=True))


def downgrade() -> None:
    op.drop_column("file_versions", "has_blocks")
