"""The wire models of the DivBase API, used by the gateway to answer and by the client to ask.

Field names and values here are the public interface: times are aware and in UTC, sizes are bytes unless the name says
otherwise, checksums are lower-case hex unless the name says base64. This module knows neither HTTP nor the gateway.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

T = TypeVar("T")

_LABEL = r"^[A-Za-z0-9._:,=+-]{1,64}$"  # what SLURM calls accounts, partitions, QOS and wckeys


class Wire(BaseModel):
    """Base of every wire model: unknown fields in a request are an error that names them."""

    model_config = ConfigDict(extra="forbid", from_attributes=True)


class Answer(BaseModel):
    """Base of what only the gateway sends: an older client ignores fields that it does not know."""

    model_config = ConfigDict(extra="ignore", from_attributes=True)


class Page(Answer, Generic[T]):
    """One page of a listing. Pass `next_cursor` as `cursor` for the next one; None on the last."""

    items: list[T]
    next_cursor: str | None = None


class Problem(Answer):
    """RFC 9457 problem details, the body of every error. `code` is stable; `hint` says what to do."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    hint: str | None = None
    request_id: str | None = None
    details: dict[str, Any] = Field(default_factory=dict)


# --- people, keys, projects ---------------------------------------------------------------------------------------


class Role(StrEnum):
    READ = "READ"
    QUERY = "QUERY"
    EDIT = "EDIT"
    MANAGE = "MANAGE"


class User(Answer):
    id: str
    email: str
    name: str
    is_admin: bool
    active: bool
    created_at: datetime


class NewUser(Wire):
    email: str = Field(min_length=3, max_length=254)
    name: str = Field(default="", max_length=200)
    is_admin: bool = False


class UserChange(Wire):
    """Fields that are None stay as they are."""

    name: str | None = Field(default=None, max_length=200)
    is_admin: bool | None = None
    active: bool | None = None


class Me(Answer):
    """Who the key belongs to, and what they may do where."""

    user: User
    key: ApiKey
    memberships: list[Membership]


class ApiKey(Answer):
    """An API key without its secret. `prefix` is the part before the dot, enough to recognise it by."""

    id: str
    name: str
    prefix: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None


class NewApiKey(Wire):
    """`user` is an email address; only site admins make keys for others. None of `expires_in_days` means never."""

    name: str = Field(min_length=1, max_length=100)
    expires_in_days: int | None = Field(default=90, ge=1, le=3650)
    user: str | None = None


class CreatedApiKey(ApiKey):
    """The only answer that ever holds the secret."""

    secret: str


class Membership(Answer):
    project: str
    user: str = Field(description="Email address")
    user_name: str
    role: Role


class MemberChange(Wire):
    role: Role


class Project(Answer):
    """`role` is the caller's own; site admins have MANAGE everywhere."""

    name: str
    description: str
    bucket: str
    role: Role
    created_at: datetime
    files: int
    bytes: int
    sidecars: bool = Field(default=False, description="Whether there are to be BCF copies of its VCF files")


class NewProject(Wire):
    """`bucket`: an existing bucket to adopt; None makes one named after the project."""

    name: str
    description: str = Field(default="", max_length=1000)
    bucket: str | None = None


class ProjectChange(Wire):
    """Fields that are None stay as they are. `sidecars`: whether there are to be BCF copies of the VCF files."""

    description: str | None = Field(default=None, max_length=1000)
    sidecars: bool | None = None


class AllocationValues(Answer):
    """What may be charged and used at the cluster; None: the cluster's own default, or no bound."""

    account: str | None
    partition: str | None
    qos: str | None
    wckey: str | None
    max_cores: int | None = Field(description="Of one job")
    max_memory_mb: int | None = Field(description="Of one job")
    max_minutes: int | None = Field(description="Of one job")
    max_open_jobs: int | None = Field(description="Query jobs of the project that have not ended")
    core_hours_a_month: float | None
    max_bytes: int | None = Field(default=None, description="That all files, indexes and results together may take")


class Allocation(AllocationValues):
    """The project's own values. Where one is None, that of `site` holds."""

    project: str
    site: AllocationValues


