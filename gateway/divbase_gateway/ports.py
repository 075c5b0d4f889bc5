"""What the services need from the world and a test cannot run: a scheduler, an object store, a clock.

Adapters live in `slurm/`, `local/` and `s3/`; fakes with the same behaviour in `tests/fakes/`. One contract test file
per port runs over all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol, runtime_checkable

# --- the scheduler -----------------------------------------------------------------------------------------------

OUR_JOBS = "divbase-"
"""How the name of every job of ours begins."""
ARRAY_MARK = ".shards"
"""How the name of every array of ours ends; the task of a number is the job called `<array's name>.<number>`."""


def array_of(name: str) -> str:
    """The name that SLURM knows of a job: of a task of an array of ours, the array's."""
    array, _, number = name.rpartition(".")
    return array if array.endswith(ARRAY_MARK) and number.isdecimal() else name


@dataclass(frozen=True)
class Submission:
    """A job to hand to the scheduler.

    Attributes:
        name: `divbase-<project>-<job>-<token>`, unique for every attempt; `find` looks for it.
        script: the rendered batch script; its `#SBATCH` header carries every resource and label.
        files: put beside the script in the job's directory, mode 0600, before it starts. The script starts with that
            directory as its working directory; its output goes to `job.log` there.
        comment: for people who look at the queue: job, project, user.
        cores, memory_mb, minutes: as in the script's header, for schedulers that do not read it.
    """

    name: str
    script: str
    files: Mapping[str, bytes]
    comment: str
    cores: int
    memory_mb: int
    minutes: int


@dataclass(frozen=True)
class ArraySubmission:
    """Jobs that ask for the same, to hand over as one array.

    Attributes:
        name: of the array, unique; ends with `ARRAY_MARK`.
        tasks: the jobs by their numbers in the array, each called `<name>.<number>`, with a directory, a script and
            files of its own, as if it were submitted alone.
        comment: of the array, of letters, digits and `. _ : , = + -`.
    """

    name: str
    tasks: Mapping[int, Submission]
    comment: str


@dataclass(frozen=True, slots=True)
class SlurmRef:
    """The identity of a job at the scheduler: never the id alone, because ids wrap.

    `cluster` is the cluster's name (`local` for the embedded scheduler), `submitted_at` when the scheduler took it.
    """

    cluster: str
    job_id: str
    name: str
    submitted_at: datetime

    def __hash__(self) -> int:
        """Of the name alone, which is unique: a look finds every job by its reference several times."""
        return hash(self.name)


@dataclass(frozen=True)
class Sighting:
    """What the scheduler said of one job, in its own words.

    Attributes:
        state: SLURM's word, whole (`RUNNING`, `OUT_OF_MEMORY`, `CANCELLED by 1001`).
        reason: why it waits or ended, SLURM's word; empty where there is none.
        exit_code, signal: of the batch script; None until it ended.
        expected_start: the scheduler's guess for a job that waits; None where it has none.
        priority: of a job that waits, the larger the sooner; None where not known.
        partition: where it waits or ran.
        elapsed_s, cpu_s, max_rss_bytes, alloc_cpus: accounting; None where not known.
        source: the evidence: `squeue`, `sacct`, `pyslurm` or `local`.
    """

    state: str
    reason: str = ""
    exit_code: int | None = None
    signal: int | None = None
    node: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    restarts: int = 0
    expected_start: datetime | None = None
    priority: int | None = None
    partition: str | None = None
    elapsed_s: float | None = None
    cpu_s: float | None = None
    max_rss_bytes: int | None = None
    alloc_cpus: int | None = None
    source: str = ""


@dataclass(frozen=True)
class Observation:
    """One successful look at the scheduler. A ref that was asked for and is not in `seen` was not found, no more.

    `unjudged` are refs that nobody could look up this time (SLURM's accounting is away): their absence says nothing.
    """

    at: datetime
    seen: Mapping[SlurmRef, Sighting] = field(default_factory=dict)
    unjudged: frozenset[SlurmRef] = frozenset()


@dataclass(frozen=True)
class PastRun:
    """One run that the scheduler's accounting has of a job of ours; an id that ran twice is two of them."""

    ref: SlurmRef
    sighting: Sighting


class Scheduler(Protocol):
    """A batch scheduler. Every method may raise SchedulerUnavailable; a failed look is never an answer."""

    def submit(self, submission: Submission) -> SlurmRef:
        """Hand the job over.

        Raises:
            SchedulerUnavailable: it was not asked, or could not accept anything: there is no such job, for certain.
            SubmissionRefused: the scheduler said no, definitely; nothing was started.
            SubmissionUnknown: the answer was lost; look with `find` before doing anything else.
        """
        ...

    def observe(self, refs: Sequence[SlurmRef]) -> Observation:
        """Look at these jobs, however many, in a constant number of scheduler calls."""
        ...

    def find(self, name: str, since: datetime) -> list[SlurmRef]:
        """Every job of exactly this name that was submitted at or after `since`, live or ended."""
        ...

    def history(self, since: datetime) -> list[PastRun]:
        """Every run that accounting has of jobs called `divbase-…` since then, live ones included, in one call.

        For `audit` and `usage`; a name may occur more than once.
        """
        ...

    def cancel(self, *refs: SlurmRef) -> None:
        """Ask for the end of a job, or of tasks of one array, their children included. One that ended is no error.

        SLURM keeps no record of a waiting task that is cancelled without the others that wait: those go in one call.
        """
        ...

    def read_log(self, ref: SlurmRef, max_bytes: int) -> bytes:
        """The last `max_bytes` of the job's `job.log`, empty where there is none (yet, or any more)."""
        ...

    def discard(self, ref: SlurmRef) -> None:
        """Remove the job's directory after it was settled. Removing it twice is no error."""
        ...

    def ping(self) -> str:
        """A line that names the scheduler and its version."""
        ...


