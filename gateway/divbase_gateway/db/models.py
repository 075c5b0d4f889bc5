"""The tables. Rows carry no behaviour beyond their columns; what may be in them is decided in `domain` and `services`.

Every time column is an aware UTC datetime, on SQLite too. Lists and plans are JSON text that only services read.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    DateTime,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime, stored in UTC. A naive one is a fault of ours and refused."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a naive datetime was about to be stored: {value!r}")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], datetime | None]:
        """`process_result_value` after the driver's own, as one function: rows have many times, most of them None."""
        parsed = self.impl_instance.result_processor(dialect, coltype)

        def process(value: Any) -> datetime | None:
            if value is None:
                return None
            moment = value if parsed is None else parsed(value)
            if not isinstance(moment, datetime):
                raise TypeError(f"the database has {value!r} where a time should be")
            return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)

        return process


class Base(DeclarativeBase):
    """Constraint names are fixed so that migrations can name them on every database."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: UtcDateTime, dict[str, Any]: JSON, list[Any]: JSON, int: BigInteger}  # noqa: RUF012


# SQLite counts up only in a column that is exactly INTEGER.
_Serial = BigInteger().with_variant(Integer, "sqlite")


class UserRow(Base):
    __tablename__ = "users"

    id: Mapped[int] = mapped_column(_Serial, primary_key=True)
    public_id: Mapped[str] = mapped_column(String(20), unique=True)
    email: Mapped[str] = mapped_column(String(254), unique=True)  # lower case
    name: Mapped[str] = mapped_column(String(200), default="")
    is_admin: Mapped[bool] = mapped_column(Boolean, default=False)
    active: Mapped[bool] = mapped_column(Boolean, default=True)
    created_at: Mapped[datetime]


class ApiKeyRow(Base):
    __tablename__ = "api_keys"

    id: Mapped[int] = mapped_column(_Serial, primary_key=True)
    public_id: Mapped[str] = mapped_column(String(20), unique=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(String(100))
    prefix: Mapped[str] = mapped_column(String(16), unique=True)
    secret_sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]

    user: Mapped[UserRow] = relationship(lazy="raise")


class ProjectRow(Base):
    __tablename__ = "projects"

    id: Mapped[int] = mapped_column(_Serial, primary_key=True)
    name: Mapped[str] = mapped_column(String(40), unique=True)
    description: Mapped[str] = mapped_column(String(1000), default="")
    bucket: Mapped[str] = mapped_column(String(63), unique=True)
    created_at: Mapped[datetime]
    sidecars: Mapped[bool] = mapped_column(Boolean, default=False, server_default=false())  # BCF copies of its files
    # What the project may charge and use at the cluster (`domain.allocations`); None: as the site's settings say.
    slurm_account: Mapped[str | None] = mapped_column(String(64))
    slurm_partition: Mapped[str | None] = mapped_column(String(64))
    slurm_qos: Mapped[str | None] = mapped_column(String(64))
    slurm_wckey: Mapped[str | None] = mapped_column(String(64))
    max_cores: Mapped[int | None] = mapped_column(Integer)  # of one job, as the next two
    max_memory_mb: Mapped[int | None]
    max_minutes: Mapped[int | None]
    max_open_jobs: Mapped[int | None] = mapped_column(Integer)
    core_hours_a_month: Mapped[float | None] = mapped_column(Float)
    max_bytes: Mapped[int | None]
    # How long results are kept (`domain.retention`): what the project wants (None: as the site says; 0: for ever), and
    # what holds (None: for ever), since when, and when the gateway last made sure of it.
    result_days: Mapped[int | None] = mapped_column(Integer)
    retention_days: Mapped[int | None] = mapped_column(Integer)
    retention_since: Mapped[datetime | None]
    retention_seen_at: Mapped[datetime | None]


class MembershipRow(Base):
    __tablename__ = "memberships"

    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, index=True)
    role: Mapped[str] = mapped_column(String(10))

    user: Mapped[UserRow] = relationship(lazy="raise")
    project: Mapped[ProjectRow] = relationship(lazy="raise")


class FileRow(Base):
    """A name in a project. `current_id` is its newest version, also while `deleted_at` is set."""

    __tablename__ = "files"
    __table_args__ = (UniqueConstraint("project_id", "key"),)

    id: Mapped[int] = mapped_column(_Serial, primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    key: Mapped[str] = mapped_column(String(1024))
    current_id: Mapped[int | None] = mapped_column(
        ForeignKey("file_versions.id", use_alter=True, ondelete="SET NULL"), index=True
    )
    deleted_at: Mapped[datetime | None]
    delete_marker: Mapped[str | None] = mapped_column(String(255))  # S3 version id of the marker

    current: Mapped[FileVersionRow | None] = relationship(foreign_keys=[current_id], lazy="raise")


class FileVersionRow(Base):
    """One version of a file and what the catalogue knows of it (see `domain.files.CataloguedFile`)."""

    __tablename__ = "file_versions"
    __table_args__ = (
        UniqueConstraint("file_id", "version_id"),
        Index(
            "ix_file_versions_indexing",
            "index_job",
            sqlite_where=text("state = 'INDEXING'"),
            postgresql_where=text("state = 'INDEXING'"),
        ),
        # What files take is summed without the rows, which hold names of samples and contigs.
        Index("ix_file_versions_stored", "file_id", "id", "size", "index_bytes"),
    )

    id: Mapped[int] = mapped_column(_Serial, primary_key=True)
    file_id: Mapped[int] = mapped_column(ForeignKey("files.id", ondelete="CASCADE"))
    version_id: Mapped[str] = mapped_column(String(255))
    size: Mapped[int]
    etag: Mapped[str] = mapped_column(String(100))
    sha256: Mapped[str | None] = mapped_column(String(64))
    format: Mapped[str] = mapped_column(String(10))
    state: Mapped[str] = mapped_column(String(10))
    reason: Mapped[str | None] = mapped_column(Text)
    samples: Mapped[list[Any]]  # names in header order
    contigs: Mapped[list[Any]]  # [[name, length or null, variants or null], ...] in header order
    index_key: Mapped[str | None] = mapped_column(String(1100))
    index_version_id: Mapped[str | None] = mapped_column(String(255))
    index_kind: Mapped[str | None] = mapped_column(String(3))
    index_size: Mapped[int | None]
    index_bytes: Mapped[int] = mapped_column(default=0, server_default="0")  # of one that DivBase has built
    index_etag: Mapped[str | None] = mapped_column(String(100))
    index_job: Mapped[str | None] = mapped_column(String(20))  # public id of the job that builds or built it
    data_begin: Mapped[int | None]  # virtual offset of the first record, where its contigs have `IndexMapRow`s
    has_blocks: Mapped[bool | None]  # of a gVCF; None where that was not looked for
    uploaded_at: Mapped[datetime]
    uploaded_by_id: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))

    file: Mapped[FileRow] = relationship(foreign_keys=[file_id], lazy="raise")
    uploaded_by: Mapped[UserRow | None] = relationship(lazy="raise")


class IndexMapRow(Base):
    """What the index of a version says of one contig (see `domain.index_maps`)."""

    __tablename__ = "index_maps"

    version_row_id: Mapped[int] = mapped_column(ForeignKey("file_versions.id", ondelete="CASCADE"), primary_key=True)
    contig: Mapped[str] = mapped_column(String(255), primary_key=True)
    packed: Mapped[bytes] = mapped_column(LargeBinary)


class SidecarRow(Base):
    """The BCF copy of a file version, or why there is none (see `domain.sidecars`).

    A row outlives its version, because the copy is in the bucket until it is removed there.
    """

    __tablename__ = "sidecars"
    __table_args__ = (Index("ix_sidecars_stored", "project_id", "size", "index_size"),)  # what they take, summed by it

    id: Mapped[int] = mapped_column(_Serial, primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    version_row_id: Mapped[int | None] = mapped_column(ForeignKey("file_versions.id", ondelete="SET NULL"), unique=True)
    state: Mapped[str] = mapped_column(String(10))
    state_since: Mapped[datetime]
    reason: Mapped[str | None] = mapped_column(Text)  # why there is none
    job: Mapped[str] = mapped_column(String(20), index=True)  # public id of the one that writes or wrote it
    key: Mapped[str] = mapped_column(String(1100))  # the index has the same and .csi
    # What is in the bucket; None while nothing of it is known to be
    version_id: Mapped[str | None] = mapped_column(String(255))
    size: Mapped[int | None]
    etag: Mapped[str | None] = mapped_column(String(100))
    sha256: Mapped[str | None] = mapped_column(String(64))
    index_version_id: Mapped[str | None] = mapped_column(String(255))
    index_size: Mapped[int | None]
    index_etag: Mapped[str | None] = mapped_column(String(100))
    index_sha256: Mapped[str | None] = mapped_column(String(64))
    data_begin: Mapped[int | None]  # virtual offset of the first record

    project: Mapped[ProjectRow] = relationship(lazy="raise")


class SidecarMapRow(Base):
    """What the index of a BCF copy says of one contig (see `domain.index_maps`)."""

    __tablename__ = "sidecar_maps"

    sidecar_id: Mapped[int] = mapped_column(ForeignKey("sidecars.id", ondelete="CASCADE"), primary_key=True)
    contig: Mapped[str] = mapped_column(String(255), primary_key=True)
    packed: Mapped[bytes] = mapped_column(LargeBinary)


class SnapshotRow(Base):
    """A moment of a project under a name. `files` and `bytes` count what it names, which never changes."""

    __tablename__ = "snapshots"
    __table_args__ = (UniqueConstraint("project_id", "name"),)

    id: Mapped[int] = mapped_column(_Serial, primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(String(100))
    note: Mapped[str] = mapped_column(String(1000), default="")
    created_at: Mapped[datetime]
    created_by_id: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    files: Mapped[int] = mapped_column(Integer)
    bytes: Mapped[int]

    created_by: Mapped[UserRow | None] = relationship(lazy="raise")


class SnapshotFileRow(Base):
    """A file version that a snapshot names. The database lets no such version go."""

    __tablename__ = "snapshot_files"

    snapshot_id: Mapped[int] = mapped_column(ForeignKey("snapshots.id", ondelete="CASCADE"), primary_key=True)
    version_id: Mapped[int] = mapped_column(ForeignKey("file_versions.id"), primary_key=True, index=True)


class UploadRow(Base):
    """An upload that was begun. It ends by `completed_at`, or is aborted and removed."""

    __tablename__ = "uploads"
    __table_args__ = (
        Index(
            "ix_uploads_open",
            "project_id",
            "created_at",
            "size",
            "completed_at",
            sqlite_where=text("completed_at IS NULL"),
            postgresql_where=text("completed_at IS NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(_Serial, primary_key=True)
    public_id: Mapped[str] = mapped_column(String(20), unique=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), index=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    key: Mapped[str] = mapped_column(String(1024))
    size: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))
    part_size: Mapped[int | None]
    s3_upload_id: Mapped[str | None] = mapped_column(String(1024))  # None: one PUT
    created_at: Mapped[datetime]
    completed_at: Mapped[datetime | None]
    version_row_id: Mapped[int | None] = mapped_column(ForeignKey("file_versions.id", ondelete="SET NULL"))


class JobRow(Base):
    """An accepted job. `state` is a `domain.jobs.JobState`; the attempt that counts is number `attempt`."""

    __tablename__ = "jobs"
    __table_args__ = (
        # A page of a listing is chosen by an index alone, however many jobs are passed over for it.
        Index("ix_jobs_listed", "project_id", "id", "state", "user_id", "kind", "parent_id"),
        # The reconciler asks for what is not over, every tick: a small index whatever the history.
        Index(
            "ix_jobs_open",
            "state",
            "id",
            sqlite_where=text("state NOT IN ('SUCCEEDED', 'FAILED', 'CANCELLED', 'LOST')"),
            postgresql_where=text("state NOT IN ('SUCCEEDED', 'FAILED', 'CANCELLED', 'LOST')"),
        ),
        Index("ix_jobs_plan_digest", "project_id", "plan_digest", "id"),
        # What open jobs may use is asked at every submission: answered without the rows, which hold long plans.
        Index(
            "ix_jobs_open_use",
            "project_id",
            "user_id",
            "kind",
            "cores",
            "minutes",
            "state",
            sqlite_where=text("state NOT IN ('SUCCEEDED', 'FAILED', 'CANCELLED', 'LOST')"),
            postgresql_where=text("state NOT IN ('SUCCEEDED', 'FAILED', 'CANCELLED', 'LOST')"),
        ),
        # What results take, which of them may be removed and which are being removed: each by an index alone.
        Index("ix_jobs_stored", "project_id", "result_bytes", "record_bytes"),
        Index(
            "ix_jobs_expiring",
            "project_id",
            "results_used_at",
            "result_bytes",
            "id",
            "pinned_at",
            "results_removed_at",
            sqlite_where=text("results_used_at IS NOT NULL AND pinned_at IS NULL AND results_removed_at IS NULL"),
            postgresql_where=text("results_used_at IS NOT NULL AND pinned_at IS NULL AND results_removed_at IS NULL"),
        ),
        Index(
            "ix_jobs_pinned",
            "project_id",
            "pinned_at",
            "results_used_at",
            "results_removed_at",
            sqlite_where=text("pinned_at IS NOT NULL"),
            postgresql_where=text("pinned_at IS NOT NULL"),
        ),
        Index(
            "ix_jobs_removing",
            "id",
            sqlite_where=text("results_removed_at IS NOT NULL AND results_cleared_at IS NULL"),
            postgresql_where=text("results_removed_at IS NOT NULL AND results_cleared_at IS NULL"),
        ),
        Index(
            "ix_jobs_parent_id",
            "parent_id",
            "task",
            sqlite_where=text("parent_id IS NOT NULL"),
            postgresql_where=text("parent_id IS NOT NULL"),
        ),
        Index(
            "ix_jobs_shards_until",
            "shards_until",
            sqlite_where=text("shards_until IS NOT NULL"),
            postgresql_where=text("shards_until IS NOT NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(_Serial, primary_key=True)
    public_id: Mapped[str] = mapped_column(String(20), unique=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    kind: Mapped[str] = mapped_column(String(10))  # query, shard, index, repair or sidecar
    name: Mapped[str] = mapped_column(String(100))
    query: Mapped[dict[str, Any] | None]  # as asked (wire form), None for other kinds
    plan: Mapped[dict[str, Any]]
    plan_digest: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(20))
    reason: Mapped[str | None] = mapped_column(String(40))
    message: Mapped[str | None] = mapped_column(Text)
    stuck: Mapped[str | None] = mapped_column(Text)
    attempt: Mapped[int] = mapped_column(Integer, default=0)
    # What the next attempt asks of the scheduler: the plan's numbers, or more after a rerun that asked for it.
    cores: Mapped[int] = mapped_column(Integer)
    memory_mb: Mapped[int]
    minutes: Mapped[int]
    cancel_requested_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    state_since: Mapped[datetime]
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    observed_at: Mapped[datetime | None]
    progress_stage: Mapped[str | None] = mapped_column(String(20))
    progress_done: Mapped[int] = mapped_column(default=0)
    progress_total: Mapped[int] = mapped_column(default=0)
    results: Mapped[list[Any]]  # [{role, key, version_id, size, sha256}, ...], filled when settled
    # Of these, in the bucket and nobody else's: result and index of a query and of a shard, log and provenance of any.
    result_bytes: Mapped[int] = mapped_column(default=0, server_default="0")
    record_bytes: Mapped[int] = mapped_column(default=0, server_default="0")
    pinned_at: Mapped[datetime | None]
    results_used_at: Mapped[datetime | None]  # made or last used; None where there is no result that could be removed
    results_removed_at: Mapped[datetime | None]  # nobody is given them any more, by a retention of so many days
    results_removed_days: Mapped[int | None] = mapped_column(Integer)
    results_cleared_at: Mapped[datetime | None]  # and they are gone from the bucket
    # Of a shard: the query's job, and which of its shards, from 1.
    parent_id: Mapped[int | None]
    task: Mapped[int | None] = mapped_column(Integer)
    # Of a query that is spread: what its own job joins, once all shards have succeeded ...
    gathers: Mapped[list[Any] | None]
    # ... and until when what they made is kept; None while that is open, or when it is gone.
    shards_until: Mapped[datetime | None]

    user: Mapped[UserRow] = relationship(lazy="raise")
    project: Mapped[ProjectRow] = relationship(lazy="raise")
    attempts: Mapped[list[AttemptRow]] = relationship(
        back_populates="job", order_by="AttemptRow.number", lazy="raise", passive_deletes=True
    )


class AttemptRow(Base):
    """One run of a job: its name at the scheduler, its token, what was seen and reported of it."""

    __tablename__ = "attempts"
    __table_args__ = (
        UniqueConstraint("job_id", "number"),
        Index(
            "ix_attempts_loose_ends",
            "id",
            sqlite_where=text("outcome IS NOT NULL AND discarded_at IS NULL AND slurm_job_id IS NOT NULL"),
            postgresql_where=text("outcome IS NOT NULL AND discarded_at IS NULL AND slurm_job_id IS NOT NULL"),
        ),
        # So is what a month's attempts used.
        Index(
            "ix_attempts_use",
            "ended_at",
            "job_id",
            "started_at",
            "elapsed_s",
            "alloc_cpus",
            "cores",
            "outcome",
            sqlite_where=text("outcome IS NOT NULL"),
            postgresql_where=text("outcome IS NOT NULL"),
        ),
        # And what the latest took of what the cost model said.
        Index(
            "ix_attempts_pace",
            "id",
            "model_s",
            "elapsed_s",
            "memory_mb",
            "max_rss_bytes",
            sqlite_where=text("outcome = 'succeeded' AND model_s >= 10 AND elapsed_s IS NOT NULL"),
            postgresql_where=text("outcome = 'succeeded' AND model_s >= 10 AND elapsed_s IS NOT NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(_Serial, primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    number: Mapped[int] = mapped_column(Integer)
    slurm_name: Mapped[str] = mapped_column(String(120), unique=True)
    token_sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    cores: Mapped[int] = mapped_column(Integer)  # asked for, as the next two
    memory_mb: Mapped[int]
    minutes: Mapped[int]
    model_s: Mapped[int | None] = mapped_column(Integer)  # seconds by the cost model, where it said something
    access: Mapped[str] = mapped_column(String(10), default="gateway")  # gateway or manifest: docs/node-protocol.md
    # the scheduler's side
    cluster: Mapped[str | None] = mapped_column(String(64))
    slurm_job_id: Mapped[str | None] = mapped_column(String(64))
    submitted_at: Mapped[datetime | None]
    looked_for_since: Mapped[datetime | None]  # of the empty, successful answers after a lost one
    slurm_state: Mapped[str | None] = mapped_column(String(64))
    slurm_reason: Mapped[str | None] = mapped_column(Text)
    slurm_source: Mapped[str | None] = mapped_column(String(10))
    partition: Mapped[str | None] = mapped_column(String(64))
    expected_start: Mapped[datetime | None]  # the scheduler's guess while it waits
    queue_place: Mapped[int | None] = mapped_column(Integer)  # from 1, among DivBase's waiting jobs of the partition
    queue_length: Mapped[int | None] = mapped_column(Integer)
    last_seen_at: Mapped[datetime | None]
    missing_since: Mapped[datetime | None]
    exit_code: Mapped[int | None] = mapped_column(Integer)
    signal: Mapped[int | None] = mapped_column(Integer)
    node: Mapped[str | None] = mapped_column(String(255))
    restarts: Mapped[int] = mapped_column(Integer, default=0)
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    elapsed_s: Mapped[float | None] = mapped_column(Float)
    cpu_s: Mapped[float | None] = mapped_column(Float)
    max_rss_bytes: Mapped[int | None]
    alloc_cpus: Mapped[int | None] = mapped_column(Integer)  # what it was given, which may be more than asked for
    # the job's own side
    claimant: Mapped[str | None] = mapped_column(String(64))
    claimed_at: Mapped[datetime | None]
    reported_at: Mapped[datetime | None]
    report: Mapped[dict[str, Any] | None]
    log_tail: Mapped[str | None] = mapped_column(Text)  # as the job last told it
    uploads: Mapped[list[Any]]  # outputs announced: [{name, role, size, sha256, md5s, upload}, ...]
    outcome: Mapped[str | None] = mapped_column(String(40))  # succeeded, or the reason it did not count
    cancel_sent_at: Mapped[datetime | None]
    discarded_at: Mapped[datetime | None]

    # A job that is loaded with its attempts is theirs as well; only asking the database for it is a mistake.
    job: Mapped[JobRow] = relationship(back_populates="attempts", lazy="raise_on_sql")


class IdempotencyRow(Base):
    """The first answer to a POST, kept so that the second gets the same."""

    __tablename__ = "idempotency_keys"

    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(String(200), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    status: Mapped[int] = mapped_column(Integer)
    body: Mapped[str | None] = mapped_column(Text)  # None: holds a secret and is never told again
    created_at: Mapped[datetime] = mapped_column(index=True)


class LeaseRow(Base):
    """Who leads: one holder of a name at a time, until `expires_at`."""

    __tablename__ = "leases"

    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    holder: Mapped[str] = mapped_column(String(100))
    expires_at: Mapped[datetime]


class DrainRow(Base):
    """There is one row while the operator holds submission back, and none otherwise."""

    __tablename__ = "drain"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)  # always 1
    reason: Mapped[str] = mapped_column(Text)
    since: Mapped[datetime]