class AllocationChange(Wire):
    """Only fields that are sent are changed; null takes the project's own value away."""

    account: str | None = Field(default=None, pattern=_LABEL)
    partition: str | None = Field(default=None, pattern=_LABEL)
    qos: str | None = Field(default=None, pattern=_LABEL)
    wckey: str | None = Field(default=None, pattern=_LABEL)
    max_cores: int | None = Field(default=None, ge=1, le=100_000)
    max_memory_mb: int | None = Field(default=None, ge=1, le=100_000_000)
    max_minutes: int | None = Field(default=None, ge=1, le=1_000_000)
    max_open_jobs: int | None = Field(default=None, ge=0, le=1_000_000)
    core_hours_a_month: float | None = Field(default=None, ge=0, le=1e9)
    max_bytes: int | None = Field(default=None, ge=0, le=10**18)


class Usage(Answer):
    """Core-hours of a project in one month (UTC), index jobs included. An attempt counts in the month that it ended in.

    `limit` and `left` are None where there is no limit. Open jobs belong to the present month.
    """

    project: str
    month: str = Field(description="YYYY-MM")
    core_hours: float = Field(description="Used")
    committed: float = Field(description="What the open jobs may still use at most")
    limit: float | None
    left: float | None
    jobs: int = Field(description="Attempts that ran")
    open_jobs: int = Field(description="Query jobs that have not ended")
    max_open_jobs: int | None


class Storage(Answer):
    """What a project keeps in its bucket, in bytes. `limit` and `left` are None where there is no limit."""

    project: str
    files: int = Field(description="Current versions of files")
    older_versions: int = Field(description="Older versions, and deleted files")
    indexes: int = Field(description="Indexes that DivBase has built")
    copies: int = Field(description="BCF copies of files, with their indexes")
    results: int = Field(description="Results of queries, with their indexes, and for a while what their shards made")
    records: int = Field(description="Logs and provenance of jobs")
    open_uploads: int = Field(description="Announced by uploads that are not completed")
    total: int
    limit: int | None
    left: int | None


class RetentionChange(Wire):
    """`days`: 1 to 3650 after the last use of a result, 0 for ever, null as the site says. `dry_run`: only say what
    would be removed."""

    days: int | None = Field(ge=0, le=3650)
    dry_run: bool = False


class Retention(Answer):
    """How long results of queries are kept after their last use, and what that removes.

    Attributes:
        days: the project's own number; 0: for ever; None: as the site says.
        site_days: the site's; None: for ever.
        holds_days: what follows from these; None: for ever.
        grace_until: nothing is removed before, because days became fewer; None where they never did.
        results, bytes: those that it applies to, all that are not pinned.
        soon_results, soon_bytes: those of them that are removed within a week unless they are used or pinned.
        first_at: when the first of them is removed; None: none is.
        pinned: jobs whose results are kept whatever their age.
    """

    project: str
    days: int | None
    site_days: int | None
    holds_days: int | None
    grace_until: datetime | None
    results: int
    bytes: int
    soon_results: int
    soon_bytes: int
    first_at: datetime | None
    pinned: int


# --- files --------------------------------------------------------------------------------------------------------


class FileState(StrEnum):
    STORED = "STORED"
    INDEXING = "INDEXING"
    READY = "READY"
    UNUSABLE = "UNUSABLE"


class Contig(Answer):
    """`variants` is None where no index has counted them."""

    name: str
    length: int | None
    variants: int | None


class File(Answer):
    """The current version of a file (or one of its versions, in a version listing).

    `reason` says in words why an UNUSABLE file is; `samples` and `variants` are counts. `deleted`: the newest entry is
    a delete marker; `divbase files restore` takes it away.
    """

    key: str
    version_id: str
    size: int
    sha256: str | None
    etag: str
    state: FileState
    reason: str | None
    format: str
    samples: int | None
    contigs: int | None
    variants: int | None
    index: str | None = Field(description="csi or tbi, None while there is none")
    uploaded_at: datetime
    uploaded_by: str | None
    deleted: bool
    is_latest: bool


