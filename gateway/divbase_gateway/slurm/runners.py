"""Where SLURM's commands run: the protocol that hides the place, and the runner for this machine. A runner knows
programs, directories and time limits; what the programs are and what they say is not its business."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from divbase_gateway.domain.errors import SchedulerUnavailable


@dataclass(frozen=True)
class Completed:
    """A command that ended: its exit status and what it printed, whole."""

    status: int
    stdout: str
    stderr: str


class RunnerUnavailable(SchedulerUnavailable):
    """No answer. `started` False: the command was certainly not run; True: it may have been, its answer is lost."""

    def __init__(self, message: str, *, started: bool, hint: str | None = None):
        super().__init__(message, hint=hint)
        self.started = started


class DirectoryUnavailable(SchedulerUnavailable):
    """A directory or a file in it could not be made, read or removed."""


class Runner(Protocol):
    """Runs commands where SLURM is. Paths are absolute, on that machine. May be used by several threads at once."""

    @property
    def place(self) -> str:
        """For people: where this is."""
        ...

    def run(self, argv: Sequence[str], environment: Mapping[str, str], timeout_s: float) -> Completed:
        """Run to the end, with nothing on standard input and no other variables than these.

        Raises:
            RunnerUnavailable: not run, or no (whole) answer within the time.
        """
        ...

    def put_directory(self, path: PurePosixPath, files: Mapping[str, bytes]) -> None:
        """Make a new directory, 0700, with these files in it, 0600. On any error nothing is left behind, if possible.

        Raises:
            RunnerUnavailable, DirectoryUnavailable
        """
        ...

    def run_beside(
        self,
        path: PurePosixPath,
        files: Mapping[str, bytes],
        argv: Sequence[str],
        environment: Mapping[str, str],
        timeout_s: float,
    ) -> Completed:
        """`put_directory`, and then `run` a command that needs what is in it: in one step, where that is faster.

        Raises:
            DirectoryUnavailable: the command was not run.
            RunnerUnavailable: as of `run`; a directory that was made may still be there.
        """
        ...

    def read_tail(self, path: PurePosixPath, max_bytes: int) -> bytes:
        """The last bytes of a file; empty if there is no such file."""
        ...

    def remove_directory(self, path: PurePosixPath) -> None:
        """Remove a directory and all that is in it; no error if there is none."""
        ...

    def close(self) -> None:
        """Let go of every connection."""
        ...


class LocalRunner:
    """SLURM's commands on this machine: the gateway sits on a submit host."""

    place = "this machine"

    def run(self, argv: Sequence[str], environment: Mapping[str, str], timeout_s: float) -> Completed:
        try:
            process = subprocess.Popen(
                list(argv),
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as exc:
            raise RunnerUnavailable(
                f"{argv[0]} cannot be run on this machine: {exc.strerror}.",
                started=False,
                hint="The site's operator sets `scheduler.bin_dir` to the folder of SLURM's commands.",
            ) from exc
        with process:
            try:
                stdout, stderr = process.communicate(timeout=timeout_s)
            except subprocess.TimeoutExpired as exc:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                raise RunnerUnavailable(f"{argv[0]} did not answer within {timeout_s:g} s.", started=True) from exc
        return Completed(process.returncode, stdout.decode(errors="replace"), stderr.decode(errors="replace"))

    def put_directory(self, path: PurePosixPath, files: Mapping[str, bytes]) -> None:
        folder = Path(path)
        try:
            folder.mkdir(mode=0o700)
        except OSError as exc:
            raise unwritable(path, self.place, exc) from exc
        try:
            for name, content in files.items():
                _write_private(folder / name, content)
        except OSError as exc:
            shutil.rmtree(folder, ignore_errors=True)
            raise unwritable(path, self.place, exc) from exc

    def run_beside(
        self,
        path: PurePosixPath,
        files: Mapping[str, bytes],
        argv: Sequence[str],
        environment: Mapping[str, str],
        timeout_s: float,
    ) -> Completed:
        self.put_directory(path, files)
        return self.run(argv, environment, timeout_s)

    def read_tail(self, path: PurePosixPath, max_bytes: int) -> bytes:
        try:
            with Path(path).open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - max_bytes))
                return file.read(max_bytes)
        except FileNotFoundError:
            return b""
        except OSError as exc:
            raise DirectoryUnavailable(f"{path} on {self.place} cannot be read: {exc.strerror}.") from exc

    def remove_directory(self, path: PurePosixPath) -> None:
        try:
            shutil.rmtree(path)
        except FileNotFoundError:
            return
        except OSError as exc:
            raise DirectoryUnavailable(f"{path} on {self.place} cannot be removed: {exc.strerror}.") from exc

    def close(self) -> None:
        """Nothing is held."""


def unwritable(path: PurePosixPath, place: str, exc: OSError) -> DirectoryUnavailable:
    """The error of a job directory that could not be made."""
    return unwritable_because(path, place, exc.strerror or str(exc) or type(exc).__name__)


def unwritable_because(path: PurePosixPath, place: str, reason: str) -> DirectoryUnavailable:
    """The same, with the system's words for it."""
    return DirectoryUnavailable(
        f"The job directory {path} cannot be written on {place}: {reason}.",
        hint=f"The site's operator makes {path.parent} (mkdir -p -m 700), on a file system that the nodes share and "
        "with room left, or corrects `scheduler.work_dir`.",
    )


def _write_private(path: Path, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