@runtime_checkable
class ArrayScheduler(Scheduler, Protocol):
    """A scheduler that takes arrays. Each task is a job with a ref of its own then, in every other method."""

    def submit_array(self, array: ArraySubmission) -> list[SlurmRef]:
        """Hand all tasks over in one call; their refs, by number.

        Raises: as `submit`, of all of them: none was started, or any of them may have been.
        """
        ...


# --- the object store --------------------------------------------------------------------------------------------


class Audience(StrEnum):
    """Who will use a presigned URL: each sees the store under a name of its own."""

    LAPTOP = "laptop"
    NODE = "node"


@dataclass(frozen=True)
class ObjectInfo:
    """One version of an object. `size` in bytes, `etag` without quotes, `metadata` keys in lower case."""

    key: str
    version_id: str
    size: int
    etag: str
    modified_at: datetime
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ObjectVersion:
    """An entry of a version listing; a delete marker has `deleted` set and no size."""

    key: str
    version_id: str
    size: int
    etag: str
    modified_at: datetime
    is_latest: bool
    deleted: bool


@dataclass(frozen=True)
class Part:
    """A part of a multipart upload as the store has it. `number` from 1, `etag` without quotes, `size` in bytes."""

    number: int
    etag: str
    size: int


@dataclass(frozen=True)
class PresignedRequest:
    """A request that the bearer may make without credentials until `expires_at`; it must send `headers` as they are."""

    method: str
    url: str = field(repr=False)  # who has it needs nothing else, so it stays out of logs and tracebacks
    headers: Mapping[str, str]
    expires_at: datetime


class ObjectStore(Protocol):
    """A versioned object store. Any method may raise StoreUnavailable; a missing bucket, key or version is NotFound."""

    def ensure_bucket(self, bucket: str) -> bool:
        """Create the bucket, or adopt the one that is there, and switch versioning on. True if it was created."""
        ...

    def head(self, bucket: str, key: str, version_id: str | None = None) -> ObjectInfo: ...

    def read(self, bucket: str, key: str, version_id: str | None, start: int, length: int) -> bytes:
        """Bytes [start, start + length) of one version, fewer only where the object ends before."""
        ...

    def write(
        self,
        bucket: str,
        key: str,
        body: bytes,
        metadata: Mapping[str, str] | None = None,
        *,
        if_absent: bool = False,
    ) -> ObjectInfo:
        """A new version; with `if_absent`, Conflict where there is an object already (one of several writers wins)."""
        ...

    def list_objects(self, bucket: str, prefix: str = "") -> Iterator[ObjectInfo]:
        """Current versions in key order; listing pages are followed. `metadata` is empty."""
        ...

    def list_versions(self, bucket: str, prefix: str = "") -> Iterator[ObjectVersion]:
        """Every version and delete marker, by key, newest first."""
        ...

    def delete(self, bucket: str, key: str) -> str:
        """Put a delete marker on the object and return the marker's version id. Nothing is lost."""
        ...

    def delete_version(self, bucket: str, key: str, version_id: str) -> None:
        """Remove one version, or one delete marker (which restores what was under it), for good."""
        ...

    def presign_get(
        self,
        bucket: str,
        key: str,
        version_id: str | None,
        audience: Audience,
        expires: timedelta,
        filename: str | None = None,
    ) -> PresignedRequest:
        """For one pinned version, or whatever is current (None); `filename` becomes the Content-Disposition."""
        ...

    def presign_put(
        self,
        bucket: str,
        key: str,
        audience: Audience,
        expires: timedelta,
        content_md5: str | None,
        metadata: Mapping[str, str],
        *,
        if_absent: bool = False,
    ) -> PresignedRequest:
        """For one whole object.

        Args:
            content_md5: base64; the store refuses any other bytes. None: any bytes, and the bearer may still send a
                Content-MD5 of its own for the store to check.
            if_absent: the store answers 412 where there is an object already: of several bearers one wins.
        """
        ...

    def start_multipart(self, bucket: str, key: str, metadata: Mapping[str, str]) -> str:
        """Begin a multipart upload and return the store's id for it."""
        ...

    def presign_part(
        self,
        bucket: str,
        key: str,
        upload_id: str,
        number: int,
        audience: Audience,
        expires: timedelta,
        content_md5: str | None,
    ) -> PresignedRequest: ...

    def list_parts(self, bucket: str, key: str, upload_id: str) -> list[Part]: ...

    def complete_multipart(self, bucket: str, key: str, upload_id: str, parts: Sequence[Part]) -> ObjectInfo:
        """Join the parts. Completing an upload that was completed before with the same parts is no error."""
        ...

    def abort_multipart(self, bucket: str, key: str, upload_id: str) -> None:
        """Forget the upload and its parts. Aborting what is not there is no error."""
        ...

    def ping(self) -> str:
        """A line that names the endpoint, after a request that proves that it answers and takes the credentials."""
        ...


# --- the clock ---------------------------------------------------------------------------------------------------


class Clock(Protocol):
    def now(self) -> datetime:
        """The time, aware, in UTC."""
        ...