class Sidecar(Answer):
    """The BCF copy of a version, which queries may read in its place. `job` writes or wrote it.

    `state`: WRITING, READY, or NONE where there will be none, for a `reason`. `size` is that of copy and index; None
    unless it is READY.
    """

    state: Literal["WRITING", "READY", "NONE"]
    size: int | None
    reason: str | None
    job: str


class FileDetail(File):
    """`index_job`: the job that is building the index, or built it. `sidecar`: None where nobody made or makes one."""

    sample_names: list[str]
    contig_list: list[Contig]
    index_key: str | None
    index_job: str | None
    sidecar: Sidecar | None = None


class Presigned(Answer):
    """A request to S3 that needs no credentials until `expires_at`; send `headers` exactly."""

    method: Literal["GET", "PUT"]
    url: str
    headers: dict[str, str]
    expires_at: datetime


class NewUpload(Wire):
    """Begins (or resumes) an upload. `sha256`: hex, of the whole file; `size` in bytes.

    Equal content of the current version is answered as `unchanged`; an open upload of the same key, size and sha256
    is answered with the parts that S3 already has.
    """

    key: str
    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class UploadMode(StrEnum):
    UNCHANGED = "unchanged"  # the current version has this content; nothing to do
    SINGLE = "single"  # one PUT
    MULTIPART = "multipart"  # parts of `part_size` bytes, the last one shorter


class UploadedPart(Wire):
    """`etag` is the hex MD5 of the part. `number` from 1."""

    number: int = Field(ge=1, le=10000)
    etag: str
    size: int


class Upload(Answer):
    id: str | None
    mode: UploadMode
    part_size: int | None
    parts: list[UploadedPart]
    file: File | None


class PartChecksum(Wire):
    """`md5`: base64 of the 16 bytes, signed into the URL so that S3 refuses anything else."""

    number: int = Field(ge=1, le=10000)
    md5: str = Field(pattern=r"^[A-Za-z0-9+/]{22}==$")


class UploadUrlsRequest(Wire):
    """For a single PUT ask for part 1."""

    parts: list[PartChecksum] = Field(min_length=1, max_length=1000)


class UploadUrl(Answer):
    number: int
    request: Presigned


class UploadUrls(Answer):
    urls: list[UploadUrl]


class CompleteUpload(Wire):
    """`parts` in order, all of them; for a single PUT, part 1."""

    parts: list[UploadedPart] = Field(min_length=1, max_length=10000)


class Download(Answer):
    """One pinned version: size, checksum and a presigned GET that takes Range requests."""

    key: str
    version_id: str
    size: int
    sha256: str | None
    etag: str
    request: Presigned


class RestoreFile(Wire):
    key: str


class RepairFile(Wire):
    key: str


# --- sample metadata ----------------------------------------------------------------------------------------------


class MetadataColumn(Answer):
    """`kind` is `text` or `number`; `values` are up to 20 distinct ones, in order of first appearance."""

    name: str
    kind: Literal["text", "number"]
    is_list: bool
    values: list[str]
    distinct: int


class Metadata(Answer):
    """`warnings`: samples that no file has yet, samples of files that have no row."""

    key: str
    version_id: str
    rows: int
    columns: list[MetadataColumn]
    warnings: list[str]


class MetadataQuery(Wire):
    """`where`: the filter language, for example `Area:North,West;Year:>=2000`; empty for all rows."""

    where: str = ""


class MatchedSample(Answer):
    """`files`: keys of the variant files that hold the sample."""

    sample: str
    files: list[str]


class MetadataAnswer(Answer):
    version_id: str
    samples: list[MatchedSample]
    files: list[str]
    warnings: list[str]


class SampleList(Answer):
    """Every sample of the project's usable variant files, in file and header order."""

    samples: list[MatchedSample]


# --- snapshots ----------------------------------------------------------------------------------------------------


class Snapshot(Answer):
    """The versions that the project's files had at `created_at`: so many `files`, of `bytes` together."""

    name: str
    note: str
    created_by: str | None = Field(description="Email address; None where the user is gone")
    created_at: datetime
    files: int
    bytes: int


