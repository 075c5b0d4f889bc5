"""What projects may use at the cluster, what attempts asked for and were given, and the drain.

Revision: 0002, after 0001.
"""

import json

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_PROJECT = {
    "slurm_account": sa.String(length=64),
    "slurm_partition": sa.String(length=64),
    "slurm_qos": sa.String(length=64),
    "slurm_wckey": sa.String(length=64),
    "max_cores": sa.Integer(),
    "max_memory_mb": sa.BigInteger(),
    "max_minutes": sa.BigInteger(),
    "max_open_jobs": sa.Integer(),
    "core_hours_a_month": sa.Float(),
}
_ASKED = {"cores": sa.Integer(), "memory_mb": sa.BigInteger(), "minutes": sa.BigInteger()}
_ATTEMPT = {
    "partition": sa.String(length=64),
    "expected_start": sa.DateTime(timezone=True),
    "queue_place": sa.Integer(),
    "queue_length": sa.Integer(),
    "alloc_cpus": sa.Integer(),
}


def upgrade() -> None:
    op.create_table(
        "drain",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_drain")),
    )
    # Plain ADD COLUMN: rebuilding a table under SQLite would take rows that refer to it along.
    for name, kind in _PROJECT.items():
        op.add_column("projects", sa.Column(name, kind, nullable=True))
    for table in ("jobs", "attempts"):
        for name, kind in _ASKED.items():
            op.add_column(table, sa.Column(name, kind, nullable=False, server_default="0"))
    op.add_column("attempts", sa.Column("access", sa.String(length=10), nullable=False, server_default="gateway"))
    for name, kind in _ATTEMPT.items():
        op.add_column("attempts", sa.Column(name, kind, nullable=True))
    _take_over_what_was_asked()


def _take_over_what_was_asked() -> None:
    """Until now it was in the plan alone."""
    connection = op.get_bind()
    jobs = sa.table("jobs", sa.column("id"), sa.column("plan", sa.JSON), *(sa.column(name) for name in _ASKED))
    attempts = sa.table("attempts", sa.column("job_id"), *(sa.column(name) for name in _ASKED))
    for job_id, stored in connection.execute(sa.select(jobs.c.id, jobs.c.plan)).all():
        plan = json.loads(stored) if isinstance(stored, str) else stored
        asked = {name: plan.get(name, 0) for name in _ASKED}
        connection.execute(sa.update(jobs).where(jobs.c.id == job_id).values(asked))
        connection.execute(sa.update(attempts).where(attempts.c.job_id == job_id).values(asked))


def downgrade() -> None:
    for name in [*_ATTEMPT, "access", *_ASKED]:
        op.drop_column("attempts", name)
    for name in _ASKED:
        op.drop_column("jobs", name)
    for name in _PROJECT:
        op.drop_column("projects", name)
    op.drop_table("drain")
