"""Starts waiting jobs in the order of their submission, as many as fit. It must not know who submitted them.

One thread, in the one process that holds the folder's lock; another gateway on the same folder waits for that lock.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import structlog

from divbase_gateway.local import supervisor
from divbase_gateway.local.jobs import DamagedJob, JobFolder, JobSpec

log = structlog.get_logger()

TEMPORARY = ".new-"
REMOVED = ".gone-"

_IDLE_S = 0.5
"""How long to sleep at most: jobs that other processes submit or end are noticed after this."""

_STARTS = 5
"""A job whose supervisor dies this often before the script runs will never run."""

_ABANDONED_S = 3600.0
"""Age at which a half-made folder belongs to nobody any more."""


def job_ids(folder: Path) -> list[int]:
    """Ids of the jobs in `folder`, in the order of their submission."""
    return sorted(int(name) for name in os.listdir(folder) if name.isdecimal())


class Dispatcher:
    """Runs jobs of `folder`: at most `slots` at once, with at most `cores` cores between them.

    Args:
        environment: the environment of a job's processes, by its folder and specification.
    """

    def __init__(
        self, folder: Path, slots: int, cores: int, environment: Callable[[JobFolder, JobSpec], Mapping[str, str]]
    ):
        self._folder = folder
        self._slots = slots
        self._cores = cores
        self._environment = environment
        self._on_end: Callable[[], None] = _do_nothing
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._children: set[int] = set()
        self._settled: set[int] = set()
        self._starts: dict[int, int] = {}
        self._wake_out, self._wake_in = os.pipe()
        os.set_blocking(self._wake_in, False)
        os.set_blocking(self._wake_out, False)

    def start(self, on_end: Callable[[], None] | None = None) -> None:
        """Start the thread; twice is no error. `on_end` is called, from the thread, when jobs have ended."""
        if not self.running:
            self._on_end = on_end or _do_nothing
            self._stopping.clear()
            self._thread = threading.Thread(target=self._run, name="local-dispatcher", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Start no more jobs and let go of the folder; running jobs run on."""
        self._stopping.set()
        self.wake()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    @property
    def running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def wake(self) -> None:
        """There may be something to do."""
        with suppress(BlockingIOError):
            os.write(self._wake_in, b".")

    def _run(self) -> None:
        lock = os.open(self._folder / ".dispatcher", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while not self._stopping.is_set():
                if self._holds(lock):
                    self._lead()
                else:
                    self._sleep([])
        finally:
            os.close(lock)

    def _holds(self, lock: int) -> bool:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _lead(self) -> None:
        self._sweep()
        while not self._stopping.is_set():
            live: list[JobFolder] = []
            try:
                live = self._tick()
            except OSError as exc:
                log.exception("local.dispatcher_failed", folder=str(self._folder), error=str(exc))
            self._sleep(live)
            self._reap()

    def _sweep(self) -> None:
        """Remove what crashed submissions and removals left half-done."""
        for name in os.listdir(self._folder):
            path = self._folder / name
            old = name.startswith(TEMPORARY) and time.time() - _mtime(path) > _ABANDONED_S
            if old or name.startswith(REMOVED):
                shutil.rmtree(path, ignore_errors=True)

    def _tick(self) -> list[JobFolder]:
        """Start what fits; the jobs that are alive now."""
        live: list[JobFolder] = []
        cores = 0
        present = job_ids(self._folder)
        self._settled &= set(present)
        settled_before = len(self._settled)
        for job_id in present:
            if job_id in self._settled:
                continue
            job = JobFolder(self._folder / str(job_id))
            try:
                spec = job.spec()
                needs = min(spec.cores, self._cores)
                fits = len(live) < self._slots and cores + needs <= self._cores
                state = self._advance(job, spec, fits)
            except FileNotFoundError:
                continue  # discarded meanwhile
            except (DamagedJob, ValueError) as exc:
                log.error("local.job_damaged", job=str(job_id), error=str(exc))  # noqa: TRY400 - it says all
                self._settled.add(job_id)
                continue
            if state == "ended":
                self._settled.add(job_id)
            elif state == "waits":
                break  # the order of submission is kept: nothing overtakes it
            else:
                live.append(job)
                cores += needs
        if len(self._settled) > settled_before:
            self._on_end()
        return live

    def _advance(self, job: JobFolder, spec: JobSpec, fits: bool) -> str:
        """`ended`, `lives` or `waits`, after starting the job if it waits and fits."""
        seen = job.sighting()
        if seen.state == "RUNNING":
            return "lives"
        if seen.state != "PENDING":
            return "ended"
        return self._start_job(job, spec, fits)

    def _start_job(self, job: JobFolder, spec: JobSpec, fits: bool) -> str:
        with job.lock() as fd:
            if fd is None:
                return "lives"  # its supervisor is just starting
            if job.ended() or job.started_at() is not None or job.cancelled():
                return "lives"  # it moved on since the first look; the next round sees where to
            if not fits:
                return "waits"
            return self._spawn(job, spec, fd)

    def _spawn(self, job: JobFolder, spec: JobSpec, lock: int) -> str:
        """Start the supervisor with the lock in its hand: at no moment is the job without an owner."""
        job_id = int(job.job_id)
        if self._starts.get(job_id, 0) >= _STARTS:
            job.end("NODE_FAIL", f"the job's supervisor ended {_STARTS} times before the script could start")
            return "ended"
        high = fcntl.fcntl(lock, fcntl.F_DUPFD_CLOEXEC, 16)  # never the number that it is copied to
        try:
            self._children.add(
                os.posix_spawn(
                    sys.executable,
                    [
                        *(sys.executable, "-IS", supervisor.__file__, str(job.path)),
                        *map(str, (spec.limit_s, spec.warn_s, spec.grace_s, spec.memory_mb << 20)),
                    ],
                    dict(self._environment(job, spec)),
                    file_actions=[
                        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                        (os.POSIX_SPAWN_OPEN, 1, str(job.status_path("supervisor.log")), _APPEND, 0o600),
                        (os.POSIX_SPAWN_DUP2, 1, 2),
                        (os.POSIX_SPAWN_DUP2, high, supervisor.LOCK_FD),
                    ],
                )
            )
        finally:
            os.close(high)
        self._starts[job_id] = self._starts.get(job_id, 0) + 1
        log.info("local.job_started", job=job.job_id, name=spec.name)
        return "lives"

    def _sleep(self, live: list[JobFolder]) -> None:
        """Until woken, a job ends, or `_IDLE_S` went by."""
        poll = select.poll()
        poll.register(self._wake_out, select.POLLIN)
        watched = _watch({*self._children, *filter(None, (_supervisor(job) for job in live))})
        for fd in watched:
            poll.register(fd, select.POLLIN)
        poll.poll(_IDLE_S * 1000)
        for fd in watched:
            os.close(fd)
        with suppress(BlockingIOError):
            os.read(self._wake_out, 4096)

    def _reap(self) -> None:
        for pid in list(self._children):
            try:
                ended, _ = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                ended = pid
            if ended:
                self._children.discard(pid)


def _do_nothing() -> None:
    pass


_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND


def _supervisor(job: JobFolder) -> int | None:
    try:
        return job.supervisor()
    except (OSError, ValueError):
        return None


def _watch(pids: set[int]) -> list[int]:
    """File descriptors that become readable when these processes end; none where the system has no such thing."""
    if not hasattr(os, "pidfd_open"):
        return []
    watched = []
    for pid in pids:
        try:
            watched.append(os.pidfd_open(pid))
        except OSError as exc:
            if exc.errno != errno.ESRCH:
                break
    return watched


def _mtime(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return time.time()