class NewSnapshot(Wire):
    """`name`: 1 to 100 letters, digits, `.`, `_`, `-`, no `.` or `-` first. `note`: a line of text."""

    name: str
    note: str = Field(default="", max_length=1000)


# --- queries and jobs ---------------------------------------------------------------------------------------------


class OutputFormat(StrEnum):
    VCF_GZ = "vcf.gz"
    BCF = "bcf"
    TSV = "tsv"
    STATS = "stats"


class Query(Wire):
    """A question. Exactly one of `where`, `samples`, `all_samples` chooses the samples.

    Attributes:
        command: bcftools steps for each file, `;` between them, e.g. `view -r 21:15000000-25000000; view -i "QUAL>30"`.
        after: steps for all files together, e.g. `+fill-tags -- -t AF; view -q 0.05`; empty for none.
        files: keys or globs; empty for every usable variant file of the project.
        output: None for what the steps give: `tsv` after a last `query`, `stats` after `stats`, else `vcf.gz`.
        level: compression level of a result that is compressed, 0 to 9; None for 3.
        at: a snapshot of the project: its file versions and its sample table are asked, instead of those of now.
    """

    where: str | None = None
    samples: list[str] | None = None
    all_samples: bool = False
    command: str = "view"
    after: str = ""
    files: list[str] = Field(default_factory=list)
    output: OutputFormat | None = None
    level: int | None = Field(default=None, ge=0, le=9)
    name: str = "result"
    at: str | None = None


class NewJob(Query):
    """A question to run. `fresh`: also where an earlier job of the project has the answer to it already."""

    fresh: bool = False


class PlannedInput(Answer):
    """`copy_size`: of the file's BCF copy, where the job reads that instead; `bytes_needed` are of the copy then."""

    number: int
    key: str
    version_id: str
    size: int
    samples: list[str] | None
    group: int
    bytes_needed: int
    copy_size: int | None = None


class Spread(Answer):
    """Jobs of their own for the shards of a query: each asks for this. `expected_s`: of the longest."""

    tasks: int
    cores: int
    memory_mb: int
    minutes: int
    scratch_mb: int
    expected_s: int


class Plan(Answer):
    """What the job will do. `commands` are the bcftools commands as one would type them, for reading; `shards` says
    into how many parts the work is cut, to be done side by side (1: it is not). `spread`: each is a job of its own,
    and cores, memory and time are those of the job that joins them. `minutes` is the job's time limit,
    `expected_s` what it should take, by what earlier jobs took (null: not known). `account`, `partition` and `qos` are
    what SLURM is told of a job that is not submitted yet (null: the cluster's default)."""

    inputs: list[PlannedInput]
    combine: Literal["single", "concat", "merge", "mixed"]
    samples: list[str]
    dropped_samples: list[str]
    regions: list[str]
    output: str
    commands: list[str]
    bytes_total: int
    bytes_needed: int
    memory_mb: int
    shards: int
    spread: Spread | None = None
    cores: int
    minutes: int
    expected_s: int | None = None
    scratch_mb: int
    account: str | None = None
    partition: str | None = None
    qos: str | None = None
    warnings: list[str]
    digest: str


class Script(Answer):
    """The batch script, exactly as it would be submitted but for the job's name."""

    script: str


class JobState(StrEnum):
    """Ours, whatever the scheduler calls it. The last four are ends. SPREAD: the job waits for its shards, which are
    jobs of their own."""

    ACCEPTED = "ACCEPTED"
    SUBMITTING = "SUBMITTING"
    SUBMIT_UNKNOWN = "SUBMIT_UNKNOWN"
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SPREAD = "SPREAD"
    FINALIZING = "FINALIZING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    LOST = "LOST"

    @property
    def is_end(self) -> bool:
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.LOST)


class Progress(Answer):
    """`stage`: staging, running or pushing; `done` of `total` bytes of that stage (total 0: not known). Of a query that
    waits for its shards: `shards`, in thousandths of them all."""

    stage: str
    done: int
    total: int


