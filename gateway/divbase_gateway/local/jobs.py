"""A job of the embedded scheduler as its folder holds it: what was asked, how far it is, how it ended.

It reads and writes one folder, and must not know slots, threads or who asks.

    <folder>/<id>/            working directory of the script, 0700: script.sh, the job's files, job.log
    <folder>/<id>/.job/       spec.json (never changes), lock, cancel, started.json, exit.json, supervisor.log

`lock` is held (flock) by the supervisor from before it starts until after it wrote `exit.json`, and freed by the
kernel however it ends. That one fact tells the states apart:

    exit.json    started.json   lock     the job
    there        any            any      ended as it says
    missing      there          held     runs
    missing      there          free     lost its supervisor: what is left of it is killed, then it is NODE_FAIL
    missing      missing        held     is being started
    missing      missing        free     waits (or is cancelled, if there is a `cancel`)
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from divbase_gateway.local.processes import end_survivors
from divbase_gateway.local.supervisor import overwrite
from divbase_gateway.ports import Sighting, SlurmRef

CLUSTER = "local"
STATUS = ".job"
SCRIPT = "script.sh"
LOG = "job.log"
RESERVED_NAMES = frozenset({SCRIPT, LOG, STATUS})

_ROOM_BYTES = 1024
"""Set aside for started.json and exit.json each, so that a disk that fills up later cannot hide a job's end."""


class DamagedJob(Exception):
    """The folder holds no readable specification."""


@dataclass(frozen=True)
class JobSpec:
    """What was accepted. Times in seconds; `mark` is random and is in the environment of the job's processes."""

    name: str
    comment: str
    submitted_at: str
    cores: int
    memory_mb: int
    limit_s: float
    warn_s: float
    grace_s: float
    mark: str


@dataclass(frozen=True)
class JobFolder:
    """One job's folder; it may be gone by the time it is read (FileNotFoundError)."""

    path: Path

    @property
    def job_id(self) -> str:
        return self.path.name

    def status_path(self, name: str) -> Path:
        return self.path / STATUS / name

    def spec(self) -> JobSpec:
        """What was asked for.

        Raises:
            DamagedJob: if it cannot be read.
        """
        try:
            return JobSpec(**json.loads(self.status_path("spec.json").read_bytes()))
        except (FileNotFoundError, NotADirectoryError, ValueError, TypeError) as exc:
            raise DamagedJob(f"{self.path} holds no readable job: {exc}") from exc

    def ref(self) -> SlurmRef:
        spec = self.spec()
        return SlurmRef(CLUSTER, self.job_id, spec.name, datetime.fromisoformat(spec.submitted_at))

    @contextmanager
    def lock(self) -> Iterator[int | None]:
        """Hold the job's lock inside the block: its file descriptor, or None if someone else holds it."""
        fd = os.open(self.status_path("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
            else:
                yield fd
        finally:
            os.close(fd)

    def ended(self) -> Sighting | None:
        """How the job ended, None if it did not."""
        outcome = self._read("exit.json")
        if outcome is None:
            return None
        return Sighting(
            state=str(outcome["state"]),
            reason=str(outcome["reason"]),
            exit_code=outcome["exit_code"],
            signal=outcome["signal"],
            node=platform.node(),
            started_at=_aware(outcome.get("started_at")),
            ended_at=_aware(outcome.get("ended_at")),
            elapsed_s=outcome.get("elapsed_s"),
            cpu_s=outcome.get("cpu_s"),
            max_rss_bytes=outcome.get("max_rss_bytes"),
            source=CLUSTER,
        )

    def started_at(self) -> float | None:
        """When the script started (seconds since 1970), None if it never did."""
        started = self._read("started.json")
        return None if started is None else float(started["started_at"])

    def supervisor(self) -> int | None:
        """The process id of the supervisor that started the script."""
        started = self._read("started.json")
        return None if started is None else int(started["supervisor"])

    def cancelled(self) -> bool:
        return self.status_path("cancel").exists()

    def sighting(self) -> Sighting:
        """The job's state now. A job that lost its supervisor is put to rest first.

        Raises:
            FileNotFoundError: the folder is gone.
        """
        ended = self.ended()
        if ended is not None:
            return ended
        started_at = self.started_at()
        if started_at is not None:
            return self.rest() or self._running(started_at)
        if self.cancelled():
            return self.rest() or Sighting("PENDING", reason="BeingCancelled", source=CLUSTER)
        if not self.status_path("spec.json").exists():
            raise FileNotFoundError(self.path)
        return Sighting("PENDING", reason="Resources", source=CLUSTER)

    def rest(self) -> Sighting | None:
        """Settle a job that nobody runs: cancelled before it started, or left behind by a dead supervisor.

        None if the job is alive (its lock is held), waits, or has processes that do not die.
        """
        with self.lock() as fd:
            if fd is None:
                return None
            ended = self.ended()  # again: it may have ended between the first look and the lock
            if ended is not None:
                return ended
            started = self._read("started.json")
            if started is None:
                return self.end("CANCELLED", "", exit_code=0, signal=0) if self.cancelled() else None
            if not end_survivors(self.spec().mark, started["group"], started["started_at"]):
                return None
            reason = "the job's supervisor was killed or the machine was restarted; what was left of the job was killed"
            return self.end("NODE_FAIL", reason, started_at=started["started_at"])

    def end(
        self,
        state: str,
        reason: str,
        exit_code: int | None = None,
        signal: int | None = None,
        started_at: float | None = None,
    ) -> Sighting:
        """Write down an end that no supervisor can write. The caller holds the lock."""
        now = time.time()
        outcome = {
            "state": state,
            "reason": reason,
            "exit_code": exit_code,
            "signal": signal,
            "started_at": started_at,
            "ended_at": now,
            "elapsed_s": 0.0 if started_at is None else now - started_at,
        }
        overwrite(str(self.status_path("exit.json")), json.dumps(outcome))
        ended = self.ended()
        if ended is None:
            raise FileNotFoundError(self.status_path("exit.json"))
        return ended

    def ask_to_cancel(self) -> None:
        """Leave the word for the supervisor, which looks for it, and for whoever would start the job."""
        os.close(os.open(self.status_path("cancel"), os.O_WRONLY | os.O_CREAT, 0o600))

    def _running(self, started_at: float) -> Sighting:
        return Sighting(
            "RUNNING",
            node=platform.node(),
            started_at=_aware(started_at),
            elapsed_s=max(0.0, time.time() - started_at),
            source=CLUSTER,
        )

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            value = json.loads(self.status_path(name).read_bytes())
        except FileNotFoundError:
            return None
        return value if isinstance(value, dict) else None


def write_job(folder: Path, spec: JobSpec, script: str, files: dict[str, bytes]) -> None:
    """Fill a new folder with a job, everything 0600 and on the disk when this returns.

    Raises:
        OSError: as the file system says; the folder is then half-made and the caller's to remove.
    """
    folder.mkdir(mode=0o700)
    (folder / STATUS).mkdir(mode=0o700)
    for name, body in {**files, SCRIPT: script.encode()}.items():
        _write(folder / name, body)
    _write(folder / STATUS / "spec.json", json.dumps(asdict(spec)).encode())
    for name in ("started.json.room", "exit.json.room"):
        _write(folder / STATUS / name, b" " * _ROOM_BYTES)
    for directory in (folder / STATUS, folder):
        sync_folder(directory)


def sync_folder(path: Path) -> None:
    """Put a folder's entries on the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write(path: Path, body: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(body)
        out.flush()
        os.fsync(out.fileno())


def _aware(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
