"""The embedded scheduler: the `Scheduler` port on one machine, in folders on its disk, with nothing to install.

It must not know what the scripts do, nor any database: a job is what its folder says, for every process that looks.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import structlog

from divbase_gateway.domain.errors import SchedulerUnavailable, SubmissionRefused, SubmissionUnknown
from divbase_gateway.local import accounting
from divbase_gateway.local.dispatcher import REMOVED, TEMPORARY, Dispatcher, job_ids
from divbase_gateway.local.jobs import (
    CLUSTER,
    LOG,
    RESERVED_NAMES,
    DamagedJob,
    JobFolder,
    JobSpec,
    sync_folder,
    write_job,
)
from divbase_gateway.local.supervisor import MARK
from divbase_gateway.ports import OUR_JOBS, Clock, Observation, PastRun, Sighting, SlurmRef, Submission

log = structlog.get_logger()

_WARNING_S = 120.0
"""As `--signal=B:USR2@120` in the script's header."""

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_END_ALL_S = 30.0


class LocalScheduler:
    """Runs jobs on this machine. Several processes may use one `folder`; one of them dispatches.

    Args:
        folder: made if missing, 0700; one directory for each job in it.
        slots: how many jobs run at once.
        clock: for the time of submission.
        path_prefix: put in front of PATH for jobs (the folder of a bcftools, for example).
        environment: more variables for jobs. Of the gateway's own they see PATH, HOME, USER and TMPDIR only.
        cores: what the jobs share; a job that asks for more gets all of them. Default: the machine's.
        minute_s: seconds in a minute of `Submission.minutes`; tests shorten it.
        grace_s: between SIGTERM and SIGKILL.
    """

    def __init__(
        self,
        folder: Path,
        slots: int,
        clock: Clock,
        *,
        path_prefix: Path | None = None,
        environment: Mapping[str, str] | None = None,
        cores: int | None = None,
        minute_s: float = 60.0,
        grace_s: float = 5.0,
    ):
        self._folder = folder.absolute()
        self._slots = slots
        self._cores = cores or os.cpu_count() or 1
        self._clock = clock
        self._path_prefix = path_prefix
        self._environment = dict(environment or {})
        self._minute_s = minute_s
        self._grace_s = grace_s
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._python = self._folder / ".python"
        self._ids = threading.Lock()
        self._dispatcher = Dispatcher(self._folder, slots, self._cores, self._job_environment)

    def start(self, on_end: Callable[[], None] | None = None) -> None:
        """Begin to start jobs, those included that an earlier process accepted.

        Args:
            on_end: called, from another thread, soon after jobs have ended: a hint to look at them now.
        """
        _link_python(self._python)
        self._dispatcher.start(on_end)

    def stop(self, end_running: bool = False) -> None:
        """Start no more jobs. Running ones run on, unless `end_running`: they end as NODE_FAIL, as in a shutdown."""
        self._dispatcher.stop()
        if end_running:
            self._end_running()

    # --- the port ----------------------------------------------------------------------------------------------

    def submit(self, submission: Submission) -> SlurmRef:
        """Accept the job durably: it is in its place, whole and on the disk, or it is nowhere.

        Raises:
            SubmissionRefused: a file name that cannot be, or no room on the disk.
            SchedulerUnavailable: the folder cannot be written; nothing was accepted.
            SubmissionUnknown: it is in its place, but the disk did not confirm that it stays there.
        """
        _check_file_names(submission)
        temporary = self._folder / f"{TEMPORARY}{secrets.token_hex(8)}"
        try:
            submitted_at = self._clock.now()
            write_job(temporary, self._spec(submission, submitted_at), submission.script, dict(submission.files))
            job_id = self._settle_in(temporary)
        except OSError as exc:
            shutil.rmtree(temporary, ignore_errors=True)
            raise self._not_accepted(submission.name, exc) from exc
        try:
            sync_folder(self._folder)
        except OSError as exc:
            raise SubmissionUnknown(f"The disk did not confirm job {submission.name}: {exc}.") from exc
        self._dispatcher.wake()
        return SlurmRef(CLUSTER, job_id, submission.name, submitted_at)

    def observe(self, refs: Sequence[SlurmRef]) -> Observation:
        """Read these jobs' folders, and no others."""
        self._require_folder()
        at = self._clock.now()
        with self._errors("look at jobs"):
            seen = {ref: sighting for ref in refs if (sighting := self._sighting(ref)) is not None}
        return Observation(at, seen)

    def find(self, name: str, since: datetime) -> list[SlurmRef]:
        found = []
        with self._errors("look for jobs"):
            for job_id in job_ids(self._folder):
                ref = self._ref(JobFolder(self._folder / str(job_id)))
                if ref is not None and ref.name == name and ref.submitted_at >= since:
                    found.append(ref)
        return found

    def history(self, since: datetime) -> list[PastRun]:
        """Jobs whose folders are there, and those that were written down when their folders went."""
        self._require_folder()
        with self._errors("read the accounting"):
            runs = {run.ref: run for run in accounting.remembered(self._folder, since)}
            for job in self._folders():
                ref = self._ref(job)
                sighting = None if ref is None else self._sighting(ref)
                if ref is not None and sighting is not None:
                    runs[ref] = PastRun(ref, sighting)
        return [run for ref, run in runs.items() if ref.name.startswith(OUR_JOBS) and _was_there(run, since)]

    def cancel(self, *refs: SlurmRef) -> None:
        """A waiting job is CANCELLED when this returns; a running one gets SIGTERM within a moment."""
        for job in filter(None, map(self._job, refs)):
            with self._errors("cancel a job"), suppress(FileNotFoundError):
                if job.ended() is None:
                    job.ask_to_cancel()
                    job.rest()
        self._dispatcher.wake()

    def read_log(self, ref: SlurmRef, max_bytes: int) -> bytes:
        job = self._job(ref)
        if job is None or max_bytes <= 0:
            return b""
        with self._errors("read a log"), suppress(FileNotFoundError), (job.path / LOG).open("rb") as log_file:
            size = log_file.seek(0, os.SEEK_END)
            log_file.seek(max(0, size - max_bytes))
            return log_file.read(max_bytes)
        return b""

    def discard(self, ref: SlurmRef) -> None:
        """Remove the job's directory; a waiting job is cancelled by it.

        Raises:
            SchedulerUnavailable: the job still runs; its directory stays until it ended.
        """
        job = self._job(ref)
        if job is None:
            return
        with self._errors("discard a job"), suppress(FileNotFoundError):
            last = job.sighting()  # puts to rest what a dead supervisor left
            with job.lock() as fd:
                # Its supervisor holds the lock a moment longer than the job lasts; with an end on disk that is fine.
                if job.ended() is None and (fd is None or job.started_at() is not None):
                    raise SchedulerUnavailable(
                        f"Job {ref.job_id} ({ref.name}) still runs, so its directory was not removed.",
                        hint="Cancel it first.",
                    )
                self._write_down(ref, job.ended() or replace(last, state="CANCELLED", reason=""))
                gone = self._folder / f"{REMOVED}{ref.job_id}-{secrets.token_hex(8)}"
                job.path.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)

    def _write_down(self, ref: SlurmRef, end: Sighting) -> None:
        """Keep for `history` what the folder says. A full disk costs the line, not the tidying that makes room."""
        try:
            accounting.write_down(self._folder, PastRun(ref, self._with_cores(ref, end)), self._clock.now())
        except OSError as exc:
            log.warning("local.not_written_down", job=ref.job_id, error=str(exc))

    def ping(self) -> str:
        self._require_folder()
        note = "" if self._dispatcher.running else ", not started in this process"
        return f"local scheduler: {self._slots} slots, {self._cores} cores{note}, jobs in {self._folder}"

    # --- accepting ---------------------------------------------------------------------------------------------

    def _spec(self, submission: Submission, submitted_at: datetime) -> JobSpec:
        limit_s = submission.minutes * self._minute_s
        return JobSpec(
            name=submission.name,
            comment=submission.comment,
            submitted_at=submitted_at.isoformat(),
            cores=max(1, submission.cores),
            memory_mb=submission.memory_mb,
            limit_s=limit_s,
            warn_s=min(_WARNING_S, limit_s / 2),
            grace_s=self._grace_s,
            mark=secrets.token_hex(8),
        )

    def _settle_in(self, temporary: Path) -> str:
        """Give the finished folder the next id. The rename is the moment of acceptance."""
        with self._next_id() as number:
            temporary.rename(self._folder / str(number))
        return str(number)

    @contextmanager
    def _next_id(self) -> Iterator[int]:
        """The next id, while no other process can get one. Ids of discarded jobs are not given out again."""
        fd = os.open(self._folder / ".last-id", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            written = os.pread(fd, 32, 0).strip()
            last = int(written) if written.isdigit() else 0
            number = max([last, *job_ids(self._folder)[-1:]]) + 1
            os.pwrite(fd, b"%020d\n" % number, 0)  # always as long, so that it never needs new room
            yield number
        finally:
            os.close(fd)

    def _not_accepted(self, name: str, exc: OSError) -> SubmissionRefused | SchedulerUnavailable:
        if exc.errno in _NO_ROOM:
            return SubmissionRefused(
                f"There is no room for job {name} on the disk of {self._folder}: {exc.strerror}.",
                hint="Free some space there and submit again.",
                details={"folder": str(self._folder)},
            )
        return SchedulerUnavailable(f"Job {name} cannot be written to {self._folder}: {exc}. It was not accepted.")

    # --- reading -----------------------------------------------------------------------------------------------

    def _job(self, ref: SlurmRef) -> JobFolder | None:
        """The folder of exactly this job, None where there is none (any more)."""
        if ref.cluster != CLUSTER or not ref.job_id.isdecimal():
            return None
        job = JobFolder(self._folder / ref.job_id)
        with self._errors("read a job"):
            return job if self._ref(job) == ref else None

    def _ref(self, job: JobFolder) -> SlurmRef | None:
        if not job.path.is_dir():
            return None
        try:
            return job.ref()
        except DamagedJob as exc:
            if job.path.is_dir():
                log.error("local.job_damaged", job=job.job_id, error=str(exc))  # noqa: TRY400 - it says all
            return None

    def _sighting(self, ref: SlurmRef) -> Sighting | None:
        job = self._job(ref)
        if job is None:
            return None
        try:
            return self._with_cores(ref, job.sighting())
        except FileNotFoundError:
            return None
        except (DamagedJob, ValueError) as exc:
            log.error("local.job_damaged", job=job.job_id, error=str(exc))  # noqa: TRY400 - it says all
            return None

    def _with_cores(self, ref: SlurmRef, sighting: Sighting) -> Sighting:
        """What a job that started was given: what it asked for, or all that there is."""
        if sighting.started_at is None:
            return sighting
        cores = JobFolder(self._folder / ref.job_id).spec().cores
        return replace(sighting, alloc_cpus=min(cores, self._cores))

    def _require_folder(self) -> None:
        if not self._folder.is_dir():
            raise SchedulerUnavailable(f"The local scheduler's folder {self._folder} is not there.")

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise SchedulerUnavailable(f"The local scheduler cannot {what} in {self._folder}: {exc}.") from exc

    # --- running -----------------------------------------------------------------------------------------------

    def _job_environment(self, job: JobFolder, spec: JobSpec) -> dict[str, str]:
        """All that a job's processes see, as with `--export=NONE`: nothing of the gateway's that is not named here."""
        path = os.environ.get("PATH", os.defpath)
        kept = {name: os.environ[name] for name in ("HOME", "USER", "TMPDIR") if name in os.environ}
        return {
            "TMPDIR": "/tmp",  # noqa: S108 - the default of a system that names none
            **kept,
            "PATH": os.pathsep.join(map(str, filter(None, (self._path_prefix, self._python, path)))),
            "LANG": "C.UTF-8",
            **self._environment,
            "SLURM_CLUSTER_NAME": CLUSTER,
            "SLURM_JOB_ID": job.job_id,
            "SLURM_JOB_NAME": spec.name,
            "SLURM_RESTART_COUNT": "0",
            "SLURM_CPUS_PER_TASK": str(spec.cores),
            MARK: spec.mark,
        }

    def _end_running(self) -> None:
        deadline = time.monotonic() + _END_ALL_S
        running = [job for job in self._folders() if self._runs(job)]
        for job in running:
            with suppress(FileNotFoundError, ProcessLookupError):
                if (supervisor := job.supervisor()) is not None:
                    os.kill(supervisor, signal.SIGTERM)
        while any(self._runs(job) for job in running) and time.monotonic() < deadline:
            time.sleep(0.02)

    def _folders(self) -> list[JobFolder]:
        return [JobFolder(self._folder / str(job_id)) for job_id in job_ids(self._folder)]

    def _runs(self, job: JobFolder) -> bool:
        """Whether it is alive: running, or just being started."""
        try:
            with job.lock() as fd:
                return fd is None
        except FileNotFoundError:
            return False


def _was_there(run: PastRun, since: datetime) -> bool:
    return run.sighting.ended_at is None or run.sighting.ended_at >= since


def _link_python(folder: Path) -> None:
    """Make `folder`/python3 the Python that runs us: it is there, and no version manager's script, which would cost
    each start of the node helper a tenth of a second and more."""
    folder.mkdir(mode=0o700, exist_ok=True)
    new = folder / f"{TEMPORARY}{secrets.token_hex(8)}"
    new.symlink_to(os.path.realpath(sys.executable))
    new.replace(folder / "python3")


def _check_file_names(submission: Submission) -> None:
    for name in submission.files:
        if name in RESERVED_NAMES or name in ("", ".", "..") or "/" in name or "\0" in name:
            raise SubmissionRefused(
                f"Job {submission.name} brings a file called {name!r}, which cannot be put beside its script.",
                hint=f"Use a plain file name other than {', '.join(sorted(RESERVED_NAMES))}.",
            )