class Attempt(Answer):
    """One run of a job. `slurm_*` are the scheduler's own words."""

    number: int
    cluster: str | None
    slurm_job_id: str | None
    slurm_name: str
    slurm_state: str | None
    slurm_reason: str | None
    exit_code: int | None
    node: str | None
    cores: int = Field(description="Asked for, as memory_mb and minutes")
    memory_mb: int
    minutes: int
    submitted_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    elapsed_s: float | None
    cpu_s: float | None
    max_rss_bytes: int | None
    alloc_cpus: int | None
    outcome: str | None = Field(description="How it ended: succeeded, or the reason of the failure")


class ResultFile(Answer):
    """`role`: result, index, provenance or log. Where the job's `results_removed_at` is set, the first two are what
    there was."""

    role: str
    key: str
    version_id: str
    size: int
    sha256: str


class Shard(Answer):
    """A shard of a query that is a job of its own; `job` is its id, `name` says its regions."""

    number: int
    job: str
    name: str
    state: JobState
    reason: str | None
    message: str | None
    stuck: str | None
    waiting: str | None = Field(description="Why it has not started, in words; None for one that has")
    attempt: int
    slurm_job_id: str | None
    slurm_state: str | None
    node: str | None
    started_at: datetime | None
    ended_at: datetime | None
    elapsed_s: float | None


class Job(Answer):
    """`observed_at`: when the scheduler, or the job itself, was last heard of; a GET never asks the scheduler."""

    id: str
    project: str
    kind: Literal["query", "shard", "index", "repair", "sidecar"]
    name: str
    state: JobState
    reason: str | None = Field(description="Machine-readable reason of a failure")
    message: str | None = Field(description="What it means and what to do, in words")
    stuck: str | None = Field(description="Why a queued job will not start by itself")
    created_by: str
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    observed_at: datetime | None
    attempt: int
    slurm_job_id: str | None
    slurm_state: str | None
    slurm_reason: str | None
    waiting: str | None = Field(description="Why it has not started, in words; None for a job that has")
    expected_start: datetime | None = Field(description="The scheduler's guess")
    queue_place: int | None = Field(description="From 1, among DivBase's waiting jobs of the partition")
    queue_length: int | None
    partition: str | None = Field(description="Where it waits or ran; None where the scheduler has none")
    node: str | None
    cores: int
    memory_mb: int
    minutes: int = Field(description="Time limit")
    progress: Progress | None
    cancel_requested: bool
    pinned: bool = Field(default=False, description="Its result is kept whatever its age")
    expires_at: datetime | None = Field(
        default=None, description="When its result is removed unless it is used or pinned; None: never"
    )
    warn_from: datetime | None = Field(default=None, description="From when on that is called soon")
    results_removed_at: datetime | None = Field(
        default=None, description="Since when its result is gone; log and provenance stay"
    )


class JobDetail(Job):
    """`query` and `plan` are None for all jobs but queries; `shards` are those that are jobs of their own.

    `reused`: the answer to a submission is this job, which ran before with an equal plan. `query` is then the question
    that it was asked, and `plan` belongs to the one that was asked now: its warnings may be others. Of a repair: it is
    at work on the file already.
    """

    reused: bool = False
    query: Query | None
    plan: Plan | None
    attempts: list[Attempt]
    shards: list[Shard] = Field(default_factory=list)
    results: list[ResultFile]


class JobLog(Answer):
    """The end of the job's output. `complete`: it is the stored log of an ended job, not a look at a running one."""

    text: str
    complete: bool


class ResultDownloads(Answer):
    files: list[ResultDownload]


class ResultDownload(Answer):
    role: str
    download: Download


class Rerun(Wire):
    """`memory_mb`, `minutes`: what the new attempt asks for; None keeps the last. `more`: double what ran out."""

    memory_mb: int | None = Field(default=None, ge=1, le=100_000_000)
    minutes: int | None = Field(default=None, ge=1, le=1_000_000)
    more: bool = False


class Health(Answer):
    status: Literal["ok", "failing"]
    version: str
    checks: dict[str, str] = Field(default_factory=dict)


Me.model_rebuild()
ResultDownloads.model_rebuild()
