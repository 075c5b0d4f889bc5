"""BCF copies of files, and which projects want them.

Revision: 0008, after 0007.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("projects", sa.Column("sidecars", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.create_table(
        "sidecars",
        sa.Column("id", _ID, nullable=False),
        sa.Column("project_id", _ID, nullable=False),
        sa.Column("version_row_id", _ID, nullable=True),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("state_since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("job", sa.String(length=20), nullable=False),
        sa.Column("key", sa.String(length=1100), nullable=False),
        sa.Column("version_id", sa.String(length=255), nullable=True),
        sa.Column("size", sa.BigInteger(), nullable=True),
        sa.Column("etag", sa.String(length=100), nullable=True),
        sa.Column("sha256", sa.String(length=64), nullable=True),
        sa.Column("index_version_id", sa.String(length=255), nullable=True),
        sa.Column("index_size", sa.BigInteger(), nullable=True),
        sa.Column("index_etag", sa.String(length=100), nullable=True),
        sa.Column("index_sha256", sa.String(length=64), nullable=True),
        sa.Column("data_begin", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_sidecars_project_id_projects"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["version_row_id"],
            ["file_versions.id"],
            name=op.f("fk_sidecars_version_row_id_file_versions"),
            ondelete="SET NULL",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sidecars")),
        sa.UniqueConstraint("version_row_id", name=op.f("uq_sidecars_version_row_id")),
    )
    op.create_index("ix_sidecars_stored", "sidecars", ["project_id", "size", "index_size"])
    op.create_index(op.f("ix_sidecars_job"), "sidecars", ["job"])
    op.create_table(
        "sidecar_maps",
        sa.Column("sidecar_id", _ID, nullable=False),
        sa.Column("contig", sa.String(length=255), nullable=False),
        sa.Column("packed", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["sidecar_id"], ["sidecars.id"], name=op.f("fk_sidecar_maps_sidecar_id_sidecars"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("sidecar_id", "contig", name=op.f("pk_sidecar_maps")),
    )


def downgrade() -> None:
    op.drop_table("sidecar_maps")
    op.drop_index(op.f("ix_sidecars_job"), table_name="sidecars")
    op.drop_index("ix_sidecars_stored", table_name="sidecars")
    op.drop_table("sidecars")
    op.drop_column("projects", "sidecars")
