"""What the indexes of files say of places, so that a job is told which bytes of them it needs.

Files that are in the catalogue already have no maps and are read whole.

Revision: 0004, after 0003.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("file_versions", sa.Column("data_begin", sa.BigInteger(), nullable=True))
    op.create_table(
        "index_maps",
        sa.Column("version_row_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("contig", sa.String(length=255), nullable=False),
        sa.Column("packed", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["version_row_id"],
            ["file_versions.id"],
            name=op.f("fk_index_maps_version_row_id_file_versions"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("version_row_id", "contig", name=op.f("pk_index_maps")),
    )


def downgrade() -> None:
    op.drop_table("index_maps")
    op.drop_column("file_versions", "data_begin")
